"""A certificate for trials. The certificates of a real server come from an authority."""

import datetime as dt
import ipaddress
import os
import re
from pathlib import Path

from qpsmtpd.config import ConfigError

__all__ = ["make_self_signed"]

_HOST = re.compile(
    r"(?=.{1,64}\Z)(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE
)
_YEARS = 100 * 366


def make_self_signed(directory: Path, hostname: str, days: int = 30) -> tuple[Path, Path]:
    """Write `NAME.crt` and `NAME.key` into a directory, and give their paths.

    The name is a host's, in A-labels, or an address. Who trusts the certificate can verify it by that name.
    Raises ConfigError for what is no name, if the files are there already, and without the library `cryptography`.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise ConfigError(
            "making certificates needs cryptography, which is not installed; run `pip install qpsmtpd[tls]`"
        ) from error

    if not 0 < days <= _YEARS:
        raise ConfigError(f"a certificate cannot be good for {days} days; 30 are usual for a trial")
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(hostname))
    except ValueError as error:
        if not _HOST.fullmatch(hostname):
            raise ConfigError(
                f"{hostname!r} is no host name (at most 64 characters, in A-labels) and no address"
            ) from error
        alternative = x509.DNSName(hostname)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname)])
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True, "key_cert_sign": True}
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)  # who checks strictly demands this of an authority
        .add_extension(identity, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths = directory / f"{hostname}.crt", directory / f"{hostname}.key"
    for path in paths:  # before any is written: no half of a pair is left
        if path.exists():
            raise ConfigError(f"{path}: this exists already; remove it first, or choose another directory")
    _write(paths[1], secret, 0o600)
    _write(paths[0], certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return paths


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file, never over an old one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
