"""PROXY headers: what was written is read, any cut waits for more, and any bytes are decided within the bound."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import ClientCertificate, ProxyHeader, Security, read_proxy_header
from qpsmtpd.protocol.proxy import MAXIMUM, ProxyProblem

PORTS = st.integers(0, 65535)
FOUR = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
SIX = st.tuples(st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str), PORTS)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
CERTIFICATES = st.builds(ClientCertificate, st.just("") | TEXT.map("CN={}".format), st.booleans())
HEADERS = st.builds(ProxyHeader, st.just(value=False), FOUR | SIX, FOUR | SIX)
TLVS = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind not in (2, 3, 5, 0x20)), st.binary(max_size=9)), max_size=3
)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@given(HEADERS, st.binary(max_size=20))
def test_version_1_is_read_as_it_was_written(header, behind):
    data = header.encode_v1()
    assert read_proxy_header(data + behind) == (header, len(data))
    assert len(data) <= 107


@given(
    HEADERS,
    st.none() | TEXT,
    st.none() | st.tuples(TEXT, TEXT, st.none() | CERTIFICATES),
    st.binary(max_size=20),
    TLVS.map(tuple),
    st.binary(max_size=20),
)
def test_version_2_is_read_as_it_was_written(header, authority, security, unique, others, behind):
    tls = security and Security(security[0], security[1], authority, security[2])
    header = replace(header, authority=authority, tls=tls, unique_id=unique, tlvs=others)
    data = header.encode_v2()
    found, length = read_proxy_header(data + behind)
    assert length == len(data)
    assert replace(found, tlvs=others) == header
    assert found.tlvs[len(found.tlvs) - len(others) :] == others
    assert found.encode_v2() == data


@given(HEADERS, TLVS.map(tuple))
def test_a_header_cut_short_waits_for_more(header, others):
    for whole in (header.encode_v1(), replace(header, tlvs=others).encode_v2(), b"PROXY UNKNOWN\r\n"):
        assert {read_proxy_header(whole[:cut]) for cut in range(len(whole))} == {None}


PIECES = st.sampled_from(
    [b"1.2.3.4", b"::1", b" ", b"25", b"\r", b"\n", b"\r\n", b"x", b"\0", b"\0\5", b"\0\x0c", b"\x03", b"\x20"]
)
BEGINNINGS = st.sampled_from(
    [
        *(b"", SIGNATURE, SIGNATURE + b"\x20", SIGNATURE + b"\x21\0", SIGNATURE + b"\x21\x11\0\x30"),
        *(b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"PROXY UNKNOWN "),
    ]
)


@given(BEGINNINGS, st.binary(max_size=300) | st.lists(PIECES, max_size=12).map(b"".join))
def test_any_bytes_are_a_header_a_problem_or_a_beginning_however_they_come(start, data):
    data = start + data
    answers = [read_proxy_header(bytearray(data[:cut])) for cut in range(len(data) + 1)]
    first = next((answer for answer in answers if answer is not None), None)
    assert answers[-1] == first or (isinstance(first, ProxyProblem) and isinstance(answers[-1], ProxyProblem))
    if isinstance(first, tuple):
        assert answers.index(first) == first[1]


@given(st.binary(max_size=30).map(lambda b: b"PROXY " + b) | st.binary(max_size=30).map(lambda b: SIGNATURE + b))
def test_no_more_than_the_bound_is_ever_awaited(start):
    assert read_proxy_header(start + b"\x20" * MAXIMUM) is not None


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"E",
            b"EHLO x\r\n",
            b"PROXX",
            b"\x16\x03\x01",
            b"PROXY\t",
            b"PROXY TCP5",
            b"PROXY TCP4 x",
            b"PROXY UNKNOWNX",
        ),
        *(b"PROXY TCP4 1.2.3.4\n", b"PROXY UNKNOWN \n", b"PROXY UNKNOWN\rx", b"PROXY UNKNOWN \r\r"),
        *(b"\r\n\r\n\1", SIGNATURE + b"\x11", SIGNATURE + b"\x21\x13", SIGNATURE + b"\x21\x11\0\x0b"),
    ],
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
        "PROXY UNKNOWN a\nb",
        "PROXY UNKNOWN\r",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ",
        "PROXY TCP4 1.2.3.4 5.6.7.8 \u0661 2",
        "PROXY TCP6 ::1 1.2.3.4 1 2",
        "PROXY TCP6 fe80::1%1 ::1 1 2",
        "PROXY ",
    ],
)
def test_version_1_is_read_strictly(line):
    assert read_proxy_header(line.encode() + b"\r\n") is ProxyProblem.MALFORMED


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [  # the longest of each kind, and the document's own
        ("TCP4 255.255.255.255 255.255.255.255 65535 65535", ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
        (
            "TCP6 " + " ".join([":".join(["FfFf"] * 8)] * 2) + " 0 1",
            (":".join(["ffff"] * 8), 0),
            (":".join(["ffff"] * 8), 1),
        ),
        ("TCP4 192.168.0.1 192.168.0.11 56324 443", ("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ],
)
def test_the_examples_of_version_1_are_read(line, source, destination):
    data = f"PROXY {line}\r\n".encode()
    assert read_proxy_header(data + b"GET / HTTP/1.1\r\n") == (ProxyHeader(False, source, destination), len(data))


def test_the_longest_line_has_107_octets():
    longest = b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n"
    assert read_proxy_header(longest) == (ProxyHeader(local=True), 107)
    assert read_proxy_header(longest.replace(b"\r", b"0\r")) is ProxyProblem.TOO_LARGE


def test_an_unknown_client_is_that_of_the_connection():
    assert read_proxy_header(b"PROXY UNKNOWN ffff:f 1 2 3\r\n") == (ProxyHeader(local=True), 28)


def header(command=0x21, family=0x11, body=bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2])):
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2) + body


def test_the_example_of_the_format_is_read():
    found, length = read_proxy_header(header())
    assert (found.source, found.destination, length) == (("1.2.3.4", 1), ("5.6.7.8", 2), 28)


@pytest.mark.parametrize(
    "data",
    [
        *(header(command=0x11), header(command=0x22), header(family=0x13), header(family=0x41)),
        *(header(family=0x21), header(body=b"abc")),
    ],
)
def test_version_2_is_read_strictly(data):
    assert read_proxy_header(data) is ProxyProblem.MALFORMED


def test_a_local_header_says_nothing_of_a_client():
    assert read_proxy_header(header(command=0x20, family=0, body=b"")) == (ProxyHeader(local=True), 16)


def test_what_else_a_local_header_says_is_ignored():
    assert read_proxy_header(header(command=0x20, family=0x99, body=b"abc")) == (ProxyHeader(local=True), 19)


def test_a_client_of_no_known_kind_keeps_the_proxys_address():
    found, length = read_proxy_header(header(family=0, body=tlv(4, b"x")))
    assert (found, length) == (ProxyHeader(local=True, tlvs=((4, b"x"),)), 20)
    assert read_proxy_header(header(family=0, body=b"abc")) == (ProxyHeader(local=True), 19)


@pytest.mark.parametrize("encode", [ProxyHeader.encode_v1, ProxyHeader.encode_v2])
def test_what_is_not_told_is_written_as_unknown(encode):
    for untold in (ProxyHeader(local=True), ProxyHeader(local=False)):
        assert read_proxy_header(encode(untold))[0] == ProxyHeader(local=True)


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


def ssl(flags=1, verify=0, *subs):
    return tlv(0x20, bytes([flags]) + verify.to_bytes(4) + b"".join(tlv(*sub) for sub in subs))


VERSION, CIPHER, NAME = (0x21, b"TLSv1.3"), (0x23, b"TLS_AES_128_GCM_SHA256"), (0x22, b"client.example")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ssl(0, 0), None),
        (ssl(6, 0, NAME), None),
        (ssl(1, 1, VERSION, CIPHER), Security("TLSv1.3", "TLS_AES_128_GCM_SHA256")),
        (ssl(1, 0), Security("TLS", "unknown")),
        (ssl(3, 0, NAME), Security("TLS", "unknown", None, ClientCertificate("CN=client.example", verified=True))),
        (ssl(5, 2, NAME), Security("TLS", "unknown", None, ClientCertificate("CN=client.example", verified=False))),
        (ssl(7, 0), Security("TLS", "unknown", None, ClientCertificate("", verified=True))),
    ],
)
def test_encryption_is_what_the_proxy_says(value, expected):
    found, _ = read_proxy_header(header(body=ADDRESSES + value))
    assert found.tls == expected


@pytest.mark.parametrize(
    "value",
    [
        *(tlv(0x20, b"\1\0\0\0"), tlv(0x20, b"\1\0\0\0\0\x21\0\5TLS")),
        *(tlv(2, b"mx.example\r\n"), tlv(2, b"mx.example\0")),
    ],
)
def test_malformed_and_misleading_values_are_refused(value):
    assert read_proxy_header(header(body=ADDRESSES + value)) is ProxyProblem.MALFORMED


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


def test_a_checksum_of_haproxy_holds():
    """What HAProxy 2.6 has sent with `proxy-v2-options crc32c,unique-id,ssl`."""
    data = header(body=bytes.fromhex("7f0000017f000001ce0c9697 030004af613465 05000f") + b"127.0.0.1-52748" + ssl(0, 0))
    found, length = read_proxy_header(data)
    assert (found.source, found.unique_id, found.tls) == (("127.0.0.1", 52748), b"127.0.0.1-52748", None)
    assert length == len(data)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_checksum_has_four_octets(size):
    assert read_proxy_header(header(body=ADDRESSES + tlv(3, bytes(size)))) is ProxyProblem.CHECKSUM


@pytest.mark.parametrize("encode", [ProxyHeader.encode_v1, ProxyHeader.encode_v2])
def test_addresses_of_two_kinds_are_written_as_ipv6_and_read_as_they_are(encode):
    mixed = ProxyHeader(local=False, source=("1.2.3.4", 1), destination=("2001:db8::1", 2))
    data = encode(mixed)
    assert b"TCP6" in data or data[13] == 0x21
    assert read_proxy_header(data) == (mixed, len(data))


@pytest.mark.parametrize("encode", [ProxyHeader.encode_v1, ProxyHeader.encode_v2])
def test_what_is_no_address_cannot_be_written(encode):
    with pytest.raises(ValueError, match=r"mx\.example"):
        encode(ProxyHeader(local=False, source=("mx.example", 1), destination=("1.2.3.4", 2)))


def test_addresses_are_canonical():
    found, _ = read_proxy_header(b"PROXY TCP6 2001:DB8:0:0::1 ::ffff:192.0.2.1 1 2\r\n")
    assert (found.source, found.destination) == (("2001:db8::1", 1), ("192.0.2.1", 2))
