"""What is known about a connection, for as long as it lasts."""

import ipaddress
import re
from dataclasses import dataclass, field

from qpsmtpd.protocol import Authentication, ProxyHeader, Security

__all__ = ["Connection", "Peer", "is_ipv6", "is_localhost", "is_valid_ip", "plain_address"]

_HOST_CHARACTERS = re.compile(r"[^A-Za-z0-9.:\[\]\-]")


@dataclass(frozen=True, slots=True)
class Peer:
    """Both ends of a connection, as the listener knows them."""

    remote_ip: str = ""
    remote_port: int = 0
    local_ip: str = ""
    local_port: int = 0
    remote_host: str | None = None
    """The client's verified name, where somebody has looked it up."""
    remote_user: str | None = None
    """What an ident server said, where somebody has asked."""


@dataclass(slots=True)
class Connection:
    """A connection, as plugins see it."""

    peer: Peer
    id: str
    """Names this connection in the log and in trace fields."""

    started: float = 0.0
    """When it was accepted, in seconds since the epoch."""

    hello: str | None = None
    """`helo`, `ehlo` or `lhlo`, once the client has been greeted back."""

    hello_host: str | None = None
    """What the client called itself. Its word, unchecked."""

    relay_client: bool | None = None
    """Whether the client may relay: None while nobody has said."""

    security: Security | None = None
    """How the connection is encrypted: by us or by a proxy in front of us; None if it is not."""

    proxy: ProxyHeader | None = None
    """What a trusted proxy has said of the connection, with all its TLVs."""

    authentication: Authentication | None = None
    """How the client's last attempt to authenticate has ended."""

    notes: dict[str, object] = field(default_factory=dict[str, object])
    """Whatever plugins keep about this connection."""

    @property
    def remote_ip(self) -> str:
        """The client's address; an IPv4 address also where it came by an IPv6 socket."""
        return self.peer.remote_ip

    @property
    def remote_port(self) -> int:
        """The client's port."""
        return self.peer.remote_port

    @property
    def local_ip(self) -> str:
        """The address the client has connected to."""
        return self.peer.local_ip

    @property
    def local_port(self) -> int:
        """The port the client has connected to."""
        return self.peer.local_port

    @property
    def auth_user(self) -> str:
        """Who the client is by AUTH; empty if it has not authenticated."""
        return self.authentication.user if self.authentication is not None and self.authentication.succeeded else ""

    @property
    def auth_mechanism(self) -> str:
        """How the client has authenticated, in lower case; empty if it has not."""
        tried = self.authentication
        return tried.mechanism if tried is not None and tried.succeeded else ""

    @property
    def remote_host(self) -> str:
        """The client's name, reduced to what a name can hold, or its address in brackets."""
        return _HOST_CHARACTERS.sub("", self.peer.remote_host or f"[{self.peer.remote_ip}]")

    @property
    def remote_info(self) -> str:
        """The name as found, with the user where ident told one."""
        host = self.peer.remote_host or f"[{self.peer.remote_ip}]"
        return f"{self.peer.remote_user}@{host}" if self.peer.remote_user else host


def plain_address(address: str) -> str:
    """An IP address without scope, IPv4 where it is mapped into IPv6; other text as it is."""
    if ":" not in address and "%" not in address:
        return address
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(plain_address(address))
    except ValueError:
        return None


def is_valid_ip(address: str) -> bool:
    """Whether this is the IP address of some host: well formed, and not the broadcast address."""
    ip = _parsed(address)
    return ip is not None and int(ip) != 0xFFFFFFFF


def is_localhost(address: str) -> bool:
    """Whether this is an address of the loopback interface."""
    ip = _parsed(address)
    return ip is not None and ip.is_loopback


def is_ipv6(address: str) -> bool:
    """Whether this is an IPv6 address, and not an IPv4 one mapped into it."""
    ip = _parsed(address)
    return ip is not None and ip.version == 6
