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

Which certificate a client gets. A server looks into the ClientHello for the name (SNI, by `hello`) and sets the
context before OpenSSL sees any of it. `SSLContext.sni_callback` would do this too, but Python decodes the name
as ASCII around the callback, so that a name of other octets prints a traceback to standard error, at the will of any
client; and the callback is no business of ours in a context of the embedder's, where the name is of interest too. The look
is lazy: what is not understood, or too long, is OpenSSL's to judge, under the default certificate.

Channel bindings (RFC 5929) need the server's own certificate, and `ssl` does not give it: its
files are read here, and `x509` understands as much of them as is needed.

Nothing in here knows a socket, a thread or the session.
"""

import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpsmtpd.config import ConfigError, fingerprint
from qpsmtpd.protocol import ClientCertificate, Security
from qpsmtpd.session.hello import HELLO_LIMIT, client_hello, server_name
from qpsmtpd.session.x509 import certificate_expiry, certificate_names, certificate_subject, server_end_point

__all__ = ["ServerTls", "TlsChannel", "TlsError", "TlsSetupError"]

_RECHECK = 1.0  # seconds between two looks at the files
_RECORD = 16_384  # the most plaintext in one (RFC 8446 section 5.1)


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
        hello = client_hello(data[:HELLO_LIMIT])
        if hello is None and len(data) < HELLO_LIMIT and not self._ended:
            return False
        self._hello = None
        self._server_name = server_name(hello or b"")
        if self._choose is not None:
            context, self._certificate = self._choose(self._server_name)
            if context is not self._object.context:
                self._object.context = context
        return True

    def read(self) -> bytes:
        """All the plaintext there is now, after the handshake; often none, and `eof` tells whether more may come.

        Raises TlsError for records that are none.
        """
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
        return [fingerprint(path) for path in (*(path for pair in self._files for path in pair), self._ca) if path]

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
