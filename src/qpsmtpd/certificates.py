"""A certificate for trials. The certificates of a real server come from an authority."""

import datetime as dt
import ipaddress
import os
import re
from pathlib import Path

from qpsmtpd.config import ConfigError

__all__ = ["make_self_signed"]

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_MOST_DAYS = 36_500


def make_self_signed(directory: Path, hostname: str, days: int = 30) -> tuple[Path, Path]:
    """Write `NAME.crt` and `NAME.key` into a directory, and give their paths. NAME is a host's name or address.

    The directory is made if need be. Raises ConfigError if the files are there already, if the name or the days are
    none, or if the library `cryptography` is not installed; OSError if the directory cannot be written.
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

    address = _address(hostname)
    if address is None and not _NAME.fullmatch(hostname):
        raise ConfigError(
            f"{hostname!r} is no host name and no address; other letters are written as A-labels (xn--...)"
        )
    if not 1 <= days <= _MOST_DAYS:
        raise ConfigError(f"a certificate is good for 1 to {_MOST_DAYS} days, not {days}")
    paths = directory / f"{hostname}.crt", directory / f"{hostname}.key"
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path}: this exists already; remove it first, or choose another directory")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    alternative = x509.DNSName(hostname) if address is None else x509.IPAddress(address)
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
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, data, mode in zip(
        paths, (certificate.public_bytes(serialization.Encoding.PEM), secret), (0o644, 0o600), strict=True
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return paths


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in text else ipaddress.ip_address(text)  # a zone means nothing to another host
    except ValueError:
        return None
