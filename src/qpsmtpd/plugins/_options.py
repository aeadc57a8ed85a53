"""Arguments of plugins that are more than a word."""

import itertools
import ssl
from collections.abc import Mapping

from qpsmtpd import Plugin

__all__ = ["count", "flag", "number", "seconds", "trust", "with_defaults"]

_FLAGS = {"1": True, "yes": True, "on": True, "true": True, "0": False, "no": False, "off": False, "false": False}


def count(word: str, least: int = 1) -> int:
    """A word as a whole number. Raises ValueError unless it is one of `least` or more."""
    if not (word.isascii() and word.isdecimal() and int(word) >= least):
        raise ValueError(f"{word!r} is no number of {least} or more")
    return int(word)


def flag(options: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """The argument `name` as yes or no. Raises ValueError."""
    word = options.get(name, "yes" if default else "no")
    if word.lower() not in _FLAGS:
        raise ValueError(f"{name} {word!r} is neither yes nor no")
    return _FLAGS[word.lower()]


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


def trust(options: Mapping[str, str]) -> ssl.SSLContext:
    """TLS with servers whose certificates the authority `ca` has signed, or one of the system's. Raises ValueError."""
    ca = options.get("ca")
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ValueError(f"ca {ca}: {error.strerror or error}") from error


def with_defaults(plugin: Plugin, options: Mapping[str, str], **defaults: str) -> Mapping[str, str]:
    """The options, with values of the plugin's own for shared arguments that its line does not give."""
    missing = [(name, value) for name, value in defaults.items() if name not in options]
    return plugin.options(tuple(itertools.chain.from_iterable(missing)))
