"""What `logging/debug_plugin` keeps from the plugin that writes."""

import re

import pytest

from qpsmtpd import LOGDEBUG, Plugin
from qpsmtpd.config import ConfigError


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}")
            self.qp.log(level, f"level {level}", plugin="queue::maildir:0")
            self.qp.log(level, f"level {level}")


def levels(capsys):
    """The levels of what was written, by the name of the plugin."""
    found = {}
    for name, level in re.findall(r"\(noop\) (?:(\S+): )?level (\d)", capsys.readouterr().err):
        found.setdefault(name, []).append(int(level))
    return found


ALL, WARN, NOTICE = (list(range(last + 1)) for last in (7, 4, 5))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Talker", {"Talker": ALL, "queue::maildir:0": WARN, "": WARN}),
        ("Talker 5", {"Talker": ALL, "queue::maildir:0": NOTICE, "": NOTICE}),
        ("queue::maildir:0 LOGNOTICE", {"Talker": NOTICE, "queue::maildir:0": ALL, "": NOTICE}),
        ("queue/maildir:0", {"Talker": WARN, "queue::maildir:0": ALL, "": WARN}),
        ("queue::maildir", {"Talker": WARN, "queue::maildir:0": WARN, "": WARN}),
    ],
)
def test_all_of_one_plugin_is_written_and_of_the_rest_what_is_urgent(kit, capsys, words, expected):
    logging = (f"logging/debug_plugin {words}", "logging/warn LOGDEBUG")
    kit(Talker, config={"logging": logging}).connect().say("NOOP")
    assert levels(capsys) == expected


def test_the_level_of_the_plugin_that_writes_still_holds(kit, capsys):
    logging = ("logging/debug_plugin Talker 0", "logging/warn LOGNOTICE")
    kit(Talker, config={"logging": logging}).connect().say("NOOP")
    assert levels(capsys) == {"Talker": NOTICE, "queue::maildir:0": [0], "": [0]}


def test_it_writes_nothing_itself(kit, capsys):
    made = kit(config={"logging": ("logging/debug_plugin Talker",)})
    made.site.log(LOGDEBUG, "x", plugin="Talker")
    assert capsys.readouterr().err == ""
    assert made.log == []


@pytest.mark.parametrize(
    ("words", "message"), [("", "its arguments are: PLUGIN"), ("rcpt_ok LOGSOME", "'LOGSOME' is no log level")]
)
def test_bad_arguments_are_refused(kit, words, message):
    with pytest.raises(ConfigError, match=message):
        kit(config={"logging": (f"logging/debug_plugin {words}",)})
