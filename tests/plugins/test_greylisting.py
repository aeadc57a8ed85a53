"""Whom `greylisting` tells to come again, and when they are let in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.greylisting import Policy
from qpsmtpd.store import StoreError
from qpsmtpd.testing import Kit

MINUTE, HOUR, DAY = 60, 3600, 86400


def mail(stage, ip="192.0.2.10", sender="a@client.example", recipients=("b@example.org",)):
    """The codes of MAIL, each RCPT, DATA and the content, up to a refusal of MAIL or DATA."""
    return [reply.code for reply in stage.connect(ip).deliver(sender=sender, recipients=recipients)[1:]]


def refused(stage, *args, **kwargs):
    return any(code >= 400 for code in mail(stage, *args, **kwargs))


def test_a_stranger_is_let_in_when_it_comes_again_in_time(kit):
    stage = kit("greylisting")
    assert mail(stage) == [450]
    assert stage.logged("greylisting: fail, unknown")
    stage.clock.advance(49 * MINUTE)
    assert mail(stage) == [450]
    assert stage.logged("fail, black, 1 deferred")
    stage.clock.advance(2 * MINUTE)
    assert not refused(stage)
    assert stage.logged("pass, grey becomes white")
    stage.clock.advance(35 * DAY)
    assert not refused(stage)
    assert stage.logged("pass, white, 2 deliveries")
    stage.clock.advance(37 * DAY)
    assert refused(stage)


def test_who_comes_again_too_late_is_let_in_once(kit):
    stage = kit("greylisting")
    assert refused(stage)
    stage.clock.advance(4 * HOUR)
    assert not refused(stage)
    assert stage.logged("pass, timed out (grey)")


@pytest.mark.parametrize(
    ("args", "same", "other"),
    [("", {"sender": "x@x.example"}, {"ip": "192.0.2.11"}),
     ("sender 1", {"recipients": ["x@x.example"]}, {"sender": "x@x.example"}),
     ("recipient 1", {"sender": "x@x.example"}, {"recipients": ["x@x.example"]}),
     ("remote_ip 0 sender 1", {"ip": "192.0.2.11"}, {"sender": "x@x.example"}),
     ("ipv6_prefix 64", {"ip": "2001:db8::2"}, {"ip": "2001:db8:0:1::1"})],
)  # fmt: skip
def test_the_arguments_say_who_is_the_same(kit, args, same, other):
    stage = kit(f"greylisting {args}")
    first = {"ip": "2001:db8::1"} if "ipv6" in args else {}
    assert refused(stage, **first)
    stage.clock.advance(HOUR)
    assert not refused(stage, **{**first, **same})
    assert refused(stage, **{**first, **other})


def test_without_a_prefix_each_ipv6_address_is_another(kit):
    stage = kit("greylisting")
    assert refused(stage, ip="2001:db8::1")
    stage.clock.advance(HOUR)
    assert refused(stage, ip="2001:db8::2")
    assert not refused(stage, ip="2001:0db8::0:1")


def test_the_times_are_arguments_and_come_from_the_file_too(kit):
    stage = kit(
        "greylisting black_timeout 10 white_timeout 100",
        config={"denysoft_greylist": ["black_timeout 5000", "grey_timeout 20"]},
    )
    assert refused(stage)
    stage.clock.advance(15)
    assert not refused(stage)
    stage.clock.advance(101)
    assert refused(stage)
    stage.clock.advance(50)
    assert not refused(stage)  # too late for 20 seconds, but let in
    stage.clock.advance(51)
    assert refused(stage)


@pytest.mark.parametrize("args", ["deny_late 1", "recipient 1"])
def test_bounces_and_late_ones_are_refused_at_data(kit, args):
    stage = kit(f"greylisting {args}")
    sender = "" if "recipient" in args else "a@client.example"
    assert mail(stage, sender=sender) == [250, 250, 451]


def test_a_bounce_is_refused_where_the_others_are(kit):
    assert mail(kit("greylisting recipient 1")) == [250, 450, 503]


@pytest.mark.parametrize("args", ["reject 0", "mode testonly", "mode off"])
def test_without_reject_it_only_remembers(kit, args):
    stage = kit(f"greylisting {args}")
    assert not refused(stage)
    assert stage.logged("fail, unknown")


class Notes(Plugin):
    """Notes of the connection, by the client's address."""

    def hook_connect(self, transaction):
        self.connection.notes.update({
            "192.0.2.1": {"whitelisthost": "yes"},
            "192.0.2.2": {"geoip_country": "CH"},
            "192.0.2.3": {"p0f": {"genre": "Windows NT", "distance": 2}},
            "192.0.2.4": {"p0f": {"genre": "Linux", "distance": 9}},
            "192.0.2.5": {"p0f": {"genre": "Linux", "distance": "?"}},
        }.get(self.connection.remote_ip, {}))  # fmt: skip
        if self.connection.remote_ip == "192.0.2.6":
            self.connection.relay_client = True


@pytest.mark.parametrize(
    ("args", "ip", "let_in"),
    [("", "192.0.2.1", True), ("", "192.0.2.2", False), ("", "192.0.2.6", True), ("geoip US,ch", "192.0.2.2", True),
     ("geoip US", "192.0.2.2", False), ("p0f genre,windows,distance,3", "192.0.2.3", False),
     ("p0f genre,windows,distance,3", "192.0.2.4", False), ("p0f genre,windows,distance,3", "192.0.2.5", True),
     ("p0f genre,windows", "192.0.2.7", True)],
)  # fmt: skip
def test_those_that_others_know_are_let_in_at_once(kit, args, ip, let_in):
    assert refused(kit(Notes, f"greylisting {args}"), ip=ip) is not let_in


def test_a_whitelisted_sender_and_a_client_that_uses_tls_are_let_in_at_once(kit):
    class Marks(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            if sender.user == "white":
                transaction.notes["whitelistsender"] = 1
            if sender.user == "tls":
                self.connection.security = object()

    stage = kit(Marks, "greylisting")
    assert refused(stage)
    for user, why in (("white", "skip, whitelisted sender"), ("tls", "skip, tls")):
        client = stage.connect()
        client.say("EHLO c.example")
        assert client.say(f"MAIL FROM:<{user}@x.example>").code == 250
        assert stage.logged(why)


def test_nobody_is_refused_at_data_if_all_recipients_are_whitelisted(kit):
    class Whitelist(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            transaction.notes["whitelistrcpt"] = 1
            return OK

    stage = kit(Whitelist, "greylisting deny_late 1")
    assert not refused(stage)
    assert refused(stage, recipients=["a@x.example", "b@x.example"])


def test_a_recipient_may_have_a_policy_of_its_own(kit):
    class Own(Plugin):
        def hook_user_config(self, transaction, address, setting):
            if setting == "denysoft_greylist" and address.user in ("off", "odd"):
                return OK, "reject 0" if address.user == "off" else "nonsense 1"
            return None

    stage = kit(Own, "greylisting per_recipient 1")
    assert mail(stage, recipients=["on@x.example", "off@x.example"])[1:3] == [450, 250]
    assert mail(stage, recipients=["odd@x.example"])[1:2] == [450]
    assert stage.logged("error, denysoft_greylist of odd@x.example: ")


def test_a_store_that_fails_lets_clients_in(kit, monkeypatch):
    stage = kit("greylisting")

    def fail(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(stage.site.plugins[0]._store._backend, "update", fail)
    assert not refused(stage)
    assert stage.logged("greylisting: error, the disk is full")


def test_what_was_learnt_outlives_the_server_in_db_dir(kit, tmp_path):
    first = kit(f"greylisting db_dir {tmp_path}")
    assert refused(first)
    second = kit(f"greylisting db_dir {tmp_path} nfslock 1")
    assert second.logged("the argument nfslock means nothing here")
    second.clock.advance(HOUR)
    assert not refused(second)


@pytest.mark.parametrize(
    "args",
    ["remote_ip 0", "black_timeout 0", "ipv6_prefix 129", "sender maybe", "mode x", "p0f genre", "p0f genre,(",
     "p0f colour,red", "p0f distance,x", "db_dir /nowhere/at/all", "recipients 1"],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: greylisting: "):
        kit(f"greylisting {args}")


@given(
    entry=st.none() | st.binary(max_size=40) | st.from_regex(rb"[0-9.e-]{1,9}(:[0-9-]{1,9}){3}"), now=st.floats(0, 4e9)
)
def test_any_entry_is_judged(entry, now):
    policy = Policy.read({})
    new, (unknown, why) = policy.judge(entry, now)
    assert isinstance(unknown, bool)
    assert why.startswith("fail" if unknown else "pass")
    assert new is None or len(new.split(b":")) == 4


@given(local=st.text(min_size=1, max_size=300), ip=st.ip_addresses().map(str))
def test_any_sender_and_recipient_is_new_once(local, ip):
    stage = Kit("greylisting sender 1 recipient 1")
    client = stage.connect(ip)
    client.say("EHLO c.example")
    quoted = (
        local.encode("utf-8", "surrogatepass").decode("latin-1").translate({10: "n", 13: "r", 0: "0", 34: "q", 92: "b"})
    )
    assert client.say(f'MAIL FROM:<"{quoted}"@x.example> SMTPUTF8').code in (250, 500, 501, 553)
    assert client.say(f'RCPT TO:<"{quoted}"@y.example>').code in (450, 500, 501, 503, 553)
    assert not stage.logged("Traceback")


def test_without_recipients_there_is_nothing_to_say_at_data(kit):
    client = kit("greylisting deny_late 1").connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<a@x.example>").code == 250
    assert client.say("DATA").code == 503
