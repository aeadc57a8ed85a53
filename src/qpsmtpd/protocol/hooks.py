"""Every question the server asks: one frozen value a hook, with its typed arguments.

This is the table of contents of the system, in the order in which a session meets the
hooks. What an answer means stands in `verdicts`. `protocol.Server` asks those from Connect
to Disconnect; the others are run by the session or the daemon.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.commands import Parameters
from qpsmtpd.protocol.returncodes import ReturnCode

__all__ = [
    "HOOKS",
    "Auth",
    "AuthCramMd5",
    "AuthLogin",
    "AuthOauthbearer",
    "AuthParse",
    "AuthPlain",
    "AuthScramSha256",
    "AuthXoauth2",
    "Config",
    "Connect",
    "Data",
    "DataHeadersEnd",
    "DataPost",
    "DataPostHeaders",
    "Deny",
    "Disconnect",
    "Ehlo",
    "EhloParse",
    "Helo",
    "HeloParse",
    "Help",
    "Hook",
    "Logging",
    "Mail",
    "MailParse",
    "MailPre",
    "Noop",
    "Ok",
    "ParseHook",
    "PostConnection",
    "PostFork",
    "PreConnection",
    "Queue",
    "QueuePost",
    "QueuePre",
    "Quit",
    "Rcpt",
    "RcptParse",
    "RcptPre",
    "ReceivedLine",
    "ResetTransaction",
    "UnrecognizedCommand",
    "UserConfig",
    "Vrfy",
]

_BY_NAME: dict[str, type["Hook"]] = {}


@dataclass(frozen=True, slots=True)
class Hook:
    """A question to the embedder or the plugins, answered by a return code."""

    name: ClassVar[str] = ""
    """The hook's name, as in the original's documentation."""

    of_transaction: ClassVar[bool] = False
    """Whether the hook belongs to a mail transaction, and not to the connection at large."""

    def __init_subclass__(cls, *, name: str = "", of_transaction: bool = False) -> None:
        # dataclass(slots=True) makes each class anew, by a call without keywords.
        if name:
            cls.name, cls.of_transaction = name, of_transaction
        if cls.name:
            _BY_NAME[cls.name] = cls

    @property
    def arguments(self) -> tuple[object, ...]:
        """What a plugin's method gets, behind the plugin and the transaction."""
        return ()


HOOKS: Mapping[str, type[Hook]] = _BY_NAME
"""Every hook by its name."""


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
class Connect(Hook, name="connect"):
    """A client has connected; no greeting has been sent."""


@dataclass(frozen=True, slots=True)
class ParseHook(Hook):
    """The arguments of a command, as sent, before they are taken apart.

    OK with texts gives the pieces instead of the built-in parser; DECLINED leaves it to that.
    """

    argument: str
    """The rest of the line behind the command word."""

    @property
    def command(self) -> str:
        """The command word in lower case."""
        return self.name.removesuffix("_parse")

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.argument,)


@dataclass(frozen=True, slots=True)
class HeloParse(ParseHook, name="helo_parse"):
    """The arguments of HELO; the pieces are the host name and further words."""

    @property
    def arguments(self) -> tuple[object, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Helo(Hook, name="helo"):
    """HELO: the host name, and any further words of the line."""

    host: str
    words: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.host, *self.words)


@dataclass(frozen=True, slots=True)
class EhloParse(ParseHook, name="ehlo_parse"):
    """The arguments of EHLO; the pieces are the host name and further words."""

    @property
    def arguments(self) -> tuple[object, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Ehlo(Hook, name="ehlo"):
    """EHLO: the host name, and any further words of the line."""

    host: str
    words: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.host, *self.words)


@dataclass(frozen=True, slots=True)
class AuthParse(ParseHook, name="auth_parse"):
    """The arguments of AUTH; the pieces are the mechanism and an initial response."""


@dataclass(frozen=True, slots=True)
class Auth(Hook, name="auth"):
    """Credentials, for plugins that check them whatever the mechanism.

    Asked when the hook of the mechanism itself has declined. `password` is None where the
    mechanism does not send it, `digest` and `ticket` where it has no challenge.
    """

    mechanism: str
    """The mechanism's name, in lower case."""
    user: str
    password: str | None = field(default=None, repr=False)
    digest: str | None = field(default=None, repr=False)
    ticket: str | None = field(default=None, repr=False)

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.mechanism, self.user, self.password, self.digest, self.ticket


@dataclass(frozen=True, slots=True)
class AuthPlain(Auth, name="auth-plain"):
    """Credentials of AUTH PLAIN (RFC 4616)."""


@dataclass(frozen=True, slots=True)
class AuthLogin(Auth, name="auth-login"):
    """Credentials of AUTH LOGIN."""


@dataclass(frozen=True, slots=True)
class AuthCramMd5(Auth, name="auth-cram-md5"):
    """Credentials of AUTH CRAM-MD5 (RFC 2195): the digest, and the ticket it was made of."""


@dataclass(frozen=True, slots=True)
class AuthXoauth2(Auth, name="auth-xoauth2"):
    """Credentials of AUTH XOAUTH2: the bearer token is the password."""


@dataclass(frozen=True, slots=True)
class AuthOauthbearer(Auth, name="auth-oauthbearer"):
    """Credentials of AUTH OAUTHBEARER (RFC 7628): the bearer token is the password."""


@dataclass(frozen=True, slots=True)
class AuthScramSha256(Hook, name="auth-scram-sha-256"):
    """A user who authenticates by SCRAM-SHA-256 or -PLUS (RFC 7677): who keeps the password?

    OK with a text gives what is stored of it, `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`
    as in RFC 5803 (`sasl.ScramVerifier` makes it); the exchange itself is the server's. The
    text is shown to nobody.
    """

    mechanism: str
    user: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.mechanism, self.user


@dataclass(frozen=True, slots=True)
class MailParse(ParseHook, name="mail_parse", of_transaction=True):
    """The arguments of MAIL; the pieces are the path and the parameters, `KEYWORD=value`."""


@dataclass(frozen=True, slots=True)
class MailPre(Hook, name="mail_pre", of_transaction=True):
    """The reverse-path as sent, before it is parsed; OK with a text replaces it."""

    path: str
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.path, self.parameters


@dataclass(frozen=True, slots=True)
class Mail(Hook, name="mail", of_transaction=True):
    """MAIL: a well-formed reverse-path."""

    sender: Mailbox
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.sender, self.parameters


@dataclass(frozen=True, slots=True)
class RcptParse(ParseHook, name="rcpt_parse", of_transaction=True):
    """The arguments of RCPT; the pieces are the path and the parameters, `KEYWORD=value`."""


@dataclass(frozen=True, slots=True)
class RcptPre(Hook, name="rcpt_pre", of_transaction=True):
    """The forward-path as sent, before it is parsed; OK with a text replaces it."""

    path: str
    parameters: Parameters

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.path, self.parameters


@dataclass(frozen=True, slots=True, init=False)
class Rcpt(Hook, name="rcpt", of_transaction=True):
    """RCPT: a well-formed forward-path."""

    recipient: Mailbox
    parameters: Parameters

    def __init__(self, recipient: Mailbox, parameters: Parameters) -> None:
        _set_recipient(self, recipient)
        _set_parameters(self, parameters)

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.recipient, self.parameters


# One is made for each recipient; the __init__ of a frozen dataclass takes twice the time.
_set_recipient, _set_parameters = vars(Rcpt)["recipient"].__set__, vars(Rcpt)["parameters"].__set__


@dataclass(frozen=True, slots=True)
class Data(Hook, name="data", of_transaction=True):
    """DATA, before the client is told to go ahead."""


@dataclass(frozen=True, slots=True)
class DataHeadersEnd(Hook, name="data_headers_end", of_transaction=True):
    """The blank line after the message header, or the final dot where there is none."""


@dataclass(frozen=True, slots=True)
class DataPostHeaders(Hook, name="data_post_headers", of_transaction=True):
    """All content has come; no field has been added yet."""


@dataclass(frozen=True, slots=True)
class ReceivedLine(Hook, name="received_line", of_transaction=True):
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
class DataPost(Hook, name="data_post", of_transaction=True):
    """The message is whole: the place for content checks."""


@dataclass(frozen=True, slots=True)
class QueuePre(Hook, name="queue_pre", of_transaction=True):
    """The message has passed all checks and is about to be queued."""


@dataclass(frozen=True, slots=True)
class Queue(Hook, name="queue", of_transaction=True):
    """Take the message: OK says it is on disk or with the next hop.

    In LMTP it is asked for each recipient. `recipient` is then the number of that recipient
    among the accepted ones, from 0; else the message is for all of them, and it is None.
    """

    recipient: int | None = None


@dataclass(frozen=True, slots=True)
class QueuePost(Hook, name="queue_post", of_transaction=True):
    """The queue hook has been answered and the transaction is over."""


@dataclass(frozen=True, slots=True)
class ResetTransaction(Hook, name="reset_transaction", of_transaction=True):
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
    """A command the core does not know: its word in lower case, and the rest of the line, or None."""

    command: str
    rest: str | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        return (self.command,) if self.rest is None else (self.command, self.rest)


@dataclass(frozen=True, slots=True)
class Quit(Hook, name="quit"):
    """QUIT."""


@dataclass(frozen=True, slots=True)
class Disconnect(Hook, name="disconnect"):
    """The session is over, by whatever cause."""


@dataclass(frozen=True, slots=True)
class PostConnection(Hook, name="post-connection"):
    """The connection is closed."""


# Asked in between, wherever it is called for.


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
class UserConfig(Hook, name="user_config"):
    """A setting is looked up for one address; OK with texts gives its values."""

    address: Mailbox
    setting: str

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.address, self.setting


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
