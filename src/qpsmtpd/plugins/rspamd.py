"""Has messages judged by rspamd: refuses spam, or marks it.

rspamd is told of the client, the envelope and the message, and says what to do:

    reject             the message is refused
    soft reject        it is refused for now; the module greylisting of rspamd says so too
    greylist           nothing: the score alone says so (with `greylist yes` it is refused for now)
    add header         it gets the field `X-Spam: Yes`
    rewrite subject    its subject is changed as rspamd says, and it gets `X-Spam: Yes`
    discard            the transaction's note `discard_mail` is set, see queue/discard
    quarantine         as add header

Header fields that rspamd wants added or removed (by its module milter_headers, or signatures
by dkim_signing) are. An `X-Spam` that the message came with is removed.

Arguments:
- `server`: where rspamd's worker `normal` listens: `HOST:PORT` or the path of a Unix socket;
  127.0.0.1:11333 by default.
- `password_file FILE`: holds the password, where rspamd wants one.
- `reject 0`: refuse nothing, only mark and log; `reject naughty` leaves it to the plugin naughty.
- `greylist`: yes or no, see above.
- `relay_clients`: no, the default, does not judge what clients send that may relay.
- `defer_on_error`: yes refuses a message for now that cannot be judged; no, the default, lets
  it pass.
- `max_size`: larger messages are not judged, in kilobytes; 10240 by default.
- `timeout`: seconds for all of it, 30 by default; keep it below `config/timeouthook`.

Notes: the transaction's `rspamd`, a dict with `action`, `score`, `required` and `symbols`
(their names). `karma` falls by 1 for spam.

Result: DENY for reject, DENYSOFT for soft reject; DECLINED else, also if rspamd is down, late,
or makes no sense.

In config/plugins, behind the plugins that judge the sender:

    rspamd max_size 20480
"""

import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from qpsmtpd import DECLINED, DENYSOFT, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import flag, number, seconds
from qpsmtpd.plugins._streams import Place, Stream

if TYPE_CHECKING:
    from socket import socket

_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_REFUSAL = "this message looks too much like spam"
_LATER = "please try again later"
_NOT_NOW = "the message cannot be judged now"
_SPAM = frozenset({"reject", "add header", "rewrite subject", "quarantine", "discard"})
_MARKED = frozenset({"add header", "rewrite subject", "quarantine"})
_ACTIONS = _SPAM | {"no action", "greylist", "soft reject"}
_MOST = 1 << 20  # octets of an answer
_MOST_FIELDS = 100
_LONGEST = 8000  # characters of a field


class Rspamd(Plugin):
    """Has messages judged by rspamd: refuses spam, or marks it."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError, and OSError for a file that cannot be read."""
        options = self.options(
            args,
            *("server", "password_file", "greylist", "relay_clients", "defer_on_error", "max_size", "timeout"),
        )
        self._place = Place.parse(options.get("server", "127.0.0.1:11333"), 11333)
        self._password = ""
        if "password_file" in options:
            self._password = Path(options["password_file"]).read_text("utf-8").strip()
        self._greylists = flag(options, "greylist")
        self._judges_relay_clients = flag(options, "relay_clients")
        self._defers = flag(options, "defer_on_error")
        self._most = number(options, "max_size", 10240) * 1024
        self._seconds = seconds(options, "timeout", 30)

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        if why := self._why_not(transaction):
            self.log(LOGINFO, f"skip, {why}")
            return DECLINED
        try:
            answer = self._ask(transaction)
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            self.log(LOGERROR, f"error, {self._place}: {type(error).__name__}: {error}")
            return (DENYSOFT, _NOT_NOW) if self._defers else DECLINED
        transaction.header.delete("X-Spam")
        self._change_header(transaction, answer)
        return self._act(transaction, answer)

    def _why_not(self, transaction: Transaction) -> str:
        """Why the message is not judged, empty if it is."""
        if self.connection.relay_client and not self._judges_relay_clients:
            return "relay client"
        if self.is_naughty():
            return "naughty"
        if transaction.data_size > self._most:
            return f"too large ({transaction.data_size})"
        return ""

    # What rspamd is told

    def _ask(self, transaction: Transaction) -> "_Answer":
        """What rspamd says. Raises OSError, HTTPException, ValueError and RecursionError."""
        size = sum(map(len, transaction.chunks()))
        with Stream(self._place, self._seconds) as stream:
            stream.send(b"".join(self._request(transaction, size)))
            for chunk in transaction.chunks():
                stream.send(chunk)
            said = stream.receive_all(_MOST)
        response = HTTPResponse(cast("socket", _Received(said)))
        response.begin()
        if response.status != 200:
            raise ValueError(f"it answers {response.status} {response.reason}")
        return _Answer.read(json.loads(response.read()))

    def _request(self, transaction: Transaction, size: int) -> Iterator[bytes]:
        yield b"POST /checkv2 HTTP/1.0\r\n"
        for name, value in self._facts(transaction):
            yield f"{name}: {_UNSAFE.sub('?', value)}\r\n".encode("utf-8", "surrogateescape")
        yield b"Content-Length: %d\r\n\r\n" % size

    def _facts(self, transaction: Transaction) -> Iterator[tuple[str, str]]:
        peer = self.connection
        yield "IP", peer.remote_ip
        yield "Helo", peer.hello_host or ""
        yield "From", transaction.reverse_path.path
        for recipient in transaction.recipients:
            yield "Rcpt", recipient.path
        yield "Queue-Id", transaction.id
        yield "MTA-Name", self.qp.hostname
        if not peer.remote_host.startswith("["):
            yield "Hostname", peer.remote_host
        if peer.auth_user:
            yield "User", peer.auth_user
        if peer.security is not None:
            yield "TLS-Version", peer.security.version
            yield "TLS-Cipher", peer.security.cipher
        if self._password:
            yield "Password", self._password

    # What comes of it

    def _change_header(self, transaction: Transaction, answer: "_Answer") -> None:
        header = transaction.header
        for name in answer.removed:
            header.delete(name)
        for name, value, on_top in answer.added:
            try:
                header.add(name, value, 0 if on_top else None)
            except ValueError as error:
                self.log(LOGERROR, f"error, a field that cannot be added: {error}")

    def _act(self, transaction: Transaction, answer: "_Answer") -> Result:
        transaction.notes["rspamd"] = answer.note
        if answer.action in _SPAM:
            self.adjust_karma(-1)
        if answer.action == "reject":
            return self.get_reject(answer.text or _REFUSAL, str(answer))
        if answer.action == "soft reject" or (answer.action == "greylist" and self._greylists):
            self.log(LOGINFO, f"fail, {answer}")
            return DENYSOFT, answer.text or _LATER
        if answer.action in _MARKED:
            transaction.header.add("X-Spam", "Yes", 0)
        if answer.action == "rewrite subject" and answer.subject:
            transaction.header.replace("Subject", answer.subject)
        if answer.action == "discard":
            transaction.notes["discard_mail"] = True
        self.log(LOGINFO, f"{'fail' if answer.action in _SPAM else 'pass'}, {answer}")
        return DECLINED


class _Received:
    """Bytes that have been received already, for the standard library's reader of HTTP."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


_Json = Mapping[str, object]


class _Answer:
    """What rspamd says of a message."""

    def __init__(self, action: str, score: float, required: float, symbols: list[str]) -> None:
        self.action = action
        self.note = {"action": action, "score": score, "required": required, "symbols": symbols}
        self.text = ""
        """What the client is to be told; empty if nothing was said."""
        self.subject = ""
        self.removed: list[str] = []
        self.added: list[tuple[str, str, bool]] = []
        """Names and bodies of fields, and whether they go on top."""

    @classmethod
    def read(cls, said: object) -> "_Answer":
        """Read the answer to /checkv2. Raises ValueError if it makes no sense."""
        answer = _mapping(said)
        action = answer.get("action")
        if not isinstance(action, str) or action not in _ACTIONS:
            raise ValueError(f"there is no action {str(action)[:100]!r}")
        symbols = [name[:100] for name in itertools.islice(_mapping(answer.get("symbols")), _MOST_FIELDS)]
        found = cls(action, _number(answer.get("score")), _number(answer.get("required_score")), symbols)
        found.text = _text(_mapping(answer.get("messages")).get("smtp_message"))[:500]
        found.subject = _text(answer.get("subject"))
        milter = _mapping(answer.get("milter"))
        found.removed = list(itertools.islice(_mapping(milter.get("remove_headers")), _MOST_FIELDS))
        found.added = list(itertools.islice(_fields(answer, milter), _MOST_FIELDS))
        return found

    def __str__(self) -> str:
        symbols = ",".join(cast("list[str]", self.note["symbols"]))
        return f"{self.action}, {self.note['score']:g} of {self.note['required']:g}, {symbols or 'no symbols'}"


def _fields(answer: _Json, milter: _Json) -> Iterator[tuple[str, str, bool]]:
    for name, values in _mapping(milter.get("add_headers")).items():
        for value in _list(values):
            if isinstance(value, str):
                yield name, _text(value), False
            else:
                order = _mapping(value).get("order")
                on_top = isinstance(order, int) and 0 <= order <= 1
                yield name, _text(_mapping(value).get("value")), on_top
    for signature in _list(answer.get("dkim-signature")):
        if text := _text(signature):
            yield "DKIM-Signature", text, True


def _mapping(value: object) -> _Json:
    return cast("_Json", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    if value is None:
        return []
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else 0.0
