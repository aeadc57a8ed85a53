"""TLS as bytes in, bytes out: what sits between a transport and the protocol.

Theory of operation. OpenSSL works on two memory buffers (`ssl.MemoryBIO`) instead of a socket:
ciphertext that has come is put into one, ciphertext to be sent is taken from the other. Every
call goes on as far as the bytes at hand allow, and no call ever waits. A `TlsChannel` has
three states: handshake, open, and ended (by either side). The peer's data may come with the
last flight of its handshake; it is then in the incoming buffer, and `read` gives it.

The incoming buffer holds no more than was given since the last call that consumed it, and
at most one record (16 KiB and some) that is not whole; `read` and `handshake` consume all
they can, so whoever calls them after each `receive_data` bounds it. OpenSSL itself bounds the
messages of a handshake. What is answered without being asked (a KeyUpdate, an alert) waits in the
outgoing buffer, and grows by less than what came in.

Channel bindings (RFC 5929) need the server's own certificate, and `ssl` does not give it: its
files are read here, by the smallest part of DER that serves. The same part tells the names
in a certificate, by which SNI chooses.

Nothing in here knows a socket, a thread or the session.
"""

import hashlib
import re
import ssl
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import ClientCertificate, Security

__all__ = ["ServerTls", "TlsChannel", "TlsError", "TlsSetupError"]

_RECHECK = 1.0  # seconds between two looks at the files
_READ = 65_536


class TlsError(Exception):
    """The peer's handshake or records are no good: the connection must end."""


class TlsSetupError(ConfigError):
    """A certificate, a key or a setting of TLS that an administrator must mend."""


class TlsChannel:
    """One TLS connection, either side of it, between bytes and bytes."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        certificates: Mapping[ssl.SSLContext, bytes] | None = None,
        asked_name: Callable[[ssl.SSLObject], str | None] | None = None,
    ) -> None:
        """`server_hostname` is whom a client expects. A server's `certificates` are in DER, by their
        contexts, and `asked_name` tells which host a client has asked for.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._server_side = server_side
        self._certificates = certificates or {}
        self._server_hostname = server_hostname
        self._asked_name = asked_name
        self._shaken = False
        self._closed = False
        self._eof = False

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext from the peer; empty bytes say that it has closed its side."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def handshake(self) -> bool:
        """Go on with the handshake; true once it is done. Raises TlsError if it has failed."""
        if self._shaken:
            return True
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        self._shaken = True
        return True

    def read(self) -> bytes:
        """All the plaintext there is now. Raises TlsError for records that are none."""
        pieces: list[bytes] = []
        try:
            while not self._eof:
                piece = self._object.read(_READ)
                if not piece:
                    self._eof = True
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # the protocol above knows where a message ends
            self._eof = True
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from error
        return b"".join(pieces)

    @property
    def eof(self) -> bool:
        """Whether the peer has finished: `read` gives nothing more."""
        return self._eof

    def write(self, data: bytes) -> None:
        """Encrypt plaintext for the peer; nothing happens once the channel is closed."""
        if data and not self._closed:
            try:
                self._object.write(data)
            except ssl.SSLError:  # it is broken, and `read` has told
                self._closed = True

    def data_to_send(self) -> bytes:
        """Ciphertext that waits to be sent, alerts included."""
        return self._outgoing.read()

    def close(self) -> None:
        """Say that nothing more comes from this side (close_notify)."""
        if self._shaken and not self._closed:
            self._closed = True
            try:
                self._object.unwrap()
            except (ssl.SSLError, OSError):  # the peer's own close_notify is not waited for
                return

    @property
    def security(self) -> Security:
        """What the handshake has come to."""
        cipher = self._object.cipher()
        return Security(
            self._object.version() or "TLS",
            cipher[0] if cipher else "unknown",
            self._server_hostname if self._asked_name is None else self._asked_name(self._object),
            self._client_certificate() if self._server_side else None,
            self._bindings(),
        )

    def _client_certificate(self) -> ClientCertificate | None:
        der = self._object.getpeercert(binary_form=True)
        if not der:
            return None
        verified = self._object.context.verify_mode is not ssl.CERT_NONE
        return ClientCertificate(certificate_subject(der), verified, der)

    def _bindings(self) -> Mapping[str, bytes]:
        bindings: dict[str, bytes] = {}
        if self._server_side:
            der = self._certificates.get(self._object.context)
        else:
            der = self._object.getpeercert(binary_form=True)
        end_point = server_end_point(der) if der else None
        if end_point is not None:
            bindings["tls-server-end-point"] = end_point
        if self._object.version() in ("TLSv1", "TLSv1.1", "TLSv1.2"):  # there is none in TLS 1.3 (RFC 8446)
            unique = self._object.get_channel_binding("tls-unique")
            if unique:
                bindings["tls-unique"] = unique
        return bindings


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or error.strerror or type(error).__name__).replace("_", " ").lower()


# The certificates of a server


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate with its key, as loaded."""

    context: ssl.SSLContext
    der: bytes
    names: tuple[str, ...]

    def serves(self, name: str) -> bool:
        """Whether this certificate is good for a host, itself or by a wildcard."""
        name = name.lower()
        return name in self.names or f"*.{name.partition('.')[2]}" in self.names


class ServerTls:
    """The certificates of a server: which one a client gets, and the new one when files change."""

    def __init__(
        self,
        *pairs: tuple[Path, Path],
        ca: Path | None = None,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        ciphers: str = "",
        clock: Callable[[], float] = time.monotonic,
        on_error: Callable[[str], object] = lambda _: None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`pairs` are files with a certificate (and its chain) and a key, in PEM; the first is for whoever
        asks for no name that another one has.

        Clients are asked for a certificate if `ca` is given, a file with the authorities whose
        certificates are believed. They need not have one; but one that cannot be verified breaks
        the handshake, since OpenSSL leaves no other choice.

        `on_error` is told what is wrong with files that have changed; the old ones then stay.
        With a `context` of the embedder's own it is used as it is, and never changed.
        Raises TlsSetupError.
        """
        self._own = context
        if context is not None:
            return
        if not pairs:
            raise TlsSetupError("there is no certificate")
        self._files = pairs
        self._ca = ca
        self._minimum = minimum
        self._ciphers = ciphers
        self._clock = clock
        self._on_error = on_error
        self._asked: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()
        self._pairs: Sequence[_Pair] = ()
        self._seen = self._fingerprints()
        self._pairs = self._load()
        self._checked = clock()

    @classmethod
    def of_context(cls, context: ssl.SSLContext) -> "ServerTls":
        """TLS by a context of the embedder's own; it is used as it is, and never changed."""
        return cls(context=context)

    def channel(self) -> TlsChannel:
        """The server's side of a new connection, with the certificates of the moment."""
        if self._own is not None:
            return TlsChannel(self._own, server_side=True)
        pairs = self._current()
        certificates = {pair.context: pair.der for pair in pairs}
        return TlsChannel(pairs[0].context, server_side=True, certificates=certificates, asked_name=self._asked.get)

    def _current(self) -> Sequence[_Pair]:
        now = self._clock()
        if now - self._checked >= _RECHECK:
            self._checked = now
            seen = self._fingerprints()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._pairs = self._load()
                except TlsSetupError as error:
                    self._on_error(f"{error}; the old certificate stays in use")
        return self._pairs

    def _fingerprints(self) -> Sequence[object]:
        return [_fingerprint(path) for path in (*(path for pair in self._files for path in pair), self._ca) if path]

    def _load(self) -> Sequence[_Pair]:
        pairs = [self._load_pair(certificate, key) for certificate, key in self._files]

        def choose(channel: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            del context
            if name is not None:
                self._asked[channel] = name
                channel.context = next((pair.context for pair in pairs if pair.serves(name)), pairs[0].context)

        for pair in pairs:
            pair.context.sni_callback = choose
        return pairs

    def _load_pair(self, certificate: Path, key: Path) -> _Pair:
        block = _PEM.search(_text(certificate))
        if block is None:
            raise TlsSetupError(f"{certificate}: this is no certificate in PEM")
        secret = _text(key)
        if "PRIVATE KEY-----" not in secret:
            raise TlsSetupError(f"{key}: this is no private key in PEM")
        if "ENCRYPTED" in secret:
            raise TlsSetupError(f"{key}: this key has a pass phrase; `openssl pkey -in {key}` writes it without one")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsSetupError(f"{key}: this key does not belong to the certificate in {certificate}") from error
            raise TlsSetupError(f"{certificate} or {key}: {_reason(error)}") from error
        if self._ciphers:
            try:
                context.set_ciphers(self._ciphers)
            except ssl.SSLError as error:
                raise TlsSetupError(f"tls_ciphers: {self._ciphers!r} names no cipher suite") from error
        if self._ca is not None:
            _text(self._ca)
            try:
                context.load_verify_locations(self._ca)
            except ssl.SSLError as error:
                raise TlsSetupError(f"{self._ca}: this is no certificate in PEM: {_reason(error)}") from error
            context.verify_mode = ssl.CERT_OPTIONAL
        der = ssl.PEM_cert_to_DER_cert(block[0])
        return _Pair(context, der, certificate_names(der))


_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _text(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise TlsSetupError(f"{path}: {error.strerror}") from error


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


# As much of X.509 as is needed: total functions, any bytes in

_SEQUENCE, _SET, _OID, _OCTETS, _EXTENSIONS, _DNS_NAME = 0x30, 0x31, 0x06, 0x04, 0xA3, 0x82
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_ATTRIBUTES = {
    bytes.fromhex(oid): name
    for oid, name in {
        "550403": "CN",
        "550406": "C",
        "550407": "L",
        "550408": "ST",
        "55040a": "O",
        "55040b": "OU",
        "2a864886f70d010901": "emailAddress",
    }.items()
}
_SIGNATURE_HASHES = {
    bytes.fromhex(oid): name
    for oid, name in {
        "2a864886f70d010104": "sha256",  # MD5 and SHA-1 are replaced, RFC 5929 section 4.1
        "2a864886f70d010105": "sha256",
        "2a864886f70d01010b": "sha256",
        "2a864886f70d01010c": "sha384",
        "2a864886f70d01010d": "sha512",
        "2a864886f70d01010e": "sha224",
        "2a8648ce3d0401": "sha256",
        "2a8648ce3d040301": "sha224",
        "2a8648ce3d040302": "sha256",
        "2a8648ce3d040303": "sha384",
        "2a8648ce3d040304": "sha512",
    }.items()
}


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements in some DER, tag and content; what is cut off or of another form is left out."""
    at = 0
    while at + 2 <= len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size > 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(der[at : at + width]), at + width
        if at + size > len(der) or size == 0x80:
            return
        yield tag, der[at : at + size]
        at += size


def _inside(der: bytes, tag: int) -> list[tuple[int, bytes]]:
    """The elements inside the first one with this tag."""
    for found, content in _elements(der):
        if found == tag:
            return list(_elements(content))
    return []


def _tbs(der: bytes) -> list[tuple[int, bytes]]:
    """The elements of the signed part of a certificate, its version left out."""
    certificate = _inside(der, _SEQUENCE)
    parts = list(_elements(certificate[0][1])) if certificate else []
    return parts[1:] if parts and parts[0][0] == 0xA0 else parts


def certificate_names(der: bytes) -> tuple[str, ...]:
    """The host names in a certificate (subjectAltName), in lower case."""
    names: list[str] = []
    for tag, content in _tbs(der):
        if tag != _EXTENSIONS:
            continue
        for _, extension in _inside(content, _SEQUENCE):
            parts = list(_elements(extension))
            if parts and parts[0] == (_OID, _SUBJECT_ALT_NAME) and parts[-1][0] == _OCTETS:
                found = _inside(parts[-1][1], _SEQUENCE)
                names += [name.decode("latin-1").lower() for kind, name in found if kind == _DNS_NAME]
    return tuple(names)


def certificate_subject(der: bytes) -> str:
    """The subject of a certificate as one line, `CN=client.example,O=Example`."""
    parts = _tbs(der)
    words: list[str] = []
    for tag, relative in _elements(parts[4][1]) if len(parts) > 4 else ():
        for _, attribute in _elements(relative) if tag == _SET else ():
            pair = list(_elements(attribute))
            if len(pair) == 2 and pair[0][0] == _OID:
                name = _ATTRIBUTES.get(pair[0][1], pair[0][1].hex())
                words.append(f"{name}={pair[1][1].decode('utf-8', 'replace')}")
    return ",".join(reversed(words))


def server_end_point(der: bytes) -> bytes | None:
    """The channel binding tls-server-end-point; None where the RFC defines none, as for Ed25519."""
    certificate = _inside(der, _SEQUENCE)
    algorithm = list(_elements(certificate[1][1])) if len(certificate) > 1 else []
    name = _SIGNATURE_HASHES.get(algorithm[0][1]) if algorithm else None
    return hashlib.new(name, der).digest() if name is not None else None
