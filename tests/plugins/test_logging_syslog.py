"""What `logging/syslog` sends, and as what."""

import syslog

import pytest

from qpsmtpd import LOGERROR, Plugin
from qpsmtpd.config import ConfigError


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line %s \udcff")


@pytest.fixture
def opened(monkeypatch):
    """The arguments of each openlog."""
    calls = []
    monkeypatch.setattr(syslog, "openlog", lambda *args: calls.append(args))
    return calls


@pytest.fixture
def sent(monkeypatch, opened):
    """Priority and text of each message of `Talker`."""
    messages = []

    def send(priority, text):
        if " level " in text:
            messages.append((priority, text))

    monkeypatch.setattr(syslog, "syslog", send)
    return messages


def play(kit, *lines):
    made = kit(Talker, config={"logging": lines, "loglevel": ("0",)})
    client = made.connect()
    client.say("NOOP")
    assert made.log == []
    return client


@pytest.mark.parametrize(
    ("words", "last"), [("", 4), ("loglevel 0", 0), ("loglevel LOGINFO", 6), ("loglevel debug", 7)]
)
def test_messages_up_to_the_level_are_sent_with_the_priority_of_theirs(kit, sent, words, last):
    client = play(kit, f"logging/syslog {words}")
    assert sent == [
        (syslog.LOG_MAIL | level, rf"{client.connection.id} (noop) Talker: level {level}\x0anext line %s \xff")
        for level in range(last + 1)
    ]


@pytest.mark.parametrize(
    ("word", "priority"),
    [("notice", syslog.LOG_NOTICE), ("LOG_ERR", syslog.LOG_ERR), ("LOGERROR", syslog.LOG_ERR), ("7", syslog.LOG_DEBUG)],
)
def test_a_fixed_priority_is_that_of_all_messages(kit, sent, word, priority):
    play(kit, f"logging/syslog priority {word}")
    assert [number for number, _ in sent] == [syslog.LOG_MAIL | priority] * 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("qpsmtpd", syslog.LOG_PID, syslog.LOG_MAIL)),
        ("ident mx1 facility local3", ("mx1", syslog.LOG_PID, syslog.LOG_LOCAL3)),
        ("facility LOG_DAEMON logsock unix,udp", ("qpsmtpd", syslog.LOG_PID, syslog.LOG_DAEMON)),
    ],
)
def test_it_calls_itself_by_its_name_and_facility(kit, opened, sent, words, expected):
    play(kit, f"logging/syslog {words}")
    assert opened == [expected]


def test_two_of_them_send_each_to_a_facility_of_its_own(kit, sent):
    play(kit, "logging/syslog:0 loglevel 0 facility user", "logging/syslog:1 loglevel 0 facility local0")
    assert [number for number, _ in sent] == [syslog.LOG_USER, syslog.LOG_LOCAL0]


def test_what_the_real_syslog_takes_is_taken(kit, monkeypatch):
    calls = []
    made = kit(config={"logging": ("logging/syslog",), "loglevel": ("7",)})
    real = syslog.syslog
    monkeypatch.setattr(syslog, "syslog", lambda *args: calls.append(real(*args)))
    made.site.log(LOGERROR, "nothing to worry about: a test of qpsmtpd \x00\udcff")
    syslog.closelog()
    assert calls == [None]
    assert made.log == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("facility mial", "'mial' is no syslog facility; did you mean mail?"),
        ("facility kern", "'kern' is no syslog facility"),
        ("facility 2", "'2' is no syslog facility; known are auth, "),
        ("priority notise", "'notise' is no syslog priority; did you mean notice?"),
        ("priority 8", "'8' is no syslog priority; known are emerg, "),
        ("loglevel LOGSOME", "'LOGSOME' is no log level"),
        ("idemt x", "unknown argument 'idemt'; did you mean ident?"),
        ("reject 1", "unknown argument 'reject'"),
        ("LOGINFO", "'LOGINFO' is left over"),
    ],
)
def test_a_bad_word_is_refused_with_the_nearest_good_one(kit, opened, words, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        kit(config={"logging": (f"logging/syslog {words}",)})
    assert opened == []
