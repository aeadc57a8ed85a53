"""A certificate for trials. The certificates of a real server come from an authority."""

import datetime as dt
import ipaddress
import os
from pathlib import Path

from qpsmtpd.config import ConfigError

__all__ = ["make_self_signed"]


def make_self_signed(directory: Path, hostname: str, days: int = 30) -> tuple[Path, Path]:
    """Write `NAME.crt` and `NAME.key` into a directory, and give their paths.

    Raises ConfigError if they are there already, or if the library `cryptography` is not.
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

    paths = directory / f"{hostname}.crt", directory / f"{hostname}.key"
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path}: this exists already; remove it first, or choose another directory")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(hostname))
    except ValueError:
        alternative = x509.DNSName(hostname)
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
