"""Arguments of plugins that are more than a word."""

from collections.abc import Mapping

__all__ = ["count", "seconds"]


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """The argument `name` as a time. Raises ValueError unless it is above 0, and ends."""
    try:
        time = float(options.get(name, default))
    except ValueError:
        time = -1.0
    if not 0 < time < float("inf"):
        raise ValueError(f"{name} {options[name]!r} is no number of seconds above 0")
    return time


def count(word: str, least: int = 1) -> int:
    """A word as a whole number. Raises ValueError unless it is one of `least` or more."""
    if not (word.isascii() and word.isdecimal() and int(word) >= least):
        raise ValueError(f"{word!r} is no number of {least} or more")
    return int(word)
