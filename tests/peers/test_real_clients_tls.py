"""Other people's clients against our server: under TLS, and saying who they are.

Nobody may relay here without AUTH, so that a message to ELSEWHERE has come from a client that has authenticated.
"""

import asyncio
import base64
import contextlib
import functools
import re
import resource
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiosmtplib
import pytest
import scramp
import servers
import trustme

from qpsmtpd import DECLINED, DENY, OK, Plugin
from qpsmtpd.config import Config
from qpsmtpd.loader import add, load
from qpsmtpd.protocol import Security
from qpsmtpd.session.role import ROLES
from qpsmtpd.session.tls import ServerTls
from qpsmtpd.site import Site

SECONDS = 20
SENDER, RECIPIENT, ELSEWHERE = "me@example.org", "you@example.org", "you@elsewhere.example"
USER, PASSWORD = "user@example.org", "an-open.secret/1+1="  # which may be a bearer token too
BODY = b"..two dots\n.\nL\xc3\xa4ngere Zeile\n\nlast\n"
MESSAGE = b"Subject: a real mail\n\n" + BODY
CONTENT = MESSAGE.replace(b"\n", b"\r\n")


class Sight(NamedTuple):
    """How a message has come."""

    security: Security | None
    user: str
    mechanism: str
    parameters: list[dict[str, str | None]]
    """Of MAIL, and of each RCPT."""


class Witness(Plugin):
    """Remembers how messages have come."""

    def register(self, qp, *args):
        self.seen = []

    def hook_data_post(self, transaction):
        of_recipients = (parameters for _, parameters in transaction.recipients_with_parameters)
        parameters = list(map(dict, (transaction.sender_parameters, *of_recipients)))
        self.seen.append(Sight(self.connection.security, self.auth_user, self.auth_mechanism, parameters))
        return DECLINED


class Tokens(Plugin):
    """Takes the password for a bearer token."""

    def hook_auth_oauthbearer(self, transaction, mechanism, user, password, digest, ticket):
        return OK if (user, password) == (USER, PASSWORD) else DENY

    hook_auth_xoauth2 = hook_auth_oauthbearer


@dataclass(frozen=True, slots=True)
class Served:
    """A running server of ours."""

    address: tuple[str, int]
    site: Site
    log: list[str]
    mail: Path
    seen: list[Sight]

    @property
    def port(self):
        return self.address[1]

    def stored(self):
        """The only message."""
        (path,) = (self.mail / "new").iterdir()
        return path.read_bytes()

    def check(self, mechanism="", protocol="ESMTPS", *, version="TLSv1.3"):
        """See that the message has come whole, over TLS, and from the user if there is a mechanism."""
        stored, sight = self.stored(), self.seen[-1]
        assert stored.endswith(b"\n\n" + BODY)
        assert b"\nSubject: a real mail\n" in stored
        assert sight.security
        assert sight.security.version == version
        assert sight[1:3] == ((USER, mechanism.lower()) if mechanism else ("", ""))
        with_ = f"{protocol}A" if mechanism else protocol
        assert re.search(rf"\sby mx\.example\.test \(qpsmtpd\)\s+with {with_}\s".encode(), stored), stored


@pytest.fixture
def serve(tmp_path, files, running):
    """Serve with users, a Maildir and a certificate for localhost, as a context manager."""

    @contextlib.contextmanager
    def serve(driver="asyncio", role="mx", *, place=("127.0.0.1", 0), tls=None, plugins=(), **config):
        directory, log = tmp_path / "config", []
        directory.mkdir()
        settings = {
            "me": "mx.example.test",
            "loglevel": "LOGDEBUG",
            "rcpthosts": "example.org",
            "flat_auth_pw": f"{USER}:{PASSWORD}",
            "plugins": "auth/auth_flat_file plain login cram-md5 scram-sha-256\nrcpt_ok\n"
            f"queue/maildir {tmp_path}/mail",
        }
        for name, text in (settings | config).items():
            (directory / name).write_text(f"{text}\n")
        site = Site(Config(directory), write=log.append)
        site.tls = tls or ServerTls((files.certificate, files.key), clock=site.clock)
        load(site)
        for plugin in (*plugins, Tokens, Witness):
            add(site, plugin)
        (witness,) = (plugin for plugin in site.plugins if isinstance(plugin, Witness))
        with running(driver, site, role=ROLES[role], place=place) as address:
            yield Served(address, site, log, tmp_path / "mail", witness.seen)
        site.remove_spool_dir()
        failures = [line for line in log if "Traceback" in line or "error" in line]
        assert not failures, log[log.index(failures[0]) :]
        assert not site.census.connected

    return serve


@pytest.fixture
def trust(files):
    """What a careful client believes: our authority, for the name that it has asked for."""
    return ssl.create_default_context(cafile=files.ca)


def program(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command, stdin=b"", status=0):
    """Run a program to its end; give what it has printed."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == status, said.decode("utf-8", "replace")
    return said


# openssl s_client


class Terminal:
    """A running `openssl s_client`."""

    def __init__(self, process, log):
        self.process = process
        self._log = log

    def reply(self):
        """One whole reply."""
        lines = []
        while not lines or lines[-1][3:4] == b"-":
            line = self.process.stdout.readline()
            if not line:
                raise EOFError(b"".join(lines), self.errors())
            lines.append(line)
        return b"".join(lines)

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, line):
        self.send(line)
        return self.reply()

    def end(self):
        """Wait for its end; give its status."""
        rest, _ = self.process.communicate(timeout=SECONDS)
        assert rest == b""
        return self.process.returncode

    def find(self, text):
        """Read on until some text comes; whether it does."""
        seen = b""
        while text not in seen:
            data = self.process.stdout.read1(4096)
            if not data:
                return False
            seen += data
        return True

    def errors(self):
        return self._log.read_text("utf-8", "replace")

    def messages(self):
        """What has gone over the wire by s_client's own account: `<<<` has come to it, `>>>` has gone from it."""
        return self._log.with_suffix(".messages").read_text()

    def write_mail(self, recipient=RECIPIENT, hello=b"EHLO"):
        """Send a message, as a client without PIPELINING."""
        for line, code in (
            (hello + b" client.example\r\n", b"250"),
            (f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250"),
            (f"RCPT TO:<{recipient}>\r\n".encode(), b"250"),
            (b"DATA\r\n", b"354"),
            (re.sub(rb"(?m)^\.", b"..", CONTENT) + b".\r\n", b"250"),
        ):
            reply = self.ask(line)
            assert reply.startswith(code), reply


@pytest.fixture
def s_client(tmp_path, files):
    """Connect openssl s_client to a server, as a context manager. It gives up on a certificate that is not right."""
    command = program("openssl")

    @contextlib.contextmanager
    def s_client(server, *options, name=("-servername", "localhost"), quiet=True):
        log = tmp_path / "s_client.log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [
                    command, "s_client", "-connect", f"127.0.0.1:{server.port}", *name, "-CAfile", files.ca,
                    "-verify_hostname", "localhost", "-verify_return_error", "-msg",
                    "-msgfile", log.with_suffix(".messages"), *(["-quiet"] if quiet else []), *options,
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            ) as process,
        ):  # fmt: skip
            try:
                yield Terminal(process, log)
            finally:
                process.kill()

    return s_client


WAYS = [
    pytest.param("mx", ("-starttls", "smtp"), b"EHLO", "ESMTPS", id="starttls"),
    pytest.param("submissions", (), b"EHLO", "ESMTPS", id="implicit"),
    pytest.param("lmtp", ("-starttls", "lmtp"), b"LHLO", "LMTPS", id="lmtp"),
]


@pytest.mark.parametrize("version", ["1_2", "1_3"])
@pytest.mark.parametrize(("role", "options", "hello", "protocol"), WAYS)
def test_s_client_brings_a_message_and_is_told_when_it_is_over(
    serve, s_client, role, options, hello, protocol, version
):
    mechanism = "PLAIN" if role == "submissions" else ""
    with serve(role=role) as server, s_client(server, *options, f"-tls{version}") as client:
        if role == "submissions":
            assert client.reply().startswith(b"220 mx.example.test ")
        if mechanism:
            client.ask(b"EHLO client.example\r\n")
            secret = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
            assert client.ask(b"AUTH PLAIN " + secret + b"\r\n").startswith(b"235 ")
        client.write_mail(hello=hello)
        assert client.ask(b"QUIT\r\n").startswith(b"221 ")
        assert client.end() == 0, client.errors()
        assert "unexpected eof" not in client.errors()
        assert re.search(r"<<< TLS 1\.\d, Alert .*, warning close_notify", client.messages())
    server.check(mechanism, protocol, version=f"TLSv{version.replace('_', '.')}")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
@pytest.mark.parametrize(("role", "options", "hello", "protocol"), WAYS)
def test_an_old_version_of_tls_is_refused_and_told_so(serve, s_client, role, options, hello, protocol, version):
    with serve(role=role) as server:
        with s_client(server, *options, version, "-cipher", "DEFAULT:@SECLEVEL=0") as client:
            assert client.end() == 1
            assert "<<< TLS 1.0, Alert" in client.messages() or "<<< TLS 1.1, Alert" in client.messages()
            assert "fatal protocol_version" in client.messages()
        assert any("fail, TLS handshake: unsupported protocol" in line for line in server.log)
        with s_client(server, *options) as client:  # others are served as before
            if role == "submissions":
                client.reply()
            assert client.ask(hello + b" client.example\r\n").startswith(b"250")


@pytest.fixture
def two_names(tmp_path):
    """Certificates for mx.one.example and for *.two.example, and the authority behind them."""
    authority, pairs = trustme.CA(), []
    authority.cert_pem.write_to_path(tmp_path / "two-ca.pem")
    for name in ("mx.one.example", "*.two.example"):
        leaf = authority.issue_cert(name)
        pair = tmp_path / f"{len(pairs)}.crt", tmp_path / f"{len(pairs)}.key"
        leaf.cert_chain_pems[0].write_to_path(pair[0])
        leaf.private_key_pem.write_to_path(pair[1])
        pairs.append(pair)
    return ServerTls(*pairs), tmp_path / "two-ca.pem"


@pytest.mark.parametrize("options", [("-starttls", "smtp"), ("-starttls", "smtp", "-tls1_2")])
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("mx.one.example", "mx.one.example"),
        ("mx.two.example", "mx.two.example"),
        ("MX.Two.Example", "mx.two.example"),
        ("mx.three.example", "mx.one.example"),
        (None, "mx.one.example"),
    ],
)
def test_s_client_is_shown_the_certificate_that_it_asks_for(serve, s_client, two_names, asked, shown, options):
    tls, authority = two_names
    options = (*options, "-CAfile", authority)
    name = ("-noservername",) if asked is None else ("-servername", asked)
    with serve(tls=tls) as server:
        with s_client(server, *options, "-verify_hostname", shown, name=name) as client:
            client.write_mail()
        assert server.seen[0].security.server_name == asked
        wrong = "mx.one.example" if shown == "mx.two.example" else "mx.two.example"
        with s_client(server, *options, "-verify_hostname", wrong, name=name) as client:
            assert client.end() == 1
            assert "hostname mismatch" in client.errors().lower()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_plugin_sees_the_certificate_that_s_client_shows(serve, s_client, files, version):
    tls = ServerTls((files.certificate, files.key), ca=files.ca)
    options = ("-starttls", "smtp", version)
    with serve(tls=tls) as server:
        with s_client(server, *options, "-cert", files.client, "-key", files.client) as client:
            client.write_mail()
        with s_client(server, *options) as client:
            client.write_mail()
    shown, none = (sight.security.client_certificate for sight in server.seen)
    assert shown.verified
    assert shown.subject.startswith("CN=client.example,OU=")
    assert shown.der == ssl.PEM_cert_to_DER_cert(_certificate(files.client))
    assert none is None


def _certificate(path):
    return re.findall(r"(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", path.read_text())[0]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_certificate_of_an_unknown_authority_ends_the_handshake(serve, s_client, files, tmp_path, version):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(stranger)
    options = ("-starttls", "smtp", version, "-cert", stranger, "-key", stranger)
    tls = ServerTls((files.certificate, files.key), ca=files.ca)
    with serve(tls=tls) as server, s_client(server, *options) as client:
        assert client.end() == 1
        assert "fatal unknown_ca" in client.messages()
    assert server.seen == []


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_s_client_comes_back_to_a_session_of_tls(serve, s_client, tmp_path, version):
    kept = tmp_path / "session.pem"
    options = ("-starttls", "smtp", version)
    with serve() as server:
        with s_client(server, *options, "-sess_out", kept) as client:
            client.write_mail()
            client.ask(b"QUIT\r\n")
            assert client.end() == 0
        with s_client(server, *options, "-sess_in", kept) as client:
            client.write_mail()
            client.ask(b"QUIT\r\n")
            assert client.end() == 0
            assert ", Certificate" not in client.messages()  # it was not shown again
    assert len(server.seen) == 2


def test_keys_may_change_in_the_middle_of_a_session(serve, s_client, until):
    with serve() as server, s_client(server, "-starttls", "smtp", "-tls1_3", quiet=False) as client:
        for count, letter in enumerate((b"K", b"k"), 1):  # and ask for the server's new key; or not
            client.send(letter + b"\n")
            until(lambda count=count: client.errors().count("KEYUPDATE") == count)
            client.send(b"noop\r\n")
            assert client.find(b"250 2.0.0 ")
        client.send(b"quit\r\n")
        assert client.find(b"221 ")
        assert client.messages().count(">>> TLS 1.3, Handshake [length 0005], KeyUpdate") == 2
        assert client.messages().count("<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == 1


def test_renegotiation_is_refused(serve, s_client):
    with serve() as server:
        with s_client(server, "-starttls", "smtp", "-tls1_2", quiet=False) as client:
            client.send(b"R\n")
            client.process.communicate(timeout=SECONDS)
            assert "RENEGOTIATING" in client.errors()
            assert "<<< TLS 1.2, Alert [length 0002], warning no_renegotiation" in client.messages()
        with s_client(server, "-starttls", "smtp") as client:
            client.write_mail()
    server.check()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_message_that_is_cut_off_without_notice_is_nobodys(serve, s_client, until, version):
    with serve() as server:
        with s_client(server, "-starttls", "smtp", version) as client:
            client.ask(b"EHLO client.example\r\n")
            client.ask(f"MAIL FROM:<{SENDER}>\r\n".encode())
            client.ask(f"RCPT TO:<{RECIPIENT}>\r\n".encode())
            assert client.ask(b"DATA\r\n").startswith(b"354 ")
            sent = client.messages().count(">>>")
            client.send(b"Subject: half of a mail\r\n\r\nthe first lines\r\n")
            until(lambda: client.messages().count(">>>") > sent)
            client.process.kill()
            client.process.wait(SECONDS)
        until(lambda: not server.site.census.connected)
    assert server.seen == []
    assert not list(server.mail.glob("*/*"))


# swaks


@pytest.fixture
def swaks(tmp_path):
    """Run swaks with a message; give what it has printed. Skips a test that wants TLS where it has none."""
    command = program("swaks")
    message = tmp_path / "message"
    message.write_bytes(MESSAGE.removesuffix(b"\n"))  # it adds one

    def swaks(*options, to=RECIPIENT, status=0):
        if any("tls" in str(option) or option in ("LMTPS", "LMTPSA") for option in options) and not _swaks_knows_tls():
            pytest.skip("swaks has no TLS: it needs Net::SSLeay")
        return run(command, *options, "--from", SENDER, "--to", to, "--data", f"@{message}", status=status)

    return swaks


@functools.cache
def _swaks_knows_tls():
    return b"=== TLS supported" in run(program("swaks"), "--support")


def at(server):
    return "--server", "127.0.0.1", "--port", str(server.port)


def as_user(mechanism, password=PASSWORD):
    return "--auth", mechanism, "--auth-user", USER, "--auth-password", password


def test_swaks_starttls(serve, swaks, files):
    with serve() as server:
        said = swaks(*at(server), "--tls", "--tls-verify", "--tls-ca-path", files.ca, "--tls-sni", "localhost")
        assert b"~> QUIT\n<~  221 2.0.0" in said
    server.check()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(("role", "tls"), [("submission", "--tls"), ("submissions", "--tls-on-connect")])
def test_swaks_under_tls_with_each_mechanism(serve, swaks, role, tls, mechanism):
    with serve(role=role) as server:
        said = swaks(*at(server), tls, *as_user(mechanism), "--pipeline", to=ELSEWHERE)
        assert f"~> AUTH {mechanism}".encode() in said
    server.check(mechanism)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks_with_each_mechanism_where_it_is_allowed_in_clear(serve, swaks, mechanism):
    with serve(role="submission", tls_before_auth="0") as server:
        said = swaks(*at(server), *as_user(mechanism), to=ELSEWHERE)
        assert f"-> AUTH {mechanism}".encode() in said
    (sight,) = server.seen
    assert sight[:3] == (None, USER, mechanism.lower())
    assert b"with ESMTPA " in server.stored()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks_is_refused_with_a_wrong_password(serve, swaks, mechanism):
    with serve(role="submission", tls_before_auth="0") as server:
        said = swaks(*at(server), *as_user(mechanism, "guess"), to=ELSEWHERE, status=28)
        assert b"<** 535 5.7.8 " in said
    assert server.seen == []
    assert not [line for line in server.log if "guess" in line]


def test_swaks_is_not_offered_auth_in_clear(serve, swaks):
    with serve() as server:
        said = swaks(*at(server), *as_user("PLAIN"), status=28)
        assert b"Host did not advertise authentication" in said
    assert server.seen == []


@pytest.mark.parametrize("protocol", ["LMTP", "LMTPA", "LMTPS", "LMTPSA"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_swaks_delivers_by_lmtp_to_each_recipient(serve, swaks, protocol, unix):
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(servers.directory()) / "lmtp" if unix else ("127.0.0.1", 0)
        server = stack.enter_context(serve(role="lmtp", place=place, tls_before_auth="0"))
        where = ("--socket", place) if unix else at(server)
        options = as_user("PLAIN") if protocol.endswith("A") else ()
        said = swaks(*where, "--protocol", protocol, *options, to="you@example.org,she@example.org")
        assert len(re.findall(rb"(?m)^<[-~]  250 2\.0\.0 Queued!", said)) == 2, said
    kept = [path.read_bytes() for path in (server.mail / "new").iterdir()]
    assert {re.findall(rb"Delivered-To: (\S+)\n", content)[0] for content in kept} == {
        b"you@example.org",
        b"she@example.org",
    }
    assert all(f"with {protocol} ".encode() in content for content in kept)
    (sight,) = server.seen
    assert bool(sight.security) == ("S" in protocol)
    assert sight.user == (USER if options else "")


# smtplib


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_smtplib_starttls_and_login_on_every_driver(driver, serve, trust, mechanism):
    with serve(driver, "submission") as server, smtplib.SMTP("localhost", server.port, timeout=SECONDS) as client:
        with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
            client.sendmail(SENDER, [ELSEWHERE], CONTENT)
        client.starttls(context=trust)
        client.ehlo()
        client.esmtp_features["auth"] = f" {mechanism}"  # it takes the first that it knows
        client.login(USER, PASSWORD)
        assert client.sendmail(SENDER, [ELSEWHERE], CONTENT) == {}
        assert client.quit()[0] == 221
    server.check(mechanism)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_smtplib_implicit_tls(driver, serve, trust, version):
    trust.maximum_version = trust.minimum_version = version
    with (
        serve(driver, "submissions") as server,
        smtplib.SMTP_SSL("localhost", server.port, timeout=SECONDS, context=trust) as client,
    ):
        assert "starttls" not in client.esmtp_features
        client.login(USER, PASSWORD)
        assert client.sendmail(SENDER, [ELSEWHERE], CONTENT) == {}
    server.check("CRAM-MD5", version=str(version.name).replace("_", "."))


def _token(mechanism):
    """What smtplib answers with, for the mechanisms of OAuth."""
    return {
        "XOAUTH2": f"user={USER}\1auth=Bearer {PASSWORD}\1\1",
        "OAUTHBEARER": f"n,a={USER},\1auth=Bearer {PASSWORD}\1\1",
    }[mechanism]


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("at_once", [True, False])
def test_smtplib_with_a_token(serve, trust, mechanism, at_once):
    with serve("asyncio", "submission") as server, smtplib.SMTP("localhost", server.port, timeout=SECONDS) as client:
        client.starttls(context=trust)
        client.ehlo()
        assert mechanism in client.esmtp_features["auth"].split()
        client.auth(mechanism, lambda challenge=None: _token(mechanism), initial_response_ok=at_once)
        client.sendmail(SENDER, [ELSEWHERE], CONTENT)
    server.check(mechanism)


class Scram:
    """SCRAM as smtplib asks for it; scramp does the work, and checks that the server knows the password too."""

    def __init__(self, mechanism, password, binding=None):
        self._client = scramp.ScramClient([mechanism], USER, password, channel_binding=binding)
        self.proven = False
        self._steps = self._talk()
        next(self._steps)

    def __call__(self, challenge=None):
        return self._steps.send(challenge)

    def _talk(self):
        yield ""
        self._client.set_server_first((yield self._client.get_client_first()).decode())
        self._client.set_server_final((yield self._client.get_client_final()).decode())
        self.proven = True
        yield ""


BOUND = [
    pytest.param("SCRAM-SHA-256", None, "TLSv1.3", id="unbound"),
    pytest.param("SCRAM-SHA-256-PLUS", "tls-server-end-point", "TLSv1.3", id="1.3-end-point"),
    pytest.param("SCRAM-SHA-256-PLUS", "tls-server-end-point", "TLSv1.2", id="1.2-end-point"),
    pytest.param("SCRAM-SHA-256-PLUS", "tls-unique", "TLSv1.2", id="1.2-unique"),
]


@pytest.mark.parametrize(("mechanism", "binding", "version"), BOUND)
def test_smtplib_and_scramp_prove_each_other_the_password(serve, trust, mechanism, binding, version):
    trust.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    with serve("asyncio", "submission") as server, smtplib.SMTP("localhost", server.port, timeout=SECONDS) as client:
        client.starttls(context=trust)
        client.ehlo()
        assert mechanism in client.esmtp_features["auth"].split()
        bound = binding and (binding, client.sock)
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.auth(mechanism, Scram(mechanism, "guess", bound))
        scram = Scram(mechanism, PASSWORD, bound)
        client.auth(mechanism, scram)
        assert scram.proven
        client.sendmail(SENDER, [ELSEWHERE], CONTENT)
    server.check(mechanism, version=version)


def test_a_channel_that_ends_somewhere_else_is_noticed(serve, trust):
    mechanism = "SCRAM-SHA-256-PLUS"
    with serve("asyncio", "submission") as server, smtplib.SMTP("localhost", server.port, timeout=SECONDS) as client:
        client.starttls(context=trust)
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.auth(mechanism, Scram(mechanism, PASSWORD, ("tls-server-end-point", bytes(32))))
        assert client.docmd("MAIL", f"FROM:<{SENDER}>")[0] == 530
    assert server.seen == []


def test_smtplib_tries_each_mechanism_with_a_wrong_password_and_may_try_again(serve, trust):
    with serve("asyncio", "submission") as server, smtplib.SMTP("localhost", server.port, timeout=SECONDS) as client:
        client.starttls(context=trust)
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.login(USER, "guess")
        client.login(USER, PASSWORD)
        client.sendmail(SENDER, [ELSEWHERE], CONTENT)
    server.check("CRAM-MD5")
    failed = re.findall(rf"fail, {USER} by (\S+)\n", "".join(server.log))
    assert failed == ["cram-md5", "plain", "login"]
    assert not [line for line in server.log if "guess" in line or PASSWORD in line]


def test_smtplib_does_not_believe_the_certificate_and_others_are_served(serve, trust):
    with serve("asyncio", "submissions") as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("localhost", server.port, timeout=SECONDS, context=ssl.create_default_context())
        with smtplib.SMTP_SSL("localhost", server.port, timeout=SECONDS, context=trust) as client:
            assert client.noop()[0] == 250


def test_smtplib_by_lmtp_on_a_unix_socket_under_tls(serve, trust):
    trust.check_hostname = False  # a path has no name
    with (
        servers.directory() as base,
        serve(role="lmtp", place=base / "lmtp"),
        smtplib.LMTP(str(base / "lmtp"), timeout=SECONDS) as client,
    ):
        client.starttls(context=trust)
        client.ehlo()
        client.login(USER, PASSWORD)
        for command, argument in (("MAIL", f"FROM:<{SENDER}>"), ("RCPT", f"TO:<{ELSEWHERE}>")):
            assert client.docmd(command, argument)[0] == 250
        assert client.data(CONTENT)[0] == 250


# aiosmtplib


@pytest.mark.parametrize("mechanism", ["plain", "login", "crammd5", "xoauth2"])
@pytest.mark.parametrize("role", ["submission", "submissions"])
def test_aiosmtplib_under_tls_with_each_mechanism(serve, trust, role, mechanism):
    async def send(port):
        implicit = role == "submissions"
        async with aiosmtplib.SMTP(
            hostname="localhost",
            port=port,
            tls_context=trust,
            use_tls=implicit,
            start_tls=not implicit,
            timeout=SECONDS,
        ) as client:
            await client.ehlo()
            answer = await getattr(client, f"auth_{mechanism}")(USER, PASSWORD)
            assert answer.code == 235
            failed, _ = await client.sendmail(SENDER, [ELSEWHERE], CONTENT)
            assert failed == {}

    with serve(role=role) as server:
        asyncio.run(send(server.port))
    server.check("CRAM-MD5" if mechanism == "crammd5" else mechanism)


def test_aiosmtplib_sends_many_messages_at_once(serve, trust):
    async def send(port, password):
        return await aiosmtplib.send(
            CONTENT, sender=SENDER, recipients=[ELSEWHERE], hostname="localhost", port=port, start_tls=True,
            tls_context=trust, username=USER, password=password, timeout=SECONDS,
        )  # fmt: skip

    async def send_all(port):
        return await asyncio.gather(
            *(send(port, PASSWORD if number % 3 else "guess") for number in range(24)), return_exceptions=True
        )

    with serve(role="submission") as server:
        outcomes = asyncio.run(send_all(server.port))
    refused = [outcome for outcome in outcomes if isinstance(outcome, aiosmtplib.SMTPAuthenticationError)]
    assert len(refused) == 8
    assert {error.code for error in refused} == {535}
    assert len(server.seen) == 16
    assert len(list((server.mail / "new").iterdir())) == 16


# msmtp


@functools.cache
def _msmtp_mechanisms():
    said = run(program("msmtp"), "--version").decode()
    return re.findall(r"Supported authentication methods:\n(.*)\n", said)[0].upper().split()


@pytest.fixture
def msmtp(tmp_path, files):
    """Run msmtp with a message; its password stands in its own configuration."""
    command = program("msmtp")

    def msmtp(server, mechanism="", *options, to=ELSEWHERE, password=PASSWORD, trust=files.ca, status=0):
        if mechanism and mechanism not in _msmtp_mechanisms():
            pytest.skip(f"msmtp does not know {mechanism}")
        config = tmp_path / "msmtprc"
        config.write_text(
            "account default\n"
            f"host localhost\nport {server.port}\nfrom {SENDER}\ntls on\ntls_trust_file {trust}\ntimeout {SECONDS}\n"
            + (f"auth {mechanism.lower()}\nuser {USER}\npassword {password}\n" if mechanism else "auth off\n")
        )
        config.chmod(0o600)
        return run(command, "-C", config, *options, to, stdin=MESSAGE, status=status)

    return msmtp


MSMTP_MECHANISMS = [
    "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2",
]  # fmt: skip


@pytest.mark.parametrize("mechanism", MSMTP_MECHANISMS)
@pytest.mark.parametrize("role", ["submission", "submissions"])
def test_msmtp_under_tls_with_each_mechanism(serve, msmtp, role, mechanism):
    with serve(role=role) as server:
        msmtp(server, mechanism, f"--tls-starttls={'on' if role == 'submission' else 'off'}")
    server.check(mechanism)


@pytest.mark.parametrize("mechanism", MSMTP_MECHANISMS)
def test_msmtp_is_refused_with_a_wrong_password(serve, msmtp, mechanism):
    with serve(role="submission") as server:
        said = msmtp(server, mechanism, password="guess", status=77)
        assert b"535 5.7.8 " in said
    assert server.seen == []
    assert not [line for line in server.log if "guess" in line]


def test_msmtp_without_auth_brings_mail_for_us_only(serve, msmtp):
    with serve() as server:
        msmtp(server, to=RECIPIENT)
        assert b"550 5.7.1" in msmtp(server, to=ELSEWHERE, status=65)
    server.check()


def test_msmtp_does_not_believe_the_certificate(serve, msmtp, two_names):
    _, stranger = two_names
    with serve(role="submission") as server:
        assert b"certificate" in msmtp(server, "PLAIN", trust=stranger, status=69)
    assert server.seen == []


def test_msmtp_says_what_it_wants_to_hear_of_a_message(serve, msmtp):
    with serve(role="submission") as server:
        msmtp(server, "PLAIN", "--dsn-return=headers", "--dsn-notify=failure,success")
    server.check("PLAIN")
    of_mail, of_recipient = server.seen[0].parameters
    assert of_mail["ret"] == "HDRS"
    assert set(of_recipient["notify"].split(",")) == {"FAILURE", "SUCCESS"}


# Clients that stop in the middle of a handshake


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"EHLO client.example\r\n", b"\x15\x03\x01\0\2\2\x30"])
def test_a_handshake_that_fails_with_a_client_that_has_gone_is_no_fault_of_ours(
    driver, serve, trust, wire, until, said
):
    gone = threading.Event()

    class Late(Plugin):
        """Keeps the server busy until the client has gone."""

        def hook_pre_connection(self, transaction, arrival):
            assert gone.wait(SECONDS)

    with serve(driver, "submissions", plugins=[Late]) as server:
        with wire(server.address) as client:
            client.send(said)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        gone.set()
        until(lambda: any("fail, TLS handshake: " in line for line in server.log))
        with smtplib.SMTP_SSL("localhost", server.port, timeout=SECONDS, context=trust) as other:
            assert other.noop()[0] == 250


HALF_OPEN = 500


def _hello():
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.fixture
def many_descriptors():
    """Room for both ends of all connections in this process."""
    wanted, (soft, hard) = 2 * HALF_OPEN + 512, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} open files, and not {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("role", ["submissions", "submission"])
@pytest.mark.parametrize("driver", ["asyncio", "trio", "blocking"])
def test_half_open_handshakes_do_not_stop_others_and_end_in_time(
    serve, trust, wire, until, many_descriptors, driver, role
):
    hello, room = _hello(), str(2 * HALF_OPEN)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serve(driver, role, timeouttls="2", max_connections=room, max_per_ip=room, loglevel="LOGINFO")
        )
        half_open = [stack.enter_context(wire(server.address)) for _ in range(HALF_OPEN)]
        if role == "submissions":
            for client in half_open:
                client.send(hello[:11])
            other = stack.enter_context(smtplib.SMTP_SSL("localhost", server.port, timeout=SECONDS, context=trust))
        else:
            for client in half_open:
                client.reply()
                client.ask(b"EHLO client.example\r\n")
                assert client.ask(b"STARTTLS\r\n")[0].startswith(b"220 ")
                client.send(hello[: len(hello) // 2])
            other = stack.enter_context(smtplib.SMTP("localhost", server.port, timeout=SECONDS))
            other.starttls(context=trust)
        other.login(USER, PASSWORD)
        assert other.sendmail(SENDER, [ELSEWHERE], CONTENT) == {}
        assert server.site.census.total > HALF_OPEN // 2
        server.check("CRAM-MD5")
        for client in half_open:
            assert client.rest() == b""
        until(lambda: sum("fail, TLS handshake: it took too long" in line for line in server.log) == HALF_OPEN)
        assert other.noop()[0] == 250
        assert other.quit()[0] == 221
