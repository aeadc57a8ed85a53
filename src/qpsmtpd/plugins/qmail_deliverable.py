"""Asks qmail-deliverabled whether there is a mailbox for each recipient.

The daemon comes with Qmail::Deliverable, reads qmail's configuration, and is asked by HTTP.
Relay clients, whitelisted clients and those that are to be refused anyway pass unasked.

Arguments:
- `server HOST:PORT`: where the daemon listens, 127.0.0.1:8998 by default,
- `server smtproutes:HOST:PORT`: the host that qmail's file `smtproutes` names for the domain of
  the recipient is asked, on this port; for domains without a host there, HOST. Without HOST,
  as in `server smtproutes:8998`, their recipients pass unasked,
- `control DIRECTORY`: where `smtproutes` is, /var/qmail/control by default; it is read at the start,
- `vpopmail_ext 0` or `1`: taken for the original's sake; what it says is a matter of the
  daemon's own settings,
- `timeout SECONDS`: how long the daemon has to answer, 5 by default,
- `reject 0` only logs; `reject_type` is perm (the default), soft, disconnect or
  temp_disconnect.

Result: what `reject_type` says, DENY (550) by default, if the daemon says that there is no such
mailbox; the connection's karma falls by 1. Else DECLINED, also for a domain that is not local, an
address that qmail cannot have, and a daemon that cannot be reached or makes no sense, which is
logged: mail is let through while it is down.

In config/plugins, before rcpt_ok:

    qmail_deliverable server 127.0.0.1:8998
"""

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from qpsmtpd import (
    DECLINED,
    LOGDEBUG,
    LOGINFO,
    LOGWARN,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins._streams import Place, Stream

_SERVER = "127.0.0.1:8998"
_CONTROL = "/var/qmail/control"
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*@{_ATEXT}(?:\.{_ATEXT})*\.?")  # what the daemon takes
_ROUTE = re.compile(r"([^:]*):\[?([^\]:\s]*)")
_GOOD = re.compile(rb"HTTP/[0-9.]+ 200\b")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"[0-9]{1,9}")
_MOST = 1 << 16  # octets of an answer
_NO_MAILBOX = 0

_MEANINGS: Mapping[int, str] = {
    0x11: "error, permission failure",
    0x12: "pass, qmail-command in dot-qmail",
    0x13: "pass, bouncesaying with program",
    0x14: "pass, ezmlm list",
    0x21: "error, temporarily undeliverable: group or world writable",
    0x22: "error, temporarily undeliverable: sticky home directory",
    0x2F: "error, the daemon has asked another one, which failed",
    0xF1: "pass, normal delivery",
    0xF2: "pass, vpopmail dir",
    0xF3: "pass, vpopmail alias",
    0xF4: "pass, vpopmail catchall",
    0xF5: "pass, vpopmail vuser",
    0xF6: "pass, vpopmail qmail-ext",
    0xFE: "error, vpopmail without a domain",
    0xFF: "skip, address not local",
}
"""What the daemon's statuses say, all of which let the recipient pass."""


class QmailDeliverable(Plugin):
    """Asks qmail-deliverabled whether there is a mailbox for each recipient."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments, and `smtproutes` if it is wanted. Raises ValueError."""
        options = self.options(args, "server", "control", "vpopmail_ext", "timeout")
        if options.get("vpopmail_ext", "0") not in ("0", "1"):
            raise ValueError(f"vpopmail_ext {options['vpopmail_ext']!r} is neither 0 nor 1")
        self._timeout = seconds(options, "timeout", 5)
        server = options.get("server", _SERVER)
        by_route = server.removeprefix("smtproutes:")
        self._routes: Mapping[str, str] = {}
        self._default: Place | None
        if by_route == server:
            self._default = Place.parse(server, 0)
            return
        host, _, port = by_route.rpartition(":")
        probe = Place.parse(f"{host or 'localhost'}:{port}", 0)  # what is wrong with the port should show now
        self._port = probe.port
        self._default = probe if host else None
        self._routes = _read_routes(Path(options.get("control", _CONTROL)) / "smtproutes")

    @blocking
    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Ask for the recipient."""
        if self.is_immune():
            return DECLINED
        address = recipient.address.lower()
        if not _ADDRESS.fullmatch(address):
            self.log(LOGINFO, f"skip, no address of qmail's: {recipient}")
            return DECLINED
        place = self._place((recipient.domain or "").lower())
        if place is None:
            self.log(LOGINFO, "skip, no server for this domain")
            return DECLINED
        self.log(LOGDEBUG, f"asking {place} for {address}")
        try:
            status = self._ask(place, address)
        except OSError as error:
            self.log(LOGWARN, f"error, {place}: {error}")
            return DECLINED
        if status == _NO_MAILBOX:
            self.adjust_karma(-1)
            return self.get_reject("5.1.1 no mailbox here by that name", address)
        self.log(LOGINFO, _MEANINGS.get(status, f"error, unknown status 0x{status:02x}"))
        return DECLINED

    def _place(self, domain: str) -> Place | None:
        """Where to ask for a domain: the host for itself, for a domain above it, for all others; else the default."""
        parts = domain.split(".")
        names = [domain, *("." + ".".join(parts[start:]) for start in range(len(parts))), ""]
        host = next((self._routes[name] for name in names if name in self._routes), "")
        return Place(host, self._port) if host else self._default

    def _ask(self, place: Place, address: str) -> int:
        """The status of an address. Raises OSError."""
        query = urllib.parse.quote(address, safe="")
        request = f"GET /qd1/deliverable?{query} HTTP/1.0\r\nHost: {place}\r\nConnection: close\r\n\r\n"
        with Stream(place, self._timeout) as stream:
            stream.send(request.encode("ascii"))
            answer = stream.receive_all(_MOST)
        body = _BLANK_LINE.split(answer, 1)[1:]
        if not (_GOOD.match(answer) and body and _STATUS.fullmatch(status := body[0].strip())):
            raise OSError("its answer makes no sense")
        return int(status)


def _read_routes(path: Path) -> Mapping[str, str]:
    """The hosts by domains; of a domain that is named twice the last. Raises ValueError."""
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return {match[1].lower(): match[2] for line in lines if (match := _ROUTE.match(line))}
