"""Our client against our server, all of it in memory: any message arrives byte for byte, over TLS too, with any cuts."""

import itertools
import ssl

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qpsmtpd import DECLINED, OK, Plugin
from qpsmtpd.protocol import CLOSED, NEED_DATA, Login, Mailbox, Message, Report, ScramVerifier, StartTls, TlsUse
from qpsmtpd.protocol import Client as Sender
from qpsmtpd.session.role import MX, ROLES, Role
from qpsmtpd.session.tls import ServerTls, TlsChannel
from qpsmtpd.testing import Client, Kit

HOST = "mx.example.test"
SECRET = "correct horse"
VERIFIER = str(ScramVerifier.of_password(SECRET, b"salt of the earth"))
SENDER = Mailbox("a", "client.example")
TEXT = st.lists(
    st.sampled_from([b"\r\n", b".", b"a", b"\r\n.\r\n", b"\xff", b"Subject: x\r\n", b"\r\n\r\n", b"MAIL FROM:<>\r\n"])
).map(b"".join)
CUTS = st.lists(st.integers(1, 300), max_size=20)
LOCAL_PARTS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5)


class Keeps(Plugin):
    """Takes whatever comes, and knows one user."""

    def register(self, qp):
        self.kept = []

    def hook_auth_scram_sha_256(self, transaction, mechanism, user):
        return (OK, VERIFIER) if user == "user" else DECLINED

    def hook_auth_plain(self, transaction, mechanism, user, password, digest, ticket):
        return OK if (user, password) == ("user", SECRET) else DECLINED

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        content = b"".join(transaction.chunks())
        lines = content.split(b"\r\n")
        while lines[0].startswith((b"Received:", b"Authentication-Results:", b"\t")):
            del lines[0]
        self.kept.append((b"\r\n".join(lines), [mailbox.local_part for mailbox in transaction.recipients]))
        return OK, "kept"


@pytest.fixture(scope="module")
def trust():
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return authority, context


@pytest.fixture(scope="module")
def tls(trust, tmp_path_factory):
    both = tmp_path_factory.mktemp("tls") / "mx.pem"
    trust[0].issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(both)
    return ServerTls((both, both))


class Pump:
    """Moves bytes between a client and a session, cut as one likes, and encrypted where they have agreed on it."""

    def __init__(self, sender, kit, role, context, cuts):
        self._sender, self._context = sender, context
        self._sizes = itertools.chain(cuts, itertools.repeat(65536))
        self._session = Client(kit.site, role=role)
        self._inbox = self._session.replies
        self._channel = None
        self.reports = []
        if role.implicit_tls:
            self._shake_hands()

    def run(self):
        while (event := self._sender.next_event()) is not CLOSED:
            if isinstance(event, Report):
                self.reports.append(event)
            elif isinstance(event, StartTls):
                self._write(self._sender.data_to_send())
                self._inbox = b""
                self._shake_hands()
            else:
                self._write(self._sender.data_to_send())
                if event is NEED_DATA:
                    self._read()
        self._write(self._sender.data_to_send())
        return self._session

    def _write(self, data):
        if self._channel is not None and data:
            self._channel.write(data)
            data = self._channel.data_to_send()
        self._send(data)

    def _send(self, data):
        while data and not self._session.closed:
            size = next(self._sizes)
            self._inbox += self._session.link.go(data[:size])
            data = data[size:]

    def _receive(self):
        size = next(self._sizes)
        data, self._inbox = self._inbox[:size], self._inbox[size:]
        return data

    def _read(self):
        data = self._receive()
        if self._channel is not None:
            if data:
                self._channel.receive_data(data)
            data = self._channel.read()
        if data:
            self._sender.receive_data(data)
        elif not self._inbox:
            assert self._session.closed, "nobody has anything to say"
            self._sender.receive_data(b"")

    def _shake_hands(self):
        channel = TlsChannel(self._context, server_side=False, server_hostname=HOST)
        while not channel.handshake():
            self._send(channel.data_to_send())
            channel.receive_data(self._receive())
        self._send(channel.data_to_send())
        self._channel = channel
        self._sender.secure(channel.security)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(TEXT, min_size=1, max_size=3),
    recipients=LOCAL_PARTS,
    cuts=CUTS,
    role=st.sampled_from(["mx", "submission", "submissions", "lmtp"]),
    extensions=st.lists(st.sampled_from(["-CHUNKING", "-PIPELINING", "-SIZE", "-8BITMIME"]), unique=True),
)
def test_any_message_arrives_byte_for_byte(tls, trust, contents, recipients, cuts, role, extensions):
    kit = Kit(Keeps, config={"extensions": extensions, "tls_before_auth": ["1"]})
    kit.site.tls = tls
    sender = Sender(
        "client.example",
        lmtp=role == "lmtp",
        tls=TlsUse.OPPORTUNISTIC if role != "submissions" else TlsUse.NEVER,
        login=Login("user", SECRET),
        nonce="abcdefghijklmnop",
    )
    messages = [Message(SENDER, [Mailbox(name, "example.org") for name in recipients], each) for each in contents]
    for message in messages:
        sender.send(message)
    sender.quit()
    pump = Pump(sender, kit, ROLES[role], trust[1], cuts)
    session = pump.run()
    assert [report.message for report in pump.reports] == messages
    assert all(result.delivered for report in pump.reports for result in report.results)
    expected = []
    for content in contents:
        whole = content + (
            b"" if not content or content.endswith(b"\r\n") or "-CHUNKING" not in extensions else b"\r\n"
        )
        expected += [(whole, [name]) for name in recipients] if role == "lmtp" else [(whole, recipients)]
    assert kit.site.plugins[0].kept == expected
    assert session.connection.auth_mechanism == "scram-sha-256-plus"
    assert session.connection.security.version == "TLSv1.3"
    assert session.closed


@pytest.mark.parametrize("login", [Login("user", "wrong"), Login("nobody", SECRET)])
def test_a_wrong_password_delivers_nothing(tls, trust, login):
    kit = Kit(Keeps)
    kit.site.tls = tls
    sender = Sender("client.example", login=login, nonce="abcdefghijklmnop")
    sender.send(Message(SENDER, [SENDER], b"x\r\n"))
    sender.quit()
    pump = Pump(sender, kit, MX, trust[1], [])
    pump.run()
    assert [result.delivered for report in pump.reports for result in report.results] == [False]
    assert kit.site.plugins[0].kept == []


def test_without_tls_a_client_that_requires_it_delivers_nothing():
    kit = Kit(Keeps)
    sender = Sender("client.example", tls=TlsUse.REQUIRED)
    sender.send(Message(SENDER, [SENDER], b"x\r\n"))
    sender.quit()
    pump = Pump(sender, kit, MX, None, [])
    pump.run()
    assert pump.reports[0].results[0].temporary
    assert kit.site.plugins[0].kept == []


def test_a_role_may_be_of_ones_own(tls, trust):
    kit = Kit(Keeps)
    kit.site.tls = tls
    sender = Sender("client.example", lmtp=True)
    sender.send(Message(SENDER, [SENDER, SENDER], b"x\r\n"))
    sender.quit()
    pump = Pump(sender, kit, Role("mailbox", lmtp=True, implicit_tls=True), trust[1], [7] * 50)
    pump.run()
    assert [result.delivered for result in pump.reports[0].results] == [True, True]
