"""Whom a conversation turns to: who answers its hooks, gets it bytes and keeps what it learns.

The scripts of `server` and `authentication` call the methods of a `Host`. What takes time is a
generator, run in place by `yield from`; what it yields is between the host and whoever drives
the conversation. There are two hosts: `Events` makes an event of all that is asked, for a
driver that pulls (`Server.next_event`); a session runs its plugins at once, so that nothing
has to be made, handed up and taken apart again for each hook.
"""

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.commands import Parameters
from qpsmtpd.protocol.events import DRAIN, NEED_DATA, Authentication, Content, Event, StartTls
from qpsmtpd.protocol.hooks import Ehlo, Helo, Hook, ReceivedLine
from qpsmtpd.protocol.replies import Reply
from qpsmtpd.protocol.returncodes import DECLINED
from qpsmtpd.protocol.verdicts import FAILED, Answer
from qpsmtpd.protocol.xclient import XClient

__all__ = ["FAILURE", "NOTHING", "Events", "HangUp", "Host", "Result", "Steps"]

_T = TypeVar("_T")

Steps = Generator[Any, Any, _T]
"""Something that may take time, and what comes of it."""

Result = tuple[Answer, tuple[str, ...], Reply | None]
"""The answer to a hook, with its texts, and a reply of the plugin's own if it has prepared one."""

NOTHING: Result = (DECLINED, (), None)
"""How a hook counts that nobody has asked for."""

FAILURE: Result = (FAILED, (), None)
"""How a hook counts that could not be answered."""


class HangUp(Exception):  # noqa: N818 - no error
    """Ends the conversation with a reply: a timeout, a shutdown."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Host:
    """What a conversation needs."""

    __slots__ = ()

    def ask(self, hook: Hook) -> Steps[Result]:
        """Have a hook answered, one that the host wants to be asked."""
        raise NotImplementedError

    def receive(self) -> Steps[None]:
        """Give more bytes, or the end of file, to `receive_data`. May raise HangUp."""
        raise NotImplementedError

    def drain(self) -> Steps[None]:
        """Send what `data_to_send` gives: the peer asks more than it reads. May raise HangUp."""
        raise NotImplementedError

    def content(self, data: bytes, *, in_header: bool) -> Iterable[Any]:
        """Take a piece of message content, as in `events.Content`."""
        raise NotImplementedError

    def tell(self, news: StartTls | Authentication | XClient) -> Steps[None]:
        """Act on what the client has said about itself or the connection."""
        raise NotImplementedError

    # What the conversation has come to, once the hook has been answered; a host may take no note of it

    def connected(self) -> None:
        """The client may be greeted."""

    def greeted(self, hello: Helo | Ehlo) -> None:
        """The client's greeting is accepted; this is the time for `Server.announce`."""

    def sender_accepted(self, sender: Mailbox, parameters: Parameters) -> None:
        """A mail transaction has begun."""

    def recipient_accepted(self, recipient: Mailbox, parameters: Parameters) -> None:
        """The mail transaction has one more recipient."""

    def chunks_follow(self) -> None:
        """The content of the message begins to come, by BDAT."""

    def header_ended(self) -> None:
        """The header section has come whole."""

    def content_ended(self, line: ReceivedLine, result: Result) -> None:
        """The content has come whole, and is to get its trace field; `result` may have one."""

    def transaction_ended(self) -> None:
        """The mail transaction is forgotten, or begins anew."""


class Events(Host):
    """Makes an event of all that is asked. The driver remembers itself what it has answered."""

    def ask(self, hook: Hook) -> Generator[Event, Result, Result]:  # noqa: D102 - as in the base class
        return (yield hook)

    def receive(self) -> Generator[Event, Result, None]:  # noqa: D102
        yield NEED_DATA

    def drain(self) -> Generator[Event, Result, None]:  # noqa: D102
        yield DRAIN

    def content(self, data: bytes, *, in_header: bool) -> Generator[Event, Result, None]:  # noqa: D102
        yield Content(data, in_header)

    def tell(self, news: StartTls | Authentication | XClient) -> Generator[Event, Result, None]:  # noqa: D102
        yield news
