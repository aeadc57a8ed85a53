"""TLS in memory: both sides are channels, and the ciphertext between them is cut, kept back and spoilt."""

import datetime as dt
import hashlib
import os
import ssl
import warnings
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.session import hello as sni
from qpsmtpd.session import tls
from qpsmtpd.session import x509 as ours
from qpsmtpd.session.tls import ServerTls, TlsChannel, TlsError, TlsSetupError

HOST = "mx.example.test"
AUTHORITY = trustme.CA()
RECORD = 16_384 + 256 + 5
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
FEW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self):
        return self.now


def write(directory, certificate, name="mx"):
    """Put a certificate of trustme's into files; replaces those there at once."""
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    for path, data in zip(paths, (chain, certificate.private_key_pem.bytes()), strict=True):
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.replace(path)
    return paths


def trusting(authority=AUTHORITY):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def carry(source, sink, sizes=()):
    """Move all ciphertext, cut at will; the handshake goes on behind each piece, and then plaintext is read."""
    data, plain = source.data_to_send(), b""
    at = 0
    for size in [*sizes, len(data)]:
        piece, at = data[at : at + size], at + size
        if piece:
            sink.receive_data(piece)
            if sink.handshake():
                plain += sink.read()
    return plain


def shake(server, context, host=HOST, sizes=()):
    """Perform a handshake in memory; gives both sides."""
    channel = server.channel()
    client = TlsChannel(context, server_side=False, server_hostname=host)
    while not client.handshake():
        carry(client, channel, sizes)
        carry(channel, client, sizes)
    carry(client, channel, sizes)
    carry(channel, client, sizes)
    assert channel.handshake()
    return client, channel


def hello(host=HOST, context=None):
    """What a client sends first."""
    client = TlsChannel(context or CLIENT, server_side=False, server_hostname=host)
    client.handshake()
    return client.data_to_send()


def names(client):
    """The host names in the certificate that a client got."""
    der = client._object.getpeercert(binary_form=True)
    extension = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


CLIENT = trusting()
ISSUED = AUTHORITY.issue_cert(HOST)
FLIGHT = hello()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tls"), ISSUED)


@pytest.fixture(scope="session")
def server(files):
    return ServerTls(files)


# Bytes


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_both_sides_agree_on_what_they_have(server, version):
    context = trusting()
    context.maximum_version = version
    client, channel = shake(server, context)
    theirs, ours = client.security, channel.security
    assert str(ours) == str(theirs)
    assert ours.version == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]
    assert ours.server_name == theirs.server_name == HOST
    assert ours.client_certificate is theirs.client_certificate is None


@FEW
@given(
    st.lists(st.binary(max_size=200), max_size=5),
    st.lists(st.binary(max_size=200), max_size=5),
    st.lists(st.integers(1, 300), max_size=40),
    st.sampled_from([TLS_1_2, TLS_1_3]),
)
def test_ciphertext_may_be_cut_anywhere(server, there, back, sizes, version):
    context = trusting()
    context.maximum_version = version
    client, channel = shake(server, context, sizes=sizes)
    for piece in there:
        client.write(piece)
    for piece in back:
        channel.write(piece)
    assert carry(client, channel, sizes) == b"".join(there)
    assert carry(channel, client, sizes) == b"".join(back)
    client.close()
    assert carry(client, channel, sizes) == b""
    assert channel.eof


def test_much_plaintext_goes_through_at_once(server):
    client, channel = shake(server, CLIENT)
    plain = os.urandom(3_000_000)
    channel.write(plain)
    client.receive_data(channel.data_to_send())
    assert client.read() == plain
    assert client._incoming.pending == 0


def test_plaintext_that_comes_with_the_last_flight_is_there_at_once(server):
    channel = server.channel()
    client = TlsChannel(CLIENT, server_side=False, server_hostname=HOST)
    client.handshake()
    carry(client, channel)
    client.receive_data(channel.data_to_send())
    assert client.handshake()
    client.write(b"EHLO client.example\r\n")
    channel.receive_data(client.data_to_send())
    assert channel.handshake()
    assert channel.read() == b"EHLO client.example\r\n"


def test_plaintext_waits_for_the_handshake(server):
    channel = server.channel()
    with pytest.raises(AssertionError):
        channel.write(b"too early")
    with pytest.raises(AssertionError):
        channel.read()


# Ends


def test_each_side_says_goodbye(server):
    client, channel = shake(server, CLIENT)
    client.write(b"last words")
    client.close()
    assert carry(client, channel) == b"last words"
    assert channel.eof
    channel.write(b"so long")
    channel.close()
    client.receive_data(channel.data_to_send())
    assert client.read() == b"so long"
    assert client.eof
    assert client.read() == channel.read() == b""


def test_a_stream_that_is_cut_off_is_an_end_and_no_exception(server):
    client, channel = shake(server, CLIENT)
    client.write(b"whole")
    client.write(b"cut off")
    channel.receive_data(client.data_to_send()[:-1])
    channel.receive_data(b"")
    assert not channel.eof
    assert channel.read() == b"whole"
    assert channel.eof
    assert channel.read() == b""


@pytest.mark.parametrize("kept", [1, 5, 6, 100, None])
def test_an_end_within_the_handshake_is_a_failure(server, kept):
    channel = server.channel()
    channel.receive_data(hello()[:kept])
    assert not channel.handshake()
    channel.receive_data(b"")
    with pytest.raises(TlsError, match="eof"):
        channel.handshake()


def test_a_client_that_goes_without_a_word_has_failed_too(server):
    channel = server.channel()
    channel.receive_data(b"")
    with pytest.raises(TlsError, match="eof"):
        channel.handshake()


def test_closing_never_raises_and_says_it_once(server):
    channel = server.channel()
    channel.close()  # there is nothing to say yet
    assert channel.data_to_send() == b""
    assert not channel._closed, "and it will be said"
    client, channel = shake(server, CLIENT)
    client.write(b"unread")
    channel.receive_data(client.data_to_send())
    channel.close()
    assert channel.data_to_send()
    channel.close()
    channel.write(b"nothing")
    assert channel.data_to_send() == b""


def test_a_broken_channel_may_be_written_to_and_closed(server):
    _, channel = shake(server, CLIENT)
    channel.receive_data(b"\x17\x03\x03\0\x20" + bytes(32))
    with pytest.raises(TlsError):
        channel.read()
    alert = channel.data_to_send()
    assert alert
    channel.write(b"is anybody there?")
    channel.close()
    channel.close()
    assert channel.data_to_send() == b""


# Faults of the peer


@FEW
@given(st.binary(min_size=5), st.lists(st.integers(1, 300), max_size=10))
def test_records_that_are_none_are_told_behind_the_plaintext_before_them(server, garbage, sizes):
    client, channel = shake(server, CLIENT)
    client.write(b"good")
    data, plain = client.data_to_send() + b"\xff" + garbage, b""
    at = 0
    with pytest.raises(TlsError):  # noqa: PT012 - where it comes depends on the cuts
        for size in [*sizes, len(data), 0]:
            if piece := data[at : at + size]:
                channel.receive_data(piece)
            at += size
            plain += channel.read()
        plain += channel.read()
    assert plain == b"good"
    assert channel.eof
    with pytest.raises(TlsError):
        channel.read()
    with pytest.raises(TlsError):  # by the alert
        carry(channel, client)


def judge(channel, data, sizes=()):
    """Give a server some bytes of a handshake: it is refused, or goes on; its buffers stay small."""
    at = 0
    for size in [*sizes, len(data)]:
        if piece := data[at : at + size]:
            channel.receive_data(piece)
            try:
                channel.handshake()
            except TlsError:
                return
            assert channel._incoming.pending <= RECORD
            assert len(channel._hello or b"") <= RECORD
        at += size


@given(st.binary() | st.binary().map(lambda data: b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + data))
def test_any_bytes_instead_of_a_handshake_are_refused_or_awaited(server, data):
    judge(server.channel(), data)


@given(st.data())
def test_a_spoilt_handshake_is_refused_or_awaited(server, data):
    flight = bytearray(FLIGHT)
    for at in data.draw(st.lists(st.integers(0, len(flight) - 1), min_size=1, max_size=5)):
        flight[at] = data.draw(st.integers(0, 255))
    judge(server.channel(), bytes(flight), data.draw(st.lists(st.integers(1, 200), max_size=5)))


def test_a_handshake_that_drips_costs_a_record_at_most(server):
    judge(server.channel(), hello(), [1] * 1000)
    client, _ = shake(server, CLIENT, sizes=[1] * 10_000)
    assert client.handshake()


@pytest.mark.parametrize("announced", [b"\xff\xff\xff", b"\x01\xff\xff"])
@pytest.mark.parametrize("size", [100, 16_000])
def test_a_hello_without_end_is_refused(server, announced, size):
    channel = server.channel()
    record = b"\x16\x03\x01" + size.to_bytes(2, "big")
    sent = 0
    channel.receive_data(record + b"\x01" + announced + bytes(size - 4))
    with pytest.raises(TlsError):  # noqa: PT012 - at some time
        while sent < 1_000_000:
            channel.handshake()
            assert channel._incoming.pending <= RECORD
            assert len(channel._hello or b"") <= 2 * RECORD
            channel.receive_data(record + bytes(size))
            sent += size
    assert sent <= 140_000


def test_a_failed_handshake_leaves_an_alert_for_the_peer(server):
    channel = server.channel()
    client = TlsChannel(ssl.create_default_context(), server_side=False, server_hostname=HOST)
    client.handshake()
    carry(client, channel)
    with pytest.raises(TlsError, match="unable to get local issuer"):
        carry(channel, client)
    with pytest.raises(TlsError, match="unknown ca"):
        carry(client, channel)


def test_smtp_instead_of_tls_is_refused_at_once(server):
    channel = server.channel()
    channel.receive_data(b"EHLO client.example\r\n")
    with pytest.raises(TlsError):
        channel.handshake()


def test_tls_before_1_2_is_refused_unless_it_is_asked_for(server, files):
    old = trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises(TlsError, match="unsupported protocol"):
            shake(server, old)
        lax = ServerTls(files, minimum=ssl.TLSVersion.TLSv1_1, ciphers="DEFAULT@SECLEVEL=0")
    assert shake(lax, old)[1].security.version == "TLSv1.1"


def test_nobody_may_renegotiate(server):
    assert server.channel()._object.context.options & ssl.OP_NO_RENEGOTIATION


# Which certificate


@pytest.fixture(scope="session")
def several(tmp_path_factory):
    directory = tmp_path_factory.mktemp("several")
    hosts = {"default": (HOST,), "wild": ("*.wild.test", "wild.test"), "one": ("One.Wild.test", "two.test")}
    return ServerTls(*(write(directory, AUTHORITY.issue_cert(*found), name) for name, found in hosts.items()))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (HOST, HOST),
        ("a.wild.test", "*.wild.test"),
        ("wild.test", "*.wild.test"),
        ("one.wild.test", "one.wild.test"),  # a name goes before a wildcard, whoever comes first
        ("ONE.wild.TEST", "one.wild.test"),
        ("two.test", "one.wild.test"),
        ("a.b.wild.test", HOST),
        ("nowhere.test", HOST),
        ("wild", HOST),
        ("192.0.2.1", HOST),
        (None, HOST),
    ],
)
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_the_name_chooses_the_certificate(several, host, expected, version):
    context = trusting()
    context.check_hostname = False
    context.maximum_version = version
    client, channel = shake(several, context, host)
    assert expected in [name.lower() for name in names(client)]
    assert channel.security.server_name == (None if host == "192.0.2.1" else host)
    assert channel.security.bindings == client.security.bindings


def test_of_two_certificates_for_a_name_the_first_is_used(tmp_path):
    pairs = [
        write(tmp_path, AUTHORITY.issue_cert(*hosts), hosts[-1])
        for hosts in ((HOST,), ("x.test", "1"), ("x.test", "2"))
    ]
    assert "1" in names(shake(ServerTls(*pairs), CLIENT, "x.test")[0])


@pytest.mark.parametrize("more", [-1, 1])
def test_a_hello_that_is_too_long_is_served_by_default_however_it_comes(several, more):
    body = hello("two.test")[9:]
    size = sni.HELLO_LIMIT - 9 + more
    long = b"\x16\x03\x01" + (size + 4).to_bytes(2, "big") + b"\x01" + size.to_bytes(3, "big") + body.ljust(size, b"\0")
    for cut in (len(long), sni.HELLO_LIMIT - 2):
        channel = several.channel()
        judge(channel, long, [cut])
        assert channel._server_name == ("two.test" if more < 0 else None)


def test_a_trailing_dot_makes_no_difference(several):
    assert several._loaded.choose("two.test.") == several._loaded.choose("two.test") != several._loaded.default


@pytest.mark.parametrize("spoilt", [b"mx\xff", b"mx\n", b"m\0x", b"m x"])
def test_a_name_that_cannot_be_is_none_and_says_nothing_to_standard_error(several, spoilt, capfd):
    channel = several.channel()
    judge(channel, hello("abc.wild.test").replace(b"abc", spoilt.ljust(3, b"a")))
    assert channel._server_name is None
    assert capfd.readouterr() == ("", "")


@FEW
@given(st.from_regex(r"[a-z0-9]{1,50}(\.[a-z0-9-]{0,9}[a-z0-9]){0,4}", fullmatch=True), st.integers(0, 600))
def test_the_name_is_found_in_each_hello_and_in_no_part_of_one(host, kept):
    record = hello(f"{host}.test")
    found = sni.client_hello(record)
    assert sni.server_name(found) == f"{host}.test"
    assert sni.client_hello(record[:kept]) == (found if kept >= len(record) else None)


@pytest.mark.parametrize("size", [10, 50, 200])
def test_a_hello_may_be_spread_over_records(several, size):
    whole = hello("two.test")
    body = whole[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    spread = b"".join(whole[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    assert sni.client_hello(spread) == sni.client_hello(whole)
    channel = several.channel()
    judge(channel, spread, [7] * 20)
    assert channel._server_name == "two.test"


@given(st.binary())
def test_any_bytes_may_be_looked_at_as_a_hello(data):
    found = sni.client_hello(data)
    assert found is None or len(found) <= len(data)
    assert sni.client_hello(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data) is None or data
    sni.server_name(data)
    sni.server_name(bytes(34 + 1 + 2 + 1) + len(data).to_bytes(2, "big") + data)


# Files that change


@pytest.fixture
def reloading(tmp_path):
    """A server whose clock and files a test moves, and what it complains of."""
    clock, said = Clock(), []
    pair = write(tmp_path, ISSUED)
    return ServerTls(pair, clock=clock, on_error=said.append), clock, said, pair


def test_a_new_certificate_is_for_new_connections(reloading, tmp_path):
    server, clock, said, _ = reloading
    client, channel = shake(server, CLIENT)
    waiting = server.channel()
    write(tmp_path, AUTHORITY.issue_cert(HOST, "new.test"))
    clock.now = 0.9
    assert names(shake(server, CLIENT)[0]) == [HOST]
    clock.now = 1.0
    new, _ = shake(server, CLIENT, "new.test")
    assert sorted(names(new)) == [HOST, "new.test"]
    assert said == []
    client.write(b"still here")
    assert carry(client, channel) == b"still here"
    channel.write(b"so am I")
    assert carry(channel, client) == b"so am I"
    late = TlsChannel(CLIENT, server_side=False, server_hostname=HOST)
    late.handshake()
    carry(late, waiting)
    carry(waiting, late)
    assert names(late) == [HOST]
    carry(late, waiting)
    assert waiting.security.bindings == late.security.bindings


def test_a_bad_new_file_leaves_the_old_one_in_use(reloading, tmp_path):
    server, clock, said, (certificate, key) = reloading
    certificate.write_text("oops")
    clock.now = 1
    assert names(shake(server, CLIENT)[0]) == [HOST]
    assert said == [f"{certificate}: this is no certificate in PEM; the old certificate stays in use"]
    clock.now = 2
    shake(server, CLIENT)
    assert len(said) == 1, "once is enough"
    key.unlink()
    clock.now = 3
    shake(server, CLIENT)
    assert len(said) == 2
    write(tmp_path, AUTHORITY.issue_cert("new.test"))
    clock.now = 4
    assert names(shake(server, CLIENT, "new.test")[0]) == ["new.test"]
    assert len(said) == 2


def test_a_certificate_whose_key_comes_later_waits_for_it(reloading, tmp_path):
    server, clock, said, (certificate, key) = reloading
    (tmp_path / "next").mkdir()
    new_certificate, new_key = write(tmp_path / "next", AUTHORITY.issue_cert("new.test"))
    new_certificate.replace(certificate)
    clock.now = 1
    assert names(shake(server, CLIENT)[0]) == [HOST]
    assert said[0].startswith(f"{key}: this key does not belong to the certificate in {certificate};")
    new_key.replace(key)
    clock.now = 2
    assert names(shake(server, CLIENT, "new.test")[0]) == ["new.test"]


def test_files_that_change_while_they_are_read_are_read_again(reloading, tmp_path, monkeypatch):
    server, clock, said, _ = reloading
    text = tls._text

    def overtaken(path):
        found = text(path)
        monkeypatch.undo()
        write(tmp_path, AUTHORITY.issue_cert("two.test"))
        return found

    write(tmp_path, AUTHORITY.issue_cert("one.test"))
    monkeypatch.setattr(tls, "_text", overtaken)
    clock.now = 1
    server.channel()
    clock.now = 2
    client, channel = shake(server, CLIENT, "two.test")
    assert client.security.bindings == channel.security.bindings
    assert said == []


def test_files_that_stay_are_not_read_again(reloading, monkeypatch):
    server, clock, _, _ = reloading
    monkeypatch.setattr(Path, "read_text", lambda *_: pytest.fail("read"))
    for clock.now in (1, 2, 5):
        server.channel()


# Certificates of clients


@pytest.fixture(scope="session")
def demanding(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.crt"
    AUTHORITY.cert_pem.write_to_path(path)
    return ServerTls(files, ca=path)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_client_is_known_by_its_certificate(demanding, server, version):
    context = trusting()
    context.maximum_version = version
    certificate = AUTHORITY.issue_cert("client@example.test", common_name="the client")
    certificate.configure_cert(context)
    shown = shake(demanding, context)[1].security.client_certificate
    parsed = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    assert shown.verified
    assert shown.subject == parsed.subject.rfc4514_string()
    assert shown.subject.startswith("CN=the client,")
    assert shown.der == parsed.public_bytes(Encoding.DER)
    assert shake(server, context)[1].security.client_certificate is None, "it is not asked"


def test_a_client_need_not_have_a_certificate(demanding):
    assert shake(demanding, CLIENT)[1].security.client_certificate is None


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_certificate_of_an_unknown_authority_ends_the_handshake(demanding, version):
    context = trusting()
    context.maximum_version = version
    trustme.CA().issue_cert("client@example.test").configure_cert(context)
    client, channel = TlsChannel(context, server_side=False, server_hostname=HOST), demanding.channel()
    client.handshake()
    carry(client, channel)
    carry(channel, client)
    with pytest.raises(TlsError, match="verify failed"):
        carry(client, channel)
    with pytest.raises(TlsError, match="unknown ca"):
        carry(channel, client)


# The embedder's context


def state(context):
    found = {name: getattr(context, name) for name in dir(context) if not name.startswith("_")}
    found = {name: value for name, value in found.items() if not callable(value) or name == "sni_callback"}
    return found | {"ciphers": context.get_ciphers(), "authorities": context.get_ca_certs(), "stats": None}


def test_a_context_of_the_embedders_is_used_and_not_changed(files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    before = state(context)
    assert {"options", "verify_mode", "minimum_version", "sni_callback"} <= before.keys()
    server = ServerTls.of_context(context)
    client, channel = shake(server, CLIENT)
    assert channel._object.context is context
    assert state(context) == before
    assert channel.security.server_name == HOST
    assert channel.security.bindings == {}, "nobody knows its certificate"
    client.write(b"hello")
    assert carry(client, channel) == b"hello"


def test_a_callback_of_the_embedders_chooses(files, tmp_path):
    context, other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    other.load_cert_chain(*write(tmp_path, AUTHORITY.issue_cert("other.test")))

    def choose(channel, name, _):
        channel.context = other

    context.sni_callback = choose
    assert names(shake(ServerTls.of_context(context), CLIENT, "other.test")[0]) == ["other.test"]


# Problems with files


def encrypted(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def old_style(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret"))


@pytest.fixture(scope="session")
def strange():
    return ec.generate_private_key(ec.SECP256R1())


def bad_base64(pem):
    return pem[:40] + b"\xff!?\0" + pem[44:]


PROBLEMS = {
    "no certificate": ("crt", lambda _: None, "{crt}: No such file or directory"),
    "no key": ("key", lambda _: None, "{key}: No such file or directory"),
    "no PEM": ("crt", lambda _: b"\0\xff\r\n", "{crt}: this is no certificate in PEM"),
    "an empty file": ("crt", lambda _: b"", "{crt}: this is no certificate in PEM"),
    "a key instead": ("crt", lambda _: ISSUED.private_key_pem.bytes(), "{crt}: this is no certificate in PEM"),
    "a certificate instead": ("key", lambda _: ISSUED.cert_chain_pems[0].bytes(), "{key}: this is no private key in PEM"),
    "half of it": ("crt", lambda _: ISSUED.cert_chain_pems[0].bytes()[:300], "{crt}: this is no certificate in PEM"),
    "bad base64": ("crt", lambda _: bad_base64(ISSUED.cert_chain_pems[0].bytes()), "{crt}: this certificate is damaged"),
    "no DER": ("crt", lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "{crt} or {key}: "),
    "a damaged key": ("key", lambda _: bad_base64(ISSUED.private_key_pem.bytes()), "{crt} or {key}: "),
    "half a key": ("key", lambda _: ISSUED.private_key_pem.bytes()[:100], "{crt} or {key}: "),
    "another's key": ("key", lambda _: AUTHORITY.issue_cert("x.test").private_key_pem.bytes(), "{key}: this key does not belong to the certificate in {crt}"),
    "another kind of key": ("key", lambda _: rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "{key}: this key does not belong to the certificate in {crt}"),
    "an encrypted key": ("key", encrypted, "{key}: this key has a pass phrase; `openssl pkey -in {key}` writes it without one"),
    "an old encrypted key": ("key", old_style, "{key}: this key has a pass phrase; `openssl pkey -in {key}` writes it without one"),
    "an authority that is none": ("ca", lambda _: b"oops", "{ca}: this is no certificate in PEM"),
    "no DER of an authority": ("ca", lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "{ca}: "),
    "no file of authorities": ("ca", lambda _: None, "{ca}: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_names_the_file(tmp_path, strange, problem):
    kind, make, message = PROBLEMS[problem]
    paths = dict(zip(("crt", "key"), write(tmp_path, ISSUED), strict=True)) | {"ca": tmp_path / "ca.crt"}
    AUTHORITY.cert_pem.write_to_path(paths["ca"])
    data = make(strange)
    if data is None:
        paths[kind].unlink()
    else:
        paths[kind].write_bytes(data)
    with pytest.raises(TlsSetupError) as caught:
        ServerTls((paths["crt"], paths["key"]), ca=paths["ca"])
    assert isinstance(caught.value, ConfigError)
    said = str(caught.value)
    assert said.startswith(message.format(**paths))
    assert len(said) > len(message.format(**paths).rstrip()) or not message.endswith(" "), "and says what it is"


def test_a_directory_or_a_file_that_may_not_be_read_is_named(tmp_path):
    certificate, key = write(tmp_path, ISSUED)
    with pytest.raises(TlsSetupError, match=f"^{tmp_path}: Is a directory"):
        ServerTls((tmp_path, key))
    if os.geteuid() != 0:  # who may do anything
        key.chmod(0)
        with pytest.raises(TlsSetupError, match=f"^{key}: Permission denied"):
            ServerTls((certificate, key))


def test_a_file_that_goes_between_two_looks_is_a_problem_too(tmp_path, monkeypatch):
    certificate, key = write(tmp_path, ISSUED)
    text = tls._text

    def goes(path):
        try:
            return text(path)
        finally:
            if path == key:
                path.unlink()

    monkeypatch.setattr(tls, "_text", goes)
    with pytest.raises(TlsSetupError, match=f"{key}: No such file"):
        ServerTls((certificate, key))


def test_there_must_be_a_certificate():
    with pytest.raises(TlsSetupError):
        ServerTls()


def test_cipher_suites_are_checked(files):
    with pytest.raises(TlsSetupError, match="tls_ciphers: 'NONSENSE'"):
        ServerTls(files, ciphers="NONSENSE")
    context = trusting()
    context.maximum_version = TLS_1_2
    chosen = ServerTls(files, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    assert shake(chosen, context)[1].security.cipher == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_an_expired_certificate_is_used_and_complained_of(tmp_path):
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    pair = write(tmp_path, AUTHORITY.issue_cert(HOST, not_after=now + dt.timedelta(days=1)))
    said = []
    expires = (now + dt.timedelta(days=1)).timestamp()
    ServerTls(pair, wall=lambda: expires - 1, on_error=said.append)
    assert said == []
    server = ServerTls(pair, wall=lambda: expires + 1, on_error=said.append)
    date = (now + dt.timedelta(days=1)).date()
    assert said == [f"{pair[0]}: this certificate has expired, on {date}; put a new one there"]
    assert shake(server, CLIENT)


# X.509, against an independent implementation

KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}


START = dt.datetime(1990, 2, 3, 4, 5, 6, tzinfo=dt.UTC)


def self_signed(key, digest=None, *, subject=(), hosts=(HOST,), year=2040):
    name = x509.Name(subject)
    alternative = x509.SubjectAlternativeName([*map(x509.DNSName, hosts), x509.RFC822Name("a@b.test")])
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1, START, START.replace(year=year))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(alternative, critical=False)
        .sign(key, digest)
    )


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize(
    ("key", "digest"),
    [
        ("rsa", hashes.SHA256()),
        ("rsa", hashes.SHA384()),
        ("rsa", hashes.SHA512()),
        ("ec", hashes.SHA256()),
        ("ec", hashes.SHA384()),
        ("ec", hashes.SHA512()),
        ("ed", None),
    ],
)
def test_the_channel_binding_is_the_same_on_both_sides(tmp_path, key, digest, version):
    certificate = self_signed(KEYS[key], digest)
    path = tmp_path / "both.pem"
    secret = KEYS[key].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(cafile=path)
    context.maximum_version = version
    client, channel = shake(ServerTls((path, path)), context)
    assert client.security.bindings == channel.security.bindings
    bindings = dict(channel.security.bindings)
    assert (bindings.pop("tls-unique", None) is not None) == (version == TLS_1_2)
    if digest is None:
        assert bindings == {}
    else:
        assert bindings == {"tls-server-end-point": certificate.fingerprint(digest)}


@pytest.mark.parametrize(("oid", "digest"), [("04", "sha256"), ("05", "sha256"), ("0e", "sha224")])
def test_weak_hashes_are_replaced(oid, digest):
    weak = der(self_signed(KEYS["rsa"], hashes.SHA256())).replace(
        bytes.fromhex("2a864886f70d01010b"), bytes.fromhex(f"2a864886f70d0101{oid}")
    )
    assert ours.server_end_point(weak) == hashlib.new(digest, weak).digest()


OTHER_TYPES = ObjectIdentifier("1.2.840.99999.1"), ObjectIdentifier("2.999.128"), NameOID.TITLE


@FEW
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME, *OTHER_TYPES]
            ),
            st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_a_subject_is_written_by_rfc_4514(attributes):
    certificate = self_signed(KEYS["ec"], hashes.SHA256(), subject=[x509.NameAttribute(*pair) for pair in attributes])
    assert ours.certificate_subject(der(certificate)) == certificate.subject.rfc4514_string()


def test_a_subject_is_one_line_that_cannot_be_mistaken():
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, "a,O=Bank\r\n\x1b+ ")]
    certificate = self_signed(KEYS["ec"], hashes.SHA256(), subject=subject)
    assert ours.certificate_subject(der(certificate)) == r"CN=a\,O=Bank\0d\0a\1b\+\ "


@pytest.mark.parametrize("year", [1999, 2049, 2050, 9999])
def test_the_last_day_of_a_certificate_is_read(year):
    certificate = self_signed(KEYS["ec"], hashes.SHA256(), year=year)
    assert ours.certificate_expiry(der(certificate)) == certificate.not_valid_after_utc


@FEW
@given(st.lists(st.from_regex(r"(\*\.)?[a-zA-Z0-9-]{1,20}(\.[a-z]{1,9}){0,3}", fullmatch=True), max_size=5))
def test_the_names_in_a_certificate_are_read(hosts):
    certificate = self_signed(KEYS["ec"], hashes.SHA256(), hosts=hosts)
    assert ours.certificate_names(der(certificate)) == tuple(map(str.lower, hosts))


DER = der(self_signed(KEYS["ec"], hashes.SHA256(), subject=[x509.NameAttribute(NameOID.COMMON_NAME, "x")]))


@given(st.data())
def test_any_bytes_may_be_looked_at_as_a_certificate(data):
    found = bytearray(DER)
    for at in data.draw(st.lists(st.integers(0, len(found) - 1), max_size=10)):
        found[at] = data.draw(st.integers(0, 255))
    for blob in (data.draw(st.binary()), bytes(found), bytes(found[: data.draw(st.integers(0, len(found)))])):
        assert len(ours.certificate_names(blob)) <= len(blob)
        assert "\n" not in ours.certificate_subject(blob)
        ours.certificate_expiry(blob)
        ours.server_end_point(blob)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 256, 65_535, 65_536])
def test_an_element_may_have_any_length(size):
    width = (size.bit_length() + 7) // 8
    length = bytes([size]) if size < 128 else bytes([0x80 | width]) + size.to_bytes(width, "big")
    assert list(ours._elements(b"\x04" + length + bytes(size) + b"\x05\0")) == [(4, bytes(size)), (5, b"")]
    assert list(ours._elements(b"\x04" + length + bytes(max(size - 1, 0)))) == ([] if size else [(4, b"")])


# What follows


def test_a_hello_in_absurdly_many_records_is_not_looked_at(several):
    body = hello("two.test")[5:]
    records = [b"\x16\x03\x01\0\x01" + bytes([octet]) for octet in body]
    assert sni.client_hello(b"".join(records[:63])) is None
    assert sni.client_hello(b"".join(records[:64])[:-1]) is None
    assert sni.client_hello(b"".join(records[:64])) == b""
    channel = several.channel()
    judge(channel, b"".join(records), [1] * 1000)
    assert channel._hello is None
    assert channel._server_name is None


@pytest.mark.parametrize("behind", [b"\x14\x03\x03\0\x01\x01", b"\x17\x03\x03\0\x01x", b"\xff", b"\x16"])
def test_what_follows_a_hello_hides_no_name(several, behind):
    channel = several.channel()
    judge(channel, hello("two.test") + behind)
    assert channel._server_name == "two.test"


def test_what_follows_the_end_is_not_kept(server):
    refused, (client, closed), gone = server.channel(), shake(server, CLIENT), shake(server, CLIENT)[1]
    refused.receive_data(b"EHLO client.example\r\n")
    with pytest.raises(TlsError):
        refused.handshake()
    with pytest.raises(TlsError):
        refused.handshake()
    client.close()
    closed.receive_data(client.data_to_send())
    assert closed.read() == b""
    gone.receive_data(b"")
    for channel in (refused, closed, gone):
        before = channel._incoming.pending
        for _ in range(100):
            channel.receive_data(bytes(RECORD))
            channel.receive_data(b"")
        assert channel._incoming.pending == before
    assert closed.read() == gone.read() == b""


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_what_was_agreed_is_known_behind_the_end(demanding, version):
    context = trusting()
    context.maximum_version = version
    AUTHORITY.issue_cert("client@example.test").configure_cert(context)
    _, channel = shake(demanding, context)
    before = channel.security
    channel.receive_data(b"\x17\x03\x03\0\x20" + bytes(32))
    with pytest.raises(TlsError):
        channel.read()
    channel.close()
    assert channel.security == before


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_resumed_session_has_no_binding_of_another_channel(server, version):
    context = trusting()
    context.maximum_version = version
    first, _ = shake(server, context)
    channel = server.channel()
    client = TlsChannel(context, server_side=False, server_hostname=HOST)
    client._object.session = first._object.session
    while not client.handshake():
        carry(client, channel)
        carry(channel, client)
    carry(client, channel)
    assert client._object.session_reused
    assert client.security.bindings == channel.security.bindings
    assert set(channel.security.bindings) == {"tls-server-end-point"}


# Records of a peer that has the keys, and sends what no library would


class Forger:
    """A client of TLS 1.3 that has shaken hands, and makes its records itself (RFC 8446 sections 5.2 and 7)."""

    def __init__(self, server, log):
        context = trusting()
        context.keylog_filename = log
        log.write_bytes(b"")
        self.client, self.channel = shake(server, context)
        secrets = {
            words[0]: words[2] for words in map(str.split, log.read_text("ascii").splitlines()) if len(words) == 3
        }
        assert self.client.security.cipher == "TLS_AES_256_GCM_SHA384"
        self._use(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))

    def _use(self, secret):
        self._secret, self._sequence = secret, 0
        self._key, self._iv = AESGCM(self._expand(b"key", 32)), int.from_bytes(self._expand(b"iv", 12), "big")

    def _expand(self, label, size):
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self._secret)

    def record(self, kind, content):
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return header + self._key.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self, *, requested):
        record = self.record(22, b"\x18\0\0\x01" + bytes([requested]))
        self._use(self._expand(b"traffic upd", 48))
        return record


@pytest.fixture
def forger(server, tmp_path):
    return Forger(server, tmp_path / "keys")


@pytest.mark.parametrize("pieces", [1, 1000])
@pytest.mark.parametrize("requested", [False, True])
def test_updates_of_keys_are_answered_by_no_more_than_they_are(forger, requested, pieces):
    channel, sent, answered = forger.channel, 0, 0
    for _ in range(pieces):
        flood = b"".join(forger.key_update(requested=requested) for _ in range(1000 // pieces))
        channel.receive_data(flood)
        assert channel.read() == b""
        assert channel._incoming.pending == 0
        sent += len(flood)
        answer = channel.data_to_send()
        answered += len(answer)
        if answer:
            forger.client.receive_data(answer)
    assert answered <= sent
    assert bool(answered) == requested
    channel.receive_data(forger.record(23, b"still here"))
    assert channel.read() == b"still here"
    channel.write(b"so am I")
    forger.client.receive_data(channel.data_to_send())
    assert forger.client.read() == b"so am I"


FLOODS = {
    "warnings": (21, b"\x01\x5a"),
    "alerts of no known kind": (21, b"\x01\xff"),
    "empty records": (23, b""),
    "another hello": (22, b"\x01\0\0\0"),
    "a certificate that nobody wants": (22, b"\x0b\x01\xff\xff" + bytes(1000)),
    "the beginning of a long message": (22, b"\x18\xff\xff\xff" + bytes(1000)),
    "a message that drips": (22, b"\x18"),
    "a change of ciphers": (20, b"\x01"),
    "no known kind": (99, b"x"),
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_flood_of_records_without_data_ends_soon(forger, flood, at_once):
    channel = forger.channel
    records = [forger.record(*FLOODS[flood]) for _ in range(1000)]
    if at_once:
        channel.receive_data(b"".join(records))
        with pytest.raises(TlsError):
            channel.read()
    else:
        for count, record in enumerate(records):  # noqa: B007 - it is looked at behind the loop
            channel.receive_data(record)
            try:
                assert channel.read() == b""
            except TlsError:
                break
            assert channel.data_to_send() == b""
        assert count <= 40
    assert len(channel.data_to_send()) < 100, "one alert"
    assert channel.eof


@pytest.mark.parametrize("version", [b"\x03\x03", b"\x03\x01"])
def test_records_in_clear_behind_the_handshake_are_refused(forger, version):
    forger.channel.receive_data(b"\x14" + version + b"\0\x01\x01")
    with pytest.raises(TlsError):
        forger.channel.read()


@FEW
@given(
    st.lists(st.tuples(st.sampled_from([20, 21, 22, 23, 24, 99, 0]), st.binary(max_size=50)), max_size=8), st.booleans()
)
def test_any_records_are_data_or_told_as_a_fault(server, tmp_path, records, at_once):
    forger = Forger(server, tmp_path / "keys")
    channel, plain, fault = forger.channel, b"", False
    pieces = [forger.record(*record) for record in records]
    for piece in [b"".join(pieces)] if at_once else pieces:
        if piece:
            channel.receive_data(piece)
        try:
            plain += channel.read()
            plain += channel.read()
        except TlsError:
            fault = True
    sent = b"".join(content for kind, content in records if kind == 23)
    assert sent.startswith(plain)
    assert plain == sent or fault or channel.eof
    assert len(channel.data_to_send()) <= 100 + sum(map(len, pieces))
    channel.write(b"x")
    channel.close()
