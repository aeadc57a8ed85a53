"""Hands messages to the program qmail-queue, which puts them into qmail's queue.

    queue/qmail-queue [PROGRAM] [timeout SECONDS]

PROGRAM is its absolute path, by default /var/qmail/bin/qmail-queue, or bin/qmail-queue below
the directory that the environment variable QMAIL names. It may be any program with the same
interface; the environment variable QMAILQUEUE comes before all.

The program is run for each message, without arguments and without a shell. It reads the message
on descriptor 0, with LF at line ends as qmail wants it, and the envelope on descriptor 1:
`F`, the sender and a NUL, for each recipient `T`, the address and a NUL, and one more NUL.
Both are files, which it need not read to their ends. `timeout` is how long it may take, 100
seconds by default; then it is killed. Keep it below `timeouthook`.

Result, by the exit status: OK for 0, which says that the message is in the queue; DENY (552) for
11 to 40 and 115, an address that is too long or a message that is refused for good; DENYSOFT
(452) for all others, and if the program cannot be run, is too slow or is killed, which is
logged. What the program writes to standard error goes to the log.

In config/plugins:

    queue/qmail-queue
"""

import os

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins.queue._common import LATER, TIMEOUT, message_id, octets
from qpsmtpd.plugins.queue._programs import check_program, run, work_file

_ADDRESS_TOO_LONG = 11
_PERMANENT = frozenset({*range(11, 41), 115})  # as qmail's own programs understand them
_MOST_SAID = 1000  # octets of standard error in the log


class QmailQueue(Plugin):
    """Hands messages to the program qmail-queue, which puts them into qmail's queue."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        own = args[:1] if args[:1] != ("timeout",) else ()
        options = self.options(args[len(own) :], "timeout")
        default = f"{os.environ.get('QMAIL') or '/var/qmail'}/bin/qmail-queue"
        self._program = check_program(os.environ.get("QMAILQUEUE") or next(iter(own), default))
        self._timeout = seconds(options, "timeout", TIMEOUT)

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Run the program, and understand its exit status."""
        try:
            envelope = _envelope(transaction)
        except ValueError as error:
            self.log(LOGERROR, f"fail, {error}")
            return DENY, "an address of this message cannot be handed on"
        try:
            status = self._run(transaction, envelope)
        except OSError as error:
            self.log(LOGERROR, f"error, {self._program}: {error}")
            return DENYSOFT, LATER
        if status == 0:
            self.log(LOGINFO, f"pass, queued by {self._program}")
            return OK, f"Queued! {message_id(transaction)}"
        how = f"ended with {status}" if status > 0 else f"was killed by signal {-status}"
        if status in _PERMANENT:
            self.log(LOGINFO, f"fail, {self._program} {how}")
            return DENY, "5.1.3 an address is too long" if status == _ADDRESS_TOO_LONG else "the message is refused"
        self.log(LOGERROR, f"error, {self._program} {how}")
        return DENYSOFT, LATER

    def _run(self, transaction: Transaction, envelope: bytes) -> int:
        """Run the program, and log what it says. Raises OSError."""
        spool = self.spool_dir
        with (
            work_file(spool, transaction.content.lf_chunks()) as message,
            work_file(spool, [envelope]) as addresses,
            work_file(spool) as said,
        ):
            try:
                return run([self._program], self._timeout, stdin=message, stdout=addresses, stderr=said)
            finally:
                said.seek(0)
                if text := said.read(_MOST_SAID).decode("utf-8", "replace").strip():
                    self.log(LOGERROR, f"{self._program} says: {text}")


def _envelope(transaction: Transaction) -> bytes:
    """Sender and recipients, without quotes as qmail has them. Raises ValueError."""
    fields = [b"F" + octets(transaction.reverse_path.address)]
    fields += [b"T" + octets(recipient.address) for recipient in transaction.recipients]
    return b"".join(field + b"\0" for field in fields) + b"\0"
