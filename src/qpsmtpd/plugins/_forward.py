"""Passing messages on to another server: what `queue/smtp-forward`, `queue/lmtp` and `queue/qmqp-forward` share."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from qpsmtpd import (
    DENY,
    DENYSOFT,
    LOGERROR,
    LOGINFO,
    LOGWARN,
    OK,
    Connection,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._next_hop import NextHop
from qpsmtpd.plugins._options import seconds, trust
from qpsmtpd.plugins._streams import Place
from qpsmtpd.protocol import Client, Message, Recipient, Stage, TlsUse, XClient
from qpsmtpd.protocol.outgoing import Result as Fate

__all__ = ["SECONDS", "TROUBLE", "Forward", "destination", "one_line", "talk_seconds"]

SECONDS = 110.0
"""How long a message may take by default: less than a hook may (`timeouthook`)."""

TROUBLE = "4.4.0 The message cannot be passed on now, please try again later"

_CALLED_OFF = 450  # what `Client` says of those who are not sent to because of others
_TLS: Mapping[str, TlsUse] = {"no": TlsUse.NEVER, "starttls": TlsUse.REQUIRED, "yes": TlsUse.REQUIRED}
_TEXT = 300  # characters of what a server says that are passed on
_NAMED = 5  # recipients that are named in a reply
_BEFORE_MAIL = frozenset({Stage.GREETING, Stage.HELLO, Stage.STARTTLS, Stage.XCLIENT})
_HOST_NAME = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?")
_WORD = re.compile(r"[!-~]{1,100}")  # three of these, encoded, are less than a command line may have


def destination(words: Sequence[str], port: int) -> tuple[Place, Sequence[str]]:
    """Read `HOST [PORT]`, or the path of a socket; give what follows too. Raises ValueError."""
    if not words:
        raise ValueError("there is no server to pass messages on to; say HOST or HOST PORT")
    if len(words) == 1 or not words[1][0].isdigit():
        return Place.parse(words[0], port), words[1:]
    if not (words[1].isascii() and words[1].isdecimal() and 0 < int(words[1]) < 1 << 16):
        raise ValueError(f"{words[1]!r} is no port")
    place = Place.parse(words[0], int(words[1]))
    if place.port != int(words[1]):
        raise ValueError(f"{words[0]} leaves no room for the port {words[1]}")
    return place, words[2:]


def talk_seconds(plugin: Plugin, options: Mapping[str, str]) -> float:
    """The argument `timeout`, which should be less than a hook may take. Raises ValueError."""
    time, most = seconds(options, "timeout", SECONDS), plugin.qp.number("timeouthook")
    if time >= most:
        plugin.log(
            LOGWARN, f"timeout {time:g} is not below config/timeouthook ({most:g}): messages may be passed on twice"
        )
    return time


def one_line(text: str) -> str:
    """What a server says as a piece of one line, of bounded length."""
    return " ".join(text.split())[:_TEXT]


class Forward(Plugin):
    """Passes messages on by SMTP or LMTP."""

    shared_arguments = ("loglevel",)

    flags: ClassVar[tuple[str, ...]] = ()
    """Words without a value that may stand behind the server."""

    _speaks_for_client = False

    def set_up(self, words: Sequence[str], port: int, *, lmtp: bool = False) -> None:
        """Read the arguments. Raises ValueError."""
        place, words = destination(words, port)
        if words and words[0] in self.flags:
            self._speaks_for_client, words = True, words[1:]
        options = self.options(tuple(words), "timeout", "tls", "ca", "helo")
        tls = options.get("tls", "no")
        if tls not in _TLS:
            raise ValueError(f"tls {tls!r} is none of {', '.join(_TLS)}")
        if tls == "no" and "ca" in options:
            raise ValueError("ca is of use with `tls starttls` or `tls yes` only")
        if not place.port and not lmtp:
            raise ValueError(f"{place.host} is no host")
        if not place.port and tls != "no":
            raise ValueError("a socket of this machine has no certificate; leave tls out")
        self._helo = options.get("helo", "")
        self._lmtp, self._use = lmtp, _TLS[tls]
        self._make_client()  # is the name any good?
        self._next_hop = NextHop(
            place,
            talk_seconds(self, options),
            self._make_client,
            self.qp.clock,
            context=trust(options) if tls != "no" else None,
            encrypted=tls == "yes",
        )

    def _make_client(self) -> Client:
        return Client(self._helo or self.qp.hostname, lmtp=self._lmtp, tls=self._use)

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Pass the message on."""
        try:
            message = _message(transaction, _client_of(self.connection) if self._speaks_for_client else None)
        except ValueError as error:
            self.log(LOGERROR, f"fail, the envelope cannot be passed on: {error}")
            return DENY, "5.5.4 The envelope cannot be passed on"
        try:
            outcome = self._next_hop.deliver(lambda: replace(message, content=transaction.chunks()))
        except OSError as error:
            self._log_trouble(error)
            return DENYSOFT, TROUBLE
        if outcome.trouble is not None:
            self._log_trouble(outcome.trouble)
        return self._verdict(outcome.report.results)

    def _log_trouble(self, error: OSError) -> None:
        self.log(LOGERROR, f"error, {self._next_hop.place}: {error.strerror or error}")

    def _verdict(self, fates: Sequence[Fate]) -> Result:
        """The one answer for all recipients: OK if every one of them was taken."""
        for fate in fates:
            word = "pass" if fate.delivered else "error" if _is_trouble(fate) else "fail"
            level = LOGERROR if word == "error" else LOGINFO
            self.log(level, f"{word}, {self._next_hop.place}: {fate.recipient.path} {_told(fate)}")
        failed = [fate for fate in fates if not fate.delivered]
        if not failed:
            return OK, f"Queued! {one_line(fates[0].reply.text)}"
        permanent = [fate for fate in failed if fate.permanent and fate.at not in _BEFORE_MAIL]
        return (DENY if permanent else DENYSOFT), _refusal(permanent or failed, fates)


def _message(transaction: Transaction, client: XClient | None) -> Message:
    """A transaction's message, each recipient named once. Raises ValueError for parameters that cannot be sent."""
    recipients: dict[Mailbox, Parameters] = {}
    for mailbox, parameters in transaction.recipients_with_parameters:
        recipients.setdefault(mailbox, parameters)
    return Message(
        transaction.reverse_path,
        [Recipient(mailbox, parameters) for mailbox, parameters in recipients.items()],
        transaction.chunks(),
        transaction.sender_parameters,
        len(bytes(transaction.header)) + transaction.body_length,
        client=client,
        all_or_none=True,
        raw_header="smtputf8" not in transaction.sender_parameters,
    )


def _told(fate: Fate) -> str:
    reply = fate.reply
    return f"{reply.code} {f'{reply.enhanced} ' if reply.enhanced else ''}{one_line(reply.text)} ({fate.at.value})"


def _refusal(failed: Sequence[Fate], fates: Sequence[Fate]) -> str:
    """What a client is told who has one answer for all recipients."""
    refused = [fate for fate in failed if not _was_called_off(fate)] or failed
    reply = refused[0].reply
    if len(refused) == len(fates) and all(fate.reply == reply for fate in refused):
        text = one_line(reply.text)
    else:
        named = [f"{fate.recipient.path[:_TEXT]}: {one_line(fate.reply.text)}" for fate in refused[:_NAMED]]
        if len(refused) > _NAMED:
            named.append(f"and {len(refused) - _NAMED} more")
        if any(fate.delivered for fate in fates):
            named.append("other recipients have the message")
        elif not any(fate.uncertain for fate in fates):
            named.append("nobody has got the message")
        text = "; ".join(named)
    return f"{reply.enhanced} {text}" if reply.enhanced else text


def _is_trouble(fate: Fate) -> bool:
    """Whether it says nothing of the message, but something for an administrator."""
    return fate.at in _BEFORE_MAIL or (fate.local and fate.temporary and not _was_called_off(fate))


def _was_called_off(fate: Fate) -> bool:
    """Whether it only suffers for another one that was refused."""
    return fate.local and fate.at is Stage.RCPT and fate.reply.code == _CALLED_OFF


def _client_of(connection: Connection) -> XClient:
    """Whom a message is passed on for, in words that servers take; what is not known or fits no name is empty."""
    peer, host, helo = connection.peer, connection.peer.remote_host or "", connection.hello_host or ""
    return XClient(
        host if _HOST_NAME.fullmatch(host) else "",
        peer.remote_ip,
        peer.remote_port,
        "SMTP" if connection.hello == "helo" else "ESMTP",
        helo if _WORD.fullmatch(helo) else "",
        connection.auth_user if _WORD.fullmatch(connection.auth_user) else "",
        peer.local_ip,
        peer.local_port,
    )
