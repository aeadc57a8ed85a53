"""What `sender_permitted_from` finds out, what it shows, and what it refuses."""

import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from name_server import DROP, SERVFAIL

from qpsmtpd import DECLINED, DENY, DENYSOFT, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.sender_permitted_from import _REFUSED_FROM
from qpsmtpd.testing import Kit, Names

RECORDS = {
    "pass.example": {"TXT": ["v=spf1 ip4:192.0.2.10 -all"]},
    "fail.example": {"TXT": ["v=spf1 -all"]},
    "softfail.example": {"TXT": ["v=spf1 ~all"]},
    "neutral.example": {"TXT": ["v=spf1 ?all"]},
    "none.example": {"A": ["192.0.2.1"], "TXT": ["a text", "v=spf10 -all"]},
    "permerror.example": {"TXT": ["v=spf1 nonsense:here -all"]},
    "temperror.example": {"TXT": ["v=spf1 include:dead.example -all"]},
    "two.example": {"TXT": ["v=spf1 -all", "v=spf1 +all"]},
    "a.example": {"TXT": ["v=spf1 a -all"], "A": ["192.0.2.10"]},
    "six.example": {"TXT": ["v=spf1 ip6:2001:db8::/32 -all"]},
    "mx.example": {"TXT": ["v=spf1 mx -all"], "MX": ["x.mx.example", "y.mx.example"]},
    "y.mx.example": {"A": ["192.0.2.10"]},
    "x.mx.example": {"A": ["192.0.2.11"]},
    "include.example": {"TXT": ["v=spf1 include:pass.example -all"]},
    "redirect.example": {"TXT": ["v=spf1 redirect=pass.example"]},
    "ptr.example": {"TXT": ["v=spf1 ptr -all"]},
    "10.2.0.192.in-addr.arpa": {"PTR": ["host.ptr.example"]},
    "host.ptr.example": {"A": ["192.0.2.10"]},
    "macro.example": {"TXT": ["v=spf1 exists:%{ir}.%{l}.%{h}.macro.example -all"]},
    "10.2.0.192.a.client.example.macro.example": {"A": ["127.0.0.2"]},
    "loop.example": {"TXT": ["v=spf1 include:loop2.example -all"]},
    "loop2.example": {"TXT": ["v=spf1 include:loop.example -all"]},
    "void.example": {"TXT": ["v=spf1 a:1.void.example a:2.void.example a:3.void.example +all"]},
    "twovoid.example": {"TXT": ["v=spf1 a:1.void.example a:2.void.example +all"]},
    "ten.example": {"TXT": ["v=spf1 " + " ".join(f"a:{n}.many.example" for n in range(10)) + " +all"]},
    "eleven.example": {"TXT": ["v=spf1 " + " ".join(f"a:{n}.many.example" for n in range(11)) + " +all"]},
    **{f"{n}.many.example": {"A": ["198.51.100.1"]} for n in range(11)},
    "explains.example": {"TXT": ["v=spf1 -all exp=why.explains.example"]},
    "why.explains.example": {"TXT": ["buy our pills"]},
    "long.example": {"TXT": ["v=spf1 " + "ip4:198.51.100.1 " * 500 + "+all"]},
    "xn--mller-kva.example": {"TXT": ["v=spf1 ip4:192.0.2.10 -all"]},
    "client.example": {"TXT": ["v=spf1 -all"]},
}
FAILING = ["dead.example", "deadtoo.example"]


@pytest.fixture
def stage(kit):
    def stage(args="", *plugins, config=None, names=None):
        return kit(
            f"sender_permitted_from {args}", *plugins, config=config, names=names or Names(RECORDS, failing=FAILING)
        )

    return stage


def mail(stage, sender, ip="192.0.2.10", helo="client.example"):
    client = stage.connect(ip)
    client.say(f"EHLO {helo}")
    return client, client.say(f"MAIL FROM:<{sender}>{'' if sender.isascii() else ' SMTPUTF8'}")


def result(stage, sender, **kwargs):
    return mail(stage, sender, **kwargs)[0].transaction.notes["spfquery"]


class Shows(Plugin):
    def hook_queue(self, transaction):
        Shows.header = transaction.header


@pytest.mark.parametrize(
    "domain", ["pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"]
)  # fmt: skip
def test_each_result_is_found(stage, domain):
    assert result(stage(), f"a@{domain}.example") == domain


@pytest.mark.parametrize(
    ("sender", "wanted"),
    [("a@a.example", "pass"), ("a@mx.example", "pass"), ("a@include.example", "pass"), ("a@redirect.example", "pass"),
     ("a@ptr.example", "pass"), ("a@macro.example", "pass"), ("b@macro.example", "fail"), ("a@two.example", "permerror"),
     ("a@nowhere.example", "none"), ("a@dead.example", "temperror"), ("a@PASS.Example", "pass"),
     ("a@six.example", "fail"), ("a@müller.example", "pass"), ("a@loop.example", "permerror"),
     ("a@void.example", "permerror"), ("a@twovoid.example", "pass"), ("a@ten.example", "pass"), ("a@eleven.example", "permerror"),
     ("a@long.example", "permerror"), ('"x@pass.example"@fail.example', "fail")],
)  # fmt: skip
def test_policies_mean_what_rfc_7208_says(stage, sender, wanted):
    assert result(stage(), sender) == wanted


def test_an_ipv6_client_is_found_in_ipv6_networks(stage):
    assert result(stage(), "a@six.example", ip="2001:db8::7") == "pass"
    assert result(stage(), "a@pass.example", ip="2001:db8::7") == "fail"


def test_more_than_ten_look_ups_are_not_made(stage):
    names = Names(RECORDS)
    assert result(stage(names=names), "a@eleven.example") == "permerror"
    assert len(names.asked) == 11  # the policy, and ten


def test_the_explanation_of_the_domain_is_neither_looked_up_nor_told(stage):
    names = Names(RECORDS)
    _, reply = mail(stage("reject 3", names=names), "a@explains.example")
    assert reply.text == "SPF fail: 192.0.2.10 may not send mail of explains.example"
    assert names.asked == [("explains.example", "TXT")]


@pytest.mark.parametrize("level", range(7))
@pytest.mark.parametrize(
    ("domain", "codes"),
    [("pass", (250, 250, 250, 250, 250, 250, 250)), ("fail", (250, 250, 450, 550, 550, 550, 550)),
     ("softfail", (250, 250, 250, 450, 550, 550, 550)), ("neutral", (250, 250, 250, 250, 250, 550, 550)),
     ("none", (250, 250, 250, 250, 250, 250, 550)), ("permerror", (250, 250, 250, 250, 450, 450, 550)),
     ("temperror", (250, 250, 450, 450, 450, 450, 450))],
)  # fmt: skip
def test_the_level_says_what_is_refused(stage, level, domain, codes):
    plugin = stage(f"reject {level}")
    _, reply = mail(plugin, f"a@{domain}.example")
    assert reply.code == codes[level]
    code = {250: DECLINED, 450: DENYSOFT, 550: DENY}[codes[level]]
    assert [call.code for call in plugin.calls("mail", "sender_permitted_from")] == [code]
    if code is not DECLINED:
        assert plugin.logged(f"sender_permitted_from: fail, {domain}, ")
    elif domain != "pass":
        assert plugin.logged(f"{'fail' if level else 'skip'}, tolerated, {domain}, ")


@pytest.mark.parametrize(
    ("args", "config", "code"),
    [("spf_deny 1", {}, 450), ("spf_deny 2", {}, 550), ("", {"spfbehavior": ["4"]}, 550),
     ("reject 2", {"spfbehavior": ["4"]}, 250), ("reject 0", {"spfbehavior": ["3"]}, 450), ("", {"spfbehavior": ["x"]}, 250)],
)  # fmt: skip
def test_the_level_may_come_from_older_names(stage, args, config, code):
    plugin = stage(args, config=config)
    assert mail(plugin, "a@softfail.example")[1].code == code
    if config == {"spfbehavior": ["x"]}:
        assert len(plugin.logged("error, config/spfbehavior: spfbehavior 'x' is no level from 0 to 6")) == 1


@pytest.mark.parametrize(
    ("domain", "level", "karma"),
    [("pass", 0, 1), ("fail", 0, None), ("fail", 1, -1), ("softfail", 1, -1), ("neutral", 1, None)],
)
def test_karma_follows_the_result(stage, domain, level, karma):
    client, _ = mail(stage(f"reject {level}"), f"a@{domain}.example")
    assert client.connection.notes.get("karma") == karma


def test_what_was_found_is_in_the_notes(stage):
    client, _ = mail(stage(), "a@Pass.example")
    notes = client.transaction.notes
    assert notes["spf_pass_host"] == "pass.example"
    assert notes["dmarc_spf"] == {"domain": "pass.example", "scope": "mfrom", "result": "pass"}
    client, _ = mail(stage(), "a@fail.example")
    assert "spf_pass_host" not in client.transaction.notes


def test_an_empty_sender_is_judged_by_the_name_of_the_client(stage):
    client, reply = mail(stage("reject 3"), "", helo="Fail.example")
    assert (reply.code, reply.text) == (550, "SPF fail: 192.0.2.10 may not send mail of fail.example")
    client, reply = mail(stage("reject 3"), "", helo="pass.example")
    assert client.transaction.notes["dmarc_spf"] == {"domain": "pass.example", "scope": "helo", "result": "pass"}
    assert client.transaction.notes["authentication_results"] == ["spf=pass smtp.helo=pass.example"]


def test_the_name_of_the_client_may_have_no_policy_on_any_level(stage):
    assert mail(stage("reject 6"), "", helo="none.example")[1].code == 250


@pytest.mark.parametrize(
    ("sender", "helo", "ip"), [("", "[192.0.2.10]", "192.0.2.10"), ("a@[192.0.2.10]", "x.example", "192.0.2.10"),
                               ("", "a..b", "192.0.2.10"), ("a@pass.example", "x.example", "")],
)  # fmt: skip
def test_where_there_is_nothing_to_ask_about_nobody_is_asked(stage, sender, helo, ip):
    names = Names(RECORDS)
    plugin = stage("reject 6", names=names)
    client, reply = mail(plugin, sender, helo=helo, ip=ip)
    assert reply.code == 250
    assert names.asked == []
    assert plugin.logged("sender_permitted_from: skip, ")
    assert "spfquery" not in client.transaction.notes


@pytest.mark.parametrize("note", ["whitelisthost", "naughty"])
def test_immune_clients_are_not_checked(stage, note):
    class Immune(Plugin):
        def hook_ehlo(self, transaction, host, *words):
            self.connection.notes[note] = "yes"

    names = Names(RECORDS)
    assert mail(stage("reject 3", Immune, names=names), "a@fail.example")[1].code == 250
    assert names.asked == []


def test_relay_clients_are_not_checked_and_their_mail_is_not_marked(stage):
    plugin = stage("reject 3", Shows, "relay", config={"relayclients": ["192.0.2."]})
    assert plugin.connect().deliver(sender="a@fail.example")[-1].code == 250
    assert not Shows.header.get("Received-SPF")
    assert "spf=" not in Shows.header.get("Authentication-Results")


def test_the_result_stands_in_the_header(stage):
    stage("", Shows).connect().deliver(sender="a@softfail.example")
    assert Shows.header.fields[0].raw == (
        b"Received-SPF: softfail (mx.example.test: 192.0.2.10 should not send mail of softfail.example)\r\n"
        b'\tclient-ip=192.0.2.10; envelope-from="a@softfail.example";\r\n'
        b'\thelo="client.example"; receiver=mx.example.test; identity=mailfrom\r\n'
    )
    results = Shows.header.get("Authentication-Results")
    assert results == "mx.example.test; auth=none; spf=softfail smtp.mailfrom=softfail.example"


def test_a_sender_that_was_refused_leaves_no_result_behind(stage):
    client, reply = mail(stage("reject 3", Shows), "a@fail.example")
    assert reply.code == 550
    client.deliver(sender="a@pass.example")
    assert Shows.header.get("Authentication-Results").count("spf=") == 1
    assert len(Shows.header.get_all("Received-SPF")) == 1


class NoPolicy(Plugin):
    """Stands for the plugin dmarc."""

    word = "none"

    def hook_data_post_headers(self, transaction):
        transaction.notes["dmarc_result"] = NoPolicy.word


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize(
    ("domain", "from_level"),
    [("pass", 9), ("fail", 1), ("softfail", 2), ("neutral", 3), ("none", 4), ("permerror", 4), ("temperror", 9)],
)
def test_without_a_dmarc_policy_that_of_spf_may_refuse(stage, level, domain, from_level):
    plugin = stage(f"reject 1 no_dmarc_policy {level}", NoPolicy)
    code = plugin.connect().deliver(sender=f"a@{domain}.example")[-1].code
    assert code == (250 if not level or level < from_level else 554)


@pytest.mark.parametrize("word", ["pass", "fail", "temperror", None])
def test_a_dmarc_policy_has_precedence(stage, monkeypatch, word):
    monkeypatch.setattr(NoPolicy, "word", word)
    assert stage("no_dmarc_policy 4", NoPolicy).connect().deliver(sender="a@fail.example")[-1].code == 250


@pytest.mark.parametrize(
    ("args", "message"),
    [("reject 7", "reject '7' is no level from 0 to 6"), ("reject naughty", "is no level from 0 to 6"),
     ("no_dmarc_policy 5", "no_dmarc_policy '5' is no level from 0 to 4"), ("spf_deny 3", "from 0 to 2"),
     ("rejct 1", "unknown argument 'rejct'; did you mean reject"), ("reject", "'reject' is left over"),
     ("reject_type soft", "unknown argument 'reject_type'")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError, match="plugins:1: sender_permitted_from: ") as caught:
        kit(f"sender_permitted_from {args}", names=Names())
    assert message in str(caught.value)


def test_without_pyspf_it_says_what_to_install(kit, monkeypatch):
    monkeypatch.setitem(sys.modules, "spf", None)
    with pytest.raises(ConfigError, match=r"pip install 'qpsmtpd\[spf\]'"):
        kit("sender_permitted_from", names=Names())


@pytest.fixture
def dead(kit, name_server):
    name_server.set({
        "silent.example": DROP, "broken.example": SERVFAIL, "good.example": {"TXT": ['"v=spf1 " "ip4:192.0.2.10 -all"']},
        "slow.example": {"TXT": ['"v=spf1 a:silent.example -all"']}, "mx.example": {"TXT": ['"v=spf1 mx -all"'], "MX": ["10 a.mx.example.", "0 ."]},
        "a.mx.example": {"A": ["192.0.2.10"]},
    })  # fmt: skip
    return kit("sender_permitted_from reject 2", config={"nameservers": name_server.config, "timeoutdns": ["0.3"]})


def test_a_real_name_server_is_asked(dead):
    assert result(dead, "a@good.example") == "pass"
    assert result(dead, "a@mx.example") == "pass"


@pytest.mark.parametrize("domain", ["silent.example", "broken.example", "slow.example"])
def test_a_dead_name_server_costs_a_bounded_time(dead, domain):
    start = time.monotonic()
    _, reply = mail(dead, f"a@{domain}")
    assert (reply.code, reply.text) == (450, f"SPF temperror: the policy of {domain} cannot be looked up now")
    assert time.monotonic() - start < 3


class Slow(Names):
    """Each look-up takes its time."""

    def look_up_blocking(self, name, kind):
        self.clock.advance(9)
        return super().look_up_blocking(name, kind)


def test_there_is_a_deadline_for_all_look_ups_together(stage):
    names = Slow(RECORDS | {"wide.example": {"TXT": ["v=spf1 " + " ".join(f"exists:{n}.x.example" for n in range(9))]}})
    plugin = stage("reject 1", names=names)
    names.clock = plugin.clock
    assert result(plugin, "a@wide.example") == "temperror"
    assert len(names.asked) == 3


def test_evaluations_in_several_threads_do_not_meet(stage):
    plugin = stage("reject 1")
    results = {}

    def run(domain):
        results[domain] = [result(plugin, f"a@{domain}.example") for _ in range(20)]

    threads = [threading.Thread(target=run, args=(domain,)) for domain in ("pass", "fail", "softfail", "temperror")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {domain: [domain] * 20 for domain in results}


TERMS = st.sampled_from([
    "a", "mx", "ptr", "all", "-all", "?all", "a:%{d}", "exists:%{i}.%{s}.x", "include:p.example", "redirect=p.example",
    "exp=p.example", "ip4:192.0.2.0/24", "ip4:1.2.3", "ip6:::1/0", "a//999", "%{", "%{d0}", "a:%{l99999999999999999999r+-}",
    "exists:%{p}.x", "mx:%{h}", "a:.", "=", "x=%{c}", "%", "a:%{d" + "1" * 5000 + "}", "\udcff", "ip4:192.0.2.10/", "include:", "a:\\000",
])  # fmt: skip
POLICIES = st.one_of(
    st.lists(TERMS, max_size=12).map(lambda terms: " ".join(["v=spf1", *terms])),
    st.text().map(lambda text: f"v=spf1 {text}"),
)


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Shows.header, Shows.result = transaction.header, transaction.notes.get("spfquery")
        return OK


@given(policy=POLICIES, other=POLICIES, sender=st.text(), helo=st.text(), null=st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
def test_any_policy_gives_a_result_and_what_is_shown_stays_one_field(policy, other, sender, helo, null):
    policies = {"TXT": [policy], "MX": ["", "p.example"], "A": ["192.0.2.1"]}
    records = {"q.example": policies, helo: policies, "p.example": {"TXT": [other]}}
    records["10.2.0.192.in-addr.arpa"] = {"PTR": ["", "p.example", "x" * 300]}
    plugin = Kit("sender_permitted_from reject 1", Accepts, names=Names(records))
    client = plugin.connect()
    client.send(b"EHLO client.example\r\nEHLO " + helo.encode("utf-8", "surrogatepass") + b"\r\n")
    quoted = "".join(f"\\{c}" if c in '\\"' else c for c in sender if c.isprintable())
    client.say("MAIL FROM:<>" if null else f'MAIL FROM:<"{quoted}"@q.example> SMTPUTF8')
    (call,) = plugin.calls("mail", "sender_permitted_from")
    assert call.code is DECLINED
    client.say("RCPT TO:<b@example.org>")
    client.say("DATA")
    assert client.say("From: a", ".").code == 250
    assert Shows.result in ({*_REFUSED_FROM, None} if null else _REFUSED_FROM)
    names = [field.name for field in Shows.header.fields]
    assert names == [*["Received-SPF"] * bool(Shows.result), "Authentication-Results", "Received", "From"]
    assert bytes(Shows.header).isascii()
