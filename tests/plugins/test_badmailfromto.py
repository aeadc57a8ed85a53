"""Which senders `badmailfromto` keeps from which recipients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.badmailfromto import _names, _parse_pair
from qpsmtpd.testing import Kit

LIST = {
    "badmailfromto": (
        "bad@evil.example user@dest.example", "BAD@evil.example\tother@Dest.example  a remark",
        "@badhost.example   other@dest.example", "x@badhost.example third@dest.example", "a@b.example @all.example",
        "lonely@evil.example", "nohost user@dest.example", "a@b.example nohost",
    )
}  # fmt: skip


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, sender, recipient):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say(f"MAIL FROM:<{sender}>")
    return client.say(f"RCPT TO:<{recipient}>"), client


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [("bad@evil.example", "user@dest.example"), ("BAD@EVIL.example", "USER@dest.EXAMPLE"),
     ("bad@evil.example", "other@dest.example"), ("y@BadHost.example", "other@dest.example"),
     ("x@badhost.example", "other@dest.example"), ("x@badhost.example", "third@dest.example"),
     ("a@b.example", "anybody@all.example")],
)  # fmt: skip
def test_a_listed_pair_is_refused_as_if_the_recipient_did_not_exist(kit, sender, recipient):
    stage = kit("badmailfromto", config=LIST)
    reply, _ = answer(stage, sender, recipient)
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.1.1", "no such user here")
    assert stage.logged("badmailfromto: fail, ")


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [("good@evil.example", "user@dest.example"), ("bad@evil.example", "third@dest.example"), ("", "user@dest.example"),
     ("y@badhost.example", "user@dest.example"), ("y@badhost.example", "third@dest.example"),
     ("x@sub.badhost.example", "other@dest.example"), ("a@b.example", "u@x.all.example"), ("bad@evil.example", "postmaster")],
)  # fmt: skip
def test_every_other_pair_passes(kit, sender, recipient):
    reply, _ = answer(kit("badmailfromto", config=LIST), sender, recipient)
    assert reply.code == 250


def test_the_sender_is_noted_if_it_is_listed(kit):
    stage = kit("check_badmailfromto", config=LIST)
    assert (
        answer(stage, "x@badhost.example", "user@dest.example")[1].transaction.notes["badmailfromto"]
        == "@badhost.example"
    )
    assert stage.logged("pass, recipient not listed")
    stage = kit("badmailfromto", config=LIST)
    assert "@" not in answer(stage, "good@x.example", "user@dest.example")[1].transaction.notes["badmailfromto"]
    assert stage.logged("pass, sender not listed")


def test_the_next_message_begins_anew(kit):
    _, client = answer(kit("badmailfromto", config=LIST), "bad@evil.example", "user@dest.example")
    client.say("RSET")
    client.say("MAIL FROM:<good@evil.example>")
    assert client.say("RCPT TO:<user@dest.example>").code == 250


def test_relay_clients_are_kept_away_too(kit):
    assert (
        answer(kit(RelayClient, "badmailfromto", config=LIST), "bad@evil.example", "user@dest.example")[0].code == 550
    )


def test_bad_lines_are_logged_once_and_left_out(kit):
    stage = kit("badmailfromto", config=LIST)
    for _ in range(3):
        answer(stage, "bad@evil.example", "user@dest.example")
    assert [line.partition("left out the line ")[2] for line in stage.logged("left out")] == [
        "'lonely@evil.example'\n", "'nohost user@dest.example'\n", "'a@b.example nohost'\n",
    ]  # fmt: skip


def test_a_changed_file_counts_a_second_later(kit, directory):
    file = directory / "badmailfromto"
    file.write_text("one@x.example user@dest.example\n")
    stage = kit("badmailfromto")
    assert answer(stage, "one@x.example", "user@dest.example")[0].code == 550
    file.write_text("other@x.example user@dest.example\n")
    stage.clock.advance(1.5)
    assert answer(stage, "one@x.example", "user@dest.example")[0].code == 250
    assert answer(stage, "other@x.example", "user@dest.example")[0].code == 550


def test_it_takes_no_arguments(kit):
    with pytest.raises(ConfigError, match="plugins:1: badmailfromto: "):
        kit("badmailfromto x")


@given(st.text(), st.text(), st.none() | st.text())
def test_any_line_is_a_pair_or_a_value_error_and_any_mailbox_has_names(line, local, domain):
    for text in (line, f"a@{line} b@{line}"):
        try:
            pair = _parse_pair(text)
        except ValueError:
            continue
        assert all("@" in each for each in pair)
    assert len(_names(Mailbox(local, domain))) == (0 if domain is None else 2)


@given(st.emails(), st.emails())
def test_every_pair_that_is_listed_is_refused(sender, recipient):
    stage = Kit("badmailfromto", config={"badmailfromto": (f"{sender.swapcase()} {recipient}",)})
    assert answer(stage, sender, recipient)[0].code == 550
