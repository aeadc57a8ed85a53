"""Certificates for trials."""

import datetime as dt
import ipaddress
import ssl
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from qpsmtpd.certificates import make_self_signed
from qpsmtpd.config import ConfigError
from qpsmtpd.session.tls import ServerTls, TlsChannel


def test_a_certificate_and_its_key_are_written(tmp_path):
    directory = tmp_path / "new" / "ssl"
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    paths = make_self_signed(directory, "mx.example.org", days=3)
    assert paths == (directory / "mx.example.org.crt", directory / "mx.example.org.key")
    certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
    key = load_pem_private_key(paths[1].read_bytes(), None)
    assert certificate.public_key() == key.public_key()
    assert key.curve.name == "secp256r1"
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "CN=mx.example.org"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mx.example.org"]
    assert certificate.not_valid_before_utc <= before
    assert dt.timedelta(days=3) <= certificate.not_valid_after_utc - before < dt.timedelta(days=3, seconds=60)


def test_nobody_else_may_read_the_key(tmp_path):
    _, key = make_self_signed(tmp_path, "mx.example.org")
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_written_as_one(tmp_path, address):
    path, _ = make_self_signed(tmp_path, address)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.IPAddress(ipaddress.ip_address(address))]


@pytest.mark.parametrize("host", ["localhost", "mx.example.org", "127.0.0.1", "_mx-1.xn--bcher-kva.example"])
def test_who_trusts_it_can_verify_it_however_strictly(tmp_path, host):
    paths = make_self_signed(tmp_path, host)
    context = ssl.create_default_context(cafile=paths[0])
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ServerTls(paths).channel()
    client = TlsChannel(context, server_side=False, server_hostname=host)
    while not client.handshake():
        server.receive_data(client.data_to_send())
        server.handshake()
        client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    assert server.handshake()


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_nothing_is_written_over_and_no_half_is_left(tmp_path, suffix):
    old = tmp_path / f"mx.example.org.{suffix}"
    old.write_text("precious")
    with pytest.raises(ConfigError, match=f"^{old}: this exists already"):
        make_self_signed(tmp_path, "mx.example.org")
    assert old.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "../up", "a/b", "a b", "mx.example.org\n", "bücher.example", "-x", "*", "a.*.b", "x" * 65]
)  # fmt: skip
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is no host name"):
        make_self_signed(tmp_path / "ssl", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [0, -1, 10**9])
def test_it_is_good_for_a_sensible_time(tmp_path, days):
    with pytest.raises(ConfigError, match=f"{days} days"):
        make_self_signed(tmp_path, "mx.example.org", days)


def test_a_directory_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"^{tmp_path}/file/mx.example.org.key: "):
        make_self_signed(tmp_path / "file", "mx.example.org")


def test_without_the_library_the_remedy_is_told(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"pip install qpsmtpd\[tls\]"):
        make_self_signed(tmp_path, "mx.example.org")
