"""Whom `whitelist` spares what, and what it tells other plugins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, DENYSOFT, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

LISTS = {
    "whitelisthosts": ("192.0.2.10", "198.51.100.", "2001:db8::/32", "192.0.2.999"),
    "whitelisthelo": ("White.example",),
    "whitelistsenders": ("Friend@ok.example", "okdomain.example"),
    "whitelistrcpt": ("user@Dest.example", "all.example"),
}
STRANGER = "203.0.113.9"


class Refuses(Plugin):
    """Refuses at every hook that a list is about."""

    def hook_connect(self, transaction):
        return (DENYSOFT, "connect") if self.qp.config("strict") else None

    def hook_ehlo(self, transaction, host):
        return (DENY, "ehlo") if self.qp.config("strict") else None

    hook_helo = hook_ehlo

    def hook_mail(self, transaction, sender, parameters):
        return DENY, "mail"

    def hook_rcpt(self, transaction, recipient, parameters):
        return DENY, "rcpt"


class OwnLists(Plugin):
    """`vip@dest.example` has lists of its own."""

    def hook_user_config(self, transaction, address, setting):
        own = {"whitelisthosts": "203.0.113.7", "whitelistsenders": "mine@x.example", "whitelisthelo": "my.example"}
        return (OK, own[setting]) if address.local_part == "vip" and setting in own else None


def connection_notes(client):
    return {key for key in client.connection.notes if key.startswith("whitelist") and key != "whitelist"}


def mail(stage, sender, ip=STRANGER, hello="c.example"):
    client = stage.connect(ip)
    client.say(f"EHLO {hello}")
    return client, client.say(f"MAIL FROM:<{sender}>").code


@pytest.mark.parametrize(
    ("ip", "listed"),
    [("192.0.2.10", True), ("198.51.100.77", True), ("2001:db8:9::1", True), ("::ffff:192.0.2.10", True),
     ("192.0.2.1", False), ("192.0.2.100", False), ("198.51.101.1", False), ("2001:db9::1", False), ("", False)],
)  # fmt: skip
def test_a_listed_host_is_not_checked_at_connect(kit, ip, listed):
    client = kit("whitelist", Refuses, config=LISTS | {"strict": ("1",)}).connect(ip)
    assert client.closed is not listed
    assert connection_notes(client) == ({"whitelisthost"} if listed else set())


def test_a_listed_host_is_not_checked_by_other_plugins_later(kit):
    stage = kit("whitelist", "badmailfrom", config=LISTS | {"badmailfrom": ("bad@evil.example",)})
    assert mail(stage, "bad@evil.example", "192.0.2.10")[1] == 250
    assert mail(stage, "bad@evil.example")[1] == 550
    assert stage.logged("whitelist: pass, 192.0.2.10 is in whitelisthosts")


def test_an_address_is_no_beginning_of_longer_ones(kit):
    stage = kit("whitelist", Refuses, config={"whitelisthosts": ("192.0.2.1",), "strict": ("1",)})
    assert stage.connect("192.0.2.10").closed


def test_a_bad_line_is_logged_and_left_out(kit):
    assert kit("whitelist", config=LISTS).logged("left out the line '192.0.2.999'")


@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
@pytest.mark.parametrize(("hello", "listed"), [("white.EXAMPLE", True), ("a.white.example", False), ("x", False)])
def test_a_listed_hello_is_not_checked_at_hello(kit, verb, hello, listed):
    class Strict(Refuses):
        hook_connect = Plugin.hook_connect

    client = kit("whitelist", Strict, config=LISTS | {"strict": ("1",)}).connect(STRANGER)
    assert client.say(f"{verb} {hello}").code == (250 if listed else 550)
    assert connection_notes(client) == ({"whitelisthelo"} if listed else set())


@pytest.mark.parametrize(
    ("sender", "listed"),
    [("friend@OK.example", True), ("any@okdomain.example", True), ("foe@ok.example", False),
     ("x@sub.okdomain.example", False), ("", False), ("okdomain.example@x.example", False)],
)  # fmt: skip
def test_a_listed_sender_is_not_checked_at_mail(kit, sender, listed):
    client, code = mail(kit("whitelist", Refuses, config=LISTS), sender)
    assert code == (250 if listed else 550)
    assert client.transaction.notes.get("whitelistsender") == (1 if listed else None)


@pytest.mark.parametrize(
    ("recipient", "listed"), [("USER@dest.example", True), ("any@all.example", True), ("other@dest.example", False)]
)
def test_a_listed_recipient_is_accepted_and_counted(kit, recipient, listed):
    client, _ = mail(kit("whitelist", Refuses, config=LISTS), "friend@ok.example")
    assert [client.say(f"RCPT TO:<{recipient}>").code for _ in range(2)] == [250 if listed else 550] * 2
    assert client.transaction.notes.get("whitelistrcpt") == (2 if listed else None)


def test_whitelistclient_in_the_environment_spares_every_client(kit, monkeypatch):
    monkeypatch.setenv("WHITELISTCLIENT", "")
    client = kit("whitelist", Refuses, config={"strict": ("1",)}).connect(STRANGER)
    assert not client.closed
    assert connection_notes(client) == {"whitelistclient"}


@pytest.mark.parametrize(
    ("ip", "hello", "sender", "recipient", "code"),
    [
        ("192.0.2.10", "c", "a@x.example", "who@dest.example", 250),
        (STRANGER, "white.example", "a@x.example", "who@dest.example", 250),
        (STRANGER, "c", "friend@ok.example", "who@dest.example", 250),
        (STRANGER, "c", "a@x.example", "user@dest.example", 250),
        (STRANGER, "c", "a@x.example", "who@dest.example", 550),
        ("203.0.113.7", "c", "a@x.example", "vip@dest.example", 250),
        ("203.0.113.7", "c", "a@x.example", "who@dest.example", 550),
        (STRANGER, "c", "mine@x.example", "vip@dest.example", 250),
        (STRANGER, "my.example", "a@x.example", "vip@dest.example", 250),
        (STRANGER, "my.example", "mine@x.example", "who@dest.example", 550),
    ],
)
def test_all_lists_count_for_each_recipient_who_may_have_own_ones(kit, ip, hello, sender, recipient, code):
    class Recipients(Plugin):
        hook_rcpt = Refuses.hook_rcpt

    client, _ = mail(kit(OwnLists, "whitelist per_recipient 1", Recipients, config=LISTS), sender, ip, hello)
    assert client.say(f"RCPT TO:<{recipient}>").code == code


@pytest.mark.parametrize(("args", "code"), [("merge 0", 550), ("merge 1", 250), ("", 250)])
def test_own_lists_may_stand_in_place_of_the_common_ones(kit, args, code):
    class Recipients(Plugin):
        hook_rcpt = Refuses.hook_rcpt

    stage = kit(OwnLists, f"whitelist per_recipient 1 {args}", Recipients, config=LISTS)
    for ip, hello, sender in (
        ("192.0.2.10", "c", "a@x.example"), (STRANGER, "white.example", "a@x.example"), (STRANGER, "c", "friend@ok.example"),
    ):  # fmt: skip
        client, _ = mail(stage, sender, ip, hello)
        assert client.say("RCPT TO:<vip@dest.example>").code == code
        assert client.say("RCPT TO:<who@dest.example>").code == 250


@pytest.mark.parametrize(
    ("args", "message"),
    [("per_recipient maybe", "per_recipient 'maybe' is neither yes nor no"), ("mrege 0", "did you mean merge?")],
)
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError, match=f"plugins:1: whitelist: .*{message}".replace("?", r"\?")):
        kit(f"whitelist {args}")


@given(st.binary(), st.sampled_from(["", " per_recipient 1"]))
def test_whatever_a_client_calls_itself_and_others_is_looked_up(name, args):
    stage = Kit(f"whitelist{args}", config=LISTS)
    client = stage.connect(STRANGER)
    word = name.translate(None, b"\r\n \t\x00")
    for line in (b"EHLO " + word, b"MAIL FROM:<" + word + b"@x> SMTPUTF8", b"RCPT TO:<" + word + b"@x>"):
        client.send(line + b"\r\n")
    assert not stage.logged("failed")
