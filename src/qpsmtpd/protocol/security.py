"""What is known about a connection that nobody can listen to, as one value however it came about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["NO_BINDINGS", "ClientCertificate", "Security"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._\-]")

NO_BINDINGS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that a client has shown."""

    subject: str
    """Its subject as one line, such as `CN=client.example,O=Example`; as sent, so escape it before use."""

    verified: bool
    """Whether it leads to a certificate authority that this server trusts."""

    der: bytes = b""
    """The certificate itself, where it is known."""


@dataclass(frozen=True, slots=True)
class Security:
    """The encryption of a connection: by STARTTLS, from its start, or by a proxy in front."""

    version: str
    """The protocol, such as `TLSv1.3`."""

    cipher: str
    """The cipher suite, by OpenSSL's name."""

    server_name: str | None = None
    """The host name that the client has asked for (SNI), in A-labels."""

    client_certificate: ClientCertificate | None = None
    """What the client has shown of itself; None if nothing."""

    bindings: Mapping[str, bytes] = field(default_factory=lambda: NO_BINDINGS, repr=False)
    """Channel bindings by type (RFC 5929), such as `tls-server-end-point`; they tie SASL to this channel."""

    def __str__(self) -> str:
        """Version and cipher in harmless characters, as logs and trace fields show them."""
        return f"{_UNSAFE.sub('?', self.version[:32])} {_UNSAFE.sub('?', self.cipher[:64])}"
