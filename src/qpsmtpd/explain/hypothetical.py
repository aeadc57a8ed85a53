"""A client that does not exist visits a site in rehearsal: plugins are asked, and nothing is queued."""

from collections.abc import Generator
from dataclasses import dataclass

from qpsmtpd.protocol import parse_reply
from qpsmtpd.protocol.stuffing import stuffed
from qpsmtpd.recording import RehearsalSession, RehearsalSite, Tape
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.effects import Pause
from qpsmtpd.testing.dialogue import split_replies
from qpsmtpd.transports.memory import Link

__all__ = ["Visit", "visit"]


@dataclass(frozen=True, slots=True)
class Visit:
    """What a client is and says. It stops where it has nothing to say, or is refused."""

    ip: str
    helo: str = ""
    """Its name; its address in brackets where it has none."""
    sender: str | None = None
    """The reverse-path without its brackets, empty for that of bounces; None for a client that sends nothing."""
    recipients: tuple[str, ...] = ()
    content: bytes | None = None
    """A message; every line end is CRLF."""
    user: str = ""
    """Who it has authenticated as."""


class _Visit(RehearsalSession):
    """The session of a client that does not exist."""

    user = ""

    def connected(self) -> None:
        self._login = self.user
        super().connected()


def visit(site: RehearsalSite, client: Visit) -> Tape:
    """Have a client visit a site; give what came of it."""
    session = _Visit(site, Peer(client.ip, 50_000, "127.0.0.1", 25))
    session.user = client.user
    link = Link(session, _no_pause)
    link.go()
    script = _script(client)
    write = next(script)
    while not link.closed:
        write = _next(script, link.go(write))
    site.remove_spool_dir()
    return site.take_tape(session)


def _next(script: Generator[bytes, bool, None], said: bytes) -> bytes:
    """What a client says to a reply, to none if the connection is closed; empty at the end."""
    try:
        return script.send(bool(said) and parse_reply(split_replies(said)[-1]).code < 400)
    except StopIteration:
        return b""


def _script(client: Visit) -> Generator[bytes, bool, None]:
    """What a client says, write by write; it is sent whether that was well received."""
    yield from _mail(client)
    yield b"QUIT\r\n"


def _mail(client: Visit) -> Generator[bytes, bool, None]:
    if not (yield _line("EHLO", client.helo or _literal(client.ip))) or client.sender is None:
        return
    wide = "" if all(map(str.isascii, (client.sender, *client.recipients))) else " SMTPUTF8"
    if not (yield _line(f"MAIL FROM:<{client.sender}>{wide}")):
        return
    taken = 0
    for recipient in client.recipients:
        taken += yield _line(f"RCPT TO:<{recipient}>")
    if taken and client.content is not None and (yield _line("DATA")):
        yield b"".join(stuffed([client.content]))


def _line(*words: str) -> bytes:
    return " ".join(words).encode("utf-8", "surrogateescape") + b"\r\n"


def _literal(ip: str) -> str:
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def _no_pause(pause: Pause) -> bytes:
    """Let no time pass: a client that does not exist is patient, and says nothing early."""
    del pause
    return b""
