"""Has messages judged by Rspamd, and does what it says: refuse, defer, mark as spam, sign.

Arguments:
- `server`: where a worker of Rspamd of the kind normal listens: `HOST:PORT` or the path of a
  Unix socket; localhost:11333 by default.
- `password`: what Rspamd wants to hear from clients that its `secure_ip` does not name.
- `relayclient`: check (the default) has messages of relay clients judged too, as Rspamd may
  sign them by DKIM; skip does not. Other clients that are whitelisted, and naughty ones, are
  never judged.
- `defer_on_error`: yes refuses a message for now if Rspamd cannot judge it; no (the default)
  lets it pass.
- `max_size`: larger messages are not judged, in kilobytes; 10240 by default.
- `timeout`: seconds for all of it, 60 by default; keep it below `config/timeouthook`.

What Rspamd's actions do: `reject` refuses; `soft reject` refuses for now; `add header` adds
X-Spam: Yes; `rewrite subject` puts the subject that Rspamd proposes; `discard` sets the note
`discard_mail`, which `queue/discard marked` heeds. All others, `greylist` among them, let the
message pass: Rspamd's own greylisting says `soft reject`. Fields that Rspamd wants added
(milter_headers, DKIM-Signature) or removed are, unless the message is refused. An X-Spam that
the message comes with is removed.

Notes: the transaction's `rspamd`, a dict with `action`, `score`, `required_score` and
`symbols`, their names. `karma` falls by 1 for reject, add header and rewrite subject.

Result: DENY for reject, or what the arguments `reject` and `reject_type` say; DENYSOFT for soft
reject; DECLINED else. If Rspamd is down, late, or makes no sense: DECLINED, or DENYSOFT with
`defer_on_error yes`.

In config/plugins, behind the plugins that judge the sender:

    rspamd server 127.0.0.1:11333
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from qpsmtpd import DECLINED, DENYSOFT, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import flag, number, seconds
from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.session.message import Header

_HEAD = re.compile(rb"HTTP/1\.[01] 200\b[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_MOST = 1 << 22  # octets of an answer
_SPAM = ("reject", "add header", "rewrite subject")

Answer = Mapping[str, object]
"""What Rspamd says, as the JSON has it."""


class Rspamd(Plugin):
    """Has messages judged by Rspamd, and does what it says."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(
            args, "server", "password", "relayclient", "defer_on_error", "max_size", "timeout"
        )  # fmt: skip
        self._place = Place.parse(options.get("server", "localhost:11333"), 11333)
        self._password = options.get("password", "")
        self._defers = flag(options, "defer_on_error")
        self._most = number(options, "max_size", 10240) * 1024
        self._seconds = seconds(options, "timeout", 60)
        relay = options.get("relayclient", "check")
        if relay not in ("check", "skip"):
            raise ValueError(f"relayclient {relay!r} is neither check nor skip")
        self._checks_relay_clients = relay == "check"

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        if self._is_left_out():
            return DECLINED
        if transaction.data_size > self._most:
            self.log(LOGINFO, f"skip, too large ({transaction.data_size})")
            return DECLINED
        transaction.header.delete("X-Spam")
        try:
            answer = self._ask(transaction)
        except OSError as error:
            self.log(LOGERROR, f"error, {self._place}: {error.strerror or error}")
            return (DENYSOFT, "the message cannot be judged now") if self._defers else DECLINED
        transaction.notes["rspamd"] = {
            **{name: answer[name] for name in ("action", "score", "required_score") if name in answer},
            "symbols": [*_mapping(answer.get("symbols"))],
        }
        return self._judge(transaction, answer)

    def _is_left_out(self) -> bool:
        if self.connection.relay_client and self._checks_relay_clients:
            return bool(self.is_naughty())
        return self.is_immune()

    def _ask(self, transaction: Transaction) -> Answer:
        """What Rspamd says. Raises OSError."""
        lines = "".join(f"{name}: {_UNSAFE.sub('?', value)}\r\n" for name, value in self._about(transaction) if value)
        length = len(bytes(transaction.header)) + transaction.body_length
        with Stream(self._place, self._seconds) as stream:
            stream.send(b"POST /checkv2 HTTP/1.0\r\nContent-Length: %d\r\n" % length)
            stream.send(lines.encode("utf-8", "replace") + b"\r\n")
            for chunk in transaction.chunks():
                stream.send(chunk)
            return parse_answer(stream.receive_all(_MOST))

    def _about(self, transaction: Transaction) -> Iterator[tuple[str, str]]:
        """What Rspamd is told of the client and the envelope."""
        connection, recipient = self.connection, transaction.sole_recipient
        yield "IP", connection.remote_ip
        yield "Hostname", connection.peer.remote_host or ""
        yield "Helo", connection.hello_host or ""
        yield "User", connection.auth_user
        yield "Password", self._password
        yield "MTA-Name", self.qp.hostname
        yield "Queue-Id", transaction.id
        if connection.security is not None:
            yield "TLS-Version", connection.security.version
            yield "TLS-Cipher", connection.security.cipher
        yield "From", transaction.reverse_path.path
        for mailbox in transaction.recipients:
            yield "Rcpt", mailbox.path
        yield "Deliver-To", recipient.address if recipient is not None else ""

    def _judge(self, transaction: Transaction, answer: Answer) -> Result:
        action = str(answer["action"])
        found = f"{action}, score {answer.get('score', '?')} of {answer.get('required_score', '?')}"
        told = _mapping(answer.get("messages")).get("smtp_message")
        if action in _SPAM:
            self.adjust_karma(-1)
        if action == "soft reject":
            self.log(LOGINFO, f"fail, {found}")
            return DENYSOFT, told if isinstance(told, str) and told else "try again later"
        if action == "reject":
            result = self.get_reject(told if isinstance(told, str) and told else "this looks like spam", found)
            if isinstance(result, tuple):
                return result
        else:
            self.log(LOGINFO, f"{'fail' if action in _SPAM else 'pass'}, {found}")
        change_fields(transaction.header, answer)
        if action == "discard":
            transaction.notes["discard_mail"] = True
        return DECLINED


def parse_answer(answer: bytes) -> Answer:
    """Read what Rspamd answers by HTTP. Raises OSError if it makes no sense."""
    head = _HEAD.match(answer)
    if head is None:
        raise OSError(f"an answer that makes no sense: {answer[:100]!r}")
    try:
        found = json.loads(answer[head.end() :])
    except (ValueError, RecursionError) as error:
        raise OSError("an answer that is no JSON") from error
    if "error" in _mapping(found):
        raise OSError(f"no verdict: {str(found['error'])[:200]}")
    if not isinstance(_mapping(found).get("action"), str):
        raise OSError("an answer without an action")
    return _mapping(found)


def change_fields(header: Header, answer: Answer) -> None:
    """Remove and add the header fields that Rspamd says; what makes no sense is left out."""
    wishes = _mapping(answer.get("milter"))
    for name, which in _mapping(wishes.get("remove_headers")).items():
        for each in sorted((one for one in _listed(which) if isinstance(one, int)), key=abs, reverse=True):
            if each:
                header.change(name, each, None)
            else:
                header.delete(name)
    subject = answer.get("subject")
    if answer["action"] == "rewrite subject" and isinstance(subject, str):
        header.replace("Subject", subject)
    if answer["action"] in _SPAM:
        header.add("X-Spam", "Yes", 0)
    added = [("DKIM-Signature", value) for value in _listed(answer.get("dkim-signature"))]
    added += [(name, one) for name, value in _mapping(wishes.get("add_headers")).items() for one in _listed(value)]
    for name, value in added:
        _add(header, name, value)


def _add(header: Header, name: str, value: object) -> None:
    """Add a field: a text goes on top, a text with an order to the place of that number, from the bottom if below 0."""
    text, order = _mapping(value).get("value", value), _mapping(value).get("order", 0)
    if not isinstance(text, str) or not isinstance(order, int):
        return
    try:
        header.add(name, text, order if order >= 0 else max(len(header) + order + 1, 0))
    except ValueError:
        return  # it is no name of a field


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _listed(value: object) -> Iterable[object]:
    return cast("list[object]", value) if isinstance(value, list) else () if value is None else (value,)
