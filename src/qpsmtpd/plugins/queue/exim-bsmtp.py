"""Hands messages to Exim, as batch SMTP on its standard input (RFC 2442).

Arguments:
- `exim_path PATH`: the program, /usr/sbin/rsmtp by default; it is run with `-bS`, without a shell,
- `timeout SECONDS`: how long it may take for a message, 100 by default; then it is killed. Keep
  it below `timeouthook`.

The user of this server has to be one of Exim's `trusted_users`, else Exim takes all messages for
mail of this user. Batch SMTP has no parameters: wishes for delivery status notifications get
lost, and Exim refuses domains that are not ASCII. It also checks no recipients: one that does not
exist is bounced, so have another plugin check them.

A bare CR or LF, which only a client that uses BINARYMIME can send, is made CRLF.

Result: OK if Exim says that it has the message: it ends with 0, and complains of nothing. If
it refuses, with a reply code, DENY (552) for 5yz and DENYSOFT (452) for 4yz, with its words.
DENYSOFT as well if it cannot be run, is too slow, is killed or fails otherwise, which is logged.

In config/plugins:

    queue/exim-bsmtp exim_path /usr/sbin/exim4
"""

import re
from collections.abc import Iterator

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins.queue._common import LATER, TIMEOUT, message_id, octets
from qpsmtpd.plugins.queue._programs import check_program, run, work_file
from qpsmtpd.protocol.stuffing import stuffed, whole_lines

_PROGRAM = "/usr/sbin/rsmtp"
_REPLY = re.compile(r"^([45])[0-9]{2}[ -]+(\S.*)", re.MULTILINE)
_MOST_SAID = 4000  # octets of what Exim says that are read
_MOST_TOLD = 200  # characters of it that the client is told


class EximBsmtp(Plugin):
    """Hands messages to Exim, as batch SMTP on its standard input."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "exim_path", "timeout")
        self._program = check_program(options.get("exim_path", _PROGRAM))
        self._timeout = seconds(options, "timeout", TIMEOUT)

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Run Exim, and understand what it says."""
        try:
            envelope = _envelope(transaction, self.qp.current_settings().hostname)
        except ValueError as error:
            self.log(LOGERROR, f"fail, {error}")
            return DENY, "an address of this message cannot be handed on"
        try:
            status, said = self._run(_batch(transaction, envelope))
        except OSError as error:
            self.log(LOGERROR, f"error, {self._program}: {error}")
            return DENYSOFT, LATER
        reply = _REPLY.search(said)
        if reply is not None:
            self.log(LOGINFO, f"fail, {reply[0]}")
            return DENY if reply[1] == "5" else DENYSOFT, reply[2][:_MOST_TOLD]
        if status:
            self.log(LOGERROR, f"error, {self._program} ended with {status}")
            return DENYSOFT, LATER
        self.log(LOGINFO, "pass, queued by Exim")
        return OK, f"Queued! {message_id(transaction)}"

    def _run(self, batch: Iterator[bytes]) -> tuple[int, str]:
        """Give the exit status, and what was said, which is logged. Raises OSError."""
        with work_file(self.spool_dir, batch) as stdin, work_file(self.spool_dir) as output:
            try:
                status = run([self._program, "-bS"], self._timeout, stdin=stdin, stdout=output, stderr=output)
            finally:
                output.seek(0)
                said = output.read(_MOST_SAID).decode("utf-8", "replace").strip()
                if said:
                    self.log(LOGERROR, f"{self._program} says: {said}")
        return status, said


def _envelope(transaction: Transaction, hostname: str) -> bytes:
    """The commands before the content. Raises ValueError."""
    commands = [f"HELO {hostname}", f"MAIL FROM:{transaction.reverse_path.path}"]
    commands += [f"RCPT TO:{recipient.path}" for recipient in transaction.recipients]
    return b"".join(octets(command) + b"\r\n" for command in [*commands, "DATA"])


def _batch(transaction: Transaction, envelope: bytes) -> Iterator[bytes]:
    yield envelope
    yield from stuffed(whole_lines(transaction.chunks(), strict=False))
    yield b"QUIT\r\n"
