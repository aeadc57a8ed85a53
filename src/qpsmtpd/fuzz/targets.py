"""What is fuzzed: a check for each target, the inputs to begin with, and octets that mean something to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

from qpsmtpd.fuzz.dialogue import check_server, check_transaction
from qpsmtpd.fuzz.grammar import check_address, check_proxy, check_xclient
from qpsmtpd.fuzz.login import check_sasl
from qpsmtpd.fuzz.sending import check_replies
from qpsmtpd.fuzz.wrong import Edges
from qpsmtpd.testing.dialogue import unescape
from qpsmtpd.testing.smuggling import VARIANTS, Letter, smuggle

__all__ = ["TARGETS", "Check", "Target"]


class Check(Protocol):
    """Runs an input. Raises `Wrong`, or whatever goes wrong."""

    def __call__(self, data: bytes, *, thoroughly: bool = False) -> Edges:
        """Give what was seen of the behaviour. `thoroughly`: try all that is else tried of some inputs only."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads what a peer sends."""

    name: str
    about: str
    check: Check
    tokens: Sequence[bytes]
    """What inputs are put together from."""
    smuggles: bool = False
    """Whether the catalogue of smuggling is among the seeds."""

    def seeds(self) -> list[bytes]:
        """The inputs to begin with: lines of `corpus/NAME.txt`, as `qpsmtpd.testing.dialogue` writes octets."""
        text = files("qpsmtpd.fuzz").joinpath("corpus", f"{self.name}.txt").read_text("ascii")
        written = [unescape(line) for line in text.splitlines() if line and not line.startswith("# ")]
        return [*written, *(_smuggled() if self.smuggles else ())]


@cache
def _smuggled() -> list[bytes]:
    """The catalogue of smuggling, under both ways to treat bare line ends."""
    outer, embedded = Letter(b"a@a", (b"b@a",), b"A: b\r\n\r\nc"), Letter(b"d@a", (b"e@a",), b"F: g\r\n\r\nh")
    dialogues = [b"".join(smuggle(variant, outer, embedded)) for variant in VARIANTS.values()]
    return [letter + each for each in dialogues if len(each) < 1000 for letter in (b"s", b"n")]


_LINE_ENDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n..",
    b"\r.\r",
    b"\0",
    b" ",
    b".",
)
_COMMANDS = (
    b"EHLO a\r\n", b"HELO a\r\n", b"LHLO a\r\n", b"MAIL FROM:<a@a>\r\n", b"RCPT TO:<a@a>\r\n", b"DATA\r\n",
    b"BDAT 5\r\n", b"BDAT 3 LAST\r\n", b"BDAT 0 LAST\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY a\r\n", b"HELP\r\n",
    b"MAIL FROM:<no@a>\r\n", b"RCPT TO:<no@a>\r\n", b"RCPT TO:<later@a>\r\n", b"RCPT TO:<close@a>\r\n", b"FOO\r\n",
    b" BODY=BINARYMIME", b" SMTPUTF8", b" SIZE=301", b" SIZE=300", b"A: b\r\n\r\n", b"refuse", b"x" * 100, b"y" * 512,
    b"EHLO a\r\nMAIL FROM:<a@a>\r\nRCPT TO:<a@a>\r\nDATA\r\n",
)  # fmt: skip
_PATH = (
    b"<", b">", b"@", b"a", b".", b"..", b" ", b'"', b"\\", b'\\"', b"-", b",", b":", b"[1.2.3.4]", b"[IPv6:::1]", b"[",
    b"]", b"<>", b"<postmaster>", b"@a:", b"\xc3\xbc", b"\xff", b"\xc2\x80", b"a@b", b"x" * 64, b"\0", b"\x7f", b"%25",
)  # fmt: skip
_PROXY = (
    b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"1.2.3.4", b"::1", b"::ffff:1.2.3.4", b" ", b"65535", b"65536", b"0",
    b"\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\x00\x0c", b"\x20\x00\x00\x00", b"\x21\x21\x00\x24", b"\x21\x00", b"\x01\x02\x03\x04\x05\x06\x07\x08",
    b"\x02\x00\x01a", b"\x03\x00\x04\0\0\0\0", b"\x05\x00\x01b", b"\x20\x00\x05\x01\0\0\0\0", b"\x04\x00\x02xx", b"\xff\xff", b"%eth0",
)  # fmt: skip
_XCLIENT = (
    b"NAME=", b"ADDR=", b"PORT=", b"PROTO=", b"HELO=", b"LOGIN=", b"DESTADDR=", b"DESTPORT=", b"[UNAVAILABLE]", b"[TEMPUNAVAIL]",
    b"ESMTP", b"SMTP", b"1.2.3.4", b"IPV6:::1", b"::1", b"+20", b"+2B", b"+0A", b"+C3+BC", b" ", b"  ", b"25", b"65536", b"=", b"%1",
)  # fmt: skip
_REPLIES = (
    b"220 a\r\n", b"250 ok\r\n", b"250-a\r\n", b"250-PIPELINING\r\n", b"250-CHUNKING\r\n", b"250 CHUNKING\r\n", b"250 8BITMIME\r\n",
    b"354 go\r\n", b"550 no\r\n", b"450 no\r\n", b"421 bye\r\n", b"554 no\r\n", b"221 bye\r\n", b"500 what\r\n", b"334 x\r\n", b"25", b"250\r\n",
    b"250 2.0.0 ok\r\n", b"\r\n", b"\n", b"\r", b"250-", b"251 ok\r\n", b"150 x\r\n", b"\xff",
)  # fmt: skip
_SASL = (
    b"AUTH PLAIN ", b"AUTH LOGIN\r\n", b"AUTH LOGIN ", b"AUTH CRAM-MD5\r\n", b"AUTH PLAIN\r\n", b"AUTH SCRAM-SHA-256 ",
    b"AHVzZXIAc2VjcmV0", b"YQB1c2VyAHNlY3JldA==", b"AHNlY3JldAB1c2Vy", b"AHVzZXIAc2VjcmV0AA==", b"dXNlcg==", b"c2VjcmV0", b"=", b"*", b"AA==", b"dXNl",
    b"biwsbj11c2VyLHI9YQ==", b"AUTH XOAUTH2 ", b"dXNlcj11c2VyAWF1dGg9QmVhcmVyIHNlY3JldAEB", b"\r\n", b"\n", b" ", b"====", b"QUIT\r\n", b"EHLO a\r\n",
    b"dXNlciA3YTIxYWI1ZWM4Yzc0YWU5MGJhNmEzNDc5MWU4MGYwMQ==",
)  # fmt: skip

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "server", "a whole dialogue with protocol.Server", check_server, (*_LINE_ENDS, *_COMMANDS), smuggles=True
        ),
        Target(
            "bdat", "what is sent behind the first recipient: DATA, BDAT", check_transaction, (*_LINE_ENDS, *_COMMANDS)
        ),
        Target("address", "paths: RFC 5321, RFC 6531", check_address, _PATH),
        Target("replies", "what a server says to protocol.Client", check_replies, _REPLIES),
        Target("sasl", "AUTH and its mechanisms", check_sasl, _SASL),
        Target("proxy", "PROXY headers, version 1 and 2", check_proxy, _PROXY),
        Target("xclient", "the attributes of XCLIENT", check_xclient, _XCLIENT),
    )
}
"""All targets by their names."""
