"""Writes the log to standard error as it comes, and once more what belongs to accepted mail.

    logging/adaptive [accept LEVEL] [reject LEVEL] [prefix WORD]

Whether a message is accepted is not known while it comes in. So there are two levels,
LOGEMERG (0) to LOGDEBUG (7):

- What is logged up to the level `reject`, LOGWARN (4) by default, is written at once.
- What is logged up to the level `accept`, LOGERROR (3) by default, is held back. When the
  transaction ends well it is written, all lines together and each behind the prefix, a
  backtick by default; otherwise it is forgotten.

A transaction with a sender ends well if its message was queued, also where one of the
recipients was refused. One without, which is what comes before the first MAIL or behind a
message, ends well if no plugin has refused anything in it. A transaction ends at MAIL, behind
its message, and at RSET, a second HELO or EHLO, and the end of the session.

A program that picks lines by how they begin, as multilog does, can make two logs of this:
one of the lines with the prefix, which tells of each accepted message in one piece, and
one of the others, which tells in detail what happens.

What is held back for a connection is limited to 64 Ki characters. Lines for which there is
no room are left out, and one more line at the end says how many.

Result: DECLINED, so that further logging plugins write too.

In config/logging:

    logging/adaptive accept LOGINFO reject LOGDEBUG
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from qpsmtpd import DECLINED, OK, Plugin, Result, ReturnCode, Site, Transaction
from qpsmtpd.logs import log_level, write_stderr

_MOST = 65_536  # characters held back for a connection


@dataclass(slots=True)
class _Held:
    """What is held back since the last transaction has ended."""

    lines: list[str] = field(default_factory=list[str])
    size: int = 0
    dropped: int = 0
    refused: bool = False

    def add(self, line: str) -> None:
        if self.size + len(line) > _MOST:
            self.dropped += 1
            return
        self.lines.append(line)
        self.size += len(line)


class LogAdaptively(Plugin):
    """Writes the log to standard error as it comes, and once more what belongs to accepted mail."""

    shared_arguments = ()  # `reject` is a level

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "accept", "reject", "prefix")
        self._accept = log_level(options.get("accept", "LOGERROR"))
        self._reject = log_level(options.get("reject", "LOGWARN"))
        self._prefix = options.get("prefix", "`")
        self._note = f"{self.plugin_name} held"  # a note of the connection

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Write a message at once, or hold it back, or both."""
        if level > max(self._accept, self._reject):
            return DECLINED
        line = self.qp.log_line(hook, plugin, text)
        if level <= self._reject:
            write_stderr(f"{line}\n")
        if level <= self._accept and transaction is not None:
            self._held().add(line)
        return DECLINED

    def hook_deny(self, transaction: Transaction, plugin: str, code: ReturnCode, text: str) -> Result:
        """Note that something was refused."""
        self._held().refused = True
        return DECLINED

    def hook_reset_transaction(self, transaction: Transaction) -> Result:
        """Write what was held back, if the transaction has ended well, and begin anew."""
        held = self._held()
        del self.connection.notes[self._note]
        well = not held.refused if transaction.sender is None else _is_queued(transaction)
        if well:
            self._write_held(held)
        return DECLINED

    def _held(self) -> _Held:
        return cast("_Held", self.connection.notes.setdefault(self._note, _Held()))

    def _write_held(self, held: _Held) -> None:
        if held.dropped:
            held.lines.append(f"{self.qp.log_identity} lines left out here: {held.dropped}")
        write_stderr("".join(f"{self._prefix}{line}\n" for line in held.lines))


def _is_queued(transaction: Transaction) -> bool:
    """Whether a plugin has answered the hook queue with OK; the session notes each answer."""
    for note in transaction.notes.values():
        if isinstance(note, Mapping):
            answer = cast("Mapping[object, object]", note).get("hook_queue")
            if isinstance(answer, Mapping) and cast("Mapping[object, object]", answer).get("return") is OK:
                return True
    return False
