"""Addresses (RFC 5321 section 4.1.2, RFC 6531): valid, nearly valid and hostile.

What is valid shrinks to `<0@0>`; what is nearly valid to the same with one flaw.
"""

from collections.abc import Mapping
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from qpsmtpd.protocol import NULL_PATH, Mailbox

__all__ = [
    "address_literals",
    "domains",
    "hostile_paths",
    "local_parts",
    "mailboxes",
    "nearly_valid_paths",
    "paths",
]

_ALNUM = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ATEXT = _ALNUM + "-_+=!#$%&'*/?^`{|}~"
_UTF8_LETTERS = st.characters(min_codepoint=0xDF, categories=["Ll", "Lo"])
_QUOTABLE = st.sampled_from('@ ."\\<>,;:()[]') | st.characters(min_codepoint=0x20, max_codepoint=0x7E)
_UTF8_QUOTABLE = _QUOTABLE | st.characters(min_codepoint=0xA1, exclude_categories=["C", "Z"])


def domains(*, utf8: bool = False) -> SearchStrategy[str]:
    """Host names, of one label or several, of at most 255 octets; with `utf8`, of U-labels too."""
    return _domains(utf8)


@cache  # to make a strategy takes longer than to draw from it
def _domains(utf8: bool) -> SearchStrategy[str]:
    labels = st.text(_ALNUM + "-", min_size=1, max_size=63).map(_without_outer_hyphens)
    if utf8:
        letters = _UTF8_LETTERS | st.sampled_from(_ALNUM + "-")
        labels |= st.text(letters, min_size=1, max_size=15).map(_without_outer_hyphens)  # of up to four octets each
    return labels | st.lists(labels, min_size=2, max_size=4).map(".".join)


def _without_outer_hyphens(label: str) -> str:
    return label.strip("-") or "0"


def address_literals() -> SearchStrategy[str]:
    """Address literals with their brackets (RFC 5321 section 4.1.3)."""
    return st.ip_addresses(v=4).map("[{}]".format) | st.ip_addresses(v=6).map("[IPv6:{}]".format)


def local_parts(*, utf8: bool = False, quoted: bool = True) -> SearchStrategy[str]:
    """Local parts as a `Mailbox` has them, of at most 64 characters; with `quoted`, such as must be quoted too."""
    return _local_parts(utf8, quoted)


@cache
def _local_parts(utf8: bool, quoted: bool) -> SearchStrategy[str]:
    atoms = st.text(st.sampled_from(_ATEXT) | _UTF8_LETTERS if utf8 else _ATEXT, min_size=1, max_size=20)
    dot_strings = atoms | st.lists(atoms, min_size=2, max_size=3).map(".".join)
    return dot_strings | st.text(_UTF8_QUOTABLE if utf8 else _QUOTABLE, max_size=32) if quoted else dot_strings


def mailboxes(*, utf8: bool = False, quoted: bool = True) -> SearchStrategy[Mailbox]:
    """Valid mailboxes; never the null path."""
    return _mailboxes(utf8, quoted)


@cache
def _mailboxes(utf8: bool, quoted: bool) -> SearchStrategy[Mailbox]:
    hosts = domains(utf8=utf8) | address_literals()
    return st.builds(Mailbox, local_parts(utf8=utf8, quoted=quoted), hosts)


def paths(*, utf8: bool = False, null: bool = False) -> SearchStrategy[str]:
    """Valid paths with their brackets, as a client may write them: quoted without need, with a source route.

    With `null`, the null reverse-path too.
    """
    return _paths(utf8, null)


@cache
def _paths(utf8: bool, null: bool) -> SearchStrategy[str]:
    return _written_paths(utf8) | st.just(NULL_PATH.path) if null else _written_paths(utf8)


@st.composite
def _written_paths(draw: DrawFn, utf8: bool) -> str:
    mailbox = draw(mailboxes(utf8=utf8))
    local, at, domain = mailbox.path[1:-1].rpartition("@")
    if not local.startswith('"') and draw(st.booleans()):
        local = f'"{local}"'
    route = draw(st.lists(domains(), max_size=2)) if draw(st.booleans()) else []
    return f"<{','.join('@' + each for each in route)}{':' if route else ''}{local}{at}{domain}>"


_FLAWS: Mapping[str, str] = {  # of an atom and a domain
    "no brackets": "{0}@{1}",
    "not closed": "<{0}@{1}",
    "not opened": "{0}@{1}>",
    "two brackets": "<<{0}@{1}>>",
    "more behind it": "<{0}@{1}>x",
    "blank first": "< {0}@{1}>",
    "blank last": "<{0}@{1} >",
    "blank at the at": "<{0} @{1}>",
    "no local part": "<@{1}>",
    "no domain": "<{0}@>",
    "no at": "<{0}-x>",
    "two ats": "<{0}@{0}@{1}>",
    "dot first": "<.{0}@{1}>",
    "dot last": "<{0}.@{1}>",
    "two dots": "<{0}..{0}@{1}>",
    "comment": "<{0}(x)@{1}>",
    "control character": "<{0}\x07@{1}>",
    "quote not closed": '<"{0}@{1}>',
    "quote in an atom": '<{0}"x"@{1}>',
    "quote quoted away": '<"{0}\\"@{1}>',
    "control character in quotes": '<"{0}\x07"@{1}>',
    "hyphen first": "<{0}@-{1}>",
    "hyphen last": "<{0}@{1}->",
    "empty label": "<{0}@{1}..{1}>",
    "dot before the domain": "<{0}@.{1}>",
    "dot behind the domain": "<{0}@{1}.>",
    "underscore": "<{0}@x_{1}>",
    "port": "<{0}@{1}:25>",
    "route without colon": "<@{1},{0}@{1}>",
    "route without domain": "<@:{0}@{1}>",
    "literal not closed": "<{0}@[192.0.2.1>",
    "literal without octet": "<{0}@[192.0.2]>",
    "literal too large": "<{0}@[192.0.2.256]>",
    "literal with zeros": "<{0}@[192.0.2.01]>",
    "literal without tag": "<{0}@[::1]>",
    "literal with scope": "<{0}@[IPv6:fe80::1%eth0]>",
    "literal of colons": "<{0}@[IPv6:1:::2]>",
}


def nearly_valid_paths() -> SearchStrategy[str]:
    """Paths with one flaw each, of some forty that are seen in the wild; none is valid."""
    return st.builds(_flawed, st.sampled_from([*_FLAWS]), st.text(_ALNUM, min_size=1, max_size=10), domains())


def _flawed(flaw: str, atom: str, domain: str) -> str:
    return _FLAWS[flaw].format(atom, domain)


_PIECES = [
    *'<>@"\\., :;[]()%!|-a\r\n\t\x00\x07\x7f\x85\xa0\udcff\u2028\u202e',
    "\r\n", "..", "IPv6:", "::1", "%eth0", "1.2.3.4", "SIZE=1", "\r\nRCPT TO:<a@a>", "|/bin/sh", "../../", "$(id)", "`id`",
    "%00", "%0d%0a", "=?utf-8?q?a?=", "xn--", "postmaster", "FROM:", "a" * 300,
]  # fmt: skip


def hostile_paths() -> SearchStrategy[str]:
    """What is made to break readers of addresses: pieces of the grammar, injections, controls, lone surrogates.

    Some of it may be valid by chance. Encode it with `surrogateescape` for the wire.
    """
    joined = st.lists(st.sampled_from(_PIECES), max_size=10).map("".join)
    return joined | joined.map("<{}>".format) | st.text(max_size=20) | joined.map("<a{}@a>".format)
