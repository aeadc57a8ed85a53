"""PROXY headers: what was written is read, any cut waits for more, and any bytes are decided within the bound."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import ClientCertificate, ProxyHeader, Security, read_proxy_header
from qpsmtpd.protocol.proxy import MAXIMUM, ProxyProblem

PORTS = st.integers(0, 65535)
FOUR = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
SIX = st.tuples(st.ip_addresses(v=6).map(str), PORTS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SECURITY = st.builds(
    Security,
    TEXT,
    TEXT,
    st.none(),
    st.none() | st.builds(ClientCertificate, TEXT.map("CN={}".format), st.booleans()),
)
HEADERS = st.one_of(
    FOUR.flatmap(lambda s: FOUR.map(lambda d: (s, d))), SIX.flatmap(lambda s: SIX.map(lambda d: (s, d)))
).map(lambda ends: ProxyHeader(local=False, source=ends[0], destination=ends[1]))
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@given(HEADERS, st.binary(max_size=20))
def test_version_1_is_read_as_it_was_written(header, behind):
    data = header.encode_v1()
    assert read_proxy_header(data + behind) == (header, len(data))
    assert len(data) <= 107


@given(HEADERS, SECURITY | st.none(), st.binary(max_size=20), st.binary(max_size=20))
def test_version_2_is_read_as_it_was_written(header, security, unique, behind):
    header = ProxyHeader(
        local=False, source=header.source, destination=header.destination, tls=security, unique_id=unique
    )
    data = header.encode_v2()
    found, length = read_proxy_header(data + behind)
    assert length == len(data)
    assert (found.source, found.destination, found.tls, found.unique_id) == (
        header.source,
        header.destination,
        security,
        unique,
    )


@given(HEADERS, st.booleans(), st.data())
def test_a_header_cut_short_waits_for_more(header, first, data):
    whole = header.encode_v1() if first else header.encode_v2()
    assert read_proxy_header(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda b: SIGNATURE + b)
    | st.binary(max_size=120).map(lambda b: b"PROXY TCP4 " + b)
)
def test_any_bytes_are_a_header_a_problem_or_a_beginning(data):
    found = read_proxy_header(data)
    assert found is None or isinstance(found, ProxyProblem | tuple)


@given(st.binary(max_size=30).map(lambda b: b"PROXY " + b) | st.binary(max_size=30).map(lambda b: SIGNATURE + b))
def test_no_more_than_the_bound_is_ever_awaited(start):
    assert read_proxy_header(start + b"\x20" * MAXIMUM) is not None


@pytest.mark.parametrize(
    "data", [b"E", b"EHLO x\r\n", b"PROXX", b"\r\n\r\n\1", b"\x16\x03\x01", b"PROXY TCP4 1.2.3.4\n", b"PROXY\t"]
)
def test_bytes_that_are_no_header_are_so_at_once(data):
    assert isinstance(read_proxy_header(data), ProxyProblem)


@pytest.mark.parametrize(
    "line",
    [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2",
        "PROXY TCP4 1.2.3.04 5.6.7.8 1 2",
        "PROXY TCP4 ::1 ::1 1 2",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY UNKNOWNX",
        "PROXY ",
    ],
)
def test_version_1_is_read_strictly(line):
    assert read_proxy_header(line.encode() + b"\r\n") is ProxyProblem.MALFORMED


def test_an_unknown_client_is_that_of_the_connection():
    assert read_proxy_header(b"PROXY UNKNOWN ffff:f 1 2 3\r\n") == (ProxyHeader(local=True), 28)


def header(command=0x21, family=0x11, body=bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2])):
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2) + body


def test_the_example_of_the_format_is_read():
    found, length = read_proxy_header(header())
    assert (found.source, found.destination, length) == (("1.2.3.4", 1), ("5.6.7.8", 2), 28)


@pytest.mark.parametrize(
    "data",
    [header(command=0x11), header(command=0x22), header(family=0x13), header(family=0x21), header(body=b"abc")],
)
def test_version_2_is_read_strictly(data):
    assert read_proxy_header(data) is ProxyProblem.MALFORMED


def test_a_local_header_says_nothing_of_a_client():
    assert read_proxy_header(header(command=0x20, family=0, body=b"")) == (ProxyHeader(local=True), 16)


def test_unix_sockets_have_no_address():
    found, _ = read_proxy_header(header(family=0x31, body=bytes(216)))
    assert (found.local, found.source) == (False, None)


def test_a_header_may_not_be_large():
    assert read_proxy_header(SIGNATURE + b"\x21\x11\xff\xff") is ProxyProblem.TOO_LARGE


ADDRESSES = bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2])


def tlv(kind, value):
    return bytes([kind]) + len(value).to_bytes(2) + value


@pytest.mark.parametrize("tail", [b"\x01", b"\x01\x00\x05abcd", tlv(1, b"x") + b"\x02"])
def test_a_tlv_that_is_cut_off_is_malformed(tail):
    assert read_proxy_header(header(body=ADDRESSES + tail)) is ProxyProblem.MALFORMED


def test_tlvs_are_given_as_they_came():
    found, _ = read_proxy_header(header(body=ADDRESSES + tlv(2, b"mx.example") + tlv(0xEA, b"\xff")))
    assert found.authority == "mx.example"
    assert found.tlvs == ((2, b"mx.example"), (0xEA, b"\xff"))


def test_a_client_without_tls_has_no_security():
    found, _ = read_proxy_header(header(body=ADDRESSES + tlv(0x20, bytes(5))))
    assert found.tls is None


def crc32c(data):
    """The definition, bit by bit."""
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return (register ^ 0xFFFFFFFF).to_bytes(4)


def test_the_checksum_is_that_of_rfc_3720():
    assert crc32c(b"123456789") == bytes.fromhex("e3069283")


def test_a_checksum_is_held_against_the_header():
    blank = header(body=ADDRESSES + tlv(2, b"x") + tlv(3, bytes(4)) + tlv(4, b""))
    good = blank.replace(tlv(3, bytes(4)), tlv(3, crc32c(blank)))
    found, _ = read_proxy_header(good)
    assert found.source == ("1.2.3.4", 1)
    assert read_proxy_header(blank) is ProxyProblem.CHECKSUM
    assert read_proxy_header(good.replace(b"\1\2\3\4", b"\1\2\3\5")) is ProxyProblem.CHECKSUM


def test_addresses_of_two_kinds_cannot_be_written():
    mixed = ProxyHeader(local=False, source=("1.2.3.4", 1), destination=("::1", 2))
    for encode in (mixed.encode_v1, mixed.encode_v2):
        with pytest.raises(ValueError, match="one kind"):
            encode()


@given(HEADERS)
def test_addresses_are_canonical(header):
    found, _ = read_proxy_header(header.encode_v1())
    assert str(ipaddress.ip_address(found.source[0])) == found.source[0]
