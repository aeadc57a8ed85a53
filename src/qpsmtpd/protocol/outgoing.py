"""What a client is given, and what it gives back: messages, and what has become of them.

`client` sends them; nothing in here does anything.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.commands import NO_PARAMETERS, Parameters
from qpsmtpd.protocol.replies import Reply
from qpsmtpd.protocol.xclient import XClient

__all__ = [
    "TIMEOUTS",
    "Breakdown",
    "ClientLimits",
    "Message",
    "Ready",
    "Recipient",
    "Report",
    "Result",
    "Stage",
    "TlsUse",
]

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_VALUE = re.compile(r"[^= \x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_OLD_TOO_MANY_RECIPIENTS = 552


class TlsUse(enum.Enum):
    """When to use STARTTLS. A connection that is encrypted from its start is told by `Client.secure`."""

    OPPORTUNISTIC = "where the server offers it; in clear if it does not, or refuses"
    REQUIRED = "always: there is no mail without it"
    NEVER = "not at all"

    __hash__ = object.__hash__


class Stage(enum.Enum):
    """What a session waits for, or waited for when something went wrong."""

    GREETING = "the greeting"
    HELLO = "the reply to EHLO, HELO or LHLO"
    STARTTLS = "the reply to STARTTLS, then the handshake"
    AUTH = "the end of the AUTH exchange"
    XCLIENT = "the reply to XCLIENT"
    IDLE = "the next message"
    RSET = "the reply to RSET"
    MAIL = "the reply to MAIL"
    RCPT = "the reply to RCPT"
    DATA = "the reply to DATA"
    CONTENT = "the server to take a part of the content"
    END = "the verdict on the whole content"
    QUIT = "the reply to QUIT"

    __hash__ = object.__hash__


TIMEOUTS: Mapping[Stage, float] = MappingProxyType(
    {
        **dict.fromkeys(Stage, 300.0),
        Stage.DATA: 120.0,
        Stage.CONTENT: 180.0,
        Stage.END: 600.0,
        Stage.IDLE: 240.0,  # less than the five minutes that a server has to wait
        Stage.QUIT: 30.0,  # nothing depends on it
    }
)
"""How many seconds to wait (RFC 5321 section 4.5.3.2)."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of one session, in octets where nothing else is said."""

    group: int = 64
    """Commands sent before their replies are read, so that neither side can fill the other's buffers."""

    group_size: int = 16_384
    """Octets in such a group, if it is more than one command."""

    piece: int = 65_536
    """Content sent at once; also the size of a chunk of BDAT, and how far the header is looked at."""

    chunks: int = 16
    """Chunks sent before the reply to the first is read, where the server pipelines."""

    reply_line: int = 16_384
    """A line of a reply (RFC 5321 section 4.5.3.1.5 has 512, RFC 4954 section 4 asks for 12,288)."""

    reply: int = 65_536
    """A whole reply."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient with parameters of its RCPT command, such as NOTIFY and ORCPT (RFC 3461)."""

    mailbox: Mailbox
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)

    @classmethod
    def of(cls, recipient: "Mailbox | Recipient") -> "Recipient":
        """A recipient, also where none but its mailbox is given."""
        return recipient if isinstance(recipient, Recipient) else cls(recipient)


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message to send: one mail transaction. Raises ValueError for what could not be sent anywhere."""

    sender: Mailbox

    recipients: Sequence[Mailbox | Recipient]

    content: bytes | Iterable[bytes] = field(repr=False)
    """The content with CRLF line ends, not dot-stuffed; an iterable's pieces are cut anywhere.

    It is taken while it is sent. What it raises comes out of `Client.next_event`, and ends
    the session without further reports.
    """

    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    """Parameters for MAIL: those the message came with can be given as they are.

    A parameter is sent if its extension is offered. If it is not, RET, ENVID, AUTH,
    MT-PRIORITY and the like are left out, as they ask for no more than a service; REQUIRETLS,
    BODY=BINARYMIME and BY=...;R are promises, and the message fails. SIZE is replaced by what
    is known here; BODY tells what the content may hold. SMTPUTF8 is used where it is offered
    and asked for, and needed where an address or the header is not ASCII.
    """

    size: int | None = None
    """Octets of the content, if known; of a `bytes` object it is."""

    client: XClient | None = None
    """Whom this side speaks for: told by XCLIENT where that is offered."""

    all_or_none: bool = False
    """Whether no content is sent if any recipient has been refused: the others are then not sent to either.

    For whoever has one reply to give for all of them. In LMTP a recipient may still be refused
    behind the content.
    """

    raw_header: bool = False
    """Whether a header that is not ASCII may go without SMTPUTF8, as in mail older than RFC 6532."""

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("a message without recipients")
        for parameters in (self.parameters, *(Recipient.of(each).parameters for each in self.recipients)):
            for keyword, value in parameters.items():
                known = _KEYWORD.fullmatch(keyword) and keyword.islower()
                if not known or (value is not None and not _VALUE.fullmatch(value)):
                    raise ValueError(f"not a parameter: {keyword}={value}")


_NOT_OF_THE_MESSAGE = frozenset({Stage.STARTTLS, Stage.AUTH, Stage.XCLIENT, Stage.IDLE, Stage.RSET})


@dataclass(frozen=True, slots=True)
class Result:
    """What has become of a message for one recipient."""

    recipient: Mailbox
    reply: Reply
    at: Stage
    """What the session waited for when this was settled; `IDLE` if it broke down before this message's turn."""
    local: bool = False
    """Whether this side made up the reply, since there is none of the server that tells."""

    @property
    def delivered(self) -> bool:
        """Whether the server has taken the message, and answers for it now."""
        return self.at is Stage.END and not self.local and self.reply.is_positive

    @property
    def permanent(self) -> bool:
        """Whether trying again is of no use.

        Refusals of STARTTLS, AUTH and XCLIENT are not permanent, since they say nothing of the
        message and are mended by an administrator; nor are those of commands for earlier
        messages. Nor is 552 to RCPT, by which old servers say that there are too many
        recipients (RFC 5321 section 4.5.3.1.10), unless its status code tells.
        """
        if self.at is Stage.RCPT and self.reply.code == _OLD_TOO_MANY_RECIPIENTS:
            return self.reply.enhanced not in (None, "5.5.3")
        return self.reply.is_permanent and self.at not in _NOT_OF_THE_MESSAGE

    @property
    def temporary(self) -> bool:
        """Whether to try again later."""
        return not self.delivered and not self.permanent

    @property
    def uncertain(self) -> bool:
        """Whether the server may have taken the message: its verdict on the content never came.

        It counts as temporary, since two copies are better than none (RFC 1047).
        """
        return self.local and self.at is Stage.END


@dataclass(frozen=True, slots=True)
class Report:
    """A message is done with: a result for each of its recipients, in their order."""

    message: Message
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is set up and all messages are done with.

    Call `send` or `quit`. To notice that the server closes the connection meanwhile, read
    from it and call `receive_data`.
    """


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The session ends before its time; reports on the messages that are left follow, then `CLOSED`."""

    reply: Reply
    at: Stage
    local: bool = False
    """Whether this side made up the reply, since there is none of the server that tells."""
