"""Recordings: what is in them, what is masked, and what a replay makes of them."""

import base64
import json
import re
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from qpsmtpd import DECLINED, DENY, OK, Pause, Plugin
from qpsmtpd.cli import main
from qpsmtpd.config import Config, ConfigError, Line
from qpsmtpd.loader import add, add_line, load
from qpsmtpd.protocol import Reply
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login, ScramVerifier
from qpsmtpd.recording import PlayedSite, RecordingSite, compare, in_directory, play, play_recorded, read_tapes
from qpsmtpd.recording.tape import tapes_in
from qpsmtpd.session.effects import SHUTTING_DOWN, TIMED_OUT, Flush
from qpsmtpd.session.role import ROLES
from qpsmtpd.session.session import open_session
from qpsmtpd.session.tls import ServerTls
from qpsmtpd.testing import CLIENT, Client, Clock, Names, make_site
from qpsmtpd.transports.memory import Link

HOST = "mx.example.test"


class Taking(Plugin):
    """Takes all."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK, "kept"

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return OK if password == "secret" else DENY


class Capable(Plugin):
    """Looks up, draws, announces."""

    def hook_ehlo(self, transaction, host, *words):
        transaction.notes["capabilities"] = ["XTEST"]

    async def hook_mail(self, transaction, sender, parameters):
        await self.qp.resolver.look_up(sender.domain, "MX")
        self.qp.rng.random()
        return DECLINED


class Recorded:
    """A server in memory whose sessions are recorded."""

    def __init__(self, *plugins, mask_content=False, names=None, **config):
        self.clock, self.log, self._lines = Clock(), [], []
        base = make_site(config=config, clock=self.clock)
        self.site = RecordingSite(
            base.settings, lambda site, identity: self._lines.append, mask_content=mask_content, clock=self.clock,
            wall=self.clock.wall, write=self.log.append, resolver=names,
        )  # fmt: skip
        load(self.site)
        for number, plugin in enumerate(plugins):
            if isinstance(plugin, str):
                add_line(self.site, Line(plugin, Path("config/plugins"), number))
            else:
                add(self.site, plugin)

    @property
    def text(self):
        return "".join(self._lines)

    @property
    def tape(self):
        (tape,) = tapes_in("a test", self.text.splitlines())
        return tape

    def played(self):
        """The tape, when it has been seen that a replay of it is the same."""
        tape = self.tape
        assert tape.whole
        assert list(compare(tape, play_recorded(tape))) == []
        return tape


@pytest.fixture
def today(tmp_path):
    """Write a config directory, and play a tape with its plugins; give what differs."""

    def today(tape, *plugins, **config):
        directory = tmp_path / "config"
        directory.mkdir(exist_ok=True)
        for name, lines in {
            "me": [HOST],
            "store": [f"sqlite:{tmp_path / 'store'}"],
            "plugins": plugins,
            **config,
        }.items():
            (directory / name).write_text("".join(f"{line}\n" for line in lines))
        site = PlayedSite(tape, Config(directory))
        load(site)
        return list(compare(tape, play(site)))

    return today


def test_a_turn_is_what_came_what_was_asked_and_what_was_said():
    server = Recorded(Taking)
    client = Client(server.site)
    server.clock.advance(1.5)
    client.say("EHLO client.example")
    client.deliver()
    client.send(b"QUIT\r\n")
    tape = server.played()
    assert tape.turns[0].said == f"220 {HOST} ESMTP qpsmtpd\r\n".encode()
    assert (tape.turns[1].at, tape.turns[1].received) == (1.5, b"EHLO client.example\r\n")
    rcpt = next(turn for turn in tape.turns if turn.received.startswith(b"RCPT"))
    (asked,) = rcpt.asked
    assert (asked.hook, asked.result) == ("rcpt", (OK, (), None))
    assert [(call.plugin, call.answer) for call in asked.calls] == [("Taking", OK)]
    assert tape.said == client.replies
    assert tape.head.peer.remote_ip == "192.0.2.10"


def test_what_the_server_would_say_otherwise_today_is_a_difference():
    server = Recorded(Taking)
    client = Client(server.site)
    client.say("NOOP")
    client.send(b"QUIT\r\n")
    old = server.text.replace("250 2.0.0 OK", "250 2.0.0 Fine")
    (tape,) = tapes_in("a test", old.splitlines())
    (difference,) = compare(tape, play_recorded(tape))
    assert (difference.turn, difference.what) == (1, "said")
    assert (difference.then, difference.now) == ("250 2.0.0 Fine\r\n", "250 2.0.0 OK\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        [b"AUTH PLAIN " + base64.b64encode(b"\0user\0secret")],
        [b"auth  plain " + base64.b64encode(b"\0user\0wrong!")],
        [b"AUTH PLAIN", base64.b64encode(b"\0user\0secret")],
        [b"AUTH LOGIN", base64.b64encode(b"user"), base64.b64encode(b"secret")],
        [b"AUTH CRAM-MD5", base64.b64encode(b"user 0123456789abcdef")],
        [b"AUTH PLAIN secret!"],
        [b"AUTH NONESUCH " + base64.b64encode(b"\0user\0secret")],
        [b"AUTHPLAIN " + base64.b64encode(b"\0user\0secret")],
        [b" AUTH PLAIN " + base64.b64encode(b"\0user\0secret")],
        [b"AUTH " + base64.b64encode(b"\0user\0secret")],
        [b"AUTH=PLAIN " + base64.b64encode(b"\0user\0secret")],
        [b"EHLO x", b"AUTH NONESUCH", base64.b64encode(b"user"), base64.b64encode(b"secret"), b"secret", b"NOOP"],
        [b"QUIT", b"AUTH PLAIN " + base64.b64encode(b"\0user\0secret")],
        [b"AUTH PLAIN " + b"c2VjcmV0" * 1000],
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_passwords_are_masked_however_they_come_and_the_replay_is_the_same(lines, pieces):
    server = Recorded(Taking)
    client = Client(server.site)
    stream = b"EHLO x\r\n" + b"".join(line + b"\r\n" for line in lines)
    size = -(-len(stream) // pieces)
    for start in range(0, len(stream), size):
        if not client.closed:
            client.link.go(stream[start : start + size])
    if not client.closed:
        client.link.go(b"")
    tape = server.played()
    for secret in (b"secret", b"c2VjcmV0", b"wrong!", b"AHVzZXIA", b"0123456789abcdef", b"dXNlciAw"):
        assert secret.lower() not in server.text.encode().lower()
    assert len(tape.received) <= len(stream)
    assert tape.received.startswith(b"EHLO x\r\n")


def test_a_password_in_a_line_without_an_end_is_masked_and_memory_is_bounded():
    server = Recorded(Taking)
    client = Client(server.site)
    client.link.go(b"AUTH PLAIN ")
    for _ in range(100):
        client.link.go(b"c2VjcmV0" * 500)
        recorder = client.session.recorder
        assert sum(len(turn.received) for turn in recorder._hand_on.__self__._waiting) < 200_000
        assert recorder.total - recorder.much < 0
    client.link.go(b"")
    assert "c2VjcmV0" not in server.text
    server.played()


@pytest.mark.parametrize("cut", [5, 100_000])
def test_content_is_masked_on_request_and_the_replay_is_the_same(cut):
    server = Recorded(Taking, mask_content=True)
    client = Client(server.site)
    content = b"Subject: private\r\n\r\nprivate\r\n..private\r\n"
    for command in ("EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
        client.say(command)
    stream = content + b".\r\nMAIL FROM:<public@b.example>\r\nRCPT TO:<c@d>\r\n"
    stream += b"BDAT %d LAST\r\n" % len(content) + content + b"NOOP public\r\nQUIT\r\n"
    for start in range(0, len(stream), cut):
        client.link.go(stream[start : start + cut])
    tape = server.played()
    assert b"private" not in tape.received
    assert b"public@" in tape.received
    assert b"NOOP public" in tape.received
    assert b"\r\n..xxxxxxx\r\n.\r\n" in tape.received
    assert tape.head.masked == ("auth", "content")


def test_content_is_kept_where_nobody_asks_for_less():
    server = Recorded(Taking)
    client = Client(server.site)
    client.deliver(b"Subject: x\r\n\r\n\xff\x00\r\n")
    client.send(b"QUIT\r\n")
    assert b"\r\n\r\n\xff\x00\r\n.\r\n" in server.played().received


@pytest.mark.parametrize("why", [TIMED_OUT, SHUTTING_DOWN])
def test_how_a_session_was_hung_up_is_played_too(why):
    server = Recorded(Taking)
    client = Client(server.site)
    client.say("EHLO x")
    client.interrupt(why)
    tape = server.played()
    assert tape.turns[-1].hung_up == Reply(421, tape.turns[-1].hung_up.enhanced, tape.turns[-1].hung_up.text)
    assert tape.said.endswith(b"closing the connection\r\n")


@pytest.mark.parametrize("turns", [1, 2])
def test_a_client_that_did_not_read_is_hung_up_on_at_the_same_place(turns):
    class Deaf(Link):
        flushes = 0

        def _perform(self, effect):
            if isinstance(effect, Flush):
                self.flushes += 1
                return TIMED_OUT if self.flushes == 3 else None
            return super()._perform(effect)

    server = Recorded(Taking)
    link = Deaf(open_session(server.site, CLIENT), lambda _: b"")
    link.go()
    commands = b"NOOP\r\n" * 20_000
    said = link.go(commands) if turns == 1 else link.go(commands[:36_000]) + link.go(commands)
    assert said.endswith(b"421 4.4.2 Timeout, closing the connection\r\n")
    tape = server.played()
    assert (tape.turns[-1].drained, tape.turns[-1].hung_up.code) == (3 - turns, 421)
    assert 10_000 < tape.said.count(b"250 ") < 26_000


def test_content_that_comes_with_the_end_of_the_connection_is_no_command(authority, certificate):
    server = Recorded(Taking)
    server.site.tls = ServerTls((certificate, certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = Client(server.site, role=ROLES["submissions"])
    client.start_tls(context, HOST)
    client.say("EHLO x")
    client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0secret").decode())
    client._tls.write(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nAUTH is a word\r\n.\r\n")
    client._tls.close()
    client._hear(client.link.go(client._tls.data_to_send()))
    assert b"DATA\r\nAUTH is a word\r\n.\r\n" in server.played().received


def test_nothing_of_scram_helps_to_guess_the_password():
    verifier = ScramVerifier.of_password("secret", b"salt", 4096)

    class Knowing(Taking):
        def hook_auth_scram_sha_256(self, transaction, mechanism, user):
            return OK, str(verifier)

    server = Recorded(Knowing)
    client = Client(server.site)
    client.say("EHLO x")
    steps = CLIENT_MECHANISMS["SCRAM-SHA-256"](Login("user", "secret"), "nonce", {})
    lines, answer = [], f"AUTH SCRAM-SHA-256 {base64.b64encode(next(steps)).decode()}"
    while (reply := client.say(answer)).code == 334:
        answer = base64.b64encode(steps.send(base64.b64decode(reply.text))).decode() or "="
        lines += [answer, reply.text]
    assert reply.code == 235
    client.send(b"QUIT\r\n")
    tape = server.played()
    proof, signature = lines[0], lines[3]
    assert proof in "".join(client.transcript)
    for secret in (proof, signature, str(verifier), base64.b64encode(verifier.stored_key).decode()):
        assert secret not in server.text
    assert tape.said.count(b"334 ") == 2


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "mx.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.mark.parametrize("role", ["mx", "submissions"])
def test_what_is_said_under_tls_is_recorded_in_clear(role, authority, certificate):
    server = Recorded(Taking)
    server.site.tls = ServerTls((certificate, certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = Client(server.site, role=ROLES[role])
    if role == "mx":
        client.send(b"EHLO x\r\nSTARTTLS\r\nAUTH PLAIN c2VjcmV0\r\n")
    client.start_tls(context, HOST)
    client.say("EHLO x")
    client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0secret").decode())
    client.deliver()
    client.send(b"QUIT\r\n")
    tape = server.played()
    (security,) = [each for turn in tape.turns for each in turn.handshakes]
    assert security.version == "TLSv1.3"
    assert "c2VjcmV0" not in server.text
    assert tape.said == client.replies


def test_a_handshake_that_fails_is_played_as_one(certificate):
    server = Recorded(Taking)
    server.site.tls = ServerTls((certificate, certificate))
    client = Client(server.site)
    client.say("EHLO x")
    client.say("STARTTLS")
    client.link.go(b"this is no handshake\r\n")
    tape = server.played()
    assert [each for turn in tape.turns for each in turn.handshakes] == [None]


def test_lmtp_a_refused_connection_and_xclient_are_played(tmp_path):
    lmtp = Recorded(Taking)
    client = Client(lmtp.site, role=ROLES["lmtp"])
    client.send(b"LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n")
    client.send(b"x\r\n.\r\nQUIT\r\n")
    assert lmtp.played().said.count(b"kept") == 2

    full = Recorded(Taking, max_connections=["0"])
    assert Client(full.site).closed
    assert full.played().head.refusal.code == 421

    spoken_for = Recorded(Taking, xclient_networks=["192.0.2.0/24"])
    client = Client(spoken_for.site)
    client.say("EHLO x")
    client.send(b"XCLIENT ADDR=203.0.113.1 NAME=other.example LOGIN=user\r\nEHLO y\r\nQUIT\r\n")
    assert b"XCLIENT" in spoken_for.played().said


def test_names_and_random_numbers_of_then_serve_the_plugins_of_today(today):
    names = Names({"10.2.0.192.in-addr.arpa": {"PTR": ["client.example"]}, "client.example": {"A": ["192.0.2.10"]}})
    server = Recorded("fcrdns", "random_error 50", Taking, names=names)
    for _ in range(20):
        client = Client(server.site)
        for word in ("EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d>", "QUIT"):
            if not client.closed:
                client.say(word)
    answers = set()
    for tape in tapes_in("a test", server.text.splitlines()):
        found = today(tape, "fcrdns", "random_error 50", rcpthosts=["d"])
        assert not [each for each in found if each.what in ("connect", "ehlo", "mail")]
        answers |= {asked.result[0] for turn in tape.turns for asked in turn.asked}
    assert len(answers) > 2


def test_plugins_of_today_answer_where_one_asks_for_it_and_leave_nothing_behind(today, tmp_path):
    server = Recorded(Taking)
    client = Client(server.site)
    client.deliver(sender="spammer@b.example")
    client.send(b"QUIT\r\n")
    tape = server.tape
    mail = tmp_path / "mail"
    plugins = ["badmailfrom", "greylisting", "content_log", "rcpt_ok", f"queue/maildir {mail}"]
    found = today(
        tape, *plugins, badmailfrom=["spammer@b.example"], content_log_enabled=["1"], rcpthosts=["example.org"]
    )
    assert "mail" in [each.what for each in found]
    said = next(each for each in found if each.what == "said" and each.then.startswith("250 2.1.0"))
    assert said.now.startswith("5")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for _ in range(2):  # had the first one been kept, the second would be greeted as an old friend
        found = today(tape, "greylisting", "rcpt_ok", f"queue/maildir {mail}", rcpthosts=["example.org"])
        assert any("DENYSOFT" in each.now for each in found)
    assert not mail.exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if "store" not in path.name) == [
        name for name in before if "store" not in name
    ]


def test_who_logged_in_then_is_logged_in_today(today):
    server = Recorded(Taking)
    client = Client(server.site)
    client.say("EHLO x")
    client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0secret").decode())
    client.deliver()
    client.send(b"QUIT\r\n")
    found = today(server.tape, "auth/authdeny", "relay", "rcpt_ok", tls_before_auth=["0"])
    assert not [each for each in found if each.then.startswith("235") or (each.what == "rcpt" and "OK" not in each.now)]


def test_a_client_that_spoke_early_speaks_early_today(today):
    class Waiting(Plugin):
        def hook_connect(self, transaction):
            yield Pause(2, until_input=True)
            return DECLINED

    server = Recorded(Waiting, Taking)
    Client(server.site, early=b"EHLO x\r\nQUIT\r\n")
    found = today(server.tape, "earlytalker")
    assert any("DENY" in each.now for each in found)
    calm = Recorded(Taking)
    Client(calm.site).send(b"EHLO x\r\nQUIT\r\n")
    assert not [each for each in today(calm.tape, "earlytalker") if "DENY" in each.now]


def test_files_are_for_nobody_else_and_one_for_each_session(tmp_path):
    base = make_site()
    site = RecordingSite(base.settings, in_directory(tmp_path / "records"), clock=base.clock, wall=base.wall)
    add(site, Taking)
    for _ in range(3):
        Client(site).send(b"QUIT\r\n")
    files = sorted((tmp_path / "records").iterdir())
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    for path in files:
        (tape,) = read_tapes(path)
        assert path.name == f"20260101T000000-{tape.head.id}.jsonl"


def test_a_disk_that_fails_is_told_once_and_mail_goes_on(tmp_path):
    log = []
    base = make_site()
    site = RecordingSite(
        base.settings, in_directory(tmp_path / "records"), clock=base.clock, wall=base.wall, write=log.append
    )
    add(site, Taking)
    (tmp_path / "records").rmdir()
    for _ in range(2):
        assert Client(site).deliver()[-1].code == 250
    for _ in range(2):
        Client(site).send(b"QUIT\r\n")
    assert len([line for line in log if "not recorded" in line]) == 1


@pytest.mark.parametrize(
    ("text", "number", "what"),
    [
        ("", 0, "no session"),
        ("nonsense\n", 1, "Expecting value"),
        ("[1]\n", 1, "list"),
        ('{"at":0}\n', 1, "begins with"),
        ('{"qpsmtpd":"session","version":2}\n', 1, "version 2"),
        ('{"qpsmtpd":"session","version":1}\n', 1, "role"),
        ('{"qpsmtpd":"session","version":1,"role":"king"}\n', 1, "king"),
    ],
)
def test_what_is_no_recording_is_told_by_file_and_line(tmp_path, capsys, text, number, what):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    assert main(["replay", str(path)]) == 1
    error = capsys.readouterr().err
    assert what in error
    assert f"{path}:{number}:" in error or not number
    with pytest.raises(ConfigError):
        list(read_tapes(path))


def test_a_line_of_a_turn_that_is_wrong_is_told(tmp_path, capsys):
    server = Recorded(Taking)
    Client(server.site).send(b"NOOP\r\nQUIT\r\n")
    lines = server.text.splitlines()
    turn = json.loads(lines[2])
    turn["asked"] = [["rcpt", [], "PERHAPS", [], None]]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*lines[:2], json.dumps(turn), *lines[3:]]))
    assert main(["replay", str(path)]) == 1
    assert f"{path}:3:" in capsys.readouterr().err


def test_a_recording_that_breaks_off_is_played_as_far_as_it_goes(tmp_path, capsys):
    server = Recorded(Taking)
    Client(server.site).send(b"NOOP\r\nQUIT\r\n")
    path = tmp_path / "cut.jsonl"
    path.write_text("".join(f"{line}\n" for line in server.text.splitlines()[:2]))
    assert main(["replay", str(path)]) == 0
    assert "recorded in part" in capsys.readouterr().out


def test_a_server_that_is_told_to_records_and_replay_shows_what_differs_today(tmp_path, capsys):
    config, records = tmp_path / "config", tmp_path / "records"
    config.mkdir()
    (config / "plugins").write_text("relay\nrcpt_ok\nqueue/discard\n")
    (config / "rcpthosts").write_text("example.org\n")
    command = [
        sys.executable,
        "-m",
        "qpsmtpd",
        "run",
        "--config",
        config,
        "--listen",
        "127.0.0.1:0",
        "--record",
        records,
    ]
    with subprocess.Popen([*command, "--mask-content"], stdout=subprocess.PIPE) as process:
        try:
            port = int(re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline().decode())[1])
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                client.sendmail("ann@example.com", ["bob@example.org"], "Subject: private\r\n\r\nprivate\r\n")
        finally:
            process.terminate()
    (path,) = records.iterdir()
    assert "private" not in path.read_text()
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.endswith("the same, byte for byte\n")
    assert main(["replay", "--today", "--config", str(config), str(path)]) == 0
    (config / "badmailfrom").write_text("ann@example.com\n")
    (config / "plugins").write_text("badmailfrom\nrelay\nrcpt_ok\nqueue/discard\n")
    capsys.readouterr()
    assert main(["replay", "--today", "--config", str(config), str(path)]) == 1
    assert "now   550 5.7.1 your sender address is not welcome here" in capsys.readouterr().out


def test_every_key_is_in_the_page():
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text("utf-8")
    documented = set(
        re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `"))
    )
    server = Recorded(Capable, Taking, names=Names())
    client = Client(server.site)
    client.say("EHLO x")
    client.say("AUTH PLAIN " + base64.b64encode(b"\0user\0secret").decode())
    client.say("MAIL FROM:<a@b.example>")
    client.interrupt(TIMED_OUT)
    head, *turns = map(json.loads, server.text.splitlines())
    written = set(head).union(*turns) - {"end"}
    assert written <= documented
    assert {"dns", "draws", "auth", "asked", "announced", "hung_up", "in", "out", "at"} <= written
    recorder = Path(sys.modules[RecordingSite.__module__].__file__).read_text()
    assert set(re.findall(r'(?:fields\[|\.add\()"(\w+)"', recorder)) <= documented


def test_the_program_of_the_page_counts_differences(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    server = Recorded(Taking)
    Client(server.site).send(b"NOOP\r\nQUIT\r\n")
    path = tmp_path / "some.jsonl"
    path.write_text(server.text + server.text.replace("250 2.0.0 OK", "250 2.0.0 Fine"))
    assert names["unlike"](path) == 1
