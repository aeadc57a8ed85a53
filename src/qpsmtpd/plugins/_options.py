"""Arguments of plugins that are more than a word."""

from collections.abc import Mapping

__all__ = ["flag", "number", "seconds"]

_FLAGS = {"yes": True, "1": True, "on": True, "no": False, "0": False, "off": False}


def flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """The argument `name` as yes or no. Raises ValueError."""
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in _FLAGS:
        raise ValueError(f"{name} {text!r} is neither yes nor no")
    return _FLAGS[text.lower()]


def number(options: Mapping[str, str], name: str, default: int, most: int = 1 << 40) -> int:
    """The argument `name` as a whole number from 1 to `most`. Raises ValueError."""
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and 0 < int(text) <= most):
        raise ValueError(f"{name} {text!r} is no whole number from 1 to {most}")
    return int(text)


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """The argument `name` as a time. Raises ValueError unless it is above 0, and ends."""
    try:
        time = float(options.get(name, default))
    except ValueError:
        time = -1.0
    if not 0 < time < float("inf"):
        raise ValueError(f"{name} {options[name]!r} is no number of seconds above 0")
    return time
