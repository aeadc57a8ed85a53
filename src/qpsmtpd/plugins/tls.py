"""STARTTLS, and the certificates for it.

    tls [CERTIFICATE KEY [CA]]

CERTIFICATE (with its chain) and KEY are files in PEM, relative to the directory above `config`; without
them `ssl/qpsmtpd-server.crt` and `ssl/qpsmtpd-server.key` there. CA is the authority that has signed the
certificate; as in the original, nothing is asked of clients for it.

`config/tls_client_ca` names a file with authorities. Clients are then asked for a certificate; they need not
have one, but one that these authorities have not signed ends the handshake, so this is nothing for an MX.
Plugins see it as `connection.security.client_certificate`.

`config/tls_certificates` may name more certificates, `CERTIFICATE KEY` a line; the client's SNI chooses
among them. `config/tls_ciphers` limits the cipher suites of TLS 1.2, in the words of `openssl ciphers`.
Files are read again when they change; running sessions keep what they have.

The command line does the same: `qpsmtpd run --tls-cert FILE --tls-key FILE`; where both are given, the
command line counts.

TLS itself is done by the session: after a handshake that fails the connection is closed. AUTH is offered
under TLS alone, unless `config/tls_before_auth` says `0`.
"""

from functools import partial
from pathlib import Path

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.logs import LOGERROR
from qpsmtpd.session.tls import ServerTls
from qpsmtpd.site import Site


class Tls(Plugin):
    """Holds the certificates for STARTTLS."""

    def register(
        self, qp: Site, certificate: str = "ssl/qpsmtpd-server.crt", key: str = "ssl/qpsmtpd-server.key", ca: str = ""
    ) -> None:
        if qp.tls is not None:  # by the command line
            for setting in ("tls_certificates", "tls_client_ca", "tls_ciphers"):
                if qp.config(setting):
                    where = qp.settings.where(setting)
                    raise ConfigError(f"{where}: of no use beside --tls-cert; remove the one or the other")
            return
        directory = qp.settings.directory
        base = directory.parent if directory is not None else Path()
        pairs = [(base / certificate, base / key)]
        for line in qp.settings.lines("tls_certificates"):
            words = line.text.split()
            if len(words) != 2:
                raise ConfigError(f"{line.where}: a line has two words, CERTIFICATE KEY, but this is {line.text!r}")
            pairs.append((base / words[0], base / words[1]))
        if ca and not (base / ca).is_file():
            raise ConfigError(f"{base / ca}: there is no such file; leave out the third argument")
        authorities = qp.value("tls_client_ca")
        qp.tls = ServerTls(
            *pairs,
            ca=base / authorities if authorities else None,
            ciphers=qp.value("tls_ciphers"),
            clock=qp.clock,
            on_error=partial(qp.log, LOGERROR),
        )
