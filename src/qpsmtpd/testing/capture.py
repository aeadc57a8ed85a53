"""A server that keeps the mail it is sent, for tests of programs that send mail.

It takes every message for everybody, unless the plugins it is given say otherwise. The
fixtures of `qpsmtpd.testing.pytest_plugin` are made of this.
"""

import contextlib
import email
import email.policy
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import cast

from qpsmtpd.plugin import HookResult, Plugin
from qpsmtpd.protocol import DECLINED, OK, Mailbox, Parameters
from qpsmtpd.resolver import Resolver
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.testing.kit import Kit
from qpsmtpd.testing.memory import Clock, make_site

__all__ = ["Captured", "CapturingKit", "Smtpd", "running", "running_async"]

_AS_SENT = "testing.capture"


@dataclass(frozen=True, slots=True)
class Captured:
    """A message that was accepted."""

    sender: str
    """The address, or nothing for the null path of bounces."""

    recipients: tuple[str, ...]
    """The addresses that were accepted."""

    content: bytes
    """The content as the client sent it, with dots unstuffed."""

    queued: bytes
    """The content as it was to be queued: with the trace field, and what plugins have changed."""

    hello: str
    """The name that the client gave itself."""

    user: str | None
    """Who has authenticated."""

    @property
    def message(self) -> EmailMessage:
        """The content as the standard library parses it; made anew at each call."""
        return email.message_from_bytes(self.content, policy=email.policy.default)


class _Capture(Plugin):
    """Takes what no plugin before it has refused, and keeps it."""

    kept: list[Captured]

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> HookResult:
        return OK

    def hook_data_post_headers(self, transaction: Transaction) -> HookResult:
        transaction.notes[_AS_SENT] = b"".join(transaction.chunks())
        return DECLINED

    def hook_queue(self, transaction: Transaction) -> HookResult:
        sender, recipients = transaction.reverse_path, transaction.recipients
        as_sent, queued = cast("bytes", transaction.notes[_AS_SENT]), b"".join(transaction.chunks())
        hello, user = self.connection.hello_host or "", self.auth_user or None
        self.kept.append(
            Captured(sender.address, tuple(each.address for each in recipients), as_sent, queued, hello, user)
        )
        return OK, "kept"


def _capture(kept: list[Captured]) -> type[Plugin]:
    return type("capture", (_Capture,), {"__doc__": _Capture.__doc__, "kept": kept})


class _Running(Clock):
    """Time as it passes."""

    def __call__(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class CapturingKit(Kit):
    """A `Kit` that keeps the mail it is sent: a server without any port."""

    def __init__(
        self,
        *plugins: str | type[Plugin],
        config: Mapping[str, Sequence[str]] | None = None,
        directory: Path | None = None,
        names: Resolver | None = None,
    ) -> None:
        """Load plugins as `Kit` does; what none of them refuses is kept."""
        self.messages: list[Captured] = []
        """What was accepted, in order."""
        super().__init__(*plugins, _capture(self.messages), config=config, directory=directory, names=names)


@dataclass(frozen=True, slots=True)
class Smtpd:
    """A server that runs on loopback, at a port that the system has chosen."""

    host: str
    port: int

    messages: list[Captured]
    """What was accepted, in order; a message is here before its client is told 250."""

    log: list[str]
    """What was logged, every level of it."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port


_LOOPBACK = [("127.0.0.1", 0)]


@contextlib.contextmanager
def running(
    plugins: Sequence[str | type[Plugin]] = (), config: Mapping[str, Sequence[str]] | None = None
) -> Generator[Smtpd]:
    """Run a server in threads while the block runs. Raises ConfigError as the loader does."""
    from qpsmtpd.transports.blocking import listen

    kept, log = list[Captured](), list[str]()
    site = make_site(*plugins, _capture(kept), config=config, log=log, clock=_Running())
    with listen(site, _LOOPBACK, grace=0) as server:
        yield Smtpd(*server.addresses[0], kept, log)


@contextlib.asynccontextmanager
async def running_async(
    plugins: Sequence[str | type[Plugin]] = (), config: Mapping[str, Sequence[str]] | None = None
) -> AsyncGenerator[Smtpd]:
    """Run a server in the loop of the caller, asyncio or trio, while the block runs. Raises ConfigError."""
    from qpsmtpd.transports.anyio import listen

    kept, log = list[Captured](), list[str]()
    site = make_site(*plugins, _capture(kept), config=config, log=log, clock=_Running())
    async with listen(site, _LOOPBACK, grace=0) as server:
        yield Smtpd(*server.addresses[0], kept, log)
