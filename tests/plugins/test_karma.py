"""How `karma` judges clients, what it remembers, and what its command line says."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Plugin
from qpsmtpd.cli import main
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.karma import Record
from qpsmtpd.store import StoreError
from qpsmtpd.testing import Kit

DAY = 86400
BAD, GOOD, STRANGE = "192.0.2.66", "192.0.2.1", "203.0.113.9"


class Signs(Plugin):
    """Good and bad signs, by the client's address."""

    def hook_ehlo(self, transaction, host):
        self.adjust_karma({BAD: -3, GOOD: 3}.get(self.connection.remote_ip, 0))


def visit(stage, ip=BAD):
    """A whole connection; gives the greeting's code."""
    client = stage.connect(ip)
    code = client.replies[:3]
    if not client.closed:
        client.say("EHLO c.example")
        client.say("QUIT")
    return code


@pytest.fixture
def stage(kit):
    return lambda args="reject connect", *more: kit(f"karma {args}", Signs, *more)


def test_who_misbehaves_is_kept_out_for_a_day(stage):
    stage = stage()
    assert visit(stage) == b"220"
    assert stage.logged("negative, sent to the penalty box (karma -3, history -1)")
    assert visit(stage) == b"554"
    assert visit(stage, STRANGE) == b"220"
    stage.clock.advance(DAY)
    assert visit(stage) == b"220"
    assert stage.logged("pass, penalty expired")


@pytest.mark.parametrize(("args", "days"), [("penalty_days 2 reject 1", 2), ("penalty_days 0.5 reject connect", 0.5)])
def test_the_penalty_is_as_long_as_it_was_said(stage, args, days):
    stage = stage(args)
    visit(stage)
    stage.clock.advance(days * DAY - 60)
    assert visit(stage) == b"554"
    stage.clock.advance(61)
    assert visit(stage) == b"220"


def test_nice_connections_make_up_for_naughty_ones(stage):
    class Moods(Plugin):
        mood = 3

        def hook_helo(self, transaction, host):
            self.adjust_karma(self.mood)

    def come(mood):
        Moods.mood = mood
        client = stage.connect("198.51.100.1")
        if client.closed:
            return False
        client.say("HELO c.example")
        client.say("QUIT")
        return True

    stage = stage("reject connect count_naughty 1", Moods)
    assert come(3)
    assert come(3)
    assert come(-3)
    assert stage.logged("negative (karma -3, history 1)")
    assert come(-3)
    assert come(-3)
    assert not come(-3)


def test_it_is_left_to_naughty_by_default(stage):
    stage = stage("", "naughty reject mail")
    visit(stage)
    client = stage.connect(BAD)
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<a@b.example>").code == 550
    assert client.closed


def test_with_reject_0_it_is_only_logged(stage):
    stage = stage("reject 0")
    visit(stage)
    assert visit(stage) == b"220"
    assert stage.logged("fail, reject disabled")


@pytest.mark.parametrize("line", ["MAIL FROM: <a@b.example>", "MAIL FROM:a@b.example"])
def test_the_form_of_an_envelope_address_is_a_sign(kit, line):
    stage = kit("karma", "dont_require_anglebrackets")
    client = stage.connect()
    client.say("EHLO c.example")
    client.say(line)
    assert client.connection.notes["karma"] == -2
    client.say("RSET")
    client.say("MAIL FROM:<a@b.example>")
    assert client.connection.notes["karma"] == -2
    client.say("RCPT TO: <a@b.example>")
    assert client.connection.notes["karma"] == -4


def test_the_sender_s_domain_is_a_sign(kit):
    stage = kit("karma", config={"karma_tlds": ["info:-4", "fr:+1", "nonsense", "co.uk : 2"]})
    karma = {}
    for domain in ("x.info", "x.fr", "info", "xinfo", "x.co.uk", "x.INFO"):
        client = stage.connect()
        client.say("EHLO c.example")
        client.say(f"MAIL FROM:<a@{domain}>")
        karma[domain] = client.connection.notes["karma"]
    assert karma == {"x.info": -4, "x.fr": 1, "info": 0, "xinfo": 0, "x.co.uk": 2, "x.INFO": -4}
    assert stage.logged("left out the line 'nonsense'")


def test_strangers_may_name_one_recipient(kit):
    stage = kit("karma", Signs)
    for ip, code in ((STRANGE, 550), (GOOD, 250)):
        client = stage.connect(ip)
        client.say("EHLO c.example")
        client.say("MAIL FROM:<a@b.example>")
        assert client.say("RCPT TO:<a@x.example>").code == 250
        assert client.say("RCPT TO:<b@x.example>").code == code


def test_the_worst_are_refused_at_data(kit):
    stage = kit("karma reject 1", config={"karma_tlds": ["info:-5"]})
    assert stage.connect().deliver(sender="a@x.info")[-1].code == 554
    assert stage.connect("192.0.2.11").deliver(sender="a@x.org")[-1].code == 250


def test_a_karma_of_minus_four_is_not_among_the_worst(kit):
    stage = kit("karma reject 1", config={"karma_tlds": ["info:-4"]})
    assert stage.connect().deliver(sender="a@x.info")[-1].code == 250


def test_who_has_never_been_nice_gets_a_day_more_for_each_naughty_connection(stage):
    stage = stage("reject 0 count_naughty 1")
    for _ in range(6):
        visit(stage)
    stage.clock.advance(7 * DAY - 60)
    visit(stage, BAD)
    assert not stage.logged("penalty expired")
    stage.clock.advance(9 * DAY)
    visit(stage, BAD)
    assert stage.logged("penalty expired")


def test_who_has_been_very_nice_begins_above_zero(stage):
    stage = stage()
    karma = []
    for _ in range(12):
        client = stage.connect(GOOD)
        karma.append(client.connection.notes["karma"])
        client.say("EHLO c.example")
        client.say("QUIT")
    assert karma == [0] * 11 + [1]


def test_a_visit_in_the_penalty_box_is_counted(stage):
    stage = stage()
    visit(stage)
    visit(stage)
    assert Record.read(stage.site.plugins[0]._store.get(BAD)).connects == 2


def test_who_may_relay_is_spared(kit):
    stage = kit("relay", "karma reject connect", Signs, config={"relayclients": [BAD]})
    visit(stage)
    assert visit(stage) == b"220"


def test_a_store_that_fails_lets_clients_in(stage, monkeypatch):
    stage = stage()
    backend = stage.site.plugins[0]._store._backend

    def fail(*_):
        raise StoreError("the disk is full")

    for name in ("get", "update"):
        monkeypatch.setattr(backend, name, fail)
    assert visit(stage) == visit(stage) == b"220"
    assert len(stage.logged("karma: error, the disk is full")) == 4


@pytest.mark.parametrize(
    "args",
    ["strikes 0", "negative x", "penalty_days -1", "penalty_days inf", "count_naughty 2", "db_dir /nowhere/x", "day 1"],
)
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: karma: "):
        kit(f"karma {args}")


@given(
    entry=st.none()
    | st.binary(max_size=40)
    | st.from_regex(rb"[0-9.e-]{1,9}(:[0-9-]{1,9}){3}:[0-9]{1,9}", fullmatch=True)
)
def test_any_entry_is_a_record(entry):
    record = Record.read(entry)
    assert Record.read(record.entry).nice == record.nice
    assert record.seen_at(5).seen == 5


@given(text=st.text(max_size=100), ip=st.ip_addresses().map(str))
def test_whatever_a_client_says_no_hook_fails(text, ip):
    stage = Kit("karma", Signs, config={"karma_tlds": ["info:-4"]})
    client = stage.connect(ip)
    client.say("EHLO c.example")
    line = " ".join(text.encode("utf-8", "surrogatepass").decode("latin-1").split())
    for command in ("MAIL FROM:", "RCPT TO:"):
        client.say(f"{command}{line}".replace("\r", "").replace("\n", ""))
    client.say("QUIT")
    assert not stage.logged("Traceback")


# The command line


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `qpsmtpd karma ...` in a site with the plugin; gives status, output and errors."""
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "plugins").write_text("rcpt_ok\nkarma penalty_days 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPSMTPD_CONFIG", raising=False)
    monkeypatch.setattr("qpsmtpd.site.place_in", lambda *_: f"sqlite:{tmp_path}/store")

    def run(*words):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        done = capsys.readouterr()
        return status, done.out, done.err

    return run


def test_clients_are_captured_and_released_by_hand(run):
    assert run("karma", "capture", "192.0.2.66") == (0, "192.0.2.66 is in the penalty box\n", "")
    assert run("karma", "capture", "2001:DB8::0:1")[1] == "2001:db8::1 is in the penalty box\n"
    _, out, _ = run("karma", "list", "--config", "config")
    lines = [line.split() for line in out.splitlines()[1:]]
    assert [line[0] for line in lines] == ["192.0.2.66", "2001:db8::1", "2"]
    assert lines[0][3:] == ["1", "0", "0"]
    assert "192.0.2.66" in run("karma", "search", "naughty")[1]
    assert "192.0.2.66" not in run("karma", "search", "nice")[1]
    assert "192.0.2.66" not in run("karma", "search", "2001:db8::1")[1]
    assert run("karma", "release", "192.0.2.66")[1] == "192.0.2.66 is released\n"
    assert run("karma", "release", "192.0.2.67")[1] == "192.0.2.67 is not known\n"
    assert "192.0.2.66" in run("karma", "search", "none")[1]
    assert run("karma", "prune")[1] == "0 of 2 clients forgotten\n"
    assert run("karma", "prune", "0")[1] == "2 of 2 clients forgotten\n"


def test_the_server_sees_what_was_captured(run, kit, tmp_path):
    run("karma", "capture", BAD)
    stage = kit("karma reject connect", config={"store": [f"sqlite:{tmp_path}/store"]})
    stage.clock.advance(time.time() - stage.clock.wall())  # the command line goes by the real one
    assert visit(stage) == b"554"
    stage.clock.advance(DAY)
    assert visit(stage) == b"220"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [(["karma", "capture", "nobody"], 2, "'nobody' is no address"), (["karma", "search", "bad"], 2, "is neither an address nor"),
     (["karma"], 2, "required"), (["rcpt_ok"], 1, "the plugin rcpt_ok has no command of its own"),
     (["krama"], 1, "there is no command 'krama'"), (["chekc"], 1, "there is no command 'chekc'; did you mean check?")],
)  # fmt: skip
def test_what_makes_no_sense_is_told(run, words, status, text):
    found, _, err = run(*words)
    assert found == status
    assert text in err


def test_the_help_tells_of_commands_of_plugins(run):
    assert "qpsmtpd NAME --help" in run("--help")[1]
    assert "capture" in run("karma", "--help")[1]
    assert "qpsmtpd karma capture ADDRESS" in run("plugins", "help", "karma")[1]
