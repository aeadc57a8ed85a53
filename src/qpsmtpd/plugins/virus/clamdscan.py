"""Has messages scanned for viruses by ClamAV's daemon, clamd.

Arguments:
- `clamd_socket`: the path of the Unix socket where clamd listens; /run/clamav/clamd.ctl by
  default.
- `clamd_port`, `clamd_host`: the TCP port where it listens instead, customarily 3310, and
  the host, 127.0.0.1 by default.
- `deny_viruses`: yes (the default) refuses a message with a virus; no lets it pass with
  header fields that say so.
- `defer_on_error`: yes refuses the message for now if it cannot be scanned; no (the
  default) lets it pass.
- `max_size`: larger messages are not scanned, in kilobytes; 1024 by default. It should not
  be above clamd's StreamMaxLength, where a scan ends in an error.
- `scan_all`: yes (the default) scans every message; no only those in several parts, which
  may have attachments.
- `transfer`: how clamd gets the message. stream (the default) sends it, and works with
  every clamd. descriptor hands an open file over, by a Unix socket. path names a file in
  the spool directory; clamd may read it if it runs as the same user, or if the spool
  directory has the execute bit (`spool_perms 0710`) for the group or for all: these are then
  given the right to read the file.
- `timeout`: seconds for all of it, 60 by default; keep it below `config/timeouthook`.

A message that clamd has scanned gets X-Virus-Found: No with X-Virus-Checked, or
X-Virus-Found: Yes with X-Virus-Details. Such fields that it came with are removed.
Relay clients and whitelisted ones are scanned too.

Notes: a client whose message is refused for a virus is marked as `naughty`, and its
`karma` falls by 1. A client that is marked already is not scanned.

Result: DENY for a virus, or what the arguments `reject` and `reject_type` say. If clamd is
down, late, or says that it cannot scan: DECLINED, or DENYSOFT with `defer_on_error yes`.

In config/plugins, behind the plugins that judge the sender:

    virus/clamdscan deny_viruses yes max_size 10240
"""

import contextlib
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from qpsmtpd import (
    DECLINED,
    DENYSOFT,
    LOGERROR,
    LOGINFO,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._options import flag, number, seconds
from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.session.message import CHUNK

_TRANSFERS = ("stream", "descriptor", "path")
_FIELDS = ("X-Virus-Found", "X-Virus-Details", "X-Virus-Checked")
_MULTIPART = re.compile(r"\bmultipart/", re.IGNORECASE)
_ANSWER = re.compile(r"[0-9]+: (.*)", re.DOTALL)
_UNSAFE = re.compile(r"[^!-~]+")
_MOST = 8192  # octets of an answer


class ClamdScan(Plugin):
    """Has messages scanned for viruses by ClamAV's daemon, clamd."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(
            args,
            *("clamd_socket", "clamd_port", "clamd_host", "deny_viruses", "defer_on_error"),
            *("max_size", "scan_all", "transfer", "timeout"),
        )
        if "clamd_port" in options:
            self._place = Place(options.get("clamd_host", "127.0.0.1"), number(options, "clamd_port", 3310, 65535))
        else:
            self._place = Place.parse(options.get("clamd_socket", "/run/clamav/clamd.ctl"), 3310)
        self._denies = flag(options, "deny_viruses", default=True)
        self._defers = flag(options, "defer_on_error", default=False)
        self._scans_all = flag(options, "scan_all", default=True)
        self._most = number(options, "max_size", 1024) * 1024
        self._seconds = seconds(options, "timeout", 60)
        self._transfer = options.get("transfer", "stream")
        if self._transfer not in _TRANSFERS:
            raise ValueError(f"transfer {self._transfer!r} is none of {', '.join(_TRANSFERS)}")
        if self._transfer == "descriptor" and self._place.port:
            raise ValueError("transfer descriptor needs a Unix socket")

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        for name in _FIELDS:
            transaction.header.delete(name)
        why = self._why_not(transaction)
        if why:
            self.log(LOGINFO, f"skip, {why}")
            return DECLINED
        try:
            version, virus = self._scan(transaction)
        except OSError as error:
            self.log(LOGERROR, f"error, {self._place}: {error.strerror or error}")
            return (DENYSOFT, "the message cannot be scanned for viruses now") if self._defers else DECLINED
        if virus:
            return self._found(transaction, virus)
        self.log(LOGINFO, "pass, clean")
        transaction.header.add("X-Virus-Checked", f"by {version} on {self.qp.hostname}", 0)
        transaction.header.add("X-Virus-Found", "No", 0)
        return DECLINED

    def _why_not(self, transaction: Transaction) -> str:
        """Why the message is not scanned, empty if it is."""
        if self.is_naughty():
            return "naughty"
        if transaction.data_size > self._most:
            return f"too big ({transaction.data_size})"
        if not self._scans_all and not any(map(_MULTIPART.search, transaction.header.get_all("Content-Type"))):
            return "not multipart"
        return ""

    def _found(self, transaction: Transaction, virus: str) -> Result:
        self.adjust_karma(-1)
        text = f"Virus found: {virus}"
        result: Result = DECLINED
        if self._denies:
            result = self.get_reject(text, f"found virus {virus}")
        else:
            self.log(LOGINFO, f"fail, found virus {virus}")
        if isinstance(result, tuple):
            self.is_naughty(text)
        else:
            transaction.header.add("X-Virus-Details", virus, 0)
            transaction.header.add("X-Virus-Found", "Yes", 0)
        return result

    def _scan(self, transaction: Transaction) -> tuple[str, str]:
        """The version of clamd, and the virus it has found, if any. Raises OSError."""
        with Stream(self._place, self._seconds) as stream:
            stream.send(b"zIDSESSION\0zVERSION\0")
            version = _safe(_answer(stream).partition("/")[0]) or "ClamAV"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # clamd may say why it wants no more
                self._hand_over(stream, transaction)
            return version, _verdict(_answer(stream))

    def _hand_over(self, stream: Stream, transaction: Transaction) -> None:
        """Tell clamd what to scan. Raises OSError."""
        if self._transfer == "stream":
            stream.send(b"zINSTREAM\0")
            _send_chunks(stream, transaction.chunks())
            return
        path = transaction.body_filename()
        if self._transfer == "path":
            _open_to_others(path, self.qp.spool_dir())
            stream.send(b"zSCAN %b\0" % os.fsencode(path))
            return
        with path.open("rb") as file:
            stream.send(b"zFILDES\0")
            stream.send_descriptor(file.fileno())


def _send_chunks(stream: Stream, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            piece = chunk[start : start + CHUNK]
            stream.send(struct.pack("!I", len(piece)) + piece)
    stream.send(b"\0\0\0\0")


def _open_to_others(path: Path, spool: Path) -> None:
    """Let those read a work file who may enter the spool directory. Raises OSError."""
    entering = spool.stat().st_mode & 0o011
    path.parent.chmod(0o700 | entering)
    path.chmod(0o600 | entering << 2)


def _answer(stream: Stream) -> str:
    """The next answer, without its number. Raises OSError."""
    text = stream.receive_until(b"\0", _MOST).decode("utf-8", "replace")
    match = _ANSWER.fullmatch(text)
    if match is None:
        raise OSError(f"an answer that makes no sense: {text[:200]!r}")
    return match[1]


def _verdict(answer: str) -> str:
    """The name of the virus that was found, empty if none was. Raises OSError."""
    what, _, outcome = answer.rpartition(": ")
    if what and outcome == "OK":
        return ""
    if what and outcome.endswith(" FOUND"):
        return _safe(outcome.removesuffix(" FOUND")) or "?"
    raise OSError(f"no scan: {answer[:200]}")


def _safe(text: str) -> str:
    """Something that the daemon has said, as header fields and replies may hold it."""
    return _UNSAFE.sub(" ", text).strip()[:200]
