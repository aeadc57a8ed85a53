"""Faults to plant, to see that they are found: mutations of framing, grammar and state tables, in memory alone."""

import contextlib
import inspect
import re
import textwrap
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from qpsmtpd.protocol import addresses, client, commands, framing, proxy, replies, sasl, stuffing, xclient
from qpsmtpd.protocol.authentication import Authenticating
from qpsmtpd.protocol.commands import Command
from qpsmtpd.protocol.conversation import Conversation
from qpsmtpd.protocol.framing import ChunkReader, ContentReader, HeaderSplitter
from qpsmtpd.protocol.server import Server
from qpsmtpd.protocol.state import ORDER, State

__all__ = ["PLANTS", "Plant"]

Planting = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Plant:
    """A fault."""

    name: str
    about: str
    target: str
    """The target that is to find it."""
    plant: Planting
    """Plants it for as long as the block lasts."""


def _edited(owner: Any, name: str, *edits: tuple[str, str]) -> Planting:
    """A function with other words in its source."""
    function: object = inspect.unwrap(getattr(owner, name))
    assert isinstance(function, FunctionType)

    @contextlib.contextmanager
    def plant() -> Generator[None]:
        old = function.__code__
        function.__code__ = _compiled(function, edits).__code__
        _forget()
        try:
            yield
        finally:
            function.__code__ = old
            _forget()

    return plant


def _compiled(function: FunctionType, edits: Sequence[tuple[str, str]]) -> FunctionType:
    source = textwrap.dedent(inspect.getsource(function))
    source = source[re.search(r"^def ", source, re.MULTILINE).start() :]  # type: ignore[union-attr] # no decorators
    for before, after in edits:
        if source.count(before) != 1:
            raise LookupError(f"{function.__qualname__} does not hold {before!r} once")
        source = source.replace(before, after)
    made: dict[str, Any] = {}
    exec(compile(source, "a planted fault", "exec"), function.__globals__, made)
    found = made[function.__name__]
    assert isinstance(found, FunctionType)
    return found


def _forget() -> None:
    """Empty the caches over what is changed."""
    for module in (addresses, commands, replies):
        for value in vars(module).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()


def _together(*plants: Planting) -> Planting:
    """Several changes that make one fault: the code looks twice."""

    @contextlib.contextmanager
    def plant() -> Generator[None]:
        with contextlib.ExitStack() as stack:
            for each in plants:
                stack.enter_context(each())
            yield

    return plant


def _let_pass(command: Command, state: State) -> Planting:
    """A command where it is out of order."""

    @contextlib.contextmanager
    def plant() -> Generator[None]:
        row: Any = ORDER[command]
        old, row[state] = row[state], None
        try:
            yield
        finally:
            row[state] = old

    return plant


_FRAMING = (
    Plant("lf-dot-crlf", "content ends at LF . CRLF too", "server", _edited(
        ContentReader, "read", (r'rfind(b"\r\n.\r\n"', r'rfind(b"\n.\r\n"'), (r'= buffer.find(b"\r\n.\r\n"', r'= buffer.find(b"\n.\r\n"'),
        ("end + 2, end + 5", "end + 1, end + 4"))),
    Plant("last-end-counts", "of several end marks that have come the last one counts", "server", _edited(
        ContentReader, "read", ("= buffer.find(", "= buffer.rfind("))),
    Plant("no-empty-content", "a dot is no end behind DATA at once", "server", _edited(
        ContentReader, "__init__", (r'self._context = b"\r\n"', 'self._context = b""'))),
    Plant("dot-kept", "a dot at the start of content is not removed", "server", _edited(
        ContentReader, "read", ("start = 1", "start = 0"))),
    Plant("dots-kept", "dots are not removed", "server", _edited(
        ContentReader, "read", (r'b"\r\n".join(piece.rsplit(b"\r\n."))', "bytes(piece)"))),
    Plant("cut-behind-dot", "what comes in two pieces, cut behind CRLF and a dot, keeps the dot", "server", _edited(
        ContentReader, "_certain", (r'buffer.endswith(b"\r\n.", start, stop)', "False"))),
    Plant("cut-in-crlf", "a CRLF that comes in two pieces is taken for bare", "server", _edited(
        ContentReader, "_certain", (r'buffer.endswith(b"\r", start)', "False"))),
    Plant("bare-taken", "a bare CR or LF is content like others", "server", _edited(
        framing, "has_bare", (r'return b"\0" +', r'return False and b"\0" +'))),
    Plant("size-off-by-one", "content may be one octet larger", "bdat", _edited(
        ContentReader, "read", ("size > self._room", "size > self._room + 1"))),
    Plant("no-size-limit", "content of any size is taken", "server", _edited(
        ContentReader, "read", ("self._room is not None", "False"))),
    Plant("line-end-counts-two", "of the limit, a line end takes two octets", "bdat", _edited(
        ContentReader, "read", (r'len(data) - data.count(b"\r")', "len(data)"))),
    Plant("no-header-limit", "a header of any size is taken", "server", _edited(
        HeaderSplitter, "split", ("end > self._room", "False"))),
    Plant("chunk-short", "a chunk is taken for one octet shorter", "bdat", _edited(
        ChunkReader, "begin", ("= size", "= max(size - 1, 0)"))),
    Plant("last-forgotten", "the last chunk is not the last one", "bdat", _edited(
        commands, "parse_chunk", ("match[2] is not None", "False"))),
    Plant("held-cr-lost", "a CR at the end of a chunk is lost", "bdat", _edited(
        ChunkReader, "read", ("self._held + piece", "piece"))),
    Plant("chunk-bare-taken", "a bare CR or LF in a chunk is content like others", "bdat", _edited(
        ChunkReader, "read", ("if not self._binary", "if False"))),
    Plant("refused-queued", "content that is refused is queued", "server", _edited(
        Server, "_finish", ("if message.problem is not None", "if False"))),
)  # fmt: skip

_DIALOGUE = (
    Plant("rcpt-first", "RCPT before MAIL", "server", _let_pass(Command.RCPT, State.IDLE)),
    Plant("data-first", "DATA before RCPT", "server", _let_pass(Command.DATA, State.MAIL)),
    Plant("mail-first", "MAIL before EHLO", "server", _let_pass(Command.MAIL, State.START)),
    Plant("mail-in-mail", "MAIL in a transaction", "server", _let_pass(Command.MAIL, State.MAIL)),
    Plant("data-in-chunks", "DATA between chunks", "bdat", _let_pass(Command.DATA, State.BDAT)),
    Plant("rcpt-in-chunks", "RCPT between chunks", "bdat", _let_pass(Command.RCPT, State.BDAT)),
    Plant("recipients-stay", "the number of recipients is not set back", "server", _edited(
        Server, "_clear_transaction", ("self._recipients = 0", "pass"))),
    Plant("rset-keeps-mail", "RSET does not end a transaction", "server", _edited(
        Server, "_rset", ("yield from self._forget_transaction()", "yield from ()"))),
    Plant("line-any-length", "a line of any length is a command", "server", _edited(
        Server, "_script", ("len(line) >= self._limits.command_line", "False"))),
    Plant("cr-in-command", "a CR in a command", "server", _edited(
        Server, "_script", (r'text.find("\r") != len(text) - 1', r'not text.endswith("\r")'))),
    Plant("endless-line", "a line that does not end is kept", "server", _edited(
        Conversation, "_line", ("del buffer[limit:]", "pass"))),
    Plant("errors-for-ever", "errors are not counted", "server", _edited(
        Conversation, "_count_error", ("self._errors += 1", "self._errors += 0"))),
    Plant("no-end-of-stream", "that the client has closed its side is not noticed", "server", _edited(
        Conversation, "_converse", ("if self._eof", "if False"))),
    Plant("reply-in-text", "what a plugin says may hold line ends", "server", _edited(
        replies, "_encode", (r'_UNPRINTABLE.sub("?", line.rstrip("\r").replace("\t", " "))', "line"))),
)  # fmt: skip

_GRAMMAR = (
    Plant("quoted-pair-kept", "backslashes are part of a local part", "address", _edited(
        addresses, "_parts", (r'_QUOTED_PAIR.sub(r"\1", quoted)', "quoted"))),
    Plant("two-dots", "a..b is a local part", "address", _edited(addresses, "_parts", ("_BAD_DOTS.search(local)", "False"))),
    Plant("scope-taken", "an address literal may have a scope", "address", _edited(
        addresses, "_is_address_literal", ('"%" not in literal', "True"))),
    Plant("quotes-unescaped", "quotes in a local part are printed as they are", "address", _edited(
        addresses, "_printed", (r'_SPECIAL.sub(r"\\\g<0>", local)', "local"))),
    Plant("null-with-route", "a source route alone is refused", "address", _edited(
        addresses, "_parts", ("_NULL.fullmatch(text)", 'text == "<>"'))),
    Plant("proxy-ports", "a port above 65535", "proxy", _edited(proxy, "_read_v1", ("max(port, to_port) > 65535", "False"))),
    Plant("proxy-families", "TCP4 with addresses of IPv6", "proxy", _edited(
        proxy, "_read_v1", ("{source.version, destination.version} != {int(match[1])} or", ""))),
    Plant("proxy-length", "of the length only one octet counts", "proxy", _edited(proxy, "_read_v2", ("data[14:_FIXED]", "data[15:_FIXED]"))),
    Plant("proxy-checksum", "a checksum is not looked at", "proxy", _edited(
        proxy, "_read_proxied", ("_CRC32C in known and", "False and"))),
    Plant("xclient-twice", "an attribute may come twice", "xclient", _edited(
        xclient, "parse_xclient", ("or attribute in values", ""))),
    Plant("xclient-control", "values may hold control characters", "xclient", _edited(
        xclient, "parse_xclient", ("or _CONTROL.search(value)", ""))),
    Plant("xclient-port", "a port above 65535 ", "xclient", _edited(
        xclient, "_port", ("number if 0 < number <= 65535 else -1", "number"))),
)  # fmt: skip

_SASL = (
    Plant("base64-lax", "base64 is read as far as it goes", "sasl", _edited(
        sasl, "decode_base64", ("len(text) % 4 or not _BASE64.fullmatch(text)", "False"), (", strict_mode=True", ""))),
    Plant("plain-swapped", "PLAIN takes the one to act for as the user", "sasl", _edited(
        sasl, "_serve_plain", ("authorize_as, user, password = parts", "user, authorize_as, password = parts"))),
    Plant("plain-any", "PLAIN lets everybody in", "sasl", _edited(sasl, "_serve_plain", ("accepted is True", "True"))),
    Plant("login-empty", "LOGIN takes an empty password", "sasl", _edited(
        sasl, "_serve_login", ('if password in (b"", b"*")', "if False"), ("accepted is True", 'accepted is True or password == b""'))),
    Plant("failures-for-ever", "failures are not counted", "sasl", _edited(
        Authenticating, "_authenticated", ("self._auth_failures += 1", "self._auth_failures += 0"))),
)  # fmt: skip

_REPLIES = (
    Plant("codes-differ", "the lines of a reply may have different codes", "replies", _edited(
        replies.ReplyReader, "next", ("code != self._code", "False"))),
    Plant("data-refused", "content is sent although DATA is refused", "replies", _edited(
        client.Client, "_transact", ("reply.code // 100 != 3", "False"))),
    Plant("verdict-unread", "whatever is said to the content, it is delivered", "replies", _edited(
        client.Client, "_verdict", ("transaction.settle(reply", 'transaction.settle(Reply(250, None, "ok")'))),
    Plant("spare-reply", "a reply that answers nothing is taken for that to the next command", "replies", _together(
        _edited(client.Client, "_check_silence", ("self._replies.pending", "False")),
        _edited(client.Client, "_listen", ("if reply is not None", "if False"), ("self._heard()", "None")))),
    Plant("not-stuffed", "dots are not doubled", "replies", _edited(
        stuffing, "stuffed", (r'piece.replace(b"\r\n.", b"\r\n..")', "piece"))),
)  # fmt: skip

PLANTS: Mapping[str, Plant] = {plant.name: plant for plant in (*_FRAMING, *_DIALOGUE, *_GRAMMAR, *_SASL, *_REPLIES)}
"""All faults by their names."""
