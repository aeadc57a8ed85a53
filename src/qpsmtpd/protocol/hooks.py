"""Every question the server asks: one frozen value a hook, with its typed arguments.

This is the table of contents of the system, in the order in which a session meets the
hooks. What an answer means stands in `verdicts`. The hooks of the last section are run by
the session or the daemon alone; `protocol.Server` never asks them.

To come, each in its place: the parse hooks (`helo_parse`, `ehlo_parse`, `mail_parse`,
`rcpt_parse`, `auth_parse`) and the hooks of AUTH.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.commands import Parameters
from qpsmtpd.protocol.returncodes import ReturnCode

__all__ = [
    "HOOKS",
    "Config",
    "Connect",
    "Data",
    "DataHeadersEnd",
    "DataPost",
    "DataPostHeaders",
    "Deny",
    "Disconnect",
    "Ehlo",
    "Helo",
    "Help",
    "Hook",
    "Logging",
    "Mail",
    "MailPre",
    "Noop",
    "Ok",
    "PostConnection",
    "PostFork",
    "PreConnection",
    "Queue",
    "QueuePost",
    "QueuePre",
    "Quit",
    "Rcpt",
    "RcptPre",
    "ReceivedLine",
    "ResetTransaction",
    "UnrecognizedCommand",
    "Vrfy",
]

_BY_NAME: dict[str, type["Hook"]] = {}


@dataclass(frozen=True, slots=True)
class Hook:
    """A question to the embedder or the plugins, answered by a return code."""

    name: ClassVar[str] = ""
    """The hook's name, as in the original's documentation."""

    def __init_subclass__(cls, *, name: str = "") -> None:
        # dataclass(slots=True) makes each class anew, by a call without keywords.
        if name:
            cls.name = name
        _BY_NAME[cls.name] = cls

    @property
    def arguments(self) -> tuple[object, ...]:
        """What a plugin's method gets, behind the plugin and the transaction."""
        return ()


HOOKS: Mapping[str, type[Hook]] = _BY_NAME
"""Every hook by its name."""


@dataclass(frozen=True, slots=True)
class Connect(Hook, name="connect"):
    """A client has connected; no greeting has been sent."""


@dataclass(frozen=True, slots=True)
class Helo(Hook, name="helo"):
    """HELO: the host name, and any further words of the line."""

    host: str
    words: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.host, *self.words)


@dataclass(frozen=True, slots=True)
class Ehlo(Hook, name="ehlo"):
    """EHLO: the host name, and any further words of the line."""

    host: str
    words: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.host, *self.words)


@dataclass(frozen=True, slots=True)
class MailPre(Hook, name="mail_pre"):
    """The reverse-path as sent, before it is parsed; OK with a text replaces it."""

    path: str
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.path, self.parameters


@dataclass(frozen=True, slots=True)
class Mail(Hook, name="mail"):
    """MAIL: a well-formed reverse-path."""

    sender: Mailbox
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.sender, self.parameters


@dataclass(frozen=True, slots=True)
class RcptPre(Hook, name="rcpt_pre"):
    """The forward-path as sent, before it is parsed; OK with a text replaces it."""

    path: str
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.path, self.parameters


@dataclass(frozen=True, slots=True)
class Rcpt(Hook, name="rcpt"):
    """RCPT: a well-formed forward-path."""

    recipient: Mailbox
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.recipient, self.parameters


@dataclass(frozen=True, slots=True)
class Data(Hook, name="data"):
    """DATA, before the client is told to go ahead."""


@dataclass(frozen=True, slots=True)
class DataHeadersEnd(Hook, name="data_headers_end"):
    """The blank line after the message header, or the final dot where there is none."""


@dataclass(frozen=True, slots=True)
class DataPostHeaders(Hook, name="data_post_headers"):
    """All content has come; no field has been added yet."""


@dataclass(frozen=True, slots=True)
class ReceivedLine(Hook, name="received_line"):
    """The trace field is about to be added; OK with a text gives its body.

    `protocol` is a transmission type of RFC 3848; `authentication` and `tls` are comments.
    """

    protocol: str
    authentication: str = ""
    tls: str = ""

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.protocol, self.authentication, self.tls


@dataclass(frozen=True, slots=True)
class DataPost(Hook, name="data_post"):
    """The message is whole: the place for content checks."""


@dataclass(frozen=True, slots=True)
class QueuePre(Hook, name="queue_pre"):
    """The message has passed all checks and is about to be queued."""


@dataclass(frozen=True, slots=True)
class Queue(Hook, name="queue"):
    """Take the message: OK says it is on disk or with the next hop."""


@dataclass(frozen=True, slots=True)
class QueuePost(Hook, name="queue_post"):
    """The queue hook has been answered and the transaction is over."""


@dataclass(frozen=True, slots=True)
class ResetTransaction(Hook, name="reset_transaction"):
    """The mail transaction is forgotten: before MAIL, after RSET, a message or a session."""


@dataclass(frozen=True, slots=True)
class Noop(Hook, name="noop"):
    """NOOP; its argument is not passed on."""


@dataclass(frozen=True, slots=True)
class Vrfy(Hook, name="vrfy"):
    """VRFY; its argument is not passed on."""


@dataclass(frozen=True, slots=True)
class Help(Hook, name="help"):
    """HELP, with the rest of the line, or None where there is none."""

    subject: str | None

    @property
    def arguments(self) -> tuple[object, ...]:
        return () if self.subject is None else (self.subject,)


@dataclass(frozen=True, slots=True)
class UnrecognizedCommand(Hook, name="unrecognized_command"):
    """A command the core does not know: its word in lower case, and the rest of the line."""

    command: str
    rest: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.command, self.rest


@dataclass(frozen=True, slots=True)
class Quit(Hook, name="quit"):
    """QUIT."""


@dataclass(frozen=True, slots=True)
class Disconnect(Hook, name="disconnect"):
    """The session is over, by whatever cause."""


# Asked by the session or the daemon, not by the protocol.


@dataclass(frozen=True, slots=True)
class PostFork(Hook, name="post-fork"):
    """A worker process has started."""


@dataclass(frozen=True, slots=True)
class PreConnection(Hook, name="pre-connection"):
    """A connection was accepted; no session exists yet. `child_addrs`: those now connected."""

    remote_ip: str
    remote_port: int
    local_ip: str
    local_port: int
    max_conn_ip: int
    child_addrs: tuple[str, ...]

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class PostConnection(Hook, name="post-connection"):
    """The connection is closed."""


@dataclass(frozen=True, slots=True)
class Deny(Hook, name="deny"):
    """A plugin refused: its name, code and first text."""

    plugin: str
    code: ReturnCode
    text: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.plugin, self.code, self.text


@dataclass(frozen=True, slots=True)
class Ok(Hook, name="ok"):
    """A plugin answered without refusing: its name, code and first text."""

    plugin: str
    code: ReturnCode
    text: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.plugin, self.code, self.text


@dataclass(frozen=True, slots=True)
class Config(Hook, name="config"):
    """A setting is looked up; OK with texts gives its values."""

    setting: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.setting,)


@dataclass(frozen=True, slots=True)
class Logging(Hook, name="logging"):
    """A message is logged: level, the hook and plugin it comes from, and its text."""

    level: int
    hook: str
    plugin: str
    text: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.level, self.hook, self.plugin, self.text
