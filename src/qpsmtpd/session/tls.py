"""TLS as bytes in, bytes out: what sits between a transport and the protocol.

Theory of operation. OpenSSL works on two memory buffers (`ssl.MemoryBIO`) instead of a socket:
ciphertext that has come is put into one, ciphertext to be sent is taken from the other. Every
call goes on as far as the bytes at hand allow, and no call ever waits. A `TlsChannel` has
three states: handshake, open, and ended (by either side). The peer's data may come with the
last flight of its handshake; it is then in the incoming buffer, and `read` gives it. What comes
in one piece is understood as if it had come in many: plaintext before a bad record is given
first, and the fault is told by the next `read`.

Memory. The incoming buffer holds what was given since the last `handshake` or `read`, and beyond that
at most one record that is not whole (16 KiB and some). A message of a handshake is OpenSSL's while it is
not whole, 128 KiB at most; a longer one is refused by its header. What is answered without being asked
(an alert, a KeyUpdate) waits in the outgoing buffer, and is no longer than what asked for it.

Which certificate a client gets. A server looks into the ClientHello for the name (SNI) and sets the
context before OpenSSL sees any of it. `SSLContext.sni_callback` would do this too, but Python decodes the name
as ASCII around the callback, so that a name of other octets prints a traceback to standard error, at the will of any
client; and the callback is no business of ours in a context of the embedder's, where the name is of interest too. The look
is lazy: what is not understood, or too long, is OpenSSL's to judge, under the default certificate.

Channel bindings (RFC 5929) need the server's own certificate, and `ssl` does not give it: its
files are read here, by the smallest part of DER that serves. The same part tells the names
in a certificate, and when it expires.

Nothing in here knows a socket, a thread or the session.
"""

import datetime as dt
import hashlib
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import ClientCertificate, Security

__all__ = ["ServerTls", "TlsChannel", "TlsError", "TlsSetupError"]

_RECHECK = 1.0  # seconds between two looks at the files
_RECORD = 16_384  # the most plaintext in one (RFC 8446 section 5.1)
_HELLO = 16_384  # octets of a ClientHello that are looked at; real ones have 2,000
_HELLO_RECORDS = 64  # that it may be spread over; more of them are there to cost time


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
        choose: Callable[[str | None], tuple[ssl.SSLContext, bytes]] | None = None,
    ) -> None:
        """`server_hostname` is whom a client expects.

        A server's `choose` gives for the name a client asks for, None if for none, the context to go on with
        and the certificate in it, in DER. Contexts may differ in the certificate alone.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._verifies = context.verify_mode is not ssl.CERT_NONE
        self._server_side = server_side
        self._server_name = server_hostname
        self._choose = choose
        self._certificate = b""  # a server's own
        self._hello: bytes | None = b"" if server_side else None  # until it is whole
        self._ended = False
        self._shaken = False
        self._closed = False
        self._eof = False
        self._fault = ""
        self._security: Security | None = None

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext from the peer; empty bytes say that it has closed its side. What follows the end is lost."""
        if self._ended or self._eof:
            return
        if data:
            self._incoming.write(data)
        else:
            self._ended = True
            self._incoming.write_eof()
        if self._hello is not None:
            self._hello += data

    def handshake(self) -> bool:
        """Go on with the handshake; true once it is done. Raises TlsError if it has failed."""
        if self._shaken:
            return True
        if self._fault:
            raise TlsError(self._fault)
        if self._hello is not None and not self._read_hello(self._hello):
            return False
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._eof, self._fault = True, _reason(error)
            raise TlsError(self._fault) from error
        self._shaken = True
        self._security = self._agreed()
        return True

    def _read_hello(self, data: bytes) -> bool:
        """Choose by the ClientHello; false while more of it must come."""
        hello = client_hello(data[:_HELLO])
        if hello is None and len(data) < _HELLO and not self._ended:
            return False
        self._hello = None
        self._server_name = server_name(hello or b"")
        if self._choose is not None:
            context, self._certificate = self._choose(self._server_name)
            if context is not self._object.context:
                self._object.context = context
        return True

    def read(self) -> bytes:
        """All the plaintext there is now, after the handshake. Raises TlsError for records that are none."""
        assert self._shaken, "plaintext comes behind the handshake"
        pieces: list[bytes] = []
        try:
            while not self._eof:
                piece = self._object.read(_RECORD)
                self._eof = not piece
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # the protocol above knows where a message ends
            self._eof = True
        except ssl.SSLError as error:
            self._eof, self._fault = True, _reason(error)
        if self._fault and not pieces:
            raise TlsError(self._fault)
        return b"".join(pieces)

    @property
    def eof(self) -> bool:
        """Whether no more plaintext will come: the peer has closed, with or without notice, or its records are bad."""
        return self._eof

    def write(self, data: bytes) -> None:
        """Encrypt plaintext for the peer, after the handshake; nothing happens once the channel is closed."""
        assert self._shaken, "plaintext goes behind the handshake"
        if data and not self._closed:
            try:
                self._object.write(data)
            except ssl.SSLError:  # it is broken, and `read` tells
                self._closed = True

    def data_to_send(self) -> bytes:
        """Ciphertext that waits to be sent, alerts included."""
        return self._outgoing.read()

    def close(self) -> None:
        """Say that nothing more comes from this side (close_notify). What has come and was not read is lost."""
        if self._shaken and not self._closed:
            self._closed = True
            try:
                self._object.unwrap()
            except ssl.SSLError:  # the peer's own close_notify is not waited for
                return

    @property
    def security(self) -> Security:
        """What the handshake has come to; also when the channel has ended."""
        assert self._security is not None, "nothing is agreed before the handshake"
        return self._security

    def _agreed(self) -> Security:
        cipher = self._object.cipher()
        return Security(
            self._object.version() or "TLS",
            cipher[0] if cipher else "unknown",
            self._server_name,
            self._client_certificate() if self._server_side else None,
            self._bindings(),
        )

    def _client_certificate(self) -> ClientCertificate | None:
        der = self._object.getpeercert(binary_form=True)
        return ClientCertificate(certificate_subject(der), self._verifies, der) if der else None

    def _bindings(self) -> Mapping[str, bytes]:
        bindings: dict[str, bytes] = {}
        der = self._certificate if self._server_side else self._object.getpeercert(binary_form=True)
        end_point = server_end_point(der) if der else None
        if end_point is not None:
            bindings["tls-server-end-point"] = end_point
        # There is none in TLS 1.3 (RFC 8446), and in a session that is resumed it may be another channel's (RFC 7627).
        if self._object.version() in ("TLSv1", "TLSv1.1", "TLSv1.2") and not self._object.session_reused:
            unique = self._object.get_channel_binding("tls-unique")
            if unique:
                bindings["tls-unique"] = unique
        return bindings


def _reason(error: ssl.SSLError) -> str:
    reason = (error.reason or error.strerror or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return f"{reason}: {error.verify_message}"
    return reason


# The certificates of a server


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The certificates of one reading of the files: contexts, with the certificate in each in DER."""

    default: tuple[ssl.SSLContext, bytes]
    by_name: Mapping[str, tuple[ssl.SSLContext, bytes]]

    def choose(self, name: str | None) -> tuple[ssl.SSLContext, bytes]:
        """The certificate for a host: by its name, by a wildcard, or the default."""
        name = (name or "").lower().removesuffix(".")
        return self.by_name.get(name) or self.by_name.get(f"*.{name.partition('.')[2]}") or self.default


class ServerTls:
    """The certificates of a server: which one a client gets, and the new one when files change."""

    def __init__(
        self,
        *pairs: tuple[Path, Path],
        ca: Path | None = None,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        ciphers: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        on_error: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`pairs` are files with a certificate (and its chain) and a key, in PEM; the first is for whoever
        asks for no name that another one has.

        With `ca`, a file with authorities, clients are asked for a certificate, and those of the authorities are
        believed. A client need not have one; but one that cannot be verified breaks the handshake: OpenSSL would
        leave that to a callback, and Python does not give it. Nor are the authorities' names sent, by which a client
        could know. So `ca` is for clients that one knows, not for a server that is to take mail from anybody.

        `on_error` is told of a certificate that has expired, and what is wrong with files that have changed;
        the old ones then stay. Raises TlsSetupError.
        """
        if not pairs:
            raise TlsSetupError("there is no certificate")
        self._files = pairs
        self._ca = ca
        self._minimum = minimum
        self._ciphers = ciphers
        self._clock = clock
        self._wall = wall
        self._on_error = on_error
        self._seen = self._fingerprints()
        self._loaded = self._load()
        self._checked = clock()

    @staticmethod
    def of_context(context: ssl.SSLContext) -> "ServerTls":
        """TLS by a context of the embedder's own; it is used as it is, and never changed."""
        return _OfContext(context)

    def channel(self) -> TlsChannel:
        """The server's side of a new connection, with the certificates of the moment."""
        loaded = self._current()
        return TlsChannel(loaded.default[0], server_side=True, choose=loaded.choose)

    def _current(self) -> _Loaded:
        now = self._clock()
        if now - self._checked >= _RECHECK:
            self._checked = now
            seen = self._fingerprints()
            if seen != self._seen:
                self._seen = seen  # from before the files are read: what changes meanwhile is seen the next time
                try:
                    self._loaded = self._load()
                except TlsSetupError as error:
                    self._on_error(f"{error}; the old certificate stays in use")
        return self._loaded

    def _fingerprints(self) -> Sequence[object]:
        return [_fingerprint(path) for path in (*(path for pair in self._files for path in pair), self._ca) if path]

    def _load(self) -> _Loaded:
        pairs = [self._load_pair(certificate, key) for certificate, key in self._files]
        by_name: dict[str, tuple[ssl.SSLContext, bytes]] = {}
        for pair in pairs:
            for name in certificate_names(pair[1]):
                by_name.setdefault(name, pair)
        return _Loaded(pairs[0], by_name)

    def _load_pair(self, certificate: Path, key: Path) -> tuple[ssl.SSLContext, bytes]:
        pem = _first_certificate(certificate)
        if "PRIVATE KEY-----" not in _text(key):
            raise TlsSetupError(f"{key}: this is no private key in PEM")
        try:
            der = ssl.PEM_cert_to_DER_cert(pem)
        except ValueError as error:
            raise TlsSetupError(f"{certificate}: this certificate is damaged") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        self._load_key(context, certificate, key)
        if self._ciphers:
            try:
                context.set_ciphers(self._ciphers)
            except ssl.SSLError as error:
                raise TlsSetupError(f"tls_ciphers: {self._ciphers!r} names no cipher suite") from error
        if self._ca is not None:
            _first_certificate(self._ca)
            try:
                context.load_verify_locations(self._ca)
            except OSError as error:
                raise TlsSetupError(f"{self._ca}: {_complaint(error)}") from error
            context.verify_mode = ssl.CERT_OPTIONAL
        expiry = certificate_expiry(der)
        if expiry is not None and expiry.timestamp() < self._wall():
            self._on_error(f"{certificate}: this certificate has expired, on {expiry:%Y-%m-%d}; put a new one there")
        return context, der

    @staticmethod
    def _load_key(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        def refuse() -> str:  # OpenSSL would ask at the terminal
            raise TlsSetupError(f"{key}: this key has a pass phrase; `openssl pkey -in {key}` writes it without one")

        try:
            context.load_cert_chain(certificate, key, refuse)
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
                raise TlsSetupError(f"{key}: this key does not belong to the certificate in {certificate}") from error
            raise TlsSetupError(f"{certificate} or {key}: {_complaint(error)}") from error
        except OSError as error:  # it was there a moment ago
            raise TlsSetupError(f"{certificate} or {key}: {_complaint(error)}") from error


class _OfContext(ServerTls):
    """TLS by a context that is not ours, about whose files nothing is known."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def channel(self) -> TlsChannel:
        return TlsChannel(self._context, server_side=True)


_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _text(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise TlsSetupError(f"{path}: {_complaint(error)}") from error


def _first_certificate(path: Path) -> str:
    block = _PEM.search(_text(path))
    if block is None:
        raise TlsSetupError(f"{path}: this is no certificate in PEM")
    return block[0]


def _complaint(error: OSError) -> str:
    return _reason(error) if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


# As much of a ClientHello as is needed (RFC 8446 sections 4.1.2 and 5.1): total functions, any bytes in

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = b"\x16", b"\x01", b"\0\0", b"\0"
_VERSION_AND_RANDOM = 2 + 32
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,255}")


def _vector(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """What stands behind a length of some octets, as much of it as there is, and where it should end."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    return data[start:end], end


def client_hello(records: bytes) -> bytes | None:
    """The ClientHello that a connection begins with, its header left out; None while it is not whole.

    Of what is none, nothing.
    """
    message, at = b"", 0
    for _ in range(_HELLO_RECORDS):
        if at >= len(records):
            return None
        if records[at : at + 1] != _HANDSHAKE:
            return b""
        fragment, at = _vector(records, at + 3, 2)
        message += fragment
        if message and message[:1] != _CLIENT_HELLO:
            return b""
        hello, end = _vector(message, 1, 3)
        if end <= len(message):
            return hello
    return None if at > len(records) else b""


def server_name(hello: bytes) -> str | None:
    """The host that a client asks for (RFC 6066 section 3); None if for none, or one that cannot be."""
    at = _VERSION_AND_RANDOM
    for width in (1, 2, 1):  # the session's identity, cipher suites, compression
        _, at = _vector(hello, at, width)
    extensions, _ = _vector(hello, at, 2)
    at = 0
    while at < len(extensions):
        kind = extensions[at : at + 2]
        data, at = _vector(extensions, at + 2, 2)
        if kind == _SERVER_NAME:
            names, _ = _vector(data, 0, 2)  # a list, but there is one type of names, and one name of each
            name, _ = _vector(names, 1, 2)
            return name.decode() if names[:1] == _HOST_NAME and _HOST.fullmatch(name) else None
    return None


# As much of X.509 as is needed: total functions, any bytes in

_SEQUENCE, _SET, _OID, _OCTETS, _EXTENSIONS, _DNS_NAME = 0x30, 0x31, 0x06, 0x04, 0xA3, 0x82
_UTC_TIME = 0x17
_VALIDITY, _SUBJECT = 3, 4  # places in a certificate
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
        if size == 0x80:  # an indefinite length is BER
            return
        if size > 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(der[at : at + width]), at + width
        if at + size > len(der):
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


def _part(der: bytes, index: int) -> bytes:
    parts = _tbs(der)
    return parts[index][1] if index < len(parts) else b""


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


def certificate_expiry(der: bytes) -> dt.datetime | None:
    """The last moment at which a certificate is good; None if it does not say so."""
    validity = list(_elements(_part(der, _VALIDITY)))
    if len(validity) != 2:
        return None
    tag, content = validity[1]
    text = content.decode("latin-1")
    if tag == _UTC_TIME:  # of two digits for the year (RFC 5280 section 4.1.2.5.1)
        text = ("20" if text < "50" else "19") + text
    try:
        return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def certificate_subject(der: bytes) -> str:
    """The subject of a certificate as one line, `CN=client.example,O=Example` (RFC 4514, other types by number)."""
    relatives: list[str] = []
    for tag, relative in _elements(_part(der, _SUBJECT)):
        words: list[str] = []
        for _, attribute in _elements(relative) if tag == _SET else ():
            pair = list(_elements(attribute))
            if len(pair) == 2 and pair[0][0] == _OID:
                kind, value = pair[0][1], pair[1][1].decode("utf-8", "replace")
                words.append(f"{_ATTRIBUTES.get(kind) or _dotted(kind)}={_SPECIAL.sub(_escape, value)}")
        relatives.append("+".join(words))
    return ",".join(filter(None, reversed(relatives)))


_SPECIAL = re.compile(r'^[ #]|[,+"\\<>;]|[\x00-\x1f\x7f-\x9f\u2028\u2029]| \Z')


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return f"\\{char}" if char.isprintable() else "".join(f"\\{octet:02x}" for octet in char.encode())


def _dotted(oid: bytes) -> str:
    """An object identifier in its usual form, `1.2.840.113549`."""
    arcs, arc = [0], 0
    for octet in oid:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            if len(arcs) == 1:  # the first two are one number (X.690 section 8.19.4)
                arcs[0] = min(arc // 40, 2)
                arc -= 40 * arcs[0]
            arcs.append(arc)
            arc = 0
    return ".".join(map(str, arcs))


def server_end_point(der: bytes) -> bytes | None:
    """The channel binding tls-server-end-point; None where the RFC defines none, as for Ed25519.

    Nor is there one for RSASSA-PSS, which names its hash elsewhere, and which no authority signs servers with.
    """
    certificate = _inside(der, _SEQUENCE)
    algorithm = list(_elements(certificate[1][1])) if len(certificate) > 1 else []
    name = _SIGNATURE_HASHES.get(algorithm[0][1]) if algorithm else None
    return hashlib.new(name, der).digest() if name is not None else None
