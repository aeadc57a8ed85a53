"""What `logging/warn` writes to standard error."""

import io
import re

import pytest

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import make_site


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line")


@pytest.mark.parametrize(
    ("line", "last"), [("logging/warn", 4), ("logging/warn 4", 4), ("logging/warn 6", 6), ("logging/warn LOGINFO", 6)]
)
def test_messages_up_to_the_level_are_written_each_on_one_line(kit, capsys, line, last):
    made = kit(Talker, config={"logging": (line,), "loglevel": ("0",)})
    made.connect().send(b"NOOP\r\n")
    written = [text for text in capsys.readouterr().err.splitlines() if "level" in text]
    assert [int(text.partition("level ")[2][0]) for text in written] == list(range(last + 1))
    assert all(re.fullmatch(r"[0-9a-f]{12} \(noop\) Talker: level \d\\x0anext line", text) for text in written)
    assert made.log == []


def test_two_of_them_both_write(capsys):
    make_site(config={"logging": ("logging/warn:0 1", "logging/warn:1 2")}).log(1, "twice")
    assert capsys.readouterr().err.count("twice") == 2


def test_a_word_that_is_no_level_is_refused():
    with pytest.raises(ConfigError, match="logging/warn: 'LOGSOME' is no log level"):
        make_site(config={"logging": ("logging/warn LOGSOME",)})


@pytest.mark.parametrize("stream", ["none", "closed", "broken"])
def test_without_a_standard_error_the_next_plugin_still_writes(tmp_path, monkeypatch, stream):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    streams = {"none": None, "closed": io.StringIO(), "broken": Broken()}
    streams["closed"].close()
    log = []
    made = make_site(config={"logging": ("logging/warn", f"logging/file {tmp_path}/log")}, log=log)
    monkeypatch.setattr("sys.stderr", streams[stream])
    made.log(1, "still here")
    assert (tmp_path / "log").read_text().count("still here") == 1
    assert log == []
