"""The seven answers a hook may give.

What an answer *means* at each hook is not said here but in `verdicts`, as a table.
"""

import enum

__all__ = [
    "DECLINED",
    "DENY",
    "DENYSOFT",
    "DENYSOFT_DISCONNECT",
    "DENY_DISCONNECT",
    "DONE",
    "OK",
    "REFUSALS",
    "ReturnCode",
]


class ReturnCode(enum.Enum):
    """A hook's answer. Members compare by identity; a plain number is never one of them."""

    DECLINED = "DECLINED"
    """No opinion: ask the next plugin, then do the default."""

    OK = "OK"
    """Allowed; no further plugin is asked."""

    DENY = "DENY"
    """Refused for good (5yz)."""

    DENYSOFT = "DENYSOFT"
    """Refused for now (4yz); the client may try again."""

    DENY_DISCONNECT = "DENY_DISCONNECT"
    """Refused for good, and the connection is closed."""

    DENYSOFT_DISCONNECT = "DENYSOFT_DISCONNECT"
    """Refused for now, and the connection is closed."""

    DONE = "DONE"
    """The plugin dealt with the request and has sent the reply itself."""

    # One member is one object: comparing and hashing by identity is right, and cheaper.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


DECLINED = ReturnCode.DECLINED
OK = ReturnCode.OK
DENY = ReturnCode.DENY
DENYSOFT = ReturnCode.DENYSOFT
DENY_DISCONNECT = ReturnCode.DENY_DISCONNECT
DENYSOFT_DISCONNECT = ReturnCode.DENYSOFT_DISCONNECT
DONE = ReturnCode.DONE

REFUSALS = frozenset({DENY, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT})
"""The four codes that refuse."""
