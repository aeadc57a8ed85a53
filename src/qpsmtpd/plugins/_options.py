"""Arguments of plugins that are more than a word."""

from collections.abc import Mapping

__all__ = ["count", "flag", "seconds"]

_ON, _OFF = ("1", "yes", "on", "true"), ("0", "no", "off", "false")


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """The argument `name` as a time. Raises ValueError unless it is above 0, and ends."""
    try:
        time = float(options.get(name, default))
    except ValueError:
        time = -1.0
    if not 0 < time < float("inf"):
        raise ValueError(f"{name} {options[name]!r} is no number of seconds above 0")
    return time


def count(word: str) -> int:
    """A word as a number of 1 or more. Raises ValueError."""
    if not (word.isascii() and word.isdecimal() and int(word)):
        raise ValueError(f"{word!r} is no number of 1 or more")
    return int(word)


def flag(options: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """The argument `name` as yes or no. Raises ValueError."""
    word = options.get(name, "1" if default else "0").lower()
    if word not in (*_ON, *_OFF):
        raise ValueError(f"{name} {options[name]!r} is neither 1 nor 0")
    return word in _ON
