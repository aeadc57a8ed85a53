"""Postfix's cleanup service, which puts messages into its queue: what is said to it, and what it answers.

A message is a row of records: the envelope, the lines of the content, the end. Their types and
the names of the attributes are those of Postfix's `rec_type.h` and `mail_proto.h`, flags and
statuses those of its `cleanup_user.h`; they are the same in all versions from 2.1 on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qpsmtpd import DENY, DENYSOFT, OK, ReturnCode, Transaction
from qpsmtpd.plugins._streams import Stream
from qpsmtpd.plugins.queue._common import octets
from qpsmtpd.protocol import Dsn, Parameters

__all__ = ["FLAGS", "FLAG_SMTPUTF8", "Answer", "content_records", "deliver", "envelope_records", "verdict"]

FLAG_SMTPUTF8 = 1 << 8

_FLAGS = {
    "FLAG_NONE": 0,
    "FLAG_BOUNCE": 1 << 0,
    "FLAG_FILTER": 1 << 1,
    "FLAG_HOLD": 1 << 2,
    "FLAG_DISCARD": 1 << 3,
    "FLAG_BCC_OK": 1 << 4,
    "FLAG_MAP_OK": 1 << 5,
    "FLAG_MILTER": 1 << 6,
    "FLAG_SMTP_REPLY": 1 << 7,
    "FLAG_SMTPUTF8": FLAG_SMTPUTF8,
    "FLAG_AUTOUTF8": 1 << 9,
}
FLAGS: Mapping[str, int] = {
    **_FLAGS,
    "FLAG_FILTER_ALL": _FLAGS["FLAG_FILTER"] | _FLAGS["FLAG_MILTER"],
    "FLAG_MASK_EXTERNAL": sum(_FLAGS[f"FLAG_{name}"] for name in ("FILTER", "MILTER", "BCC_OK", "MAP_OK")),
    "FLAG_MASK_INTERNAL": _FLAGS["FLAG_MAP_OK"],
    "FLAG_MASK_EXTRA": _FLAGS["FLAG_HOLD"] | _FLAGS["FLAG_DISCARD"],
}
"""What cleanup may be asked to do, by the names of the original."""

# The soft ones first: where one of them is set, cleanup has not seen the whole message.
_STATUSES: tuple[tuple[int, ReturnCode, str], ...] = (
    (1 << 8, DENYSOFT, "4.7.1 not now, please try again later"),  # DEFER
    (1 << 7, DENYSOFT, "4.3.0 the message cannot be written to the queue"),  # PROXY
    (1 << 1, DENYSOFT, "4.3.0 the message cannot be written to the queue"),  # WRITE
    (1 << 0, DENYSOFT, "4.3.0 the queue does not understand this server"),  # BAD
    (1 << 6, DENY, "5.1.0 the message has no recipient"),  # RCPT
    (1 << 4, DENY, "5.4.0 too many hops"),  # HOPS
    (1 << 2, DENY, "5.3.4 the message is too big"),  # SIZE
    (1 << 3, DENY, "5.7.1 the content is not accepted"),  # CONT
    (1 << 9, DENY, "5.7.1 not allowed"),  # NOPERM
)

_REPLY_CODE = re.compile(r"\A[45][0-9]{2}[ -]")  # what FLAG_SMTP_REPLY puts before a reason
_NUMBER = re.compile(r"[0-9]{1,9}")
_LONGEST = 1024  # octets of a line in one record, as in the original; cleanup leaves that to its clients
_MOST_ATTRIBUTES = 20
_NOTIFY = {"SUCCESS": 2, "FAILURE": 4, "DELAY": 8}
_NEVER = 1
_RET = {"FULL": 1, "HDRS": 2}


@dataclass(frozen=True, slots=True)
class Answer:
    """What has become of a message."""

    queue_id: str
    status: int
    """0 if it is in the queue, else bits that say why not."""
    reason: str
    """Why not, in words for the client; empty if the status says all."""


def verdict(answer: Answer) -> tuple[ReturnCode, str]:
    """A return code, and a text for the client, empty if the message is in the queue."""
    if not answer.status:
        return OK, ""
    for bit, code, text in _STATUSES:
        if answer.status & bit:
            return code, _REPLY_CODE.sub("", answer.reason) or text
    return DENYSOFT, answer.reason or f"4.3.0 the queue says no, with status {answer.status}"


def deliver(stream: Stream, flags: int, envelope: bytes, content: Iterable[bytes]) -> Answer:
    """Hand a message over, its content with LF at line ends.

    Raises OSError; then it is not in the queue, unless what has failed is the answer.
    """
    queue_id = _attributes(stream).get("queue_id")
    if queue_id is None:
        raise OSError(f"{stream.place} is no cleanup service of Postfix")
    stream.send(b"flags\0%d\0\0" % flags)
    stream.send(envelope)
    for records in content_records(content):
        stream.send(records)
    stream.send(_record(b"X") + _record(b"E"))
    answer = _attributes(stream)
    status = answer.get("status", "")
    if not _NUMBER.fullmatch(status):
        raise OSError(f"{stream.place} does not say what has become of the message")
    return Answer(queue_id, int(status), answer.get("reason", ""))


def _attributes(stream: Stream) -> dict[str, str]:
    """Names and values until the empty name. Raises OSError."""
    found: dict[str, str] = {}
    for _ in range(_MOST_ATTRIBUTES):
        name = stream.receive_until(b"\0")
        if not name:
            return found
        found[name.decode("utf-8", "replace")] = stream.receive_until(b"\0").decode("utf-8", "replace")
    raise OSError(f"{stream.place} says more than {_MOST_ATTRIBUTES} attributes")


def envelope_records(transaction: Transaction, now: float) -> bytes:
    """Time, attributes, sender and recipients. Raises ValueError for what Postfix would read as something else."""
    mail = transaction.sender_parameters
    records = [
        _record(b"T", b"%d" % now),
        # Else cleanup completes addresses and adds fields, as it does for mail of its own host.
        _attribute("rewrite_context", "remote"),
        _attribute("encoding", "7bit" if (mail.get("body") or "").upper() == "7BIT" else "8bit"),
        *_sender_attributes(Dsn.of(mail, {})),
        _record(b"S", octets(transaction.reverse_path.address)),
    ]
    for recipient, parameters in transaction.recipients_with_parameters:
        records += _recipient_attributes(mail, parameters)
        records.append(_record(b"R", octets(recipient.address)))
    return b"".join([*records, _record(b"M")])


def _sender_attributes(dsn: Dsn) -> Iterator[bytes]:
    if dsn.envelope_id is not None:
        yield _attribute("envelope_id", dsn.envelope_id)
    if dsn.ret is not None:
        yield _attribute("ret_flags", str(_RET[dsn.ret]))


def _recipient_attributes(mail: Parameters, parameters: Parameters) -> Iterator[bytes]:
    dsn = Dsn.of(mail, parameters)
    if dsn.original_recipient is not None:
        yield _attribute("dsn_orig_rcpt", ";".join(dsn.original_recipient))
    if dsn.notify is not None:
        yield _attribute("notify_flags", str(sum(map(_NOTIFY.__getitem__, dsn.notify)) or _NEVER))


def content_records(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that end in LF as records, those that are too long in several."""
    held = b""
    for chunk in chunks:
        *lines, rest = (held + chunk).split(b"\n")
        # Something is kept: it may be the end of the line.
        cut = max(0, len(rest) - 1) // _LONGEST * _LONGEST
        held = rest[cut:]
        # The one place that looks at each line, since Postfix wants to know how long each one is.
        yield b"".join([_HEADS[len(line)] + line if len(line) <= _LONGEST else _long(line) for line in lines]) + _cut(
            rest[:cut]
        )
    if held:
        yield _HEADS[len(held)] + held


def _long(line: bytes) -> bytes:
    """The records of a line that is too long for one."""
    cut = (len(line) - 1) // _LONGEST * _LONGEST
    return _cut(line[:cut]) + _record(b"N", line[cut:])


def _cut(data: bytes) -> bytes:
    """Records of which the line goes on in the next one."""
    return b"".join(_record(b"L", data[start : start + _LONGEST]) for start in range(0, len(data), _LONGEST))


def _attribute(name: str, value: str) -> bytes:
    return _record(b"A", b"%b=%b" % (name.encode(), octets(value)))


def _record(kind: bytes, content: bytes = b"") -> bytes:
    return kind + _length(len(content)) + content


def _length(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first; all but the last have the high bit set."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


_HEADS = [b"N" + _length(number) for number in range(_LONGEST + 1)]
