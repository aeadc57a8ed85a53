"""SMTP as values: bytes in, events and replies out. No I/O, no clock, no dependency.

A driver gives bytes to `Server.receive_data`, takes events from `Server.next_event` until that
is `NEED_DATA`, answers the hooks among them, and sends what `Server.data_to_send` gives. Or it
is a `Host`, whose methods are called in place of events.
"""

from qpsmtpd.protocol import hooks
from qpsmtpd.protocol.addresses import NULL_PATH, Mailbox, parse_path
from qpsmtpd.protocol.client import Client, ClientEvent
from qpsmtpd.protocol.commands import Command, Extension, Parameters
from qpsmtpd.protocol.errors import LocalProtocolError, SyntaxProblem
from qpsmtpd.protocol.events import CLOSED, DRAIN, NEED_DATA, Authentication, Content, Event, Signal, StartTls
from qpsmtpd.protocol.framing import ChunkReader, ContentReader, LineEndings, Mark
from qpsmtpd.protocol.hooks import Hook
from qpsmtpd.protocol.host import HangUp, Host
from qpsmtpd.protocol.limits import Limits
from qpsmtpd.protocol.outgoing import (
    TIMEOUTS,
    Breakdown,
    ClientLimits,
    Message,
    Ready,
    Recipient,
    Report,
    Result,
    Stage,
    TlsUse,
)
from qpsmtpd.protocol.parameters import Dsn
from qpsmtpd.protocol.proxy import ProxyHeader, read_proxy_header
from qpsmtpd.protocol.replies import Reply, parse_reply
from qpsmtpd.protocol.returncodes import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    DONE,
    OK,
    REFUSALS,
    ReturnCode,
)
from qpsmtpd.protocol.sasl import Login, ScramVerifier
from qpsmtpd.protocol.security import ClientCertificate, Security
from qpsmtpd.protocol.server import DEFAULT_EXTENSIONS, Server
from qpsmtpd.protocol.state import ORDER, State
from qpsmtpd.protocol.verdicts import FAILED, VERDICTS, Answer, Failure, Verdict
from qpsmtpd.protocol.xclient import XClient

__all__ = [
    "CLOSED",
    "DECLINED",
    "DEFAULT_EXTENSIONS",
    "DENY",
    "DENYSOFT",
    "DENYSOFT_DISCONNECT",
    "DENY_DISCONNECT",
    "DONE",
    "DRAIN",
    "FAILED",
    "NEED_DATA",
    "NULL_PATH",
    "OK",
    "ORDER",
    "REFUSALS",
    "TIMEOUTS",
    "VERDICTS",
    "Answer",
    "Authentication",
    "Breakdown",
    "ChunkReader",
    "Client",
    "ClientCertificate",
    "ClientEvent",
    "ClientLimits",
    "Command",
    "Content",
    "ContentReader",
    "Dsn",
    "Event",
    "Extension",
    "Failure",
    "HangUp",
    "Hook",
    "Host",
    "Limits",
    "LineEndings",
    "LocalProtocolError",
    "Login",
    "Mailbox",
    "Mark",
    "Message",
    "Parameters",
    "ProxyHeader",
    "Ready",
    "Recipient",
    "Reply",
    "Report",
    "Result",
    "ReturnCode",
    "ScramVerifier",
    "Security",
    "Server",
    "Signal",
    "Stage",
    "StartTls",
    "State",
    "SyntaxProblem",
    "TlsUse",
    "Verdict",
    "XClient",
    "hooks",
    "parse_path",
    "parse_reply",
    "read_proxy_header",
]
