"""`protocol.Client` before a server that says anything, and a witness who counts its replies.

An input is a letter, which chooses SMTP or LMTP, then what the server says, all of it. It is heard reply by reply, as
the client waits for them. The witness demands that the message is called delivered by a 2yz reply to its whole
content alone, that content is sent by invitation alone, and that it is stuffed as RFC 5321 section 4.5.2 says.
"""

import re
from dataclasses import dataclass, field
from zlib import crc32

from qpsmtpd.fuzz.wrong import Edges, Wrong
from qpsmtpd.protocol import CLOSED, NEED_DATA, Client, Mailbox, Message, Report, Result, TlsUse

__all__ = ["check_replies"]

_CONTENT = b"A: b\r\n\r\n.MARK\r\n..\r\n"
_MESSAGE = Message(Mailbox("a", "a"), [Mailbox("b", "b"), Mailbox("c", "b")], _CONTENT)
_STUFFED = b"A: b\r\n\r\n..MARK\r\n...\r\n.\r\n"
_CHUNK = b"BDAT %d LAST\r\n" % len(_CONTENT) + _CONTENT
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -]).*)?", re.DOTALL)
_MOST_EVENTS = 1000


def _split(stream: bytes) -> tuple[list[bytes], list[int], bytes]:
    """The replies in a stream, their codes, and what comes from the first fault on."""
    replies: list[bytes] = []
    codes: list[int] = []
    start = at = 0
    code = b""
    while (end := stream.find(b"\n", at) + 1) > 0:
        match = _LINE.fullmatch(stream[at : end - 1].removesuffix(b"\r"))
        if match is None or (code and match[1] != code):
            break
        code, at = match[1], end
        if match[2] != b"-":
            replies.append(stream[start:at])
            codes.append(int(code))
            start, code = at, b""
    return replies, codes, stream[start:]


@dataclass(slots=True)
class _Heard:
    """What came of a session."""

    reports: list[Report] = field(default_factory=list[Report])
    sent: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """What the client said, and behind how many pieces of what it heard."""


def _converse(pieces: list[bytes], *, lmtp: bool) -> _Heard:
    client, heard = Client("a", tls=TlsUse.NEVER, lmtp=lmtp), _Heard()
    client.send(_MESSAGE)
    client.quit()
    fed = 0
    for _ in range(_MOST_EVENTS + 2 * len(pieces)):
        event = client.next_event()
        if said := client.data_to_send():
            heard.sent.append((fed, said))
        if event is CLOSED:
            return heard
        if event is NEED_DATA:
            client.receive_data(pieces[fed] if fed < len(pieces) else b"")
            fed += 1
        elif isinstance(event, Report):
            heard.reports.append(event)
    raise Wrong("the session does not end")


def check_replies(data: bytes, *, thoroughly: bool = False) -> Edges:
    """What a server says."""
    lmtp, stream = data[:1] == b"l", data[1:]
    replies, codes, rest = _split(stream)
    heard = _converse([*replies, *([rest] if rest else [])], lmtp=lmtp)
    if len(heard.reports) != 1 or len(heard.reports[0].results) != len(_MESSAGE.recipients):
        raise Wrong(f"a message to {len(_MESSAGE.recipients)} recipients is reported as {heard.reports!r}")
    results = heard.reports[0].results
    _check_content(heard, codes)
    _check_delivery(heard, codes, results, lmtp=lmtp)
    number = 0 if thoroughly else crc32(data)
    if not number & 8 and len(replies) > 1 and _delivers([stream], lmtp=lmtp):
        raise Wrong("delivered by replies that came before anything was asked")
    if not number & 7:
        again = _converse([stream[at : at + 1] for at in range(len(stream))], lmtp=lmtp)
        if [said for _, said in again.sent] != [said for _, said in heard.sent]:
            raise Wrong("octet by octet, the client says something else")
        if [report.results for report in again.reports] != [report.results for report in heard.reports]:
            raise Wrong("octet by octet, something else is reported")
    edges: set[object] = {(number, code // 10) for number, code in enumerate(codes[: len(heard.sent)][:8])}
    return [*edges, tuple((each.at, each.delivered, each.local) for each in results), (lmtp, bool(rest))]


def _delivers(pieces: list[bytes], *, lmtp: bool) -> bool:
    return any(each.delivered for report in _converse(pieces, lmtp=lmtp).reports for each in report.results)


def _at_content(heard: _Heard) -> int | None:
    """Behind how many replies the content was sent; None if it was not."""
    return next((fed for fed, said in heard.sent if b"MARK" in said), None)


def _check_content(heard: _Heard, codes: list[int]) -> None:
    said = b"".join(said for _, said in heard.sent)
    at = _at_content(heard)
    if at is None:
        return
    if b"BDAT" in said:
        if _CHUNK not in said:
            raise Wrong(f"as a chunk, the content is sent as {said!r}")
        return
    if b"DATA\r\n" + _STUFFED not in said:
        raise Wrong(f"behind DATA, the content is sent as {said!r}")
    if not 0 < at <= len(codes) or codes[at - 1] // 100 != 3:
        raise Wrong(f"behind {codes[:at]!r} the content is sent")


def _check_delivery(heard: _Heard, codes: list[int], results: tuple[Result, ...], *, lmtp: bool) -> None:
    delivered = [result for result in results if result.delivered]
    if not delivered:
        return
    at = _at_content(heard)
    if at is None:
        raise Wrong("delivered, and never sent")
    verdicts = codes[at : at + (len(results) if lmtp else 1)]
    positive = [code for code in verdicts if code // 100 == 2]
    if len(positive) < (len(delivered) if lmtp else 1):
        raise Wrong(f"delivered to {len(delivered)}, and the content was answered {verdicts!r}")
