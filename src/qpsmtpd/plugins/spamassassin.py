"""Has messages judged by SpamAssassin's daemon, spamd: marks spam, and may refuse it.

The header fields that SpamAssassin makes (X-Spam-Status and others whose names begin with
X-Spam-) are put on top of the message, except X-Spam-Report.

Arguments:
- `reject`: the score from which on a message is refused, such as 12; without it, or with
  0, none is. `reject_threshold` is its older name.
- `munge_subject_threshold`: the score from which on the subject gets a prefix; without it,
  or with 0, none does.
- `subject_prefix`: the prefix, without blanks; config/subject_prefix may hold one with
  blanks. `*** SPAM ***` by default.
- `spamd_socket`: where spamd listens: `HOST:PORT` or the path of a Unix socket;
  localhost:783 by default.
- `spamd_user`: the user whose preferences count; the one that the server runs as by
  default. With `vpopmail` it is the address of the recipient, if there is just one.
- `leave_old_headers`: what becomes of X-Spam- fields that the message comes with, where
  SpamAssassin makes one of the same name: rename (the default) makes them X-Old-Spam-,
  drop removes them, keep leaves them.
- `headers`: none adds no fields; all is the default.
- `size_limit`: larger messages are not judged, in octets; 500000 by default.
- `relayclient skip` may be said, and is so in any case: relay clients, whitelisted and
  naughty ones are not judged.
- `timeout`: seconds for all of it, 60 by default; keep it below `config/timeouthook`.

A message for several recipients gets X-Spam-User, which says whose preferences counted.

Notes: the transaction's `spamassassin`, a dict of texts with what X-Spam-Status says, such
as `is_spam` (Yes or No), `score`, `required`, `tests`, `autolearn`. `karma` falls by 1 for
spam and for what SpamAssassin learns as spam, and rises by 1 for what it learns as ham.

Result: DENY above `reject`, or what `reject_type` says; DECLINED else, also if spamd is
down, late, or makes no sense.

In config/plugins, behind the plugins that judge the sender:

    spamassassin reject 12 munge_subject_threshold 8
"""

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass

from qpsmtpd import (
    DECLINED,
    LOGERROR,
    LOGINFO,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._options import number, seconds
from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.session.message import CHUNK, Field, Header

_OLD = ("rename", "drop", "keep")
_STATUS_LINE = re.compile(rb"SPAMD/[0-9.]+ 0 EX_OK *\r?\n")
_VERDICT = re.compile(rb"^Spam: *(True|Yes|False|No) *; *(-?[0-9.]+) */ *(-?[0-9.]+) *\r?$", re.MULTILINE)
_OURS = re.compile(r"X-Spam-(?!Prev-|Report\Z)[!-9;-~]+", re.IGNORECASE)
_LINE_END = re.compile(rb"\r?\n")
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")
_MOST = 1 << 20  # octets of an answer: the header is in it
_PREFIX = "*** SPAM ***"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What spamd says of a message."""

    fields: tuple[Field, ...]
    """The header fields that SpamAssassin has made, in its order."""
    status: Mapping[str, str]
    """Its parts: `is_spam`, `score`, `required` and what else the site has it tell."""

    @property
    def is_spam(self) -> bool:
        """Whether SpamAssassin calls it spam."""
        return self.status["is_spam"] == "Yes"

    @property
    def score(self) -> float:
        """How much of spam it is."""
        return float(self.status["score"])

    def __str__(self) -> str:
        return f"{'Spam' if self.is_spam else 'Ham'}, {self.status['score']}"


class SpamAssassin(Plugin):
    """Has messages judged by SpamAssassin's daemon, spamd: marks spam, and may refuse it."""

    shared_arguments = ("reject_type", "loglevel")  # `reject` is a score here

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(
            args,
            *("reject", "reject_threshold", "munge_subject_threshold", "subject_prefix", "spamd_socket"),
            *("spamd_user", "leave_old_headers", "headers", "size_limit", "relayclient", "timeout"),
        )
        self._reject = _threshold(options, "reject", "reject_threshold")
        self._munge = _threshold(options, "munge_subject_threshold")
        self._prefix = options.get("subject_prefix", "")
        self._place = Place.parse(options.get("spamd_socket", "localhost:783"), 783)
        self._user = options.get("spamd_user", "") or _own_user()
        self._old = options.get("leave_old_headers", "rename").lower()
        self._most = number(options, "size_limit", 500_000)
        self._seconds = seconds(options, "timeout", 60)
        if self._old not in _OLD:
            raise ValueError(f"leave_old_headers {self._old!r} is none of {', '.join(_OLD)}")
        if options.get("relayclient", "skip") != "skip":
            raise ValueError(f"relayclient {options['relayclient']!r}: it can only be skip")
        if options.get("headers", "all") not in ("all", "none"):
            raise ValueError(f"headers {options['headers']!r} is neither all nor none")
        self._adds_fields = options.get("headers") != "none"

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        if self.is_immune():
            return DECLINED
        if transaction.data_size > self._most:
            self.log(LOGINFO, f"skip, too large ({transaction.data_size})")
            return DECLINED
        user = self._whose(transaction)
        try:
            verdict = self._ask(transaction, user)
        except OSError as error:
            self.log(LOGERROR, f"error, {self._place}: {error.strerror or error}")
            return DECLINED
        transaction.notes["spamassassin"] = dict(verdict.status)
        if self._adds_fields:
            self._add_fields(transaction, verdict, user)
        if self._munge is not None and verdict.score >= self._munge:
            self._munge_subject(transaction.header)
        return self._judge(verdict)

    def _whose(self, transaction: Transaction) -> str:
        """Whose preferences count."""
        recipient = transaction.sole_recipient
        if self._user == "vpopmail" and recipient is not None:
            return _UNSAFE.sub("?", recipient.address)
        return self._user

    # The protocol of spamd

    def _ask(self, transaction: Transaction, user: str) -> Verdict:
        """What spamd says. Raises OSError."""
        # Its answer holds the message's own fields too. These must not be taken for its own.
        own = b"".join(field.raw for field in transaction.header.fields if not _is_spam_field(field))
        envelope = f"X-Envelope-From: {transaction.reverse_path.path}\r\n".encode("utf-8", "replace")
        head = envelope + own
        length = len(head) + transaction.body_length
        with Stream(self._place, self._seconds) as stream:
            user_line = f"User: {user}\r\n".encode("utf-8", "replace")
            stream.send(b"HEADERS SPAMC/1.4\r\nContent-length: %d\r\n%b\r\n" % (length, user_line))
            stream.send(head)
            with transaction.body_file() as body:
                while data := body.read(CHUNK):
                    stream.send(data)
            stream.send_end()
            return parse_answer(stream.receive_all(_MOST))

    # What comes of it

    def _add_fields(self, transaction: Transaction, verdict: Verdict, user: str) -> None:
        header, count = transaction.header, len(transaction.recipients)
        self._put_aside(header, "X-Spam-User")
        if count > 1:
            header.add("X-Spam-User", f"{user}, {count} recipients", 0)
        for name in dict.fromkeys(field.name for field in verdict.fields):
            self._put_aside(header, name)
        for field in reversed(verdict.fields):
            header.add(field.name, field.value, 0)

    def _put_aside(self, header: Header, name: str) -> None:
        """Do with the message's own fields of a name what `leave_old_headers` says."""
        if self._old == "keep":
            return
        for value in header.take(name):
            if self._old == "rename":
                header.add(f"X-Old-{name[2:]}", value)

    def _munge_subject(self, header: Header) -> None:
        prefix = self._prefix or self.qp.value("subject_prefix") or _PREFIX
        header.replace("Subject", f"{prefix} {header.get('Subject')}")

    def _judge(self, verdict: Verdict) -> Result:
        learned = verdict.status.get("autolearn", "")
        if verdict.is_spam:
            self.adjust_karma(-1)
        if learned in ("ham", "spam"):
            self.adjust_karma(1 if learned == "ham" else -1)
        learn = f", learn={learned}" if learned else ""
        if self._reject is None:
            self.log(LOGINFO, f"pass, reject disabled, {verdict}{learn}")
            return DECLINED
        if verdict.score < self._reject:
            self.log(LOGINFO, f"{'fail' if verdict.is_spam else 'pass'}, {verdict} < {self._reject:g}{learn}")
            return DECLINED
        self.log(LOGINFO, f"fail, {verdict} >= {self._reject:g}{learn}")
        return self.get_reject_type(), "this message looks too much like spam"


def parse_answer(answer: bytes) -> Verdict:
    """Read what spamd answers to HEADERS. Raises OSError if it makes no sense."""
    answer = _LINE_END.sub(b"\r\n", answer)
    head, _, rest = answer.partition(b"\r\n\r\n")
    first = _STATUS_LINE.match(head + b"\r\n")
    verdict = _VERDICT.search(head)
    if first is None:
        raise OSError(f"an answer that makes no sense: {answer[:100]!r}")
    fields = tuple(filter(_is_own_field, Header(rest.partition(b"\r\n\r\n")[0] + b"\r\n").fields))
    status: dict[str, str] = {}
    if verdict is not None:
        flag, score, required = (text.decode("ascii") for text in verdict.groups())
        status = {"is_spam": "Yes" if flag in ("True", "Yes") else "No", "score": score, "required": required}
    status |= parse_status(next((field.value for field in fields if field.name.lower() == "x-spam-status"), ""))
    if "is_spam" not in status or _score(status.get("score", "")) is None:
        raise OSError("an answer without a score")
    return Verdict(fields, status)


def parse_status(value: str) -> Mapping[str, str]:
    """Read X-Spam-Status: `Yes, score=7.1 required=5.0 tests=A,B`; what makes no sense is left out."""
    first, _, rest = value.partition(",")
    if first not in ("Yes", "No"):
        return {}
    words = re.sub(r",\s+", ",", rest).split()  # the list of tests is folded behind its commas
    found = dict(word.split("=", 1) for word in words if "=" in word)
    if "hits" in found:  # as SpamAssassin 2 has called it
        found.setdefault("score", found.pop("hits"))
    return {**found, "is_spam": first}


def _is_spam_field(field: Field) -> bool:
    return field.name.lower().startswith("x-spam-")


def _is_own_field(field: Field) -> bool:
    """Whether to take a field of the answer over: it is SpamAssassin's, and no long report."""
    return _OURS.fullmatch(field.name) is not None


def _threshold(options: Mapping[str, str], *names: str) -> float | None:
    """The first of these arguments as a score, None if there is none or it is 0. Raises ValueError."""
    name = next((name for name in names if name in options), None)
    if name is None:
        return None
    score = _score(options[name])
    if score is None:
        raise ValueError(f"{name} {options[name]!r} is no score")
    return score or None


def _score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if abs(score) < float("inf") else None


def _own_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "nobody"
