"""Finds out what system a client runs, as far as p0f can tell by the shape of its packets.

    ident/p0f SOCKET

The plugin refuses nobody: it leaves notes for others, such as `greylisting`, and writes the
system to the log. p0f (https://lcamtuf.coredump.cx/p0f3/) has to run on this machine, and
SOCKET is its Unix socket, which this server must be allowed to use:

    p0f -u qpsmtpd -d -s /run/p0f.socket 'dst port 25'

Arguments behind it:
- `version`: 3, the default, or 2.
- `local_ip ADDRESS`: for version 2, the address that clients connect to, where it is not the
  one that this server sees.
- `timeout`: seconds that p0f has to answer, 3 by default.

The note `p0f` of the connection is a dictionary. By version 3 it has `os_name`, `os_flavor`,
`distance`, `link_type`, `uptime_min`, `language`, `http_name`, `http_flavor` and the other
fields of p0f's answer, and where a system is known `genre` (name and flavor), `link` and `uptime`
(minutes). By version 2 it has `genre`, `detail`, `distance`, `link` and `uptime` (hours).

Result: DECLINED. What is wrong with p0f is logged, and the client goes on.

In config/plugins:

    ident/p0f /run/p0f.socket
"""

import ipaddress
import struct
from collections.abc import Mapping

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins._streams import Place, Stream

# The structures of p0f's api.h (version 3) and p0f-query.h (version 2), in the order of this machine.
_QUERY = struct.Struct("=IB16s")
_ANSWER = struct.Struct("=9IhBB32s32s32s32s32s32s")
_FIELDS = (
    "first_seen", "last_seen", "total_conn", "uptime_min", "up_mod_days", "last_nat", "last_chg", "distance", "bad_sw",
    "os_match_q", "os_name", "os_flavor", "http_name", "http_flavor", "link_type", "language",
)  # fmt: skip
_ASK, _ANSWERED = 0x50304601, 0x50304602
_FOUND, _NO_MATCH = 0x10, 0x20

_OLD_QUERY = struct.Struct("=III4s4sHH")
_OLD_ANSWER = struct.Struct("@IIB20s40sb30s30sBBBhHi")  # with the gaps that a compiler leaves
_OLD_MAGIC, _OLD_ASK = 0x0DEFACED, 1
_OLD_FOUND, _OLD_NO_MATCH = 0, 2

_Fingerprint = Mapping[str, str | int]


class P0f(Plugin):
    """Finds out what system a client runs, as far as p0f can tell by the shape of its packets."""

    def register(self, qp: Site, socket: str, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "version", "local_ip", "timeout")
        if not socket.startswith("/"):
            raise ValueError(f"{socket!r} is no path of a socket, such as /run/p0f.socket")
        self._place = Place.parse(socket, 0)
        self._timeout = seconds(options, "timeout", 3)
        self._local_ip = options.get("local_ip", "")
        if self._local_ip:
            ipaddress.IPv4Address(self._local_ip)
        self._version = options.get("version", "3")
        if self._version not in ("2", "3"):
            raise ValueError(f"version {self._version!r} is neither 3 nor 2")

    @blocking
    def hook_connect(self, transaction: Transaction) -> Result:
        try:
            address = ipaddress.ip_address(self.connection.remote_ip.partition("%")[0])
        except ValueError:
            self.log(LOGINFO, "skip, the client has no IP address")
            return DECLINED
        if self._version == "2" and address.version == 6:
            self.log(LOGINFO, "skip, p0f 2 knows no IPv6")
            return DECLINED
        ask = self._ask if self._version == "3" else self._ask_old
        try:
            with Stream(self._place, self._timeout) as stream:
                found = ask(stream, address)
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, {self._place}: {error}")
            return DECLINED
        if found is None:
            self.log(LOGINFO, "skip, no match")
            return DECLINED
        self.connection.notes["p0f"] = found
        names = (found.get(name) for name in ("genre", "detail"))
        self.log(LOGINFO, " ".join(str(name) for name in names if name) or "skip, no system is known")
        return DECLINED

    def _ask(self, stream: Stream, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> _Fingerprint | None:
        """What p0f 3 knows, None if that is nothing. Raises OSError and ValueError."""
        stream.send(_QUERY.pack(_ASK, address.version, address.packed))
        magic, status, *values = _ANSWER.unpack(stream.receive_exactly(_ANSWER.size))
        if magic != _ANSWERED or status not in (_FOUND, _NO_MATCH):
            raise ValueError("it does not understand the question" if magic == _ANSWERED else "this is no p0f 3")
        return _with_old_names(dict(zip(_FIELDS, map(_plain, values), strict=True))) if status == _FOUND else None

    def _ask_old(self, stream: Stream, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> _Fingerprint | None:
        """What p0f 2 knows, None if that is nothing. Raises OSError and ValueError."""
        peer = self.connection
        here = ipaddress.IPv4Address(self._local_ip or peer.local_ip)
        identity = self.qp.rng.getrandbits(32)
        stream.send(
            _OLD_QUERY.pack(
                _OLD_MAGIC, _OLD_ASK, identity, address.packed, here.packed, peer.remote_port, peer.local_port
            )
        )
        answer = _OLD_ANSWER.unpack(stream.receive_exactly(_OLD_ANSWER.size))
        magic, echo, status, genre, detail, distance, link, *_, uptime = answer
        if (magic, echo) != (_OLD_MAGIC, identity) or status not in (_OLD_FOUND, _OLD_NO_MATCH):
            raise ValueError("it does not understand the question" if magic == _OLD_MAGIC else "this is no p0f 2")
        names = ("genre", "detail", "distance", "link", "uptime")
        values = map(_plain, (genre, detail, distance, link, uptime))
        return dict(zip(names, values, strict=True)) if status == _OLD_FOUND else None


def _with_old_names(found: dict[str, str | int]) -> _Fingerprint:
    """The fields of version 3, and what others may look for by the names of version 2."""
    if found["os_name"]:
        found |= {"genre": f"{found['os_name']} {found['os_flavor']}".strip()}
        found |= {"link": found["link_type"], "uptime": found["uptime_min"]}
    return found


def _plain(value: bytes | int) -> str | int:
    """A field of an answer: text ends at the first null."""
    return value.partition(b"\0")[0].decode("utf-8", "replace") if isinstance(value, bytes) else value
