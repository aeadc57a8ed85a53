"""That `logging/devnull` leaves nothing of the log."""

import pytest

from qpsmtpd import LOGEMERG, Plugin
from qpsmtpd.config import ConfigError


class Talker(Plugin):
    def hook_noop(self, transaction):
        self.log(LOGEMERG, "fire")


def test_nothing_is_written_anywhere(kit, capsys):
    made = kit(Talker, config={"logging": ("logging/devnull",), "loglevel": ("7",)})
    made.connect().say("NOOP")
    assert capsys.readouterr().err == ""
    assert made.log == []


@pytest.mark.parametrize(
    ("lines", "count"), [(("logging/warn", "logging/devnull"), 1), (("logging/devnull", "logging/warn"), 0)]
)
def test_plugins_before_it_write_and_those_behind_it_do_not(kit, capsys, lines, count):
    kit(Talker, config={"logging": lines}).connect().say("NOOP")
    assert capsys.readouterr().err.count("fire") == count


def test_an_argument_is_refused(kit):
    with pytest.raises(ConfigError, match="logging/devnull: this plugin takes no arguments"):
        kit(config={"logging": ("logging/devnull 4",)})
