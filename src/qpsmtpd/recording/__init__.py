"""Sessions recorded as they went, and played again: with what plugins answered then, or with those of today.

`tape` is the format; `recorder` notes what happens while a server runs, `scribe` makes a recording of that, masked
by `masks`, and `writer` is the process in which it does. `rehearsal` is for sessions that are to have no effect,
`player` plays recordings.
"""

from qpsmtpd.recording.player import Difference, PlayedSite, compare, play, play_recorded
from qpsmtpd.recording.recorder import RecordedSession, RecordingSite, in_directory
from qpsmtpd.recording.rehearsal import RehearsalSession, RehearsalSite
from qpsmtpd.recording.tape import Asked, Call, Head, Tape, Turn, read_tapes

__all__ = [
    "Asked",
    "Call",
    "Difference",
    "Head",
    "PlayedSite",
    "RecordedSession",
    "RecordingSite",
    "RehearsalSession",
    "RehearsalSite",
    "Tape",
    "Turn",
    "compare",
    "in_directory",
    "play",
    "play_recorded",
    "read_tapes",
]
