"""How much a peer may ask for: one value a limit, all of them arguments with safe defaults."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session. `Server` holds at most one line, what it was last given,
    `output` octets of replies and one reply more, and a few octets of context.
    """

    command_line: int = 4096
    """Octets in a command line, CRLF included (RFC 5321 section 4.5.3.1.4 asks for 512)."""

    auth_line: int = 12_288
    """Octets in a line of an AUTH exchange, CRLF included (RFC 4954 section 4)."""

    auth_failures: int = 5
    """Failed attempts to authenticate in a session; the last one is answered 421."""

    recipients: int = 1000
    """Recipients in a mail transaction (RFC 5321 section 4.5.3.1.8 asks for 100)."""

    errors: int = 500
    """Refused commands (5yz by the core itself) in a session; the next one is answered 421."""

    message_size: int | None = None
    """Octets in a message, a line end counted as one; also what SIZE announces (RFC 1870)."""

    header_size: int = 262_144
    """Octets in the header section of a message."""

    output: int = 65_536
    """Octets of replies that may wait to be sent before the server asks to `DRAIN`."""
