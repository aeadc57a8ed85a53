"""TLS, AUTH and proxies as a session has them: in memory, with real handshakes."""

import base64
import ssl

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qpsmtpd import DECLINED, DENY, OK, Pause, Plugin
from qpsmtpd.protocol import OK as CODE_OK
from qpsmtpd.protocol import ProxyHeader, Security
from qpsmtpd.session.effects import SHUTTING_DOWN, TIMED_OUT, Close, Receive
from qpsmtpd.session.role import ROLES
from qpsmtpd.session.session import Session
from qpsmtpd.session.tls import ServerTls, TlsChannel, TlsError
from qpsmtpd.testing import CLIENT, Client, Kit

HOST = "mx.example.test"
LOGIN = "AUTH PLAIN " + base64.b64encode(b"\0user\0pass").decode()

AUTHORITY = trustme.CA()


class Everything(Plugin):
    """Takes every recipient, message and user, and keeps what it saw."""

    def hook_connect(self, transaction):
        self.connection.notes["from_connect"] = ["kept"]
        return DECLINED

    def hook_ehlo(self, transaction, host):
        self.connection.notes["said"] = host
        self.connection.notes["from_connect"].append(host)
        self.connection.relay_client = True
        return DECLINED

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return OK if password == "pass" else DENY

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        self.connection.notes["header"] = b"".join(transaction.chunks())
        return OK, "queued"


@pytest.fixture(scope="session")
def client_context():
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    certificate = AUTHORITY.issue_cert(HOST)
    paths = directory / "mx.crt", directory / "mx.key"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(paths[0], append=True)
    certificate.private_key_pem.write_to_path(paths[1])
    return paths


@pytest.fixture
def kit(files):
    def make(*plugins, **config):
        kit = Kit(*(plugins or (Everything,)), config=config)
        kit.site.tls = ServerTls(files, clock=kit.clock)
        return kit

    return make


def encrypted(kit, context, **connect):
    client = kit.connect(**connect)
    client.say("EHLO client.example")
    client.say("STARTTLS")
    client.start_tls(context, HOST)
    return client


# STARTTLS


def test_a_message_arrives_under_tls(kit, client_context):
    client = encrypted(kit(), client_context)
    assert [reply.code for reply in client.deliver()] == [250, 250, 250, 354, 250]
    assert client.connection.security.version == "TLSv1.3"
    assert b"with ESMTPS (TLSv1.3 " in client.connection.notes["header"]
    assert client.say("QUIT").code == 221
    assert client.closed


def test_everything_the_client_said_is_forgotten(kit, client_context):
    client = kit().connect()
    client.say("EHLO liar.example")
    assert client.connection.notes["said"] == "liar.example"
    client.say("STARTTLS")
    client.start_tls(client_context, HOST)
    connection = client.connection
    assert (connection.hello, connection.hello_host, connection.relay_client) == (None, None, None)
    assert "said" not in connection.notes
    assert connection.notes["from_connect"] == ["kept"]
    assert client.say("MAIL FROM:<a@b.example>").code == 503
    assert "STARTTLS" not in client.say("EHLO client.example").text


def test_commands_in_clear_behind_starttls_are_never_executed(kit, client_context):
    server = kit()
    client = server.connect()
    client.say("EHLO client.example")
    said = client.send(b"STARTTLS\r\nMAIL FROM:<mallory@b.example>\r\nRCPT TO:<a@b.example>\r\n")
    assert said.count(b"\r\n") == 1
    client.start_tls(client_context, HOST)
    assert server.calls("mail") == server.calls("rcpt") == []
    assert client.say("EHLO client.example").code == 250


def test_without_a_certificate_there_is_no_starttls():
    client = Kit(Everything).connect()
    assert "STARTTLS" not in client.say("EHLO client.example").text
    assert client.say("STARTTLS").code == 500


@pytest.mark.parametrize("garbage", [b"EHLO x\r\n" * 20, b"\x16\x03\x01\xff\xff" + b"\0" * 70000, b"\x80" * 100])
def test_a_garbage_handshake_ends_the_session(kit, garbage):
    server = kit()
    client = server.connect()
    client.say("EHLO client.example")
    client.say("STARTTLS")
    client.link.go(garbage)
    if not client.closed:  # it may be the beginning of something
        client.interrupt(TIMED_OUT)
    assert client.closed
    assert server.logged("fail, TLS handshake")


def test_a_client_that_goes_in_the_handshake_ends_the_session(kit):
    client = kit().connect()
    client.say("STARTTLS")
    client.send(b"")
    assert client.closed


def test_a_handshake_has_one_time_limit_for_the_whole(kit):
    server = kit(timeouttls=["10"])
    session = Session(server.site, CLIENT)
    run = session.run()
    next(run)
    run.send(b"STARTTLS\r\n")
    hello = TlsChannel(ssl.create_default_context(), server_side=False, server_hostname=HOST)
    hello.handshake()
    waits = []
    for octet in hello.data_to_send()[:5]:
        server.clock.advance(2)
        effect = run.send(bytes([octet]))
        assert isinstance(effect, Receive)
        waits.append(effect.timeout)
    assert waits == [8, 6, 4, 2, 0]
    assert isinstance(run.send(TIMED_OUT), Close)
    run.close()


def test_a_shutdown_ends_a_handshake(kit):
    client = kit().connect()
    client.say("STARTTLS")
    client.interrupt(SHUTTING_DOWN)
    assert client.closed


def test_a_timeout_under_tls_is_told_under_tls(kit, client_context):
    client = encrypted(kit(), client_context)
    client.interrupt(TIMED_OUT)
    assert client.replies.splitlines()[-1].startswith(b"421 ")
    assert client.closed


def test_records_that_are_none_end_the_session(kit, client_context):
    server = kit()
    client = encrypted(server, client_context)
    client.link.go(b"NOOP\r\n" * 10)
    assert client.closed
    assert server.logged("fail, TLS:")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 400), max_size=30), st.binary(max_size=300))
def test_the_ciphertext_may_be_cut_anywhere(kit, client_context, cuts, noise):
    site = kit(size_threshold=["1000"]).site
    session = Session(site, CLIENT)
    run = session.run()
    effect = next(run)
    received = bytearray()

    def give(data):
        nonlocal effect
        received.extend(session.data_to_send())
        pieces, at = [], 0
        for cut in cuts:
            pieces.append(data[at : at + cut])
            at += cut
        for piece in filter(None, [*pieces, data[at:]]):
            if not isinstance(effect, Receive):
                return
            effect = run.send(piece)
            received.extend(session.data_to_send())

    give(b"EHLO a\r\nSTARTTLS\r\n")
    assert received.endswith(b"220 2.0.0 Begin TLS now\r\n")
    received.clear()
    channel = TlsChannel(client_context, server_side=False, server_hostname=HOST)
    while not channel.handshake():
        give(channel.data_to_send())
        channel.receive_data(bytes(received))
        received.clear()
    body = noise.replace(b"\r", b"").replace(b"\n", b"")
    script = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT %d LAST\r\n%bQUIT\r\n" % (len(body), body)
    channel.write(script)
    give(channel.data_to_send())
    while isinstance(effect, Close):
        try:
            effect = run.send(None)
        except StopIteration:
            break
    received.extend(session.data_to_send())
    channel.receive_data(bytes(received))
    replies = channel.read()
    assert [line[:3] for line in replies.splitlines() if line[3:4] == b" "] == [b"250"] * 4 + [b"221"]
    assert session.connection.notes["header"].endswith(body)
    assert channel.eof, "the server says goodbye to TLS too"


# TLS from the start


def test_on_submissions_the_greeting_comes_behind_the_handshake(kit, client_context):
    client = kit().connect(role=ROLES["submissions"])
    assert client.replies == b""
    assert client.start_tls(client_context, HOST).startswith(b"220 ")
    hello = client.say("EHLO client.example").text
    assert "STARTTLS" not in hello
    assert "AUTH CRAM-MD5 LOGIN PLAIN" in hello
    assert client.say("MAIL FROM:<a@b.example>").code == 530
    assert client.say(LOGIN).code == 235
    assert client.say("MAIL FROM:<a@b.example>").code == 250


def test_who_speaks_in_clear_there_is_hung_up_on(kit):
    client = kit().connect(role=ROLES["submissions"])
    client.send(b"EHLO client.example\r\n")
    assert client.closed


def test_connect_hooks_see_the_encryption(kit, client_context):
    seen = []

    class Watcher(Plugin):
        def hook_connect(self, transaction):
            seen.append(self.connection.security)

    kit(Watcher).connect(role=ROLES["submissions"]).start_tls(client_context, HOST)
    assert seen[0].version == "TLSv1.3"
    assert seen[0].server_name == HOST


def test_a_handshake_that_fails_reaches_no_hook(kit):
    server = kit()
    client = server.connect(role=ROLES["submissions"])
    context = ssl.create_default_context()  # it does not know our authority
    with pytest.raises(TlsError):
        client.start_tls(context, HOST)
    if not client.closed:
        client.link.go(b"")
    assert server.trace == []


# AUTH


def test_auth_is_offered_under_tls(kit, client_context):
    server = kit(tls_before_auth=[])
    client = server.connect()
    assert "AUTH" not in client.say("EHLO client.example").text
    assert client.say(LOGIN).code == 500
    client.say("STARTTLS")
    client.start_tls(client_context, HOST)
    assert "AUTH" in client.say("EHLO client.example").text
    assert client.say(LOGIN).code == 235


def test_a_client_that_has_authenticated_may_relay_and_is_forgiven():
    class Naughty(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["naughty"] = "bad things"

    client = Kit(Naughty, Everything).connect()
    client.say("HELO client.example")
    assert client.say(LOGIN).code == 235
    connection = client.connection
    assert (connection.auth_user, connection.auth_mechanism, connection.relay_client) == ("user", "plain", True)
    assert not connection.notes["naughty"]


def test_the_trace_tells_who_it_was():
    client = Kit(Everything).connect()
    client.say("EHLO client.example")
    client.say(LOGIN)
    client.deliver()
    header = client.connection.notes["header"].replace(b"\r\n\t", b" ")
    assert b"auth=pass (plain) smtp.auth=user" in header
    assert b"with ESMTPA (smtp-auth username user, mechanism plain) " in header


@pytest.mark.parametrize("user", ["a b", 'q"u\\o', "ümlaut", "semi;colon", "(paren)"])
def test_no_user_name_breaks_a_header(user):
    class Anybody(Everything):
        def hook_auth(self, transaction, mechanism, name, password, digest, ticket):
            return CODE_OK

    client = Kit(Anybody).connect()
    client.say("EHLO client.example")
    assert client.say("AUTH PLAIN " + base64.b64encode(f"\0{user}\0x".encode()).decode()).code == 235
    client.deliver()
    header = client.connection.notes["header"].split(b"\r\n\r\n")[0].replace(b"\r\n\t", b" ")
    assert header.isascii()
    (results,) = (line for line in header.split(b"\r\n") if line.startswith(b"Authentication-Results:"))
    value = results.partition(b"smtp.auth=")[2]
    assert value.startswith(b'"')
    assert value.endswith(b'"')


def test_a_password_reaches_no_log(kit, client_context):
    class Dies(Plugin):
        def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
            raise ValueError(user)

    server = kit(Dies)
    client = encrypted(server, client_context)
    client.say("EHLO client.example")
    assert client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0sesame").decode()).code == 454
    client.say("AUTH LOGIN dXNlcg==")
    client.say(base64.b64encode(b"sesame").decode())
    assert not [line for line in server.log if "sesame" in line or "c2VzYW1l" in line]
    assert server.log


# PROXY

PROXY = {"proxy_networks": ["192.0.2.0/24"]}
HEADER = ProxyHeader(local=False, source=("203.0.113.9", 5000), destination=("198.51.100.1", 25))


@pytest.mark.parametrize("encode", [ProxyHeader.encode_v1, ProxyHeader.encode_v2])
def test_a_trusted_proxy_says_who_connects(encode):
    kit = Kit(Everything, config=PROXY)
    client = kit.connect()
    assert client.replies == b""
    said = b"".join(client.send(bytes([octet])) for octet in encode(HEADER))
    assert said.startswith(b"220 ")
    assert client.connection.remote_ip == "203.0.113.9"
    assert client.connection.local_port == 25
    assert kit.site.census.connected == {"203.0.113.9": 1}
    client.say("QUIT")
    assert kit.site.census.total == 0


def test_commands_may_follow_the_header_at_once():
    client = Kit(Everything, config=PROXY).connect()
    said = client.send(HEADER.encode_v1() + b"EHLO client.example\r\n")
    assert said.count(b"220 ") == 1
    assert b"250 " in said


@pytest.mark.parametrize(
    "data", [b"EHLO client.example\r\n", b"PROXY nonsense\r\n", b"PROXY " * 40, b"", b"\r\n\r\n\0\r\nQUIT\r"]
)
def test_who_sends_no_header_is_hung_up_on(data):
    kit = Kit(Everything, config=PROXY)
    client = kit.connect()
    assert client.send(data) == b""
    assert client.closed
    assert kit.trace == []
    assert kit.site.census.total == 0


def test_a_header_that_does_not_come_is_not_awaited_for_ever():
    client = Kit(Everything, config=PROXY).connect()
    client.interrupt(TIMED_OUT)
    assert client.closed


def test_others_may_not_send_one():
    client = Kit(Everything, config=PROXY).connect("198.51.100.77")
    assert client.replies.startswith(b"220 ")
    assert client.send(HEADER.encode_v1()).startswith(b"500 ")
    assert client.connection.remote_ip == "198.51.100.77"


def test_a_health_check_keeps_the_proxys_address():
    client = Kit(Everything, config=PROXY).connect()
    client.send(ProxyHeader(local=True, source=None, destination=None).encode_v2())
    assert client.connection.remote_ip == CLIENT.remote_ip


def test_encryption_ended_by_the_proxy_counts():
    header = ProxyHeader(
        local=False,
        source=HEADER.source,
        destination=HEADER.destination,
        tls=Security("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    )
    client = Kit(Everything, config={**PROXY, "tls_before_auth": []}).connect(role=ROLES["submissions"])
    assert client.send(header.encode_v2()).startswith(b"220 ")
    assert client.connection.security.cipher == "TLS_AES_128_GCM_SHA256"
    client.say("EHLO client.example")
    assert client.say(LOGIN).code == 235


def test_tls_may_follow_the_header(kit, client_context):
    client = kit(**PROXY).connect(role=ROLES["submissions"])
    client.send(HEADER.encode_v2())
    assert client.start_tls(client_context, HOST).startswith(b"220 ")


def test_plugins_see_all_that_the_proxy_has_said():
    header = ProxyHeader(local=False, source=HEADER.source, destination=HEADER.destination, tlvs=((0xEA, b"vpce-1"),))
    client = Kit(Everything, config=PROXY).connect()
    client.send(header.encode_v2())
    assert client.connection.proxy.tlvs == ((0xEA, b"vpce-1"),)


def test_networks_are_written_as_in_relayclients():
    client = Kit(Everything, config={"proxy_networks": ["192.0.2."]}).connect()
    assert client.send(HEADER.encode_v1()).startswith(b"220 ")


def test_the_limit_of_an_address_is_that_of_the_client_spoken_for():
    kit = Kit(Everything, config={**PROXY, "max_per_ip": ["1"]})
    first, second = kit.connect(), kit.connect()
    assert first.send(HEADER.encode_v1()).startswith(b"220 ")
    assert second.send(HEADER.encode_v1()).startswith(b"421 ")


# XCLIENT


def test_a_trusted_client_speaks_for_another():
    kit = Kit(Everything, config={"xclient_networks": ["192.0.2.0/24"]})
    client = kit.connect()
    assert "XCLIENT NAME ADDR" in client.say("EHLO proxy.example").text
    client.connection.notes["mine"] = 1
    assert client.say("XCLIENT ADDR=203.0.113.9 NAME=client.example PORT=99 LOGIN=user HELO=its.name").code == 220
    connection = client.connection
    assert connection.hello_host == "its.name"
    assert (connection.remote_ip, connection.remote_host, connection.remote_port) == (
        "203.0.113.9",
        "client.example",
        99,
    )
    assert (connection.auth_user, connection.auth_mechanism) == ("user", "xclient")
    assert "mine" not in connection.notes
    assert len(kit.calls("connect")) == 2


def test_xclient_is_not_for_everybody():
    client = Kit(Everything, config={"xclient_networks": ["198.51.100.0/24"]}).connect()
    assert "XCLIENT" not in client.say("EHLO proxy.example").text
    assert client.say("XCLIENT ADDR=203.0.113.9").code == 500


def test_whoever_is_behind_a_proxy_is_not_trusted_for_it():
    kit = Kit(Everything, config={**PROXY, "xclient_networks": ["192.0.2.0/24"]})
    client = kit.connect()
    client.send(HEADER.encode_v1())
    assert "XCLIENT" not in client.say("EHLO evil.example").text
    assert client.say("XCLIENT LOGIN=admin").code == 500


def test_a_trusted_client_behind_a_proxy_is_trusted():
    kit = Kit(Everything, config={**PROXY, "xclient_networks": ["203.0.113.9"]})
    client = kit.connect()
    client.send(HEADER.encode_v1())
    assert "XCLIENT" in client.say("EHLO good.example").text


def test_an_unknown_client_has_no_rights_of_the_one_that_speaks_for_it():
    kit = Kit("relay", "rcpt_ok", config={"xclient_networks": ["192.0.2.0/24"], "relayclients": ["192.0.2."]})
    client = kit.connect()
    client.say("EHLO proxy.example")
    assert client.connection.relay_client
    assert client.say("XCLIENT ADDR=[UNAVAILABLE] NAME=[UNAVAILABLE]").code == 220
    assert client.connection.remote_ip == ""
    client.say("EHLO unknown.example")
    client.say("MAIL FROM:<a@b.example>")
    assert not client.connection.relay_client
    assert client.say("RCPT TO:<victim@else.where>").code == 550


def test_an_identity_by_xclient_is_forgotten_with_its_rights(kit, client_context):
    class Plain(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK if self.connection.relay_client else DENY

    client = kit(Plain, xclient_networks=["192.0.2.0/24"]).connect()
    client.say("XCLIENT LOGIN=admin")
    client.say("EHLO client.example")
    assert client.connection.relay_client
    client.say("STARTTLS")
    client.start_tls(client_context, HOST)
    assert (client.connection.relay_client, client.connection.auth_user) == (None, "")


def test_notes_are_forgotten_however_deep(kit, client_context):
    class Deep(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["deep"] = {"list": ["kept"], "set": {"kept"}}

        def hook_ehlo(self, transaction, host):
            self.connection.notes["deep"]["list"].append(host)
            self.connection.notes["deep"]["set"].add(host)

    client = encrypted(kit(Deep), client_context)
    assert client.connection.notes["deep"] == {"list": ["kept"], "set": {"kept"}}


def test_a_mapped_address_is_the_one_it_stands_for():
    client = Kit(Everything, config=PROXY).connect()
    client.send(b"PROXY TCP6 ::ffff:203.0.113.66 ::1 5555 25\r\n")
    assert client.connection.remote_ip == "203.0.113.66"


def test_what_a_proxy_says_of_a_cipher_is_harmless():
    evil = Security("TLSv1.3\0", "a)\r\nX: y \x1b[2J (b")
    assert str(evil) == "TLSv1.3? a???X??y???2J??b"


def test_early_talk_behind_a_header_is_noticed():
    class Early(Plugin):
        def hook_connect(self, transaction):
            talked = yield Pause(1, until_input=True)
            return (DENY, "early") if talked else DECLINED

    client = Kit(Early, config=PROXY).connect()
    assert client.send(HEADER.encode_v1() + b"EHLO spam\r\n").startswith(b"554 early")


def test_what_was_said_in_clear_goes_before_the_handshake(kit):
    class Slow(Plugin):
        def hook_noop(self, transaction):
            yield Pause(1)

    site = kit(Slow).site
    session = Session(site, CLIENT)
    run = session.run()
    next(run)
    session.data_to_send()
    hello = TlsChannel(ssl.create_default_context(), server_side=False, server_hostname=HOST)
    hello.handshake()
    effect = run.send(b"NOOP\r\nSTARTTLS\r\n")
    assert isinstance(effect, Pause)
    assert isinstance(run.send(b""), Receive)
    run.send(hello.data_to_send())  # though nothing has been written yet
    assert session.data_to_send().startswith(b"250 2.0.0 OK\r\n220 2.0.0 Begin TLS now\r\n\x16\x03\x03")
    run.close()


def test_a_secret_in_an_exception_is_not_logged():
    class Dies(Plugin):
        def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
            return OK if int(password) else DENY

    kit = Kit(Dies)
    client = kit.connect()
    client.say("EHLO client.example")
    assert client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0sesame").decode()).code == 454
    assert kit.logged("error, the hook failed: ValueError")
    assert kit.logged("int(password)")
    assert not kit.logged("sesame")


@pytest.mark.parametrize("hook", ["auth", "auth_scram_sha_256"])
def test_a_secret_in_a_nonsensical_result_is_not_logged(hook):
    def answer(self, transaction, *arguments):
        return OK, {"secret": "sesame"}

    kit = Kit(type("Nonsense", (Plugin,), {f"hook_{hook}": answer}))
    client = kit.connect()
    client.say("EHLO client.example")
    client.say(LOGIN if hook == "auth" else "AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=user,r=abc").decode())
    assert kit.logged("TypeError")
    assert not kit.logged("sesame")


# LMTP


def test_each_recipient_is_queued_for_itself():
    seen = []

    class Sink(Everything):
        def hook_queue(self, transaction):
            seen.append([mailbox.address for mailbox in transaction.recipients])
            return (OK, "in the box") if "a@" in seen[-1][0] else (DENY, "full")

    client = Kit(Sink).connect(role=ROLES["lmtp"])
    client.say("LHLO client.example")
    assert client.connection.hello == "lhlo"
    client.say("MAIL FROM:<x@y.example>")
    for name in ("a@b.example", "c@d.example"):
        client.say(f"RCPT TO:<{name}>")
    client.say("DATA")
    said = client.send(b"Subject: x\r\n\r\ny\r\n.\r\n")
    assert said == b"250 2.0.0 in the box\r\n552 5.3.0 full\r\n"
    assert seen == [["a@b.example"], ["c@d.example"]]


def test_a_recipient_that_a_plugin_has_removed_is_told_so():
    class Removes(Everything):
        def hook_data_post(self, transaction):
            transaction.remove_recipient(transaction.recipients[0])
            transaction.replace_recipient(transaction.recipients[0], transaction.reverse_path)
            return DECLINED

    kit = Kit(Removes)
    client = kit.connect(role=ROLES["lmtp"])
    client.send(b"LHLO c\r\nMAIL FROM:<x@y.example>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    said = client.send(b"Subject: x\r\n\r\ny\r\n.\r\n")
    assert said == b"554 5.5.1 No recipient is left\r\n250 2.0.0 queued\r\n"


def test_a_session_over_a_client_without_start_tls_is_unchanged():
    client = Client(Kit(Everything).site)
    assert [reply.code for reply in client.deliver()] == [250, 250, 250, 354, 250]


# Whatever comes


BEFORE = {
    "a PROXY header": b"PROXY ",
    "a PROXY header of version 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
    "TLS": b"\x16\x03\x01",
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(BEFORE)), st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=20))
def test_any_bytes_before_the_session_end_in_a_reply_or_a_clean_close(kit, expected, data, cuts):
    server = kit(**(PROXY if "PROXY" in expected else {}))
    role = ROLES["submissions"] if expected == "TLS" else ROLES["mx"]
    client = server.connect(role=role)
    data, at = BEFORE[expected] + data, 0
    for size in [*cuts, len(data)]:
        if client.closed or at >= len(data):
            break
        client.link.go(data[at : at + size])
        at += size
    if not client.closed:
        client.link.go(TIMED_OUT)
    assert client.closed
    assert server.site.census.total == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=20))
def test_any_bytes_instead_of_a_handshake_end_in_a_clean_close(kit, data, cuts):
    server = kit()
    client = server.connect()
    client.say("STARTTLS")
    at = 0
    for size in [*cuts, len(data)]:
        if client.closed or at >= len(data):
            break
        client.link.go(data[at : at + size])
        at += size
    if not client.closed:
        client.link.go(b"")
    assert client.closed
    assert [call.hook for call in server.calls("mail") + server.calls("queue")] == []
    assert server.site.census.total == 0
