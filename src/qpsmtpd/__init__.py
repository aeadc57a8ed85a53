"""qpsmtpd: the SMTP server whose every decision is a plugin's.

What plugin authors need is here; the pure protocol is in `qpsmtpd.protocol`, the servers to
embed in `qpsmtpd.transports`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpsmtpd.logs import LOGALERT, LOGCRIT, LOGDEBUG, LOGEMERG, LOGERROR, LOGINFO, LOGNOTICE, LOGWARN
    from qpsmtpd.plugin import HookResult, Plugin, Result, blocking
    from qpsmtpd.protocol.addresses import Mailbox
    from qpsmtpd.protocol.commands import Parameters
    from qpsmtpd.protocol.returncodes import (
        DECLINED,
        DENY,
        DENY_DISCONNECT,
        DENYSOFT,
        DENYSOFT_DISCONNECT,
        DONE,
        OK,
        ReturnCode,
    )
    from qpsmtpd.session.connection import Connection
    from qpsmtpd.session.effects import Pause
    from qpsmtpd.session.transaction import Transaction
    from qpsmtpd.site import Site

__all__ = [
    "DECLINED",
    "DENY",
    "DENYSOFT",
    "DENYSOFT_DISCONNECT",
    "DENY_DISCONNECT",
    "DONE",
    "LOGALERT",
    "LOGCRIT",
    "LOGDEBUG",
    "LOGEMERG",
    "LOGERROR",
    "LOGINFO",
    "LOGNOTICE",
    "LOGWARN",
    "OK",
    "Connection",
    "HookResult",
    "Mailbox",
    "Parameters",
    "Pause",
    "Plugin",
    "Result",
    "ReturnCode",
    "Site",
    "Transaction",
    "blocking",
]

__version__ = "0.1.0"

_HOMES = {
    "LOG": "qpsmtpd.logs",
    "Connection": "qpsmtpd.session.connection",
    "HookResult": "qpsmtpd.plugin",
    "Mailbox": "qpsmtpd.protocol",
    "Parameters": "qpsmtpd.protocol",
    "Pause": "qpsmtpd.session.effects",
    "Plugin": "qpsmtpd.plugin",
    "Result": "qpsmtpd.plugin",
    "Site": "qpsmtpd.site",
    "Transaction": "qpsmtpd.session.transaction",
    "blocking": "qpsmtpd.plugin",
}


def __getattr__(name: str) -> object:
    # Imported when asked for: `import qpsmtpd.protocol` must load the protocol and nothing else.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get("LOG" if name.startswith("LOG") else name, "qpsmtpd.protocol")
    return getattr(importlib.import_module(home), name)
