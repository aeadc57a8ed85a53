"""What `auth/auth_imap` asks an IMAP server, and what it makes of the answer."""

import base64
import contextlib
import socket
import ssl
import threading

import pytest
import trustme
from tests.plugins.test_auth_plugins import authenticate, ehlo

from qpsmtpd import DENY, DENYSOFT, OK
from qpsmtpd.config import ConfigError

USERS = {"user@example.org": "s3cret", "us\u00e9r": "p\u00e4ss \u2603", "quoted": 'a "b" \\c'}


class Imap:
    """An IMAP server on loopback that knows `USERS`, one client after another."""

    def __init__(self, tls=None, *, implicit=False):
        self.capabilities = "IMAP4rev1 AUTH=PLAIN" + (" STARTTLS" if tls and not implicit else "")
        self.greeting = "* OK ready"
        self.instead = {}
        """What is sent in place of what should be, by command; None hangs up."""
        self.asked = []
        """The commands, and `TLS` for a handshake."""
        self._tls, self._implicit = tls, implicit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError, ValueError):
                    connection = self._encrypted(connection) if self._implicit else connection
                    self._talk(connection, f"{self.greeting}\r\n")

    def _encrypted(self, connection):
        connection = self._tls.wrap_socket(connection, server_side=True)
        self.asked.append("TLS")
        return connection

    def _talk(self, connection, greeting):
        file = connection.makefile("rwb", buffering=0)
        file.write(greeting.encode())
        with connection, file:
            while line := file.readline().decode():
                tag, command, *words = line.split()
                self.asked.append(command)
                if command in self.instead:
                    if self.instead[command] is None:
                        return
                    file.write(self.instead[command].replace("TAG", tag).encode())
                elif command == "CAPABILITY":
                    file.write(f"* CAPABILITY {self.capabilities}\r\n{tag} OK done\r\n".encode())
                elif command == "STARTTLS":
                    file.write(f"{tag} OK done\r\n".encode())
                    self.capabilities = self.capabilities.replace(" STARTTLS", "")
                    self._talk(self._encrypted(connection), greeting="")
                    return
                elif command == "AUTHENTICATE":
                    file.write(b"+ \r\n")
                    _, user, password = base64.b64decode(file.readline()).decode().split("\0")
                    self._judge(file, tag, user, password)
                elif command == "LOGIN":
                    self._judge(file, tag, words[0], line.split(" ", 3)[3].strip()[1:-1])
                else:
                    file.write(f"* BYE\r\n{tag} OK done\r\n".encode())
                    return

    def _judge(self, file, tag, user, password):
        right = USERS.get(user) == password
        file.write(f"{tag} {'OK' if right else 'NO [AUTHENTICATIONFAILED]'} {password}\r\n".encode())


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def imap():
    """Start servers."""
    with contextlib.ExitStack() as stack:

        def imap(*args, **options):
            server = Imap(*args, **options)
            stack.callback(server.stop)
            return server

        yield imap


def attempt(stage, user="user@example.org", password="s3cret", mechanism="PLAIN"):
    """Try to authenticate; give the reply code, and the plugin's code."""
    reply = authenticate(stage.connect(), mechanism, user, password)
    assert not stage.logged("s3cret")
    return reply.code, stage.calls(f"auth-{mechanism.lower()}")[-1].code


def test_it_offers_plain_and_login(kit):
    assert "AUTH LOGIN PLAIN" in ehlo(kit("auth/auth_imap"))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(
    ("user", "password", "result"),
    [
        *((user, password, OK) for user, password in USERS.items()),
        ("user@example.org", "wrong", DENY),
        ("user@example.org", "S3CRET", DENY),
        ("nobody", "s3cret", DENY),
    ],
)
def test_who_can_log_in_there_is_let_in(kit, imap, user, password, result, mechanism):
    server = imap()
    stage = kit(f"auth/auth_imap localhost {server.port}")
    assert attempt(stage, user, password, mechanism) == (235 if result is OK else 535, result)
    assert server.asked == ["CAPABILITY", "AUTHENTICATE", "LOGOUT"]
    assert stage.logged(f"{'pass' if result is OK else 'fail'}, ")


@pytest.mark.parametrize(
    ("user", "password", "result", "asked"),
    [
        ("user@example.org", "s3cret", OK, ["LOGIN"]),
        ("quoted", 'a "b" \\c', DENY, ["LOGIN"]),  # this server takes no escapes off
        ("user@example.org", "wrong", DENY, ["LOGIN"]),
        ("us\u00e9r", "p\u00e4ss \u2603", DENY, []),
        ("a b", "s3cret", DENY, []),
        ('a"', "s3cret", DENY, []),
        ("user", "a\tb", DENY, []),
    ],
)
def test_without_authenticate_plain_it_logs_in_with_what_login_can_carry(kit, imap, user, password, result, asked):
    server = imap()
    server.capabilities = "IMAP4rev1"
    assert attempt(kit(f"auth/auth_imap 127.0.0.1 {server.port}"), user, password)[1] is result
    assert server.asked == ["CAPABILITY", *asked, "LOGOUT"]


def test_nothing_that_a_client_says_becomes_a_command(kit, imap):
    server = imap()
    server.capabilities = "IMAP4rev1"
    (plugin,) = kit(f"auth/auth_imap localhost {server.port}", base=False).site.plugins
    for user, password in (
        ("a", "b\r\nTAG NOOP"),
        ("a\r\nTAG NOOP", "b"),
        ("user@example.org", "s3cret\0"),
        ("a\0", "b"),
    ):
        assert plugin.hook_auth_plain(None, "plain", user, password, None, None) is DENY
    assert set(server.asked) <= {"CAPABILITY", "LOGOUT"}


# Encryption


def test_tls_from_the_first_octet(kit, imap, tls, ca):
    server = imap(tls, implicit=True)
    stage = kit(f"auth/auth_imap localhost {server.port} tls yes ca {ca}")
    assert attempt(stage) == (235, OK)
    assert server.asked == ["TLS", "CAPABILITY", "AUTHENTICATE", "LOGOUT"]


def test_starttls_comes_before_the_password(kit, imap, tls, ca):
    server = imap(tls)
    assert attempt(kit(f"auth/auth_imap localhost {server.port} tls starttls ca {ca}")) == (235, OK)
    assert server.asked == ["CAPABILITY", "STARTTLS", "TLS", "CAPABILITY", "AUTHENTICATE", "LOGOUT"]


@pytest.mark.parametrize("how", ["yes", "starttls"])
@pytest.mark.parametrize(("host", "known"), [("localhost", False), ("127.0.0.1", True)])
def test_a_certificate_of_a_stranger_or_for_another_name_gets_no_password(kit, imap, tls, ca, how, host, known):
    server = imap(tls, implicit=how == "yes")
    stage = kit(f"auth/auth_imap {host} {server.port} tls {how}" + (f" ca {ca}" if known else ""))
    assert attempt(stage) == (535, DENYSOFT)
    assert "AUTHENTICATE" not in server.asked
    assert stage.logged("CERTIFICATE_VERIFY_FAILED") or stage.logged("certificate verify failed")


def test_without_the_starttls_that_was_asked_for_no_password_is_sent(kit, imap):
    server = imap()
    assert attempt(kit(f"auth/auth_imap localhost {server.port} tls starttls")) == (535, DENYSOFT)
    assert server.asked == ["CAPABILITY"]


def test_port_993_means_tls_and_clear_text_elsewhere_is_warned_of(kit):
    stage = kit("auth/auth_imap imap.example.org 993", "auth/auth_imap localhost", base=False)
    assert [plugin._tls for plugin in stage.site.plugins] == ["yes", "no"]
    assert not stage.logged("in clear")
    assert kit("auth/auth_imap imap.example.org").logged("passwords go to imap.example.org:143 in clear")


# Trouble


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("CAPABILITY", None),
        ("CAPABILITY", "nonsense\r\n"),
        ("CAPABILITY", "TAG BAD s3cret\r\n"),
        ("AUTHENTICATE", None),
        ("AUTHENTICATE", "* BYE s3cret\r\n"),
        ("AUTHENTICATE", "+ s3cret!\r\n"),
        ("AUTHENTICATE", "TAG NO [UNAVAILABLE] s3cret\r\n"),
        ("AUTHENTICATE", "no line end s3cret"),
        ("AUTHENTICATE", "TAG \xff s3cret\r\n"),
        ("AUTHENTICATE", "TAG BAD what\r\n"),
        ("AUTHENTICATE", "TAG NO [PRIVACYREQUIRED] not in clear\r\n"),
        ("AUTHENTICATE", "TAG NO [SERVERBUG] oops\r\n"),
    ],
)
def test_a_server_that_fails_or_makes_no_sense_is_trouble(kit, imap, command, answer):
    server = imap()
    server.instead[command] = answer
    stage = kit(f"auth/auth_imap localhost {server.port} timeout 0.2")
    assert attempt(stage) == (535, DENYSOFT)
    assert stage.logged("error, ")


@pytest.mark.parametrize("answer", ["TAG NO no\r\n", "+ \r\n" * 3 + "TAG NO no\r\n"])
def test_any_other_no_is_a_refusal(kit, imap, answer):
    server = imap()
    server.instead["AUTHENTICATE"] = answer
    assert attempt(kit(f"auth/auth_imap localhost {server.port} timeout 0.5"))[1] is DENY


def test_a_server_that_has_logged_somebody_in_already_is_no_judge(kit, imap):
    server = imap()
    server.greeting = "* PREAUTH welcome"
    assert attempt(kit(f"auth/auth_imap localhost {server.port}"))[1] is DENYSOFT


@pytest.mark.parametrize("listening", [False, True])
def test_nobody_there_or_nobody_who_answers_is_trouble(kit, listening):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen()
        port = held.getsockname()[1]
        stage = kit(f"auth/auth_imap 127.0.0.1 {port} timeout 0.05")
        assert attempt(stage) == (535, DENYSOFT)
        assert stage.logged(f"error, 127.0.0.1:{port}: {'timed out' if listening else 'Connection refused'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("localhost imap", "'imap' is no port"),
        ("localhost 0", "'0' is no port"),
        ("localhost 65536", "'65536' is no port"),
        ("localhost 143 144", "'144' is left over"),
        ("tls maybe", "tls 'maybe' is none of yes, starttls, no"),
        ("localhost tls yes ca /nosuch", "ca /nosuch: No such file"),
        ("localhost timeout -1", "timeout '-1' is no number"),
        ("localhost 143 ssl yes", "unknown argument 'ssl'"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, words, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"auth/auth_imap {words}")
    assert message in str(caught.value)
