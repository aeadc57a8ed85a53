"""Where the log goes when no logging plugin takes it, or one fails."""

import re

import pytest

from qpsmtpd import DECLINED, DENY, OK, Plugin
from qpsmtpd.config import Config
from qpsmtpd.loader import add, load
from qpsmtpd.logs import LOGDEBUG, LOGERROR, LOGINFO, LOGWARN
from qpsmtpd.site import Site
from qpsmtpd.testing import Client


class Broken(Plugin):
    def hook_logging(self, transaction, level, hook, plugin, text):
        raise OSError("the disk is full")


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line")


def server(*plugins, loglevel=None):
    """A server that writes where servers do."""
    site = Site(Config(None, {"loglevel": (loglevel,)} if loglevel else {}))
    load(site)
    for plugin in plugins:
        add(site, plugin)
    return site


@pytest.mark.parametrize(("loglevel", "last"), [(None, 4), ("0", 0), ("4", 4), ("LOGDEBUG", 7)])
def test_without_a_logging_plugin_messages_up_to_loglevel_go_to_standard_error(capsys, loglevel, last):
    client = Client(server(Talker, loglevel=loglevel))
    client.say("NOOP")
    assert [text for text in capsys.readouterr().err.splitlines() if "level" in text] == [
        rf"{client.connection.id} (noop) Talker: level {level}\x0anext line" for level in range(last + 1)
    ]


def test_outside_of_connections_a_line_begins_with_the_process(capsys):
    site = server()
    site.log(LOGWARN, "the moon is full")
    site.log(LOGINFO, "the sky is blue")
    assert re.fullmatch(r"\[\d+\] the moon is full\n", capsys.readouterr().err)


@pytest.mark.parametrize("stream", ["closed", "broken"])
def test_a_standard_error_that_cannot_be_written_to_does_not_stop_the_mail(monkeypatch, stream, tmp_path):
    with (tmp_path / "err").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        if stream == "closed":
            file.close()
        else:
            monkeypatch.setattr("sys.stderr", Full(file))
        assert Client(server(Talker)).say("NOOP").code == 250


class Full:
    """A file on a disk without room."""

    def __init__(self, file):
        self._file = file

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        self._file.flush()


@pytest.mark.parametrize("level", [LOGERROR, LOGDEBUG])
def test_when_a_logging_plugin_raises_the_message_reaches_standard_error_whatever_its_level(capsys, level):
    server(Broken).log(level, "important\nindeed", hook="queue", plugin="mine")
    first, second, *others = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\[\d+\] \(queue\) mine: important\\x0aindeed", first)
    assert second.endswith("(logging) Broken: error, writing the log failed: OSError: the disk is full")
    assert any("test_site_log.py" in text for text in others)
    assert not any("important" in text for text in others)


def test_when_a_logging_plugin_raises_the_mail_goes_on(capsys):
    client = Client(server(Broken, Talker))
    assert client.say("NOOP").code == 250
    assert "Talker: level 7" in capsys.readouterr().err


def test_what_a_logging_plugin_logs_itself_goes_to_standard_error_once(capsys):
    class Talkative(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            self.log(LOGERROR, f"I was told: {text}")
            return OK

    server(Talkative).log(LOGINFO, "news")
    assert re.fullmatch(r"\[\d+\] Talkative: I was told: news\n", capsys.readouterr().err)


@pytest.mark.parametrize(("result", "asked"), [(OK, 1), (DECLINED, 2), (None, 2)])
def test_the_first_logging_plugin_that_says_ok_is_the_last_one_asked(capsys, result, asked):
    told = []

    class First(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            told.append((transaction, level, hook, plugin, text))
            return result

    class Second(First):
        pass

    server(First, Second).log(LOGWARN, "text", hook="rcpt", plugin="mine")
    assert told == [(None, LOGWARN, "rcpt", "mine", "text")] * asked
    assert capsys.readouterr().err == ""


def test_when_a_logging_plugin_raises_the_next_one_is_asked(capsys):
    seen = []

    class Next(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            seen.append(text)

    server(Broken, Next).log(0, "urgent")
    assert seen == ["urgent"]


@pytest.mark.parametrize(
    ("result", "asked", "written"),
    [
        (DECLINED, ["first", "second"], 0),
        (None, ["first", "second"], 0),
        (OK, ["first"], 0),
        ((OK, "said"), ["first"], 0),
        (DENY, ["first"], 1),
        (42, ["first", "second"], 1),
        ((DENY, "mine not"), ["first"], 1),
    ],
)
def test_the_first_logging_plugin_that_does_not_decline_ends_the_chain(capsys, result, asked, written):
    seen = []

    class First(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            seen.append("first")
            return result

    class Second(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            seen.append("second")

    server(First, Second).log(0, "urgent")
    assert seen == asked
    assert capsys.readouterr().err.count("urgent") == written
