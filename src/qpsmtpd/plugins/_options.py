"""Arguments of plugins that are more than a word."""

import ssl
from collections.abc import Mapping

__all__ = ["seconds", "trust"]


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
