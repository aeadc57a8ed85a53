"""XCLIENT: what was written is read, and any arguments are a value or a problem."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import SyntaxProblem, XClient
from qpsmtpd.protocol.xclient import ATTRIBUTES, format_xclient, parse_xclient

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.upper() not in ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
)
ADDRESSES = st.ip_addresses().filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None).map(str)
PORTS = st.integers(1, 65535)
CLIENTS = st.builds(
    XClient,
    *(
        st.none() | each
        for each in (TEXT, ADDRESSES, PORTS, st.sampled_from(["SMTP", "ESMTP"]), TEXT, TEXT, ADDRESSES, PORTS)
    ),
).filter(lambda client: client != XClient())


@given(CLIENTS)
def test_what_was_written_is_read(client):
    assert parse_xclient(format_xclient(client)) == client


@given(st.text(max_size=60) | st.lists(st.sampled_from([*ATTRIBUTES, "=", " ", "+41", "1"])).map("".join))
def test_any_arguments_are_a_value_or_a_problem(argument):
    assert isinstance(parse_xclient(argument), XClient | SyntaxProblem)


def test_the_example_of_postfix_is_read():
    assert parse_xclient("NAME=spike.porcupine.org ADDR=168.100.189.2") == XClient(
        "spike.porcupine.org", "168.100.189.2"
    )


def test_names_have_no_case_and_values_are_xtext():
    assert parse_xclient("login=a+2Bb addr=IPv6:2001:DB8::1") == XClient(login="a+b", address="2001:db8::1")


@pytest.mark.parametrize(
    ("value", "address"),
    [
        *(("168.100.189.2", "168.100.189.2"), ("IPV6:2001:DB8:0::1", "2001:db8::1"), ("2001:db8::1", "2001:db8::1")),
        *(("IPV6:::ffff:192.0.2.1", "192.0.2.1"), ("[UNAVAILABLE]", "")),
    ],
)
def test_addresses_are_canonical(value, address):
    assert parse_xclient(f"DESTADDR={value} ADDR={value}") == XClient(address=address, destination_address=address)


def test_ipv6_addresses_are_written_with_their_tag():
    client = XClient(address="2001:db8::1", destination_address="192.0.2.1", helo="a b")
    assert format_xclient(client) == "ADDR=IPV6:2001:db8::1 HELO=a+20b DESTADDR=192.0.2.1"


@pytest.mark.parametrize("value", ["[UNAVAILABLE]", "[tempunavail]"])
def test_what_is_unknown_there_is_told_from_what_was_not_said(value):
    client = parse_xclient(f"NAME={value} ADDR={value} PORT={value}")
    assert client == XClient(name="", address="", port=0)
    assert parse_xclient(format_xclient(client)) == client


@pytest.mark.parametrize(
    "argument",
    [
        *("", "NAME", "NAME=", "FOO=1", "NAME=a NAME=b", "NAME=a+0Db", "NAME=a+0", "HELO=a+00"),
        *(
            "ADDR=300.1.1.1",
            "ADDR=x",
            "ADDR=IPV6:1.2.3.4",
            "ADDR=[1.2.3.4]",
            "ADDR=1.2.3.04",
            "DESTADDR=x",
            "ADDR=fe80::1%1",
            "PORT=0",
            "PORT=65536",
            "PORT=-1",
            "PROTO=LMTP",
        ),
        *("PORT=+D9+A1", "DESTPORT=0", "NAME=a\x85ADDR=1.2.3.4", "NAME=a\tADDR=1.2.3.4", "LOGIN=+FF", "HELO=+C2+85"),
    ],
)
def test_what_is_malformed_is_refused(argument):
    problem = parse_xclient(argument)
    assert isinstance(problem, SyntaxProblem)
    assert problem.reply.code == 501
