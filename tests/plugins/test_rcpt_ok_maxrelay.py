"""When `rcpt_ok_maxrelay` has had enough of attempts to relay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

HOSTS = {"rcpthosts": ("dest.example",)}


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def begin(stage):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@c.example>")
    return client


def attempts(client):
    """How many recipients elsewhere are refused before the connection ends; None if it does not."""
    for number in range(20):
        reply = client.say(f"RCPT TO:<u{number}@far.example>")
        if client.closed:
            assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.1", "too many relaying attempts")
            return number
        assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.1", "relaying denied")
    return None


@pytest.mark.parametrize(("args", "most"), [("", 5), ("5", 5), ("1", 1), ("2 loglevel 3", 2), ("0", None)])
def test_the_attempt_behind_the_last_that_is_allowed_ends_the_connection(kit, args, most):
    stage = kit(f"rcpt_ok_maxrelay {args}", config=HOSTS, base=False)
    assert attempts(begin(stage)) == most


def test_what_is_accepted_does_not_count(kit):
    stage = kit("rcpt_ok_maxrelay 2", config=HOSTS, base=False)
    client = begin(stage)
    for _ in range(5):
        assert client.say("RCPT TO:<u@dest.example>").code == 250
        assert client.say("RCPT TO:<postmaster>").code == 250
    assert "count_relay_attempts" not in client.connection.notes
    assert attempts(client) == 2
    assert client.connection.notes["count_relay_attempts"] == 3
    assert stage.logged("rcpt_ok_maxrelay: fail, relaying attempt number 3")


def test_attempts_are_counted_over_all_messages_of_a_connection(kit):
    stage = kit("rcpt_ok_maxrelay 3", config=HOSTS, base=False)
    client = begin(stage)
    client.say("RCPT TO:<u@far.example>")
    client.say("RSET")
    client.say("MAIL FROM:<a@c.example>")
    assert attempts(client) == 2
    assert attempts(begin(stage)) == 3


def test_relay_clients_may_send_to_anyone(kit):
    client = begin(kit(RelayClient, "rcpt_ok_maxrelay 1", base=False))
    assert [client.say(f"RCPT TO:<u{number}@far.example>").code for number in range(5)] == [250] * 5


def test_what_other_plugins_refuse_does_not_count(kit):
    class Refuses(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return DENY

    client = begin(kit(Refuses, "rcpt_ok_maxrelay 1", base=False))
    assert [client.say(f"RCPT TO:<u{number}@far.example>").code for number in range(5)] == [550] * 5


@pytest.mark.parametrize("args", ["x", "-1", "1 2", "1.5"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: rcpt_ok_maxrelay: "):
        kit(f"rcpt_ok_maxrelay {args}")


def test_it_may_be_inherited_from_by_name(kit, directory):
    (directory / "plugins").mkdir()
    (directory / "plugins" / "child.py").write_text(
        "def init(self, qp, *words):\n    self.parent = self.isa_plugin('rcpt_ok_maxrelay')\n\n\n"
        "def hook_rcpt(self, transaction, recipient, parameters):\n"
        "    return self.parent.hook_rcpt(self, transaction, recipient, parameters)\n"
    )
    assert attempts(begin(kit("child 2", config=HOSTS, base=False))) == 2


def test_any_recipient_gets_the_answer_of_rcpt_ok():
    stages = [Kit(plugin, config=HOSTS) for plugin in ("rcpt_ok_maxrelay 0", "rcpt_ok")]

    @given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30))
    def same(path):
        assert len({begin(stage).say(f"RCPT TO:<{path}>").code for stage in stages}) == 1

    same()
    assert not stages[0].logged("Traceback")
