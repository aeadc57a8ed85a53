"""Makes the lines of a recording out of the notes of a session, with secrets masked.

What the client has sent is only written when it is certain what it is, since nobody can tell before that an octet is
part of a password. The notes tell where content, exchanges of AUTH and what nobody looked at begin and end; what is
between them are lines. `_certain` is how far that is known, and a turn is written when all of its octets are.
So what waits here is a line at most, and the turn of the moment.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

from qpsmtpd.protocol import Command, hooks
from qpsmtpd.recording import masks
from qpsmtpd.recording.tape import encode

__all__ = ["Note", "Notes", "Scribe"]

Notes = list[tuple[Any, ...]]
"""What has happened: tuples of a `Note`, by its value, and plain values that `marshal` can write."""

_LONG = 65_536  # octets of a line without an end that are waited for
_SECRET_TEXTS = hooks.AuthScramSha256.name
_WITH_SECRETS = hooks.AuthParse.name
_VERBS = frozenset(command.value for command in Command)


class Note(enum.Enum):
    """What a note is about, and the values behind it."""

    BEGIN = 0  # when the session began, by the clock of the site
    HEAD = 1  # the fields of the first line
    HEARD = 2  # when, octets (none: the client has closed its side), whether they belong to the turn before
    SAID = 3  # octets
    CALLED = 4  # plugin, answer, texts, seconds, and what it has logged
    ASKED = 5  # hook, answer, texts, own reply
    ADDED = 6  # key, value
    HUNG_UP = 7  # reply, after how many waits for the client to read, or None
    REPLACED = 8  # octets that are to be said, and what is written in place of them
    CONTENT = 9  # the place where message content begins
    CONTENT_END = 10
    AUTH = 11  # the place where an exchange of AUTH begins
    AUTH_END = 12
    DROPPED = 13  # the place from which on nobody looks at what has come
    END = 14  # the same

    __hash__ = object.__hash__


class _Turn:
    """A turn under way, and where it is in the stream of what the client sends."""

    __slots__ = ("end", "fields", "received", "said", "start")

    def __init__(self, start: int, at: float) -> None:
        self.start = self.end = start
        self.received = b""
        self.said: list[bytes] = []
        self.fields: dict[str, Any] = {"at": at}

    def add(self, key: str, value: object) -> None:
        """Note one more of something."""
        found = self.fields.get(key)
        if found is None:
            self.fields[key] = [value]
        else:
            found.append(value)

    def part(self, start: int, end: int) -> slice:
        """What of a piece of the stream is in this turn."""
        return slice(max(start - self.start, 0), min(end, self.end) - self.start)

    def line(self) -> str:
        """The turn as a line of a recording."""
        if self.received:
            self.fields["in"] = self.received.decode("latin-1")
        if self.said:
            self.fields["out"] = b"".join(self.said).decode("latin-1")
        return encode(self.fields)


class Scribe:
    """Writes the recording of one session."""

    def __init__(self, write: Callable[[str], object], *, mask_content: bool) -> None:
        """`write` takes the lines, some at a time. Of a session without a head nothing is written."""
        self._write = write
        self._mask_content = mask_content
        self._begun = 0.0
        self._turn = _Turn(0, 0.0)
        self._waiting: list[_Turn] = []
        self._calls: list[list[object]] = []
        self._instead: list[tuple[bytes, bytes]] = []
        self._lines: list[str] = []
        self._headed = False
        self._total = 0  # octets that the client has sent
        self._certain = 0  # how many of them are known for what they are
        self._open = bytearray()  # those between the two
        self._mode: Note | None = None  # CONTENT, AUTH, or None where lines are commands
        self._wary = False  # behind AUTH, and what comes may be meant for it

    def write(self, notes: Notes) -> None:
        """Write what these notes tell: all that has happened up to a moment at which the session waits, or ends."""
        for kind, *values in notes:
            _TELLERS[kind](self, *values)
        self._settle()
        self._put_turns()
        if self._headed and self._lines:
            lines, self._lines = self._lines, []
            self._write("\n".join([*lines, ""]))

    # What is noted

    def _begin(self, at: float) -> None:
        self._begun = at

    def _head(self, fields: dict[str, Any]) -> None:
        self._headed = True
        self._lines.append(encode(fields))

    def _heard(self, at: float, data: bytes, same_turn: bool) -> None:
        turn = self._turn
        if not same_turn:  # else it is one more record of the same flight of TLS, and nobody has looked at the others
            self._settle()
            self._waiting.append(turn)
            self._turn = turn = _Turn(self._total, round(at - self._begun, 6))
        if data:
            turn.received += data
            self._total += len(data)
            turn.end = self._total
            if self._mode is not Note.CONTENT:
                self._open += data
        else:
            turn.fields["eof"] = True

    def _said(self, data: bytes) -> None:
        for old, new in self._instead:
            data = data.replace(old, new)
        self._turn.said.append(data)

    def _called(self, plugin: str, answer: str, texts: Sequence[str], seconds: float, *logged: str) -> None:
        self._calls.append([plugin, answer, texts, int(seconds * 1e6), *logged])

    def _asked(self, hook: str, answer: str, texts: Sequence[str], own: object) -> None:
        calls, self._calls = self._calls, []
        if hook == _WITH_SECRETS:
            texts = (*texts[:1], *map(masks.mask_text, texts[1:]))
            for call in calls:
                call[2] = ()
        elif hook == _SECRET_TEXTS:
            texts = ()
        self._turn.add("asked", [hook, calls, answer, texts, own])

    def _added(self, key: str, value: object) -> None:
        self._turn.add(key, value)

    def _hung_up(self, reply: object, drained: int | None) -> None:
        self._turn.fields["hung_up"] = reply
        if drained is not None:
            self._turn.fields["drained"] = drained

    def _replaced(self, old: bytes, new: bytes) -> None:
        self._instead.append((old, new))

    # What octets are

    def _content(self, place: int) -> None:
        self._read_lines(place)
        self._mode = Note.CONTENT
        self._open.clear()

    def _content_end(self, place: int) -> None:
        self._take_content(place)
        self._mode = None
        self._open = bytearray(self._since(place))

    def _auth(self, place: int) -> None:
        self._read_lines(place)
        self._mode = Note.AUTH

    def _auth_end(self, place: int) -> None:
        self._take(place, _no_octets)
        self._mode = None

    def _dropped(self, place: int) -> None:
        if self._mode is Note.CONTENT:
            self._take_content(place)
            self._open = bytearray(self._since(place))
        else:
            self._read_lines(place)
        self._take(self._total, _no_octets if self._wary or self._mode is Note.AUTH else _no_octets_behind_auth)

    def _end(self, place: int) -> None:
        self._dropped(place)
        self._settle()
        self._waiting.append(self._turn)
        self._put_turns()
        self._lines.append('{"end":true}')

    def _settle(self) -> None:
        """The server waits: it has looked at all whole lines, or at all content."""
        if self._mode is Note.CONTENT:
            self._take_content(self._total)
            return
        end = self._open.rfind(b"\n") + 1
        if end:
            self._read_lines(self._certain + end)
        if len(self._open) > _LONG:  # a line without an end: no more than its beginning counts
            secret = self._mode is Note.AUTH or self._wary or masks.is_auth(bytes(self._open[:8]))
            self._wary = self._wary or secret
            self._take(self._total, _no_octets if secret else None)

    def _read_lines(self, place: int) -> None:
        """What comes before this place are lines."""
        if self._mode is Note.AUTH:
            self._take(place, _no_octets)
            return
        while self._certain < place:
            size = self._open.find(b"\n", 0, place - self._certain) + 1 or place - self._certain
            self._take(self._certain + size, self._mask_for(bytes(self._open[:size])))

    def _mask_for(self, line: bytes) -> Callable[[bytes], bytes] | None:
        """How a command is masked that holds a password, or may do."""
        if masks.is_auth(line):
            self._wary = True
            return masks.mask_command
        if self._wary and line.partition(b" ")[0].strip().upper() not in _VERBS:
            return _no_octets
        self._wary = False
        return None

    def _take_content(self, place: int) -> None:
        if self._mask_content and place > self._certain:
            self._mask(place, _no_content)
        self._certain = max(place, self._certain)

    def _take(self, place: int, mask: Callable[[bytes], bytes] | None) -> None:
        """The octets up to a place are known for what they are."""
        if place <= self._certain:
            return
        if mask is not None:
            self._mask(place, mask)
        del self._open[: place - self._certain]
        self._certain = place

    def _turns(self, end: int) -> list[_Turn]:
        """The turns that have octets between what is certain and a place."""
        return [turn for turn in (*self._waiting, self._turn) if turn.start < end and self._certain < turn.end]

    def _mask(self, end: int, octets: Callable[[bytes], bytes]) -> None:
        """Mask what is between what is certain and a place."""
        parts = [(turn, turn.part(self._certain, end)) for turn in self._turns(end)]
        masked = octets(b"".join([turn.received[part] for turn, part in parts]))
        for turn, part in parts:
            size = part.stop - part.start
            turn.received = turn.received[: part.start] + masked[:size] + turn.received[part.stop :]
            masked = masked[size:]

    def _since(self, place: int) -> bytes:
        """What has come from a place on."""
        return b"".join(turn.received[turn.part(place, self._total)] for turn in self._turns(self._total))

    def _put_turns(self) -> None:
        """Write those turns whose octets are all certain."""
        while self._waiting and self._waiting[0].end <= self._certain:
            self._lines.append(self._waiting.pop(0).line())


def _no_octets(data: bytes) -> bytes:
    return data.translate(masks.RESPONSE)


def _no_octets_behind_auth(data: bytes) -> bytes:
    start = data.lower().find(b"auth")
    return data if start < 0 else data[:start] + _no_octets(data[start:])


def _no_content(data: bytes) -> bytes:
    return data.translate(masks.CONTENT)


_TELLERS: dict[int, Callable[..., None]] = {note.value: getattr(Scribe, f"_{note.name.lower()}") for note in Note}
