"""Which domain the authors of a message have, and which text is a domain."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.plugins._domains import ascii_domain, author_domain
from qpsmtpd.session.message import Header


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Example.ORG.", "example.org"), ("_dmarc.example.org", "_dmarc.example.org"), ("a" * 63 + ".example", "a" * 63 + ".example"),
     ("Müller.example", "xn--mller-kva.example"), ("faß.example", "xn--fa-hia.example"), ("xn--mller-kva.example", "xn--mller-kva.example"),
     ("a。example", "a.example"), ("host", "host")],
)  # fmt: skip
def test_a_domain_is_given_as_the_dns_knows_it(text, domain):
    assert ascii_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a..b", "-a.example", "a-.example", "a b", "a/b", "../x", "a\r\nb", "a" * 64, "a." * 127 + "a", "[192.0.2.1]",
     "a@b", "a\0", "\ud800", "\U0001f600" * 300, "a;b", "a\n"],
)  # fmt: skip
def test_what_is_no_domain_is_empty(text):
    assert ascii_domain(text) == ""


@given(st.text())
def test_whatever_the_text_a_domain_is_harmless(text):
    assert re.fullmatch(r"[a-z0-9._-]{0,253}", ascii_domain(text))
    assert ".." not in ascii_domain(text)


@pytest.mark.parametrize(
    "value",
    ["a@example.org", "<a@example.org>", "A <a@Example.org>", '"x@evil.example" <a@example.org>', "x@evil.example <a@example.org>",
     "a@example.org (b@evil.example)", "(it's \"so (nested \\) deep) @evil.example) a@example.org", "a@example.org, B <b@example.org>",
     "Group: a@example.org, b@example.org;", '"quoted\\"@evil.example" <"local@evil.example"@example.org>', "John, Doe <a@example.org>",
     "A\r\n <a@example.org>", "A <a@ example.org >", "=?utf-8?q?a=40evil.example?= <a@example.org>", "a@example.org.", ", a@example.org,"],
)  # fmt: skip
def test_the_domain_of_the_authors_is_that_of_their_addresses(value):
    header = Header(b"To: b@elsewhere.example\r\nFrom: " + value.encode() + b"\r\n")
    assert author_domain(header) == "example.org"


def test_the_domain_may_be_written_in_another_script():
    assert author_domain(Header("From: a@Müller.example\r\n".encode())) == "xn--mller-kva.example"


@pytest.mark.parametrize(
    ("header", "why"),
    [("", "there is no From field"), ("From: a@x.example\r\nfrom : a@x.example\r\n", "there are 2 From fields"),
     ("From:\r\n", "names no domain"), ("From: undisclosed\r\n", "names no domain"), ("From: <>\r\n", "names no domain"),
     ("From: a@x.example, b@y.example\r\n", "names several domains"), ("From: <a@x.example> <b@y.example>\r\n", "names several domains"),
     ("From: a@[192.0.2.1]\r\n", "a domain that cannot exist"), ("From: a@x.example b\r\n", "a domain that cannot exist"),
     ('From: "a <a@x.example>\r\n', "names no domain"), ("From: (a@x.example\r\n", "names no domain"),
     ("From: " + "a" * 10_001 + "@x.example\r\n", "the From field is too long")],
)  # fmt: skip
def test_there_must_be_exactly_one(header, why):
    with pytest.raises(ValueError, match=why):
        author_domain(Header(header.encode()))


@given(st.one_of(st.binary(), st.text(alphabet='<>@,;:()"\\ a.é\t', max_size=40).map(str.encode)))
def test_any_header_has_one_or_says_why_not(value):
    try:
        domain = author_domain(Header(b"From: " + value + b"\r\n"))
    except ValueError:
        return
    assert domain == ascii_domain(domain) != ""
