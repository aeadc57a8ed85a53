"""The shadow list: what it would have otherwise is counted and logged, and nobody notices it."""

import re
import smtplib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DECLINED, DENY, OK, Plugin, blocking, shadow
from qpsmtpd.cli import main
from qpsmtpd.loader import add
from qpsmtpd.logs import LOGINFO
from qpsmtpd.resolver import DnsError
from qpsmtpd.session.role import ROLES
from qpsmtpd.shadow import ShadowedSite
from qpsmtpd.testing import Client, Clock, Names, make_site
from qpsmtpd.testing.strategies import dialogues, hostile_dialogues, plugin_lists


class Taking(Plugin):
    """Takes all, into a list."""

    def register(self, qp):
        self.taken = []

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        self.taken.append(b"".join(transaction.chunks()))
        return OK, "kept"

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return OK if password == "secret" else DENY


class Shadowed:
    """A server in memory with a shadow list."""

    def __init__(self, real, other, *, names=None, **config):
        self.clock, self.log = Clock(), []
        settings = make_site(config=config, clock=self.clock).settings
        self.site = ShadowedSite(
            settings, clock=self.clock, wall=self.clock.wall, write=self.log.append, resolver=names
        )  # fmt: skip
        for plugin in real:
            add(self.site, plugin)
        for plugin in other:
            add(self.site.shadow, plugin)
        self.site.load_shadow()

    @property
    def told(self):
        return [line.split(" ", 1)[1].strip() for line in self.log if " shadow: " in line]

    @property
    def summary(self):
        self.site.sum_up()
        return self.told[-1]


def session(site, **options):
    client = Client(site, **options)
    client.deliver(b"Subject: x\r\n\r\n.body\r\n")
    client.send(b"QUIT\r\n")
    return client


def test_a_list_that_refuses_is_counted_and_logged_and_the_client_sees_nothing_of_it():
    class Strict(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            self.log(LOGINFO, f"fail, {sender}\n")
            return DENY, "not you"

        def hook_rcpt(self, transaction, recipient, parameters):
            return OK, "the same, in other words"

        def hook_data_post(self, transaction):
            assert transaction.sender is not None  # it goes on as the real ones had it
            return DENY if b"\r\n.body\r\n" in b"".join(transaction.chunks()) else DECLINED

    plain = session(make_site(Taking))
    server = Shadowed([Taking], [Strict])
    client = session(server.site)
    assert client.replies == plain.replies
    assert server.told == [
        r"(mail) shadow: DENY by Strict (fail, <a@client.example>\x0a), was DECLINED",
        "(data_post) shadow: DENY by Strict, was DECLINED",
    ]
    session(server.site)
    assert server.summary == (
        "shadow: 2 sessions, 2 otherwise; 2 mail: DENY by Strict for DECLINED; 2 data_post: DENY by Strict for DECLINED"
    )


def test_what_the_real_ones_refuse_the_shadow_may_take():
    class Refusing(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return DENY, "no such user"

    server = Shadowed([Refusing, Taking], [Taking])
    client = session(server.site)
    assert b"550 5.7.1 no such user" in client.replies
    assert server.told == ["(rcpt) shadow: OK by Taking, was DENY by Refusing (no such user)"]


def test_a_difference_that_no_client_sees_is_none():
    class Agreeing(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            return OK, "welcome"

        def hook_noop(self, transaction, *words):
            return OK

        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

    server = Shadowed([Taking], [Agreeing])
    session(server.site)
    assert server.summary == "shadow: 1 sessions, 0 otherwise"


def test_what_the_shadow_does_to_connection_message_store_and_queue_is_seen_by_it_alone():
    class Meddling(Plugin):
        def register(self, qp):
            self.seen = []
            self.store = qp.store("meddling")

        def hook_connect(self, transaction):
            self.qp.connection.relay_client = True
            self.qp.connection.notes["naughty"] = "you"
            self.store.put("key", b"value", 60)

        def hook_rcpt(self, transaction, recipient, parameters):
            transaction.add_recipient(recipient)
            return OK

        def hook_data_post(self, transaction):
            transaction.header.add("X-Meddled", "yes", 0)
            transaction.replace_body(b"\r\ngone\r\n")
            self.seen.append((self.qp.connection.relay_client, len(transaction.recipients), self.store.get("key")))

        def hook_queue(self, transaction):
            raise AssertionError("nothing is queued")

    server = Shadowed([Taking], [Meddling])
    plain = make_site(Taking)
    assert session(server.site).replies == session(plain).replies
    message = re.compile(rb"Received: .*?\d{4}\r\n|\r\n\s.*", re.DOTALL)
    (queued,), (expected,) = server.site.plugins[0].taken, plain.plugins[0].taken
    assert message.sub(b"", queued, count=1) == message.sub(b"", expected, count=1)
    assert server.site.shadow.plugins[0].seen == [(True, 2, b"value")]
    assert server.summary == "shadow: 1 sessions, 0 otherwise"


def test_passwords_are_not_judged_and_who_is_known_is_known_to_the_shadow():
    class Relaying(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK if self.qp.connection.relay_client and self.qp.connection.auth_user == "ann" else DENY

        def hook_auth(self, transaction, *words):
            raise AssertionError("it is asked")

    server = Shadowed([Taking], [Relaying])
    client = Client(server.site)
    client.say("EHLO x")
    assert client.say("AUTH PLAIN AGFubgBzZWNyZXQ=").code == 235
    session_of(client)
    assert server.summary == "shadow: 1 sessions, 0 otherwise"
    assert "secret" not in "".join(server.log)


def session_of(client):
    client.deliver()
    client.send(b"QUIT\r\n")


def test_lmtp_and_pauses_and_names_that_were_looked_up():
    class Slow(Plugin):
        async def hook_mail(self, transaction, sender, parameters):
            return OK if (await self.qp.resolver.look_up(sender.domain, "MX")) else DENY

        @blocking
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK if self.qp.resolver.look_up_blocking("other.example", "A") else DENY

    class Looking(Plugin):
        async def hook_mail(self, transaction, sender, parameters):
            await self.qp.resolver.look_up(sender.domain, "MX")

    names = Names({"client.example": {"MX": ("10 mx.client.example",)}})
    server = Shadowed([Looking, Taking], [Slow], names=names)
    server.site.shadow._resolver = Names({"other.example": {"A": ("192.0.2.1",)}})
    client = Client(server.site, role=ROLES["lmtp"])
    client.say("LHLO x")
    session_of(client)
    assert server.summary == "shadow: 1 sessions, 0 otherwise"


def test_a_fault_of_the_shadow_is_logged_and_counts_as_one():
    class Broken(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            raise DnsError("nobody knows")

        def hook_reset_transaction(self, transaction):
            raise KeyError("unseen")

    server = Shadowed([Taking], [Broken])
    assert session(server.site).replies == session(make_site(Taking)).replies
    told = "\n".join(server.told)
    assert "shadow: Broken: error, the hook failed: DnsError: nobody knows" in told
    assert "shadow: Broken: error, the hook failed: KeyError: 'unseen'" in told
    assert "(rcpt) shadow: FAILED by Broken (error, the hook failed: DnsError: nobody knows), was OK by Taking" in told


def test_a_session_that_is_too_large_is_left_out_and_its_memory_is_free(monkeypatch):
    monkeypatch.setattr(shadow, "_MOST", 20_000)
    server = Shadowed([Taking], [Taking])
    client = Client(server.site)
    client.deliver(b"Subject: x\r\n\r\n" + b"x" * 30_000 + b"\r\n")
    client.deliver(b"Subject: x\r\n\r\n" + b"x" * 300_000 + b"\r\n")
    client.send(b"QUIT\r\n")
    session(server.site)
    assert server.summary == "shadow: 1 sessions, 0 otherwise, 1 too large to be looked at"
    assert (server.site._size, server.site._tapes, server.site.shadow._lines) == (0, {}, {})


def test_what_is_played_counts_until_it_has_been():
    sizes = []

    class Slow(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            sizes.append(server.site._size)
            return OK

    server = Shadowed([Taking], [Slow])
    session(server.site)
    assert sizes[0] > 500
    assert server.site._size == 0


def test_sessions_that_break_off_leave_nothing_behind():
    server = Shadowed([Taking], [Taking])
    client = Client(server.site)
    client.say("EHLO x")
    client.vanish()
    client = Client(server.site)
    client.say("EHLO x")
    client.interrupt()
    assert (server.site._size, server.site._tapes, server.site.shadow._lines) == (0, {}, {})
    assert server.summary == "shadow: 1 sessions, 0 otherwise"


@given(real=plugin_lists(), other=plugin_lists(), writes=dialogues() | hostile_dialogues(), limit=st.integers(5, 30))
def test_whatever_the_shadow_answers_the_client_is_told_the_same_and_a_list_differs_from_itself_in_nothing(
    real, other, writes, limit
):
    def told(site):
        client = Client(site)
        for write in writes[:limit]:
            if client.closed:
                break
            client.send(write)
        if not client.closed:
            client.send(b"")
        return client.replies

    plain = told(make_site(*[each.plugin() for each in real]))
    assert told(Shadowed([each.plugin() for each in real], [each.plugin() for each in other]).site) == plain
    itself = Shadowed([each.plugin() for each in real], [each.plugin() for each in real])
    assert told(itself.site) == plain
    assert itself.summary == "shadow: 1 sessions, 0 otherwise"


OWN = """\
from qpsmtpd import DECLINED, DENY, blocking


async def hook_mail(self, transaction, sender, parameters):
    return DENY


@blocking
def hook_rcpt(self, transaction, recipient, parameters):
    return DENY
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.mkdir()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own.py").write_text(OWN)
    (config / "plugins").write_text(f"relay\nrcpt_ok\nqueue/maildir {tmp_path / 'mail'}\n")
    (config / "plugins.shadow").write_text("relay\nown\nqueue/maildir ./elsewhere\n")
    (config / "relayclients").write_text("127.0.0.1\n")
    (config / "loglevel").write_text("LOGNOTICE\n")
    (config / "store").write_text("memory:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("backend", ["asyncio", "trio", "anyio", "blocking"])
@pytest.mark.parametrize("options", [(), ("--record", "sessions")], ids=["", "recorded"])
def test_a_server_that_is_run_with_a_shadow_list(directory, backend, options):
    with subprocess.Popen(
        [sys.executable, "-m", "qpsmtpd", "run", "--listen", "127.0.0.1:0", "--backend", backend, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            port = int(re.search(r":(\d+) \(", server.stdout.readline())[1])
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                client.sendmail("ann@example.com", "bob@example.org", "Subject: x\r\n\r\nx")
        finally:
            server.terminate()
            _, log = server.communicate(timeout=20)
    assert len(list((directory / "mail" / "new").iterdir())) == 1
    assert not (directory / "elsewhere").exists()
    assert "(mail) shadow: DENY by own, was DECLINED" in log
    assert "(rcpt) shadow: DENY by own, was OK by rcpt_ok" in log
    assert (
        "shadow: 1 sessions, 1 otherwise; 1 mail: DENY by own for DECLINED; 1 rcpt: DENY by own for OK by rcpt_ok"
        in log
    )
    assert not options or len(list((directory / "sessions").iterdir())) == 1


def test_a_shadow_list_with_a_fault_is_an_error_at_the_start(directory, capsys):
    (directory / "config" / "plugins.shadow").write_text("relay\nbadmailform\n")
    assert main(["check"]) == 1
    assert "plugins.shadow:2: badmailform: there is no plugin 'badmailform'" in capsys.readouterr().err


def test_masked_content_and_a_shadow_list_exclude_each_other(directory, capsys):
    assert main(["run", "--record", "sessions", "--mask-content"]) == 1
    assert "plugins.shadow:1: these plugins could not see the content of messages" in capsys.readouterr().err
