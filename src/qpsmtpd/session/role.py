"""What a listener is for: one value, which every session on it gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qpsmtpd.protocol import LineEndings

__all__ = ["MX", "ROLES", "Role"]


@dataclass(frozen=True, slots=True)
class Role:
    """What the sessions of a listener have in common."""

    name: str

    auth_required: bool = False
    """Whether nobody may send mail without AUTH (RFC 6409)."""

    implicit_tls: bool = False
    """Whether TLS begins with the connection (RFC 8314)."""

    lmtp: bool = False
    """Whether LMTP is spoken instead of SMTP (RFC 2033)."""

    line_endings: LineEndings | None = None
    """What to do with a bare CR or LF in content; None: as the setting `line_endings` says."""


MX = Role("mx")
"""Mail from other servers, port 25."""

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        role.name: role
        for role in (
            MX,
            Role("submission", auth_required=True),
            Role("submissions", auth_required=True, implicit_tls=True),
            Role("lmtp", lmtp=True),
        )
    }
)
"""The roles by the names the command line gives them."""
