"""What `dmarc` makes of the results of SPF and DKIM, and of the policies of authors."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from name_server import DROP, SERVFAIL

from qpsmtpd import DECLINED, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._dmarc import Policy, only_record, parse_policy
from qpsmtpd.testing import Kit, Names

RECORDS = {
    "_dmarc.reject.example": {"TXT": ["some text", "v=DMARC1; p=reject"]},
    "_dmarc.quarantine.example": {"TXT": ["v=DMARC1;p=quarantine;"]},
    "_dmarc.monitor.example": {"TXT": ["v=DMARC1; p=none; rua=mailto:x@monitor.example"]},
    "_dmarc.strict.example": {"TXT": ["v=DMARC1; p=reject; aspf=s; adkim=s"]},
    "_dmarc.sub.example": {"TXT": ["v=DMARC1; p=reject; sp=none"]},
    "_dmarc.own.sub.example": {"TXT": ["v=DMARC1; p=quarantine; sp=none"]},
    "_dmarc.two.example": {"TXT": ["v=DMARC1; p=reject", "v=DMARC1; p=none"]},
    "_dmarc.none.pct.example": {"TXT": ["v=DMARC1; p=reject; pct=0"]},
    "_dmarc.mild.pct.example": {"TXT": ["v=DMARC1; p=quarantine; pct=0"]},
    "_dmarc.half.pct.example": {"TXT": ["v=DMARC1; p=quarantine; pct=50"]},
    "_dmarc.broken.example": {"TXT": ["v=DMARC1; p=refuse"]},
    "_dmarc.asks.example": {"TXT": ["v=DMARC1; p=refuse; rua=mailto:x@asks.example"]},
    "_dmarc.example.co.uk": {"TXT": ["v=DMARC1; p=reject"]},
    "_dmarc.xn--mller-kva.example": {"TXT": ["v=DMARC1; p=reject"]},
}
FAILING = ["_dmarc.dead.example"]


class Found(Plugin):
    """Stands for the plugins that check SPF and DKIM."""

    spf: object = None
    dkim = ()

    def hook_data_post_headers(self, transaction):
        if self.spf:
            transaction.notes["dmarc_spf"] = {"domain": self.spf[0], "scope": "mfrom", "result": self.spf[1]}
        transaction.notes["dkim_signatures"] = [*self.dkim]


class Keeps(Plugin):
    def hook_queue(self, transaction):
        Keeps.results = transaction.header.get("Authentication-Results")


@pytest.fixture
def deliver(kit):
    def deliver(author, *plugins, args="", spf=None, dkim=(), config=None, names=None, ip="192.0.2.10"):
        class Here(Found):
            pass

        Here.spf, Here.dkim = spf, dkim
        names = names or (None if config and "nameservers" in config else Names(RECORDS, failing=FAILING))
        stage = kit(Here, f"dmarc {args}", *plugins, Keeps, config=config, names=names)
        client = stage.connect(ip)
        Keeps.results = ""
        head = author if "\n" in author or not author else f"From: {author}\r\n"
        *_, reply = client.deliver(head.encode() + b"Subject: x\r\n\r\ny\r\n")
        deliver.stage, deliver.client = stage, client
        deliver.result = Keeps.results.partition("auth=none; ")[2]
        return reply.code

    return deliver


@pytest.mark.parametrize(
    ("author", "spf", "dkim"),
    [("a@reject.example", ("reject.example", "pass"), ()), ("a@reject.example", None, [("reject.example", "pass")]),
     ("a@reject.example", ("mail.reject.example", "pass"), ()), ("a@reject.example", None, [("x.reject.example", "pass")]),
     ("a@sub.reject.example", ("reject.example", "pass"), ()), ("a@a.reject.example", ("b.reject.example", "pass"), ()),
     ("a@reject.example", ("reject.example", "fail"), [("evil.example", "pass"), ("reject.example", "fail"), ("reject.example", "pass")]),
     ("a@strict.example", ("strict.example", "pass"), ()), ("a@strict.example", None, [("strict.example", "pass")]),
     ("A <a@Mail.Example.co.uk>", ("example.co.uk", "pass"), ()), ("a@müller.example", ("xn--mller-kva.example", "pass"), ())],
)  # fmt: skip
def test_a_message_whose_origin_is_confirmed_passes(deliver, author, spf, dkim):
    assert deliver(author, spf=spf, dkim=dkim) == 250
    assert deliver.result.startswith("dmarc=pass (p=reject dis=none) header.from=")
    assert deliver.stage.logged("dmarc: pass, ")
    assert "karma" not in deliver.client.connection.notes


@pytest.mark.parametrize(
    ("author", "spf", "dkim"),
    [("a@reject.example", None, ()), ("a@reject.example", ("evil.example", "pass"), [("evil.example", "pass")]),
     ("a@reject.example", ("reject.example", "softfail"), [("reject.example", "permerror")]),
     ("a@strict.example", ("mail.strict.example", "pass"), [("mail.strict.example", "pass")]),
     ("a@example.co.uk", ("evil.co.uk", "pass"), [("co.uk", "pass")]), ("a@reject.example", ("", "pass"), [("", "pass")]),
     ("a@reject.example", ("xreject.example", "pass"), [("reject.example.evil.example", "pass")])],
)  # fmt: skip
def test_a_message_whose_origin_is_not_confirmed_is_refused(deliver, author, spf, dkim):
    assert deliver(author, spf=spf, dkim=dkim) == 554
    (call,) = deliver.stage.calls("data_post", "dmarc")
    assert call.result[1] == f"{author[2:]} asks to refuse mail whose origin cannot be confirmed (DMARC)"
    assert deliver.stage.logged(f"dmarc: fail, {author[2:]}, policy reject")
    assert deliver.client.connection.notes["karma"] == -3


@pytest.mark.parametrize(
    ("author", "code", "result"),
    [("a@quarantine.example", 554, ""), ("a@monitor.example", 250, "dmarc=fail (p=none dis=none) header.from=monitor.example"),
     ("a@x.sub.example", 250, "dmarc=fail (p=none dis=none) header.from=x.sub.example"), ("a@sub.example", 554, ""),
     ("a@own.sub.example", 554, ""), ("a@x.own.sub.example", 250, "dmarc=fail (p=none dis=none) header.from=x.own.sub.example"),
     ("a@none.pct.example", 554, ""), ("a@mild.pct.example", 250, "dmarc=fail (p=quarantine dis=none) header.from=mild.pct.example"),
     ("a@broken.example", 250, "dmarc=none header.from=broken.example"), ("a@two.example", 250, "dmarc=none header.from=two.example"),
     ("a@asks.example", 250, "dmarc=fail (p=none dis=none) header.from=asks.example"),
     ("a@nowhere.example", 250, "dmarc=none header.from=nowhere.example"), ("a@co.uk", 250, "dmarc=none header.from=co.uk")],
)  # fmt: skip
def test_a_policy_says_what_happens_to_messages_that_fail(deliver, author, code, result):
    assert (deliver(author), deliver.result) == (code, result)


def test_several_records_end_the_search(deliver):
    names = Names(
        {
            "_dmarc.a.two.example": {"TXT": ["v=DMARC1; p=none", "v=DMARC1; p=none"]},
            "_dmarc.two.example": {"TXT": ["v=DMARC1; p=reject"]},
        }
    )
    assert deliver("a@a.two.example", names=names) == 250
    assert names.asked == [("_dmarc.a.two.example", "TXT")]


@pytest.mark.parametrize(("chance", "code"), [(0.49, 554), (0.5, 250)])
def test_a_policy_may_be_for_some_messages(kit, chance, code):
    stage = kit("dmarc", names=Names(RECORDS))

    class Random:
        def random(self):
            return chance

    stage.site.rng, rng = Random(), stage.site.rng
    stage.site.rng.getrandbits = rng.getrandbits
    assert stage.connect().deliver(b"From: a@half.pct.example\r\n\r\nx\r\n")[-1].code == code


@pytest.mark.parametrize(
    ("author", "why"),
    [("", "there is no From field"), ("a@x.example, b@y.example", "the From field names several domains"),
     ("From: a@x.example\r\nFrom: a@x.example\r\n", "there are 2 From fields"), ("nobody", "the From field names no domain"),
     ("a@[192.0.2.1]", "the From field names a domain that cannot exist")],
)  # fmt: skip
def test_there_has_to_be_one_domain(deliver, author, why):
    assert deliver(author) == 554
    assert deliver.stage.logged(f"dmarc: fail, {why}")
    assert deliver.stage.calls("data_post", "dmarc")[0].result[1] == why
    assert deliver(author, args="reject 0") == 250
    assert deliver.result == "dmarc=permerror"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ("reject 0", 250),
        ("reject 1", 554),
        ("reject_type soft", 451),
        ("reject naughty", 250),
        ("reporting 0", 554),
        ("reject 1 reporting 1", 554),
    ],
)
def test_the_arguments_say_how_to_refuse(deliver, args, code):
    assert deliver("a@reject.example", args=args) == code
    if args == "reject 0":
        assert deliver.stage.logged("dmarc: fail, reject disabled, DMARC fail")


def test_the_refusal_may_be_left_to_the_plugin_naughty(deliver):
    assert deliver("a@reject.example", "naughty", args="reject naughty") == 554


def test_a_forwarder_may_send_what_fails(deliver):
    config = {"dmarc_whitelist": ["198.51.100.0/24 a mailing list", "nonsense"]}
    assert deliver("a@reject.example", config=config, ip="198.51.100.7") == 250
    assert deliver.result == "dmarc=fail (p=reject dis=none) header.from=reject.example"
    assert deliver.stage.logged("fail, tolerated, reject.example, a forwarder")
    assert len(deliver.stage.logged("error, config/dmarc_whitelist: ")) == 1
    assert deliver("a@reject.example", config=config) == 554


def test_while_the_dns_does_not_answer_messages_pass(deliver):
    assert deliver("a@dead.example") == 250
    assert deliver.result == "dmarc=temperror header.from=dead.example"
    assert deliver.stage.logged("dmarc: error, TXT of _dmarc.dead.example")


@pytest.mark.parametrize(
    ("spf", "dkim"),
    [(("reject.example", "temperror"), ()), (("evil.example", "pass"), [("reject.example", "temperror")])],
)
def test_what_could_not_be_checked_is_not_held_against_a_message(deliver, spf, dkim):
    assert deliver("a@reject.example", spf=spf, dkim=dkim) == 250
    assert deliver.result == "dmarc=temperror (p=reject dis=none) header.from=reject.example"


def test_what_could_not_be_checked_of_another_domain_does_not_count(deliver):
    assert deliver("a@reject.example", spf=("evil.example", "temperror")) == 554


@pytest.mark.parametrize("silence", [DROP, SERVFAIL])
def test_a_dead_name_server_costs_a_bounded_time(deliver, name_server, silence):
    name_server.set({"_dmarc.reject.example": silence})
    start = time.monotonic()
    assert deliver("a@reject.example", config={"nameservers": name_server.config, "timeoutdns": ["0.3"]}) == 250
    assert deliver.result == "dmarc=temperror header.from=reject.example"
    assert time.monotonic() - start < 3


def test_a_real_name_server_is_asked(deliver, name_server):
    name_server.set({"_dmarc.reject.example": {"TXT": ['"v=DMARC1; " "p=reject"']}})
    assert deliver("a@x.reject.example", config={"nameservers": name_server.config}) == 554
    assert ("_dmarc.x.reject.example", "TXT") in name_server.asked


@pytest.mark.parametrize("where", ["relay", "whitelisthost"])
def test_immune_clients_are_not_checked(kit, where):
    class Immune(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = where == "relay"
            self.connection.notes["whitelisthost"] = where == "whitelisthost"

    names = Names(RECORDS)
    stage = kit(Immune, "dmarc", names=names)
    assert stage.connect().deliver(b"From: a@reject.example\r\n\r\nx\r\n")[-1].code == 250
    assert names.asked == []


def test_it_takes_the_results_of_the_plugins_before_it(kit):
    records = RECORDS | {
        "reject.example": {"TXT": ["v=spf1 ip4:192.0.2.10 -all"]},
        "evil.example": {"TXT": ["v=spf1 +all"]},
    }
    stage = kit("sender_permitted_from reject 1 no_dmarc_policy 1", "dkim", "dmarc", Keeps, names=Names(records))

    def code(sender, author):
        return stage.connect().deliver(b"From: " + author + b"\r\n\r\nx\r\n", sender=sender)[-1].code

    assert code("a@mail.reject.example", b"b@reject.example") == 554
    assert code("a@reject.example", b"b@reject.example") == 250
    assert Keeps.results == (
        "mx.example.test; auth=none; spf=pass smtp.mailfrom=reject.example; dkim=none; "
        "dmarc=pass (p=reject dis=none) header.from=reject.example"
    )
    assert code("a@evil.example", b"b@reject.example") == 554


def test_without_a_policy_that_of_spf_may_refuse(kit):
    names = Names({"nopolicy.example": {"TXT": ["v=spf1 -all"]}})
    stage = kit("sender_permitted_from reject 1 no_dmarc_policy 1", "dmarc", names=names)
    assert (
        stage.connect().deliver(b"From: a@nopolicy.example\r\n\r\nx\r\n", sender="a@nopolicy.example")[-1].code == 554
    )


@pytest.mark.parametrize(
    ("record", "policy"),
    [("v=DMARC1; p=reject", Policy("reject", "reject", frozenset(), 100)), ("v=DMARC1 ;P = Reject ; SP=none", Policy("reject", "none", frozenset(), 100)),
     ("v=DMARC1; p=none; adkim=S; aspf=x; pct=7", Policy("none", "none", frozenset({"DKIM"}), 7)),
     ("v=DMARC1; p=reject; p=none; pct=many", Policy("reject", "reject", frozenset(), 100)),
     ("v=DMARC1; p=reject; sp=x; rua=mailto:a@b", Policy("none", "none", frozenset(), 100)), ("v=DMARC1; p=reject; sp=x", None),
     ("v=DMARC1", None), ("v=DMARC1; rua=nonsense", None)],
)  # fmt: skip
def test_records_are_read(record, policy):
    assert parse_policy(record) == policy


@pytest.mark.parametrize(
    "text",
    [
        "p=reject; v=DMARC1",
        "v=DMARC2; p=reject",
        "V=DMARC1; p=reject",
        "v=dmarc1; p=reject",
        "v=DMARC10; p=reject",
        "",
        "x",
    ],
)
def test_other_texts_are_no_records(text):
    assert only_record([text]) == (False, "")


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Accepts.result, Accepts.header = (
            transaction.notes["dmarc_result"],
            transaction.header.get("Authentication-Results"),
        )
        return OK


TAGS = st.sampled_from(
    [
        "v=DMARC1",
        "p=none",
        "p=reject",
        "sp=quarantine",
        "pct=101",
        "pct=x",
        "aspf=s",
        "rua=mailto:a@b",
        "=",
        "p",
        "\udcff",
    ]
)
NAMES = st.text(alphabet='<>@,;:()"\\ aé.x\r\t', max_size=30).map(str.encode)


@given(
    value=st.one_of(st.binary(max_size=60), NAMES),
    record=st.one_of(st.text(), st.lists(TAGS).map(lambda tags: ";".join(["v=DMARC1", *tags]))),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
def test_any_author_and_any_policy_have_a_result(shared, value, record):
    class Anything(Names):
        def look_up_blocking(self, name, kind):
            return (record,)

    stage = shared(Anything())
    value = value.translate(None, b"\r\n\0")
    stage.connect().deliver(b"From: " + value + b"\r\n\r\nx\r\n")
    (call,) = stage.calls("data_post_headers", "dmarc")
    assert call.code is DECLINED
    assert Accepts.result in {"pass", "fail", "none", "permerror", "temperror"}
    assert Accepts.header.isascii()
    assert Accepts.header.count("dmarc=") == 1


@pytest.fixture(scope="module")
def shared():
    """A kit whose list of public suffixes is read once."""
    stage = Kit("dmarc reject 0", Accepts, names=Names())

    def shared(names):
        stage.site._resolver = names
        stage.trace.clear()
        return stage

    return shared


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("reporting x", "neither yes nor no"),
        ("rejct 1", "did you mean reject"),
        ("reject_type x", "reject_type 'x'"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError, match="plugins:1: dmarc: ") as caught:
        kit(f"dmarc {args}", names=Names())
    assert message in str(caught.value)
