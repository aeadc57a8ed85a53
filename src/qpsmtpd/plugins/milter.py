"""Asks a mail filter that speaks the milter protocol, as those for Sendmail and Postfix do.

    milter NAME PLACE [timeout SECONDS] [default accept|tempfail]

NAME is for the log. PLACE is where the filter listens: a port of this machine, `HOST:PORT`,
`inet:PORT@HOST`, or the path of a Unix socket. For several filters load the plugin several times,
as `milter:0`, `milter:1`.

Arguments:
- `timeout`: seconds that the filter has in each hook, 60 by default; keep it below
  `config/timeouthook`.
- `default`: what becomes of mail while the filter is down, late, or makes no sense: accept (the
  default) has it pass unfiltered, tempfail refuses it for now.

The filter is told of the connection, HELO, MAIL, RCPT, DATA, and of the whole message before it is
queued, header fields of this server's own included. It may refuse at each step, add, change and
remove fields, replace the body, and change the sender and the recipients. It hears of the
recipients whom no plugin before this one has decided on: load it before `rcpt_ok`. Whitelisted,
naughty and relay clients are filtered too.

A message that the filter discards gets the note `discard_mail`, which `queue/discard marked`
heeds. There is no quarantine: what a filter would put there is refused.

Result: DENY, DENYSOFT or DENYSOFT_DISCONNECT as the filter says, with its text; DECLINED else. See
`default` for what happens if it fails.

In config/plugins:

    milter opendkim 127.0.0.1:8891 timeout 30
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from qpsmtpd import (
    DECLINED,
    DENY,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    LOGERROR,
    LOGINFO,
    LOGWARN,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins import _milter
from qpsmtpd.plugins._milter import Change, Options, Step
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.protocol import Mailbox, Parameters, parse_path
from qpsmtpd.session.connection import is_ipv6, is_valid_ip

_CHUNK = 65535
_MOST_CHANGES = 10_000
_MOST_OCTETS = 1 << 26  # of all changes
_INET = re.compile(r"inet:([0-9]+)@(.+)")


@dataclass(slots=True)
class _Talk:
    """What goes on between a session and the filter."""

    stream: Stream | None
    options: Options = field(default_factory=Options)
    in_message: bool = False
    is_over: bool = False
    """The filter wants to hear no more of this connection."""
    is_decided: bool = False
    """The filter wants to hear no more of this message."""


class Milter(Plugin):
    """Asks a mail filter that speaks the milter protocol."""

    def register(self, qp: Site, name: str, place: str, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "timeout", "default")
        self._filter = name
        self._place = parse_place(place)
        self._seconds = seconds(options, "timeout", 60)
        default = options.get("default", "accept")
        if default not in ("accept", "tempfail"):
            raise ValueError(f"default {default!r} is neither accept nor tempfail")
        self._defers = default == "tempfail"

    # The steps of a session

    @blocking
    def hook_connect(self, transaction: Transaction) -> Result:
        """Connect to the filter, and tell it of the client."""
        return self._greet()

    def _greet(self) -> Result:
        connection = self.connection
        ip = connection.remote_ip
        family = "6" if is_ipv6(ip) else "4" if is_valid_ip(ip) else "U"
        data = _milter.connect_packet(connection.remote_host, family, connection.remote_port, ip)
        macros = {"j": self.qp.hostname, "client_addr": ip, "client_name": connection.remote_host, "v": "qpsmtpd"}
        try:
            talk = self._start()
            return self._tell(talk, Step.CONNECT, data, macros) or DECLINED
        except (OSError, ValueError) as error:
            return self._broken(error)

    @blocking
    def hook_helo(self, transaction: Transaction, host: str, *words: str) -> Result:
        """Tell it of HELO or EHLO."""
        security = self.connection.security
        macros = {} if security is None else {"tls_version": security.version, "cipher": security.cipher}
        return self._step(Step.HELO, _milter.packet(b"H", _milter.texts(host)), macros)

    hook_ehlo = hook_helo

    @blocking
    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Tell it of MAIL."""
        talk = self._talk()
        if talk is None:  # another plugin has ended the hook connect before
            result = self._greet()
            if result is not DECLINED:
                return result
        else:
            talk.is_decided = False
        macros = {
            "i": transaction.id,
            "auth_authen": self.auth_user,
            "auth_type": self.auth_mechanism.upper(),
            "mail_addr": sender.address,
            "mail_host": sender.domain or "",
        }
        return self._step(Step.MAIL, _milter.packet(b"M", _path(sender, parameters)), macros)

    @blocking
    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Tell it of RCPT."""
        macros = {"rcpt_addr": recipient.address, "rcpt_host": recipient.domain or "", "rcpt_mailer": "smtp"}
        return self._step(Step.RCPT, _milter.packet(b"R", _path(recipient, parameters)), macros)

    @blocking
    def hook_data(self, transaction: Transaction) -> Result:
        """Tell it of DATA."""
        return self._step(Step.DATA, _milter.packet(b"T"), {"i": transaction.id})

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        """Show it the message, and do what it wants changed."""
        talk = self._talk()
        if talk is None or talk.is_decided or talk.is_over:
            return self._without(talk)
        try:
            stream = self._stream(talk)
            result = self._show(talk, transaction)
            if result is not None or talk.is_decided:
                return result or DECLINED
            stream.send(_milter.macros_packet(Step.END, {"i": transaction.id}) + _milter.packet(b"E"))
            changes: list[Change] = []
            letter, data = self._answer(stream, changes)
            talk.in_message, talk.is_decided = False, True
            result = self._result(talk, Step.END, letter, data)
        except (OSError, ValueError) as error:
            return self._broken(error)
        return self._change(transaction, changes) if letter in b"ca" else result or DECLINED

    @blocking
    def hook_disconnect(self, transaction: Transaction) -> Result:
        """Take leave of the filter."""
        talk = self._talk()
        if talk is None or talk.stream is None:
            return DECLINED
        with contextlib.suppress(OSError):
            self._stream(talk).send(_milter.packet(b"Q"))
        talk.stream.close()
        talk.stream = None
        return DECLINED

    # The talk

    @property
    def _note(self) -> str:
        return f"{self.plugin_name} {self._filter}"

    def _talk(self) -> _Talk | None:
        talk = self.connection.notes.get(self._note)
        return talk if isinstance(talk, _Talk) else None

    def _stream(self, talk: _Talk) -> Stream:
        """The connection to the filter, with time for another hook. Raises OSError."""
        if talk.stream is None:
            raise OSError("the connection is closed")
        talk.stream.restart(self._seconds)
        return talk.stream

    def _start(self) -> _Talk:
        """Connect, and agree. Raises OSError and ValueError."""
        stream = Stream(self._place, self._seconds)
        talk = self.connection.notes[self._note] = _Talk(stream)
        stream.send(_milter.offer())
        talk.options = _milter.parse_offer(*_receive(stream))
        return talk

    def _broken(self, error: Exception) -> Result:
        """The filter has failed: it is not asked again in this connection."""
        why = (error.strerror if isinstance(error, OSError) else None) or error
        self.log(LOGERROR, f"error, {self._filter} at {self._place}: {why}")
        talk = self._talk()
        if talk is not None and talk.stream is not None:
            talk.stream.close()
        self.connection.notes[self._note] = talk = _Talk(None)
        return self._without(talk)

    def _without(self, talk: _Talk | None) -> Result:
        """The result where the filter is not asked."""
        broken = talk is not None and talk.stream is None  # where there is no talk yet, MAIL begins it
        return (DENYSOFT, "a mail filter is out of order; try again later") if broken and self._defers else DECLINED

    def _step(self, step: Step, data: bytes, macros: Mapping[str, str]) -> Result:
        """Tell the filter of a step, if it still listens."""
        talk = self._talk()
        if talk is None or talk.stream is None or talk.is_over or talk.is_decided:
            return self._without(talk)
        try:
            stream = self._stream(talk)
            if step in (Step.MAIL, Step.HELO) and talk.in_message:
                stream.send(_milter.packet(b"A"))  # the message before has come to nothing
                talk.in_message = False
            talk.in_message = talk.in_message or step is Step.MAIL
            return self._tell(talk, step, data, macros) or DECLINED
        except (OSError, ValueError) as error:
            return self._broken(error)

    def _tell(self, talk: _Talk, step: Step, data: bytes, macros: Mapping[str, str] | None = None) -> Result:
        """The result of a step. Raises OSError and ValueError."""
        stream = talk.stream
        if stream is None or not talk.options.wants(step):
            return None
        stream.send((_milter.macros_packet(step, macros) if macros else b"") + data)
        if not talk.options.answers(step):
            return None
        letter, answer = self._answer(stream)
        return self._result(talk, step, letter, answer)

    def _show(self, talk: _Talk, transaction: Transaction) -> Result:
        """Show the filter the message; None if it has not decided yet. Raises OSError and ValueError."""
        for each in transaction.header.fields:
            if each.name and each.name != "Mail-From":
                body = each.raw.partition(b":")[2]
                data = _milter.field_packet(each.name, body, leading_blank=talk.options.leading_blank)
                result = self._tell(talk, Step.FIELD, data)
                if result is not None or talk.is_decided:
                    return result
        result = self._tell(talk, Step.END_OF_HEADER, _milter.packet(b"N"))
        if result is not None or talk.is_decided or not talk.options.wants(Step.BODY):
            return result
        return self._show_body(talk, transaction)

    def _show_body(self, talk: _Talk, transaction: Transaction) -> Result:
        stream = talk.stream
        if stream is None:
            return None
        with transaction.body_file() as body:
            body.readline()  # the blank line
            while data := body.read(_CHUNK):
                stream.send(_milter.packet(b"B", data))
                if not talk.options.answers(Step.BODY):
                    continue
                letter, answer = self._answer(stream)
                if letter == b"s":
                    return None  # it has seen enough of it
                result = self._result(talk, Step.BODY, letter, answer)
                if result is not None or talk.is_decided:
                    return result
        return None

    def _answer(self, stream: Stream, changes: list[Change] | None = None) -> tuple[bytes, bytes]:
        """The answer, behind what is to be changed. Raises OSError and ValueError."""
        size = 0
        while True:
            letter, data = _receive(stream)
            size += len(data)
            if letter in _milter.FINAL:
                return letter, data
            if letter == b"p":
                continue  # it needs time, but there is no more than there was
            if changes is None:
                raise ValueError(f"it says {letter!r}")
            changes.append(_milter.parse_change(letter, data))
            if len(changes) > _MOST_CHANGES or size > _MOST_OCTETS:
                raise ValueError("it wants too much changed")

    def _result(self, talk: _Talk, step: Step, letter: bytes, data: bytes) -> Result:
        """What an answer leads to; None to go on. Raises ValueError."""
        if letter == b"c":
            return None
        self.log(
            LOGINFO, f"{'pass' if letter in b'a' else 'fail'}, {self._filter} says {letter.decode()} at {step.name}"
        )
        early = step in (Step.CONNECT, Step.HELO)
        if letter in b"ad":
            talk.is_over, talk.is_decided = talk.is_over or early, True
            if letter == b"d" and not early:
                self.transaction.notes["discard_mail"] = True
            return None
        if step is not Step.RCPT and not early:
            talk.is_decided = True
        if letter == b"r":
            return DENY, f"refused by {self._filter}"
        if letter == b"t":
            return DENYSOFT, f"refused by {self._filter} for now"
        if letter == b"4":
            return DENYSOFT_DISCONNECT, f"refused by {self._filter} for now"
        if letter == b"y":
            code, text = _milter.parse_reply(data)
            kind = DENYSOFT_DISCONNECT if code == 421 else DENYSOFT if code < 500 else DENY
            return kind, text or f"refused by {self._filter}"
        raise ValueError(f"it says {letter!r} at {step.name}")

    # Changes

    def _change(self, transaction: Transaction, changes: list[Change]) -> Result:
        """Do what the filter wants changed."""
        for change in changes:
            if change.letter == b"q":
                self.log(LOGINFO, f"fail, {self._filter} wants it in quarantine: {change.words[0]}")
                return DENY, f"refused by {self._filter}"
        for change in changes:
            try:
                _change_one(transaction, change)
            except ValueError as error:
                self.log(LOGWARN, f"error, {self._filter}: {error}")
        body = _milter.joined(changes)
        try:
            if body is not None:
                transaction.replace_body(body)
        except OSError as error:
            self.log(LOGERROR, f"error, the new body: {error.strerror or error}")
            return DENYSOFT, "the message cannot be kept now"
        return DECLINED


def parse_place(text: str) -> Place:
    """Read where a filter listens; a port alone is one of this machine. Raises ValueError."""
    match = _INET.fullmatch(text)
    if match:
        return Place.parse(f"[{match[2]}]:{match[1]}" if ":" in match[2] else f"{match[2]}:{match[1]}", 0)
    return Place.parse(f"127.0.0.1:{text}" if text.isdecimal() else text.removeprefix("local:"), 0)


def _receive(stream: Stream) -> tuple[bytes, bytes]:
    """A packet: its letter, and what belongs to it. Raises OSError and ValueError."""
    size = int.from_bytes(stream.receive_exactly(4), "big")
    if not 0 < size <= _milter.MOST:
        raise ValueError(f"a packet of {size} octets")
    data = stream.receive_exactly(size)
    return data[:1], data[1:]


def _path(mailbox: Mailbox, parameters: Parameters) -> bytes:
    words = (name.upper() if value is None else f"{name.upper()}={value}" for name, value in parameters.items())
    return _milter.texts(mailbox.path, *words)


def _mailbox(text: str) -> Mailbox:
    """Read an address, in angle brackets or not. Raises ValueError."""
    mailbox = parse_path(text if text.startswith("<") else f"<{text}>")
    if not isinstance(mailbox, Mailbox):
        raise ValueError(f"{text!r} is no address")  # noqa: TRY004 - it is what a filter says
    return mailbox


def _recipient(text: str) -> Mailbox:
    """Read the address of a recipient, which is not empty. Raises ValueError."""
    mailbox = _mailbox(text)
    if not mailbox.local_part:
        raise ValueError(f"{text!r} is no recipient")
    return mailbox


def _change_one(transaction: Transaction, change: Change) -> None:
    """Change the envelope or the header. Raises ValueError."""
    header, words = transaction.header, change.words
    if change.letter in b"+2":
        transaction.add_recipient(_recipient(words[0]))
    elif change.letter == b"-":
        transaction.remove_recipient(_mailbox(words[0]))
    elif change.letter == b"e":
        transaction.sender = _mailbox(words[0])
    elif change.letter == b"h":
        header.add(words[0], words[1])
    elif change.letter == b"i":
        header.add(words[0], words[1], change.number)
    elif change.letter == b"m":
        header.change(words[0], max(change.number, 1), words[1] if words[1].strip() else None)
