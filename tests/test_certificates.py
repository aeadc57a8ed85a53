"""Certificates for trials: they are good for what they are for, and nothing is overwritten."""

import datetime as dt
import ipaddress
import os
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qpsmtpd.certificates import make_self_signed
from qpsmtpd.config import ConfigError
from qpsmtpd.session.tls import ServerTls, TlsChannel, TlsError

HOST = "mx.example.test"


def parsed(paths):
    certificate, key = (path.read_bytes() for path in paths)
    return x509.load_pem_x509_certificate(certificate), load_pem_private_key(key, None)


def shake(paths, host, trusted):
    """A handshake with a client that trusts a file, and is strict about it."""
    context = ssl.create_default_context(cafile=trusted)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    channel = ServerTls(paths).channel()
    client = TlsChannel(context, server_side=False, server_hostname=host)
    client.handshake()
    channel.receive_data(client.data_to_send())
    channel.handshake()
    client.receive_data(channel.data_to_send())
    return client.handshake()


@pytest.mark.parametrize("host", [HOST, "localhost", "192.0.2.1", "2001:db8::1"])
def test_a_client_that_trusts_it_accepts_it_for_its_name_alone(tmp_path, host):
    paths = make_self_signed(tmp_path, host)
    assert shake(paths, host, paths[0])
    with pytest.raises(TlsError, match="mismatch"):
        shake(paths, "other.test", paths[0])


def test_nobody_else_accepts_it(tmp_path):
    paths = make_self_signed(tmp_path, HOST)
    with pytest.raises(TlsError, match="self-signed"):
        shake(paths, HOST, make_self_signed(tmp_path / "other", HOST)[0])


def test_a_wildcard_serves_the_names_under_it(tmp_path):
    paths = make_self_signed(tmp_path, "*.example.test")
    assert shake(paths, HOST, paths[0])


@pytest.mark.parametrize("host", [HOST, "192.0.2.1", "2001:db8::1", f"{'a' * 60}.{'b' * 60}.test"])
def test_the_certificate_says_what_it_was_made_for(tmp_path, host):
    certificate, key = parsed(make_self_signed(tmp_path, host))
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == key.public_key()
    assert isinstance(key.curve, ec.SECP256R1)
    (name,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name == (x509.IPAddress(ipaddress.ip_address(host)) if host[0] in "12" else x509.DNSName(host))


@pytest.mark.parametrize("days", [1, 30, 36_500])
def test_it_is_good_from_now_for_some_days(tmp_path, days):
    certificate, _ = parsed(make_self_signed(tmp_path, HOST, days))
    now = dt.datetime.now(dt.UTC)
    assert certificate.not_valid_before_utc < now
    assert abs(certificate.not_valid_after_utc - now - dt.timedelta(days=days)) < dt.timedelta(minutes=1)


def test_the_key_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        certificate, key = make_self_signed(tmp_path, HOST)
    finally:
        os.umask(before)
    assert (certificate, key) == (tmp_path / f"{HOST}.crt", tmp_path / f"{HOST}.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert certificate.stat().st_mode & 0o777 == 0o644


def test_the_directory_is_made(tmp_path):
    assert all(path.exists() for path in make_self_signed(tmp_path / "not" / "yet", HOST))


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_what_is_there_is_never_overwritten(tmp_path, suffix):
    precious = tmp_path / f"{HOST}.{suffix}"
    precious.write_text("precious")
    with pytest.raises(ConfigError, match=f"^{precious}: this exists already; remove it first"):
        make_self_signed(tmp_path, HOST)
    assert precious.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [precious]


@pytest.mark.parametrize("days", [0, -1, 36_501, 10**12])
def test_days_that_cannot_be_are_refused(tmp_path, days):
    with pytest.raises(ConfigError, match=f"for 1 to 36500 days, not {days}$"):
        make_self_signed(tmp_path / "new", HOST, days)
    assert not (tmp_path / "new").exists()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("../up.test")
@example("a/b")
@example("/etc/x")
@example("fe80::1%eth0")
@example("")
@example(".")
@example("-rf.test")
@example("mx.test\n")
@example("m\0x")
@example("münchen.test")
@example("a..b")
@example(f"{'a' * 64}.test")
@example(".".join(["a" * 60] * 5))
@given(st.text(max_size=30) | st.text("ab-.*/:%1", max_size=12))
def test_a_name_is_refused_or_two_files_are_written_there_and_nowhere_else(tmp_path_factory, name):
    directory = tmp_path_factory.mktemp("names") / "inner"
    refused = None
    try:
        paths = make_self_signed(directory, name)
    except ConfigError as error:
        refused = str(error)
    if refused is not None:
        assert refused.startswith(f"{name!r} is no host name")
        assert not directory.exists()
    else:
        ServerTls(paths)
        assert sorted(directory.iterdir()) == sorted(paths)
        assert not any(path.name.startswith("-") or "%" in path.name for path in paths)
    assert set(directory.parent.iterdir()) <= {directory}


def test_without_the_library_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"run `pip install qpsmtpd\[tls\]`$"):
        make_self_signed(tmp_path, HOST)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_directory_is_named(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(OSError, match=str(place)):
        make_self_signed(place, HOST)


def test_the_library_is_needed_for_trials_alone():
    source = Path(sys.modules[make_self_signed.__module__].__file__).read_text("utf-8")
    assert "\nfrom cryptography" not in source
    assert "\nimport cryptography" not in source
