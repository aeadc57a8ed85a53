"""Which hosts `uribl` finds in a message, and what it does about those that are listed."""

import base64
import ipaddress
import quopri

import pytest
from gathered import Gathered
from hypothesis import given, settings
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, SERVFAIL

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._uris import find_hosts
from qpsmtpd.testing import Kit, Names

ZONES = {"uribl_zones": ["multi.example"]}
LISTED = {"evil.com.multi.example": {"A": ["127.0.0.4"], "TXT": ["a pill shop"]}}
TEXT = b"Subject: x\r\n\r\nlook at http://www.evil.com/pills now\r\n"


class Shows(Plugin):
    def hook_queue(self, transaction):
        Shows.fields = transaction.header.get_all("X-URIBL-Match")


def deliver(stage, content=TEXT):
    Shows.fields = None
    return stage.connect().deliver(content)[-1]


def asked(names):
    return [
        name.removesuffix(".multi.example")
        for name, kind in names.asked
        if kind == "A" and not name.startswith("invalid.")
    ]


def looked_up(body, config=None, args=""):
    names = Names()
    kit = Kit(f"uribl {args}", Accepts, config=ZONES | (config or {}), names=names)
    kit.connect().deliver(b"Subject: www.header.com\r\n\r\n" + body + b"\r\n")
    return asked(names)


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK


def test_a_field_tells_of_a_listed_host(kit):
    stage = kit("uribl", Shows, config=ZONES, names=Names(LISTED))
    assert deliver(stage).code == 250
    assert Shows.fields == ["evil.com in multi.example: a pill shop"]
    assert stage.logged("fail, add-header, evil.com in multi.example")


@pytest.mark.parametrize(
    ("args", "line", "code"),
    [("action deny", "multi.example", 554), ("action denysoft", "multi.example", 451), ("action log", "multi.example", 250),
     ("", "multi.example -1 deny", 554), ("action deny", "multi.example 4 log", 250), ("action deny", "multi.example 2,4", 554),
     ("action deny", "multi.example 2,8", 250), ("action deny", "multi.example 0", 554)],
)  # fmt: skip
def test_the_argument_or_the_line_says_what_to_do_and_which_entries_count(kit, args, line, code):
    stage = kit(f"uribl {args}", Shows, config={"uribl_zones": [line]}, names=Names(LISTED))
    reply = deliver(stage)
    assert reply.code == code
    assert not Shows.fields
    if code != 250:
        assert reply.text == "evil.com in multi.example: a pill shop"


def test_a_refusal_counts_more_than_fields_and_fields_are_limited(kit):
    hosts = [f"evil{number}.com" for number in range(20)]
    records = {f"{host}.multi.example": {"A": ["127.0.0.4"]} for host in hosts}
    content = b"Subject: x\r\n\r\n" + " ".join(hosts).encode() + b"\r\n"
    assert deliver(kit("uribl", Shows, config=ZONES, names=Names(records)), content).code == 250
    assert len(Shows.fields) == 10
    zones = {"uribl_zones": ["multi.example", "strict.example 0 deny"]}
    records["evil19.com.strict.example"] = {"A": ["127.0.0.4"]}
    reply = deliver(kit("uribl", config=zones, names=Names(records)), content)
    assert (reply.code, reply.text) == (554, "evil19.com in strict.example: 127.0.0.4")


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "127.255.255.254"])
def test_what_is_no_entry_does_not_count(kit, address):
    stage = kit("uribl action deny", config=ZONES, names=Names({"evil.com.multi.example": {"A": [address]}}))
    assert deliver(stage).code == 250


def test_a_list_of_all_domains_is_left_out(kit):
    names = Names(LISTED | {"invalid.multi.example": {"A": ["127.0.0.4"]}})
    assert deliver(kit("uribl action deny", config=ZONES, names=names)).code == 250


@pytest.mark.parametrize(
    ("body", "names"),
    [(b"http://www.evil.com/", ["evil.com", "www.evil.com"]), (b"evil.com.", ["evil.com"]), (b"a@EVIL.com", ["evil.com"]),
     (b"http://u:p@evil.co.uk:80/x", ["evil.co.uk"]), (b"x.y.z.evil.com", ["evil.com", "z.evil.com", "y.z.evil.com"]),
     (b"...evil.com...", ["evil.com"]), (b"_evil.com_", ["evil.com"]), (b"evil.com evil.com", ["evil.com"]),
     (b"no.such.tld-x co.uk com a..b", []), (b"http://ev%69l.com", ["evil.com"]), (b"http://ev&#105;l.com", ["evil.com"]),
     (b"http://ev&#x69;l.com &#99999999; &#xD800;", ["evil.com"]), (b'<a href=3D"http://ev=\r\nil.com/">', ["evil.com"]),
     ("http://b\u00fccher.de".encode(), ["xn--bcher-kva.de"]), ("http://b\u00fccher\u3002de".encode(), ["xn--bcher-kva.de"]),
     ("\u8bf7evil.com\u8c22".encode(), ["evil.com"]),
     (b"http://192.0.2.1/", ["1.2.0.192"]), (b"http://3221225985/x", ["1.2.0.192"]), (b"http://0xC0.0.02.0x1", ["1.2.0.192"]),
     (b"http://u@0300.0.513:80/", ["1.2.0.192"]), (b"https://192.0.2.1.", ["1.2.0.192"]), (b"http://09.1.1.1", []),
     (b"192.0.2.1 http://5/ http://999999999999/ http://1.2.3.999/", []),
     (b"http://[2001:db8::1]/", ["1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2"]), (b"http://[::zz]/", [])],
)  # fmt: skip
def test_hosts_are_found_however_they_are_written(body, names):
    assert looked_up(body) == names


@pytest.mark.parametrize(
    "encoded", [base64.encodebytes(b"<p>see http://evil.com/" + b"x" * 100), base64.b64encode(b"http://evil.com/ x"), quopri.encodestring(b"see http://evil.com=")]
)  # fmt: skip
def test_encoded_parts_are_read_however_deep_they_are(encoded):
    nested = b"--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" * 500
    assert looked_up(nested + b"\r\n" + encoded.replace(b"\n", b"\r\n")) == ["evil.com"]


def test_pictures_are_not_read():
    assert looked_up(base64.encodebytes(b"\xff\xd8\x00\x01 http://evil.com").replace(b"\n", b"\r\n")) == []


def test_a_header_is_read_if_the_arguments_say_so():
    assert looked_up(b"x") == []
    for word in ("check-headers", "scan-headers"):
        assert "header.com" in looked_up(b"x", args=f"{word} 1")


def test_spared_domains_are_not_looked_up_and_shared_ones_are_those_of_others():
    config = {"uribl_whitelist_domains": ["Good.com", "sub.fine.com"], "uribl_twolevel_domains": ["pages.com"]}
    body = b"www.good.com a.sub.fine.com fine.com pages.com me.pages.com"
    assert looked_up(body, config) == ["fine.com", "me.pages.com"]


def test_there_is_a_bound_on_names_and_on_octets():
    assert len(looked_up(b" ".join(b"evil%d.com" % number for number in range(1000)))) == 50
    assert looked_up(b"x \r\n" * 70_000 + b"evil.com") == []


@pytest.mark.parametrize(
    "piece", [b"a", b"a.", b"-", b".", b"=", b"= ", b"%", b"&#0", b"&", b":/", b":/a@", b"/", b"A" * 60 + b"\r\n", b"\xff", b"\xc3\xbc.",
              b"\xc3\xbc", b"http://1", b":/[", b"1.", b"a.b ", b"\r\n", b" ", b"_", b"0"],
)  # fmt: skip
def test_a_body_that_repeats_itself_is_read_in_time(piece):
    assert isinstance(list(find_hosts((piece * 262_144)[:262_144])), list)


@given(st.binary() | st.text(alphabet="aA1.-_=%&#;:/@[]xX0\u00fc\u3002\n ").map(str.encode))
def test_any_content_gives_hosts_that_may_be_asked_for(content):
    for host in find_hosts(content):
        if isinstance(host, str):
            assert host.isascii()
            assert host == host.lower()
        else:
            assert isinstance(host, ipaddress.IPv4Address | ipaddress.IPv6Address)


@settings(max_examples=40)
@given(body=st.binary(), text=st.text())
def test_any_body_and_any_answer_have_one_reply(body, text):
    class Everything(Names):
        def look_up_blocking(self, name, kind):
            return (text,) if kind == "TXT" else () if name.startswith("invalid.") else ("127.0.0.2",)

    stage = Kit("uribl action deny", Accepts, config=ZONES, names=Everything())
    body = b"www.evil.com " + body.replace(b"\r", b"").replace(b"\n", b"\r\n")
    reply = stage.connect().deliver(b"Subject: x\r\n\r\n" + body + b"\r\n")[-1]
    assert reply.code == 554
    assert reply.text.isascii()
    assert reply.text.isprintable()


@pytest.mark.parametrize("trouble", [DROP, SERVFAIL, GARBAGE])
def test_a_list_that_does_not_answer_counts_as_empty_and_is_logged(kit, name_server, trouble):
    name_server.set({"evil.com.multi.example": trouble})
    stage = kit("uribl action deny", config=ZONES | {"nameservers": name_server.config, "timeoutdns": ["0.3"]})
    assert deliver(stage).code == 250
    assert stage.logged("error, multi.example cannot be asked")


def test_answers_of_a_name_server(kit, name_server):
    name_server.set({"evil.com.multi.example": {"A": ["127.0.0.2"], "TXT": ['"pills"']}})
    stage = kit("uribl action deny", config=ZONES | {"nameservers": name_server.config, "timeoutdns": ["0.5"]})
    assert deliver(stage).text == "evil.com in multi.example: pills"


def test_all_names_are_looked_up_at_the_same_time(kit):
    content = b"Subject: x\r\n\r\n" + b" ".join(b"evil%d.com" % number for number in range(30)) + b"\r\n"
    assert deliver(kit("uribl", config=ZONES, names=Gathered(at_once=31)), content).code == 250


def test_without_lists_nothing_is_looked_up(kit):
    names = Names()
    assert deliver(kit("uribl", names=names)).code == 250
    assert not names.asked


@pytest.mark.parametrize("args", ["action reject", "x", "timeout 0", "reject 1"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: uribl: "):
        kit(f"uribl {args}", names=Names())


def test_bad_lines_are_logged_and_left_out(kit):
    lines = ["multi.example x", "multi.example 1 reject", "!", "multi.example"]
    stage = kit("uribl action deny", config={"uribl_zones": lines}, names=Names(LISTED))
    assert deliver(stage).code == 554
    assert len(stage.logged("left out the line")) == 3
