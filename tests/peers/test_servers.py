"""The servers that other tests talk to are what those tests take them for."""

import smtplib
import socket
import ssl
import struct

import pytest
from servers import DOMAIN, MECHANISMS, PASSWORD

SENDER = "me@example.org"
CONTENT = b"Subject: a real mail\r\n\r\n..two dots\r\n.\r\nL\xc3\xa4ngere Zeile\r\n\r\nlast\r\n"
STUFFED = CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"


@pytest.fixture
def trust(files):
    return ssl.create_default_context(cafile=files.ca)


def test_mail_by_starttls_is_delivered_and_an_unknown_user_is_refused(mta, trust):
    with smtplib.SMTP(*mta.address, timeout=20) as client:
        client.starttls(context=trust)
        client.ehlo()
        assert {"pipelining", "8bitmime", "size", "chunking", "smtputf8", "dsn"} <= client.esmtp_features.keys()
        assert "starttls" not in client.esmtp_features
        refused = client.sendmail(SENDER, [f"alice@{DOMAIN}", f"nobody@{DOMAIN}"], CONTENT, ["BODY=8BITMIME"])
        assert {name: code for name, (code, _) in refused.items()} == {f"nobody@{DOMAIN}": 550}
    (mail,) = mta.inbox("alice")
    assert mail.endswith(b"\n" + CONTENT.replace(b"\r\n", b"\n"))


def test_the_inboxes_are_empty_for_every_test(mta):
    assert not list(mta.mail.glob("*/new/*"))


def test_postfix_offers_less_at_its_other_address(postfix):
    with smtplib.SMTP(*postfix.also["bare"], timeout=20) as client:
        client.ehlo()
        assert "starttls" in client.esmtp_features
        assert not {"pipelining", "chunking"} & client.esmtp_features.keys()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_postfix_asks_dovecot_who_may_send(submission, trust, mechanism):
    with smtplib.SMTP(*submission.also[mechanism], timeout=20) as client:
        client.starttls(context=trust)
        client.ehlo()
        assert client.esmtp_features["auth"].split() == [mechanism]
        assert client.mail(SENDER)[0] == 250
        assert client.rcpt(f"alice@{DOMAIN}")[0] == 554
        client.rset()
        if not mechanism.startswith("SCRAM"):  # smtplib does not know it
            client.login("alice", PASSWORD)
            client.sendmail(SENDER, [f"alice@{DOMAIN}"], CONTENT)
            submission.inbox("alice")


def lmtp(dovecot, way):
    """Python's client of LMTP, which does not read more than one reply to the content."""
    return smtplib.LMTP(*dovecot.address) if way == "port" else smtplib.LMTP(str(dovecot.path))


@pytest.mark.parametrize("way", ["port", "path"])
def test_dovecot_answers_once_for_every_recipient(dovecot, trust, way):
    with lmtp(dovecot, way) as client:
        if way == "port":
            client.starttls(context=trust)
        client.ehlo()
        assert {"pipelining", "8bitmime", "chunking"} <= client.esmtp_features.keys()
        assert client.mail(SENDER)[0] == 250
        assert [client.rcpt(f"{user}@{DOMAIN}")[0] for user in ("alice", "nobody", "bob")] == [250, 550, 250]
        assert client.docmd("DATA")[0] == 354
        client.send(STUFFED)
        assert [client.getreply()[0] for _ in range(2)] == [250, 250]
    for user in ("alice", "bob"):
        (mail,) = dovecot.inbox(user)
        assert mail.endswith(b"\r\n" + CONTENT)


def header(connection):
    """What PROXY v2 says: source address and port, and the TLVs."""
    start = connection.recv(16, socket.MSG_WAITALL)
    assert start[:14] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11"  # version 2, PROXY, TCP over IPv4
    rest = connection.recv(int.from_bytes(start[14:]), socket.MSG_WAITALL)
    return (socket.inet_ntoa(rest[:4]), int.from_bytes(rest[8:10])), dict(tlvs(rest[12:]))


def tlvs(data):
    while data:
        kind, length = struct.unpack_from("!BH", data)
        yield kind, data[3 : 3 + length]
        data = data[3 + length :]


def test_haproxy_says_who_has_connected(haproxy):
    with (
        socket.create_server(("127.0.0.1", 0)) as back,
        haproxy(back.getsockname()) as front,
        socket.create_connection(front) as client,
    ):
        client.sendall(b"hello")
        with back.accept()[0] as connection:
            connection.settimeout(20)
            assert header(connection) == (client.getsockname(), {})
            assert connection.recv(5, socket.MSG_WAITALL) == b"hello"


@pytest.mark.parametrize("name", [None, "client.example"])
def test_haproxy_takes_tls_off_and_says_so(haproxy, files, trust, name):
    if name:
        trust.load_cert_chain(files.client)
    with (
        socket.create_server(("127.0.0.1", 0)) as back,
        haproxy(back.getsockname(), tls=True) as front,
        socket.create_connection(front) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as client,
        back.accept()[0] as connection,
    ):
        connection.settimeout(20)
        source, values = header(connection)
        assert source == client.getsockname()
        assert values[2] == b"localhost"  # PP2_TYPE_AUTHORITY
        flags, verify = struct.unpack_from("!BI", values[0x20])  # PP2_TYPE_SSL
        assert (flags, verify) == ((7 if name else 1), 0)
        details = dict(tlvs(values[0x20][5:]))
        assert details[0x21] == b"TLSv1.3"
        assert details.get(0x22) == (name and name.encode())
        connection.sendall(b"220 hello\r\n")
        assert client.recv(100) == b"220 hello\r\n"


def test_smtp_sink_offers_what_its_options_say(smtp_sink):
    with smtp_sink("-p", "-8") as sink, smtplib.SMTP(*sink.address, timeout=20) as client:
        client.sendmail(SENDER, ["you@example.org"], CONTENT)
        assert not {"pipelining", "8bitmime"} & client.esmtp_features.keys()
        (message,) = sink.messages()
        assert b"\nX-Rcpt-Args: <you@example.org>\n" in message
        assert message.endswith(CONTENT.replace(b"\r\n", b"\n") + b"\n")
