"""Help for tests of plugins and of programs that embed the server or send mail: docs/testing.md."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpsmtpd.testing.capture import Captured, CapturingKit, Smtpd
    from qpsmtpd.testing.kit import Call, Kit
    from qpsmtpd.testing.memory import CLIENT, Client, Clock, make_site
    from qpsmtpd.testing.names import Names

__all__ = [
    "CLIENT",
    "Call",
    "Captured",
    "CapturingKit",
    "Client",
    "Clock",
    "Kit",
    "Names",
    "Smtpd",
    "make_site",
]

_HOMES = {
    "Call": "kit",
    "Captured": "capture",
    "CapturingKit": "capture",
    "Kit": "kit",
    "Names": "names",
    "Smtpd": "capture",
}


def __getattr__(name: str) -> object:
    # Imported when asked for: pytest and hypothesis load modules of this package wherever it is installed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'memory')}"), name)
