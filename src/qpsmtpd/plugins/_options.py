"""Arguments of plugins that are more than a word."""

import itertools
from collections.abc import Mapping

from qpsmtpd import Plugin

__all__ = ["seconds", "with_defaults"]


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """The argument `name` as a time. Raises ValueError unless it is above 0, and ends."""
    try:
        time = float(options.get(name, default))
    except ValueError:
        time = -1.0
    if not 0 < time < float("inf"):
        raise ValueError(f"{name} {options[name]!r} is no number of seconds above 0")
    return time


def with_defaults(plugin: Plugin, options: Mapping[str, str], **defaults: str) -> Mapping[str, str]:
    """The options, with values of the plugin's own for shared arguments that its line does not give."""
    missing = [(name, value) for name, value in defaults.items() if name not in options]
    return plugin.options(tuple(itertools.chain.from_iterable(missing)))
