r"""The dialogues: the catalogue of smuggling, and a table of other places where servers disagree.

In a template, `%(from)b` and `%(to)b` are addresses and `%(token)b` is what marks a message as
this case's. Each element is one write; a client waits for the reply before the next.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from qpsmtpd.testing.smuggling import CONTROL, EMBEDDED, OUTER, VARIANTS, Letter, Place, Variant, smuggle

__all__ = ["CASES", "Case", "generated"]

_Writes = tuple[bytes, ...]

_HELLO = b"EHLO client.example\r\n"
_MAIL = b"MAIL FROM:<%(from)b>\r\n"
_RCPT = b"RCPT TO:<%(to)b>\r\n"
_DATA = b"DATA\r\n"
_QUIT = b"QUIT\r\n"
_HEADER = b"Subject: %(token)b\r\n"
_TEXT = _HEADER + b"\r\ntext\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A dialogue, and the clause that says what it should come to."""

    name: str
    """A short and stable name."""

    clause: str
    """The RFC and its section."""

    about: str
    """What is special in it."""

    template: _Writes = ()
    variant: Variant | None = None
    """What is smuggled; the dialogue is made of it, and there is no template."""

    @property
    def is_control(self) -> bool:
        """Whether this holds a true end mark, and two messages are nothing to wonder at."""
        return self.variant is CONTROL

    def dialogue(self, token: bytes, recipient: bytes) -> list[bytes]:
        """The writes, to a recipient that the server takes; the token is in every sender and content."""
        if self.variant is not None:
            return smuggle(self.variant, _marked(OUTER, token, recipient), _marked(EMBEDDED, token, recipient))
        names = {b"from": _tagged(OUTER.sender, token), b"to": recipient, b"token": token}
        return [write % names for write in self.template]


def _tagged(sender: bytes, token: bytes) -> bytes:
    return sender.replace(b"@", b"-%b@" % token)


def _marked(letter: Letter, token: bytes, recipient: bytes) -> Letter:
    content = letter.content.replace(b"\r\n\r\n", b" %b\r\n\r\n" % token, 1)
    return replace(letter, sender=_tagged(letter.sender, token), recipients=(recipient,), content=content)


def _line(line: bytes) -> _Writes:
    """A line behind EHLO, and a message behind it."""
    return _HELLO, line, _MAIL, _RCPT, _DATA, _TEXT, _QUIT


def _mail(line: bytes) -> _Writes:
    return _HELLO, line, _RCPT, _DATA, _TEXT, _QUIT


def _rcpt(line: bytes) -> _Writes:
    return _HELLO, _MAIL, line, _DATA, _TEXT, _QUIT


def _content(content: bytes) -> _Writes:
    return _HELLO, _MAIL, _RCPT, _DATA, content, _QUIT


def _behind_envelope(*writes: bytes) -> _Writes:
    return _HELLO, _MAIL, _RCPT, *writes, _QUIT


_COMMANDS, _PATHS, _LONG_LINES, _ORDER, _ENDS = (
    "RFC 5321 2.4", "RFC 5321 4.1.2", "RFC 5321 4.5.3.1", "RFC 5321 4.1.4", "RFC 5321 2.3.8",
)  # fmt: skip
_SYNTAX, _TRANSPARENT, _CHUNKS, _PIPELINING, _EIGHT_BIT, _SIZE, _PARAMETERS = (
    "RFC 5321 4.1.1", "RFC 5321 4.5.2", "RFC 3030 2", "RFC 2920 3.1", "RFC 6152 3", "RFC 1870 6", "RFC 5321 4.1.1.11",
)  # fmt: skip
_CHUNK = _HEADER + b"\r\ntext\r\n"
_CHUNK_SIZE = len(_CHUNK % {b"token": b"t" * 10})  # tokens have ten octets

_TABLE = (
    Case("plain", "RFC 5321 3.3", "A plain message.", _content(_TEXT)),
    Case("helo", "RFC 5321 4.1.1.1", "HELO in place of EHLO.", (b"HELO client.example\r\n", *_content(_TEXT)[1:])),
    Case("helo-empty", "RFC 5321 4.1.1.1", "EHLO without a name.", (b"EHLO\r\n", _QUIT)),
    Case("helo-literal", "RFC 5321 4.1.3", "An address literal for a name.", (b"EHLO [192.0.2.1]\r\n", _QUIT)),
    # Command lines
    Case("line-empty", _SYNTAX, "An empty line.", _line(b"\r\n")),
    Case("line-lf", _ENDS, "A command that ends in a bare LF.", _line(b"NOOP\n")),
    Case("line-crcrlf", _ENDS, "A command that ends in CR CR LF.", _line(b"NOOP\r\r\n")),
    Case("line-cr", _ENDS, "A bare CR between two commands.", _line(b"NOOP\rNOOP\r\n")),
    Case("line-nul", _COMMANDS, "NUL behind the word of a command.", _line(b"NOOP\x00\r\n")),
    Case("line-eight-bit", _COMMANDS, "An octet above 127 in a command.", _line(b"NOOP \xff\r\n")),
    Case("line-lower-case", _COMMANDS, "A command in lower case.", _mail(b"mail from:<%(from)b>\r\n")),
    Case("line-mixed-case", _COMMANDS, "A command in mixed case.", _rcpt(b"RcPt tO:<%(to)b>\r\n")),
    Case("line-space-before", _SYNTAX, "A space before a command.", _line(b" NOOP\r\n")),
    Case("line-space-behind", "RFC 5321 4.1.1", "A space behind a command.", _line(b"RSET \r\n")),
    Case("line-tab", _SYNTAX, "A tab where a space belongs.", _mail(b"MAIL\tFROM:<%(from)b>\r\n")),
    Case("line-argument", "RFC 5321 4.1.1.5", "RSET with an argument.", _line(b"RSET now\r\n")),
    Case("line-unknown", "RFC 5321 4.2.4", "A command that nobody knows.", _line(b"XYZZY\r\n")),
    Case("line-513", _LONG_LINES, "A command of 513 octets.", _line(b"NOOP " + b"x" * 506 + b"\r\n")),
    Case("line-2100", _LONG_LINES, "A command of 2,100 octets.", _line(b"NOOP " + b"x" * 2093 + b"\r\n")),
    Case("line-5000", _LONG_LINES, "A command of 5,000 octets.", _line(b"NOOP " + b"x" * 4993 + b"\r\n")),
    # Order
    Case("mail-first", _ORDER, "MAIL before EHLO.", (_MAIL, _RCPT, _DATA, _TEXT, _QUIT)),
    Case("rcpt-first", _ORDER, "RCPT before MAIL.", (_HELLO, _RCPT, _QUIT)),
    Case("data-first", _ORDER, "DATA before RCPT.", (_HELLO, _MAIL, _DATA, _TEXT, _QUIT)),
    Case("mail-twice", _ORDER, "MAIL in a transaction.", (_HELLO, _MAIL, _MAIL, _RCPT, _DATA, _TEXT, _QUIT)),
    Case("hello-twice", _ORDER, "EHLO in a transaction ends it.", (_HELLO, _MAIL, _RCPT, _HELLO, _DATA, _TEXT, _QUIT)),
    Case("rset-forgets", "RFC 5321 4.1.1.5", "DATA behind RSET.", _behind_envelope(b"RSET\r\n", _DATA, _TEXT)),
    # Paths
    Case("mail-space", _SYNTAX, "A space behind the colon of MAIL.", _mail(b"MAIL FROM: <%(from)b>\r\n")),
    Case("mail-space-before", _SYNTAX, "A space before the colon.", _mail(b"MAIL FROM :<%(from)b>\r\n")),
    Case("mail-bare", _PATHS, "An address without brackets.", _mail(b"MAIL FROM:%(from)b\r\n")),
    Case("mail-null", "RFC 5321 4.5.5", "The null reverse-path.", _mail(b"MAIL FROM:<>\r\n")),
    Case("mail-route", "RFC 5321 4.1.1.3", "A source route.", _mail(b"MAIL FROM:<@relay.example:%(from)b>\r\n")),
    Case("mail-quoted", _PATHS, "A quoted local part.", _mail(b'MAIL FROM:<"a %(token)b"@one.example>\r\n')),
    Case("mail-quoted-at", _PATHS, "An @ in quotes.", _mail(b'MAIL FROM:<"a@%(token)b"@one.example>\r\n')),
    Case("mail-two-dots", _PATHS, "Two dots in a local part.", _mail(b"MAIL FROM:<a..%(token)b@one.example>\r\n")),
    Case("mail-dot-last", _PATHS, "A dot at the end of it.", _mail(b"MAIL FROM:<%(token)b.@one.example>\r\n")),
    Case("mail-two-at", _PATHS, "Two @.", _mail(b"MAIL FROM:<a@%(token)b@one.example>\r\n")),
    Case("mail-literal", "RFC 5321 4.1.3", "An address literal.", _mail(b"MAIL FROM:<%(token)b@[192.0.2.1]>\r\n")),
    Case("mail-bad-literal", "RFC 5321 4.1.3", "Not one.", _mail(b"MAIL FROM:<%(token)b@[192.0.2.999]>\r\n")),
    Case("mail-no-domain", _PATHS, "A sender without a domain.", _mail(b"MAIL FROM:<%(token)b>\r\n")),
    Case("mail-underscore", _PATHS, "An underscore in a domain.", _mail(b"MAIL FROM:<%(token)b@o_e.example>\r\n")),
    Case("mail-nul", _PATHS, "NUL in an address.", _mail(b"MAIL FROM:<%(token)b\x00@one.example>\r\n")),
    Case("mail-control", _PATHS, "A control character.", _mail(b"MAIL FROM:<%(token)b\x01@one.example>\r\n")),
    Case("mail-utf8", "RFC 6531 3.4", "UTF-8 without SMTPUTF8.", _mail(b"MAIL FROM:<\xc3\xa4%(token)b@one.example>\r\n")),
    Case("mail-long", _LONG_LINES, "65 octets of local part.", _mail(b"MAIL FROM:<%(token)b" + b"x" * 55 + b"@one.example>\r\n")),
    Case("rcpt-space", _SYNTAX, "A space behind the colon of RCPT.", _rcpt(b"RCPT TO: <%(to)b>\r\n")),
    Case("rcpt-route", "RFC 5321 4.1.1.3", "A source route.", _rcpt(b"RCPT TO:<@relay.example:%(to)b>\r\n")),
    Case("rcpt-null", "RFC 5321 4.1.1.3", "The null path as recipient.", (_HELLO, _MAIL, b"RCPT TO:<>\r\n", _QUIT)),
    Case("rcpt-twice", "RFC 5321 4.1.1.3", "The same recipient twice.", _behind_envelope(_RCPT, _DATA, _TEXT)),
    Case("rcpt-unclosed", _PATHS, "No bracket at the end.", _rcpt(b"RCPT TO:<%(to)b\r\n")),
    # Parameters
    Case("mail-size", _SIZE, "SIZE.", _mail(b"MAIL FROM:<%(from)b> SIZE=100\r\n")),
    Case("mail-size-huge", _SIZE, "A SIZE of 20 digits.", _mail(b"MAIL FROM:<%(from)b> SIZE=99999999999999999999\r\n")),
    Case("mail-size-sign", _SIZE, "A SIZE below zero.", _mail(b"MAIL FROM:<%(from)b> SIZE=-1\r\n")),
    Case("mail-size-twice", _PARAMETERS, "SIZE twice.", _mail(b"MAIL FROM:<%(from)b> SIZE=1 SIZE=2\r\n")),
    Case("mail-unknown", _PARAMETERS, "An unknown parameter.", _mail(b"MAIL FROM:<%(from)b> XYZZY=1\r\n")),
    Case("mail-joined", _PARAMETERS, "No space before a parameter.", _mail(b"MAIL FROM:<%(from)b>SIZE=1\r\n")),
    Case("mail-body", _EIGHT_BIT, "BODY with a value that is none.", _mail(b"MAIL FROM:<%(from)b> BODY=9BIT\r\n")),
    Case("rcpt-unknown", _PARAMETERS, "One of RCPT.", _rcpt(b"RCPT TO:<%(to)b> XYZZY=1\r\n")),
    # Content
    Case("dot-stuffed", _TRANSPARENT, "A stuffed dot.", _content(_HEADER + b"\r\n..text\r\n.\r\n")),
    Case("dot-unstuffed", _TRANSPARENT, "A dot that should be stuffed.", _content(_HEADER + b"\r\n.text\r\n.\r\n")),
    Case("dots-only", _TRANSPARENT, "A line of one stuffed dot.", _content(_HEADER + b"\r\n..\r\n.\r\n")),
    Case("content-empty", "RFC 5321 4.1.1.4", "Nothing before the end mark.", _content(b".\r\n")),
    Case("content-nul", "RFC 5321 2.4", "NUL in content.", _content(_HEADER + b"\r\nte\x00xt\r\n.\r\n")),
    Case("content-cr", _ENDS, "A bare CR in content.", _content(_HEADER + b"\r\nte\rxt\r\n.\r\n")),
    Case("content-lf", _ENDS, "A bare LF in content.", _content(_HEADER + b"\r\nte\nxt\r\n.\r\n")),
    Case("content-crcrlf", _ENDS, "CR CR LF in content.", _content(_HEADER + b"\r\ntext\r\r\n.\r\n")),
    Case("content-long", "RFC 5321 4.5.3.1.6", "A line of 1,200 octets.", _content(_HEADER + b"\r\n" + b"x" * 1200 + b"\r\n.\r\n")),
    Case("content-eight-bit", _EIGHT_BIT, "8-bit text, not announced.", _content(_HEADER + b"\r\n\xe4\xff\r\n.\r\n")),
    Case("header-eight-bit", "RFC 5321 2.4", "8-bit in a field.", _content(b"Subject: %(token)b \xe4\r\n\r\ntext\r\n.\r\n")),
    Case("header-none", "RFC 5322 2.1", "No header at all.", _content(b"\r\n%(token)b\r\n.\r\n")),
    Case("header-broken", "RFC 5322 2.2", "A line that is no field.", _content(_HEADER + b"no field\r\n\r\ntext\r\n.\r\n")),
    # Pipelining
    Case("pipelined", _PIPELINING, "An envelope in one write.", (_HELLO, _MAIL + _RCPT + _DATA, _TEXT, _QUIT)),
    Case("pipelined-all", _PIPELINING, "Content with DATA, too early.", (_HELLO, _MAIL + _RCPT + _DATA + _TEXT, _QUIT)),
    Case("pipelined-behind", _PIPELINING, "Commands behind content.", _content(_TEXT + b"NOOP\r\nRSET\r\n")),
    # BDAT
    Case("chunk", _CHUNKS, "A message in one chunk.", _behind_envelope(b"BDAT %d LAST\r\n" % _CHUNK_SIZE + _CHUNK)),
    Case("chunk-empty-last", _CHUNKS, "And an empty one.", _behind_envelope(b"BDAT %d\r\n" % _CHUNK_SIZE + _CHUNK, b"BDAT 0 LAST\r\n")),
    Case("chunk-lower-case", _CHUNKS, "In lower case.", _behind_envelope(b"bdat %d last\r\n" % _CHUNK_SIZE + _CHUNK)),
    Case("chunk-dot", _CHUNKS, "A dot is no end.", _behind_envelope(b"BDAT %d LAST\r\n" % (_CHUNK_SIZE + 3) + _CHUNK + b".\r\n")),
    Case("chunk-no-end", _CHUNKS, "No CRLF at the end.", _behind_envelope(b"BDAT %d LAST\r\n" % (_CHUNK_SIZE - 2) + _CHUNK[:-2])),
    Case("chunk-lf", _CHUNKS, "A bare LF in a chunk.", _behind_envelope(b"BDAT %d LAST\r\n" % (_CHUNK_SIZE + 3) + _CHUNK + b"a\nb")),
    Case("chunk-no-size", _CHUNKS, "BDAT without a size.", _behind_envelope(b"BDAT\r\n")),
    Case("chunk-negative", _CHUNKS, "A size below zero.", _behind_envelope(b"BDAT -1\r\n")),
    Case("chunk-rset", _CHUNKS, "RSET between chunks.", _behind_envelope(b"BDAT %d\r\n" % _CHUNK_SIZE + _CHUNK, b"RSET\r\n")),
)  # fmt: skip


def _of_variant(variant: Variant) -> Case:
    return Case(f"smuggling/{variant.name}", variant.clause, variant.about, variant=variant)


CASES: Mapping[str, Case] = MappingProxyType(
    {case.name: case for case in (*_TABLE, *map(_of_variant, (CONTROL, *VARIANTS.values())))}
)
"""All cases by their names; those of the catalogue begin with `smuggling/`."""

_PIECES = (b"\r", b"\n", b"\r\n", b".", b"..", b"\x00", b" ", b"\t", b"x", b"\x0b", b"\x85")


def generated(count: int, seed: int) -> list[Case]:
    """Cases with end marks drawn at random; the same seed draws the same."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    return [_drawn(draw, f"{seed}-{number}") for number in range(1, count + 1)]


def _drawn(draw: random.Random, name: str) -> Case:
    octets = CONTROL.octets
    while CONTROL.octets in b"r" + octets + b"MAIL":
        octets = (
            b"".join(draw.choices(_PIECES, k=draw.randint(1, 4)))
            + b"."
            + b"".join(draw.choices(_PIECES, k=draw.randint(1, 4)))
        )
    variant = Variant(name, Place.CONTENT, octets, "RFC 5321 4.1.1.4", "An end mark drawn at random.")
    return Case(f"generated/{name}", variant.clause, variant.about, variant=variant)
