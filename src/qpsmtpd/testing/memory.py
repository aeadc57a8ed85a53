"""A session in memory: the fifth transport, whose peer is the test."""

import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qpsmtpd.config import Config, Line
from qpsmtpd.loader import add, add_line, load
from qpsmtpd.plugin import Plugin
from qpsmtpd.protocol import Reply, parse_reply
from qpsmtpd.resolver import Resolver
from qpsmtpd.session.connection import Connection, Peer
from qpsmtpd.session.effects import TIMED_OUT, Interruption, Pause
from qpsmtpd.session.role import MX, Role
from qpsmtpd.session.session import open_session
from qpsmtpd.session.tls import TlsChannel, TlsError
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.site import Site
from qpsmtpd.testing.dialogue import escape, split_replies
from qpsmtpd.transports.memory import Link

__all__ = ["CLIENT", "Client", "Clock", "make_site"]

CLIENT = Peer("192.0.2.10", 40000, "192.0.2.1", 25, "client.example")
"""Who connects where nobody else is named."""

_MESSAGE = b"From: a@client.example\r\nSubject: test\r\n\r\nHello\r\n"


class Clock:
    """Time that passes only when told: for deadlines, and since the epoch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds since the test began."""
        return self.now

    def wall(self) -> float:
        """Seconds since the epoch: from the start of 2026."""
        return 1_767_225_600.0 + self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def make_site(
    *plugins: str | type[Plugin],
    directory: Path | None = None,
    log: list[str] | None = None,
    clock: Clock | None = None,
    config: Mapping[str, Sequence[str]] | None = None,
    resolver: Resolver | None = None,
) -> Site:
    """A server with these plugins in this order, and settings as in files.

    A plugin is a line as in `config/plugins`, or a class. The log goes to `log`, every level
    of it. Raises ConfigError as the loader does.
    """
    # A session in memory is in clear, and plugins for AUTH are to be tested there.
    settings = {"me": ("mx.example.test",), "loglevel": ("LOGDEBUG",), "plugins": (), "tls_before_auth": ("0",)}
    settings |= {"store": ("memory:",)}  # a test leaves nothing behind
    settings |= {name: tuple(values) for name, values in (config or {}).items()}
    lines: list[str] = [] if log is None else log
    clock = clock or Clock()
    site = Site(
        Config(directory, settings, clock=clock), clock=clock, wall=clock.wall, write=lines.append, resolver=resolver
    )
    load(site)
    for number, plugin in enumerate(plugins, 1):
        if isinstance(plugin, str):
            add_line(site, Line(plugin, (directory or Path("config")) / "plugins", number))
        else:
            add(site, plugin)
    return site


class Client:
    """A client of a session in memory. What it is told is in `replies`, and in each return value."""

    def __init__(self, site: Site, peer: Peer = CLIENT, *, early: bytes = b"", role: Role = MX) -> None:
        """Connect. `replies` holds the greeting; `early` is sent before it has come."""
        self.session = open_session(site, peer, role)
        self.link = Link(self.session, self._pass)
        """The connection itself: octets as they pass over it, TLS and all."""
        self.replies = b""
        self.transcript: list[str] = []
        """The dialogue so far, a line `C: ...` or `S: ...` each; see `qpsmtpd.testing.dialogue`."""
        self.pauses: list[Pause] = []
        """Every pause the session has asked for; all are over at once, and the clock has moved on."""
        self._clock = site.clock
        self._tls: TlsChannel | None = None
        self._early = early
        if early:
            self._note_sent(early)
        self._hear(self.link.go(None))
        if self._early and not self.closed:
            self._early, early = b"", self._early
            self._hear(self.link.go(early))

    @property
    def closed(self) -> bool:
        """The server has closed the connection."""
        return self.link.closed

    @property
    def connection(self) -> Connection:
        """The connection as plugins see it, with its notes."""
        return self.session.connection

    @property
    def transaction(self) -> Transaction:
        """The mail transaction as plugins see it now, with its notes."""
        return self.session.transaction

    def send(self, data: bytes) -> bytes:
        """Send bytes; give the replies they cause. Empty bytes close the client's side."""
        assert not self.closed, "the server has closed the connection"
        self._note_sent(data)
        if self._tls is not None and data:
            self._tls.write(data)
            data = self._tls.data_to_send()
        return self._hear(self.link.go(data))

    def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> bytes:
        """Encrypt what follows: behind the reply 220 to STARTTLS, or at once where TLS is implicit.

        Gives what the server says behind the handshake. Raises TlsError if the handshake fails.
        """
        channel = TlsChannel(context, server_side=False, server_hostname=server_hostname)
        while not self.closed:
            done = channel.handshake()
            flight = channel.data_to_send()
            if flight and (answer := self.link.go(flight)):
                channel.receive_data(answer)
            if done:
                self._tls = channel
                return self._hear(b"")
        raise TlsError("the server has closed the connection")

    def say(self, *lines: str) -> Reply:
        """Send lines, with CRLF each; give the one reply to them. Raises ValueError if there is another number."""
        return parse_reply(self.send("".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")))

    def deliver(
        self,
        content: bytes = _MESSAGE,
        *,
        sender: str = "a@client.example",
        recipients: Iterable[str] = ("b@example.org",),
    ) -> list[Reply]:
        """Send a message, greeting the server first if need be; give all replies, up to a refusal.

        `content` ends with CRLF; dots are stuffed here.
        """
        commands = [] if self.connection.hello else ["EHLO client.example"]
        commands += [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"]
        replies: list[Reply] = []
        for command in commands:
            replies.append(self.say(command))
            if replies[-1].code >= 400 and not command.startswith("RCPT"):
                return replies
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        return [*replies, parse_reply(self.send(stuffed + b".\r\n"))]

    def interrupt(self, interruption: Interruption = TIMED_OUT) -> bytes:
        """Let the client be silent for too long, or the server shut down; give the replies."""
        return self._hear(self.link.go(interruption))

    def vanish(self) -> None:
        """End the session as a transport does that is stopped itself."""
        self.link.vanish()

    def _note_sent(self, data: bytes) -> None:
        lines = data.split(b"\r\n")
        self.transcript += [f"C: {escape(line)}" for line in lines[:-1]]
        if lines[-1]:
            self.transcript.append(f"C| {escape(lines[-1])}")

    def _hear(self, said: bytes) -> bytes:
        """Note what the server has said; give it in clear."""
        if self._tls is not None:
            if said:
                self._tls.receive_data(said)
            said = self._tls.read()
        self.replies += said
        self.transcript += [f"S: {escape(line)}" for reply in split_replies(said) for line in reply.split(b"\r\n")[:-1]]
        return said

    def _pass(self, pause: Pause) -> bytes:
        """Let a pause go by."""
        self.pauses.append(pause)
        if pause.until_input and self._early:
            self._early, early = b"", self._early
            return early
        if isinstance(self._clock, Clock):
            self._clock.advance(pause.seconds)
        return b""
