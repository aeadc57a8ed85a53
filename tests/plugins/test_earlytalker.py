"""Whom `earlytalker` takes for an early talker, and what it does then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, Pause, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Client, Kit

ENVELOPE = b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\n"
CONTENT = b"Subject: x\r\n\r\nb\r\n.\r\n"


def codes(replies):
    return [line[:3].decode() for line in replies.splitlines() if line[3:4] == b" "]


def notes_of(client):
    note = client.connection.notes.get("earlytalker")
    return note if note == 1 else None, client.connection.notes.get("karma")


def test_who_talks_before_the_greeting_is_refused(kit):
    stage = kit("earlytalker")
    client = stage.connect(early=b"EHLO spam\r\n")
    assert client.replies.startswith(b"554 ")
    assert client.closed
    assert notes_of(client) == (1, -1)
    assert stage.logged("earlytalker: fail, talked before the greeting")


def test_who_waits_passes_and_has_waited_a_second_once(kit):
    stage = kit("earlytalker")
    client = stage.connect()
    assert codes(client.send(ENVELOPE + b"DATA\r\n")) == ["250", "250", "250", "354"]
    assert client.pauses == [Pause(1, until_input=True)]
    assert notes_of(client) == (None, None)
    assert stage.logged("earlytalker: pass, waited for its turn")


@pytest.mark.parametrize(
    ("args", "code", "closed"),
    [("reject_type soft", "421", True), ("reject_type temp", "421", True), ("reject_type disconnect", "554", True),
     ("action denysoft", "421", True), ("action DENY", "554", True), ("reject 0", "220", False),
     ("action log", "220", False), ("check-at DATA", "220", False), ("reject naughty", "220", False)],
)  # fmt: skip
def test_the_arguments_say_what_becomes_of_early_talk_at_connect(kit, args, code, closed):
    client = kit(f"earlytalker {args}").connect(early=b"NOOP\r\n")
    assert codes(client.replies) == ([code] if closed else [code, "250"])
    assert client.closed is closed


def test_early_talk_counts_even_if_it_is_only_logged(kit):
    assert notes_of(kit("earlytalker reject 0").connect(early=b"x")) == (1, -1)


def test_the_client_may_be_refused_later_by_naughty(kit):
    client = kit("earlytalker reject naughty", "naughty reject mail").connect(early=b"EHLO c\r\n")
    reply = client.say("MAIL FROM:<a@c.example>")
    assert (reply.code, reply.text) == (550, "you have talked before you were greeted")


@pytest.mark.parametrize(("args", "code"), [("", 450), ("reject_type perm", 550), ("action denysoft", 450)])
def test_a_deferred_refusal_meets_each_mail_command(kit, args, code):
    client = kit(f"earlytalker defer-reject 1 {args}").connect(early=b"EHLO c.example\r\n")
    for _ in range(2):
        assert client.say("MAIL FROM:<a@c.example>").code == code
    assert not client.closed
    assert notes_of(client) == (1, -1)


def test_with_a_deferred_refusal_who_waits_passes(kit):
    assert kit("earlytalker defer-reject 1").connect().deliver()[-1].code == 250


@pytest.mark.parametrize(
    ("args", "code"), [("", "554"), ("reject_type soft", "421"), ("reject_type temp_disconnect", "421")]
)
def test_content_behind_data_is_noticed_and_nothing_of_it_is_executed(kit, args, code):
    stage = kit(f"earlytalker check-at DATA {args}")
    client = stage.connect()
    assert codes(client.send(ENVELOPE + b"DATA\r\n" + CONTENT + b"NOOP\r\n")) == ["250", "250", "250", code]
    assert client.closed
    assert client.pauses == []
    assert notes_of(client) == (1, -1)
    assert stage.logged("fail, sent the message before the go-ahead")


def test_content_that_comes_during_the_wait_is_noticed(kit):
    class Impatient(Client):
        def _pass(self, pause):
            return b"Subject"

    client = Impatient(kit("earlytalker check-at DATA").site)
    assert codes(client.send(ENVELOPE + b"DATA\r\n"))[-1] == "554"


@pytest.mark.parametrize("args", ["reject 0", "reject naughty"])
def test_content_that_came_too_early_is_not_lost(kit, args):
    stage = kit(f"earlytalker check-at DATA {args}")
    client = stage.connect()
    assert codes(client.send(ENVELOPE + b"DATA\r\n" + CONTENT)) == ["250", "250", "250", "354", "250"]
    assert notes_of(client) == (1, -1)


def test_pipelining_up_to_data_is_no_early_talk(kit):
    client = kit("earlytalker check-at CONNECT check-at data wait 2").connect()
    assert codes(client.send(ENVELOPE + b"DATA\r\n")) == ["250", "250", "250", "354"]
    assert client.pauses == [Pause(2, until_input=True)] * 2


def test_a_chunk_behind_bdat_is_no_early_talk(kit):
    client = kit("earlytalker check-at DATA").connect()
    assert codes(client.send(ENVELOPE + b"BDAT 6 LAST\r\nA: b\r\n")) == ["250"] * 4
    assert client.pauses == []


@pytest.mark.parametrize("check", ["CONNECT", "DATA"])
def test_trusted_clients_do_not_wait(kit, check):
    class Trust(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    client = kit(Trust, f"earlytalker check-at {check}").connect(early=ENVELOPE + b"DATA\r\n" + CONTENT)
    assert codes(client.replies) == ["220", "250", "250", "250", "354", "250"]
    assert client.pauses == []


@pytest.mark.parametrize(("karma", "waits"), [(6, False), (5, True), (-3, True), ("many", True), (None, True)])
def test_clients_with_good_karma_do_not_wait_for_the_greeting(kit, karma, waits):
    class Karma(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["karma_history"] = karma

    assert bool(kit(Karma, "earlytalker").connect().pauses) is waits


@pytest.mark.parametrize(
    ("wish", "wait"), [(4, 4), (0.5, 0.5), (0, 1), (-1, 1), (None, 1), ("4", 1), (float("inf"), 1)]
)
def test_another_plugin_may_set_the_time_to_wait(kit, wish, wait):
    class Wish(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["earlytalker_wait"] = wish

    assert kit(Wish, "earlytalker").connect().pauses == [Pause(wait, until_input=True)]


@pytest.mark.parametrize(
    ("args", "message"),
    [("wait 0", "wait '0' is no number of seconds above 0"), ("wait nan", "wait 'nan' is no number"),
     ("check-at CONECT", "check-at 'CONECT' is no place to check at; did you mean CONNECT?"),
     ("check-at mail", "known are CONNECT and DATA"), ("action tarpit", "action 'tarpit' is none of deny, denysoft, log"),
     ("defer-reject maybe", "defer-reject 'maybe' is neither yes nor no"), ("wiat 3", "unknown argument 'wiat'"),
     ("wait", "'wait' is left over")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"earlytalker {args}")
    assert message in str(caught.value)


@given(st.binary(min_size=1), st.sampled_from(["CONNECT", "DATA"]))
def test_whatever_is_said_too_early_is_early_talk(said, check):
    stage = Kit(f"earlytalker check-at {check}", type("Accept", (Plugin,), {"hook_rcpt": lambda *_: DENY}))
    if check == "CONNECT":
        client = stage.connect(early=said)
    else:
        client = stage.connect()
        client.send(ENVELOPE + b"DATA\r\n" + said)
    assert client.replies.splitlines()[-1].startswith(b"554 ")
    assert client.closed
