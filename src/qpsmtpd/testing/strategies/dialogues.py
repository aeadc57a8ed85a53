"""Whole dialogues, and the cuts of a stream of bytes.

A dialogue is a list of writes: a client waits for the reply to one before the next.
`b"".join` makes a pipelined stream of it.
"""

import itertools
from collections.abc import Iterable
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from qpsmtpd.protocol import Command, Extension
from qpsmtpd.protocol.stuffing import stuffed
from qpsmtpd.testing.smuggling import VARIANTS, Letter, Variant, smuggle
from qpsmtpd.testing.strategies.addresses import mailboxes
from qpsmtpd.testing.strategies.commands import (
    OFFERED,
    command_lines,
    greetings,
    hostile_command_lines,
    nearly_valid_command_lines,
)
from qpsmtpd.testing.strategies.contents import contents, hostile_contents

__all__ = [
    "cut",
    "cuts",
    "dialogues",
    "hostile_dialogues",
    "letters",
    "pieces",
    "smuggling_dialogues",
    "smuggling_variants",
    "transactions",
]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at these places, each taken modulo the length; no piece is empty."""
    edges = sorted({place % len(data) for place in places} | {0, len(data)}) if data else []
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def cuts() -> SearchStrategy[list[int]]:
    """Places for `cut`, for data that is not known yet; shrinks to none."""
    return st.lists(st.integers(0, 10_000), max_size=8)


@st.composite
def pieces(draw: DrawFn, streams: SearchStrategy[bytes]) -> list[bytes]:
    """A stream of bytes in pieces: whole, cut somewhere, or octet by octet."""
    data = draw(streams)
    if draw(st.integers(0, 9)) == 9:
        return cut(data, range(len(data)))
    return cut(data, draw(cuts()))


@st.composite
def transactions(draw: DrawFn, *, offered: Iterable[Extension] = OFFERED, maybe_chunked: bool = True) -> list[bytes]:
    """One mail transaction that is well formed and in order, its content by DATA or, if it may, by BDAT."""
    offered = frozenset(offered)
    mail = draw(command_lines(commands=[Command.MAIL], offered=offered))
    recipients = draw(_recipients(_for_recipients(mail, offered)))
    content = draw(contents())
    if maybe_chunked and Extension.CHUNKING in offered and draw(st.booleans()):
        return [mail, *recipients, *_chunks(cut(content, draw(cuts())))]
    return [mail, *recipients, b"DATA\r\n", b"".join(stuffed([content]))]


@cache  # to make a strategy takes longer than to draw from it
def _recipients(offered: frozenset[Extension]) -> SearchStrategy[list[bytes]]:
    return st.lists(command_lines(commands=[Command.RCPT], offered=offered), min_size=1, max_size=3)


def _for_recipients(mail: bytes, offered: frozenset[Extension]) -> frozenset[Extension]:
    """The extensions that the recipients of a transaction may use."""
    return offered if b" SMTPUTF8" in mail else offered - {Extension.SMTPUTF8}


def _chunks(data: list[bytes]) -> list[bytes]:
    return [
        b"BDAT %d%b\r\n" % (len(chunk), b" LAST" if number == len(data) else b"") + chunk
        for number, chunk in enumerate(data, 1)
    ]


@st.composite
def dialogues(draw: DrawFn, *, offered: Iterable[Extension] = OFFERED) -> list[bytes]:
    """Dialogues without a fault, from EHLO to QUIT: transactions, and what may stand between them."""
    parts = draw(_parts(frozenset(offered)))
    return [draw(greetings(commands=[Command.EHLO])), *itertools.chain.from_iterable(parts), b"QUIT\r\n"]


@cache
def _parts(offered: frozenset[Extension]) -> SearchStrategy[list[list[bytes]]]:
    between = command_lines(commands=[Command.NOOP, Command.RSET, Command.VRFY, Command.HELP])
    return st.lists(transactions(offered=offered) | st.lists(between, min_size=1, max_size=1), max_size=4)


@st.composite
def hostile_dialogues(draw: DrawFn) -> list[bytes]:
    """Anything a client might send, in any order, begun like a dialogue or not."""
    opening = draw(st.sampled_from([_OPENING, _OPENING[:3], _OPENING[:2], _OPENING[:1], []]))
    return [*opening, *draw(_anything())]


@cache
def _anything() -> SearchStrategy[list[bytes]]:
    lines = command_lines() | nearly_valid_command_lines() | hostile_command_lines()
    return st.lists(lines | hostile_contents().filter(bool), max_size=12)


_OPENING = [b"EHLO a\r\n", b"MAIL FROM:<a@a>\r\n", b"RCPT TO:<a@a>\r\n", b"DATA\r\n"]


def smuggling_variants() -> SearchStrategy[Variant]:
    """The catalogue `qpsmtpd.testing.smuggling`, one at a time."""
    return st.sampled_from([*VARIANTS.values()])


def letters() -> SearchStrategy[Letter]:
    """Messages with their envelopes, for `smuggle`; they may hold end marks of their own only stuffed."""
    addresses = mailboxes(quoted=False).map(lambda mailbox: mailbox.address.encode())
    recipients = st.lists(addresses, min_size=1, max_size=2, unique=True).map(tuple)
    written = contents(eight_bit=False).map(lambda content: b"".join(stuffed([content])).removesuffix(b"\r\n.\r\n"))
    return st.builds(Letter, addresses, recipients, written)


def smuggling_dialogues() -> SearchStrategy[list[bytes]]:
    """Dialogues in which a variant hides a second message."""
    return st.builds(smuggle, smuggling_variants(), letters(), letters())
