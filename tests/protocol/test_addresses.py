"""Paths: what is printed is read again, and any text gives a mailbox or a problem."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qpsmtpd.protocol import NULL_PATH, Mailbox, SyntaxProblem, parse_path
from qpsmtpd.testing.strategies import hostile_paths, mailboxes, nearly_valid_paths


@given(mailboxes(utf8=True))
@example(Mailbox("a\N{NO-BREAK SPACE}b", "example.org"))
@example(Mailbox('"\\', "example.org"))
@example(Mailbox("", "example.org"))
def test_what_is_printed_is_read_again(mailbox):
    assert parse_path(mailbox.path) == mailbox
    assert parse_path(str(mailbox)) == mailbox


@given(st.text(max_size=20) | hostile_paths() | nearly_valid_paths())
def test_any_text_gives_a_mailbox_or_a_problem(text):
    mailbox = parse_path(text)
    assert isinstance(mailbox, Mailbox | SyntaxProblem)
    if isinstance(mailbox, Mailbox):
        assert parse_path(mailbox.path) == mailbox
        mailbox.path.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("<user@example.org>", "user", "example.org"),
        ("<User+tag@EXAMPLE.org>", "User+tag", "EXAMPLE.org"),
        ("<a.b@x-y.example>", "a.b", "x-y.example"),
        ('<"a b"@example.org>', "a b", "example.org"),
        ('<"a\\"b\\\\c"@example.org>', 'a"b\\c', "example.org"),
        ('<"a@b"@example.org>', "a@b", "example.org"),
        ('<""@example.org>', "", "example.org"),
        ("<a b@example.org>", "a b", "example.org"),
        ("<@relay.example,@other.example:user@example.org>", "user", "example.org"),
        ("<@relay.example:>", "", None),
        ("<user@[192.0.2.1]>", "user", "[192.0.2.1]"),
        ("<user@[IPv6:2001:db8::1]>", "user", "[IPv6:2001:db8::1]"),
        ("<ü@ä.example>", "ü", "ä.example"),
        ("<PostMaster>", "postmaster", None),
        ("<>", "", None),
    ],
)
def test_a_path_is_read(text, local_part, domain):
    assert parse_path(text) == Mailbox(local_part, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user@example.org",
        "<user@example.org",
        "<user>",
        "<@example.org>",
        "<user@>",
        "<.user@example.org>",
        "<user.@example.org>",
        "<us..er@example.org>",
        "<us. .er@example.org>",
        "<user@-example.org>",
        "<user@example-.org>",
        "<user@example..org>",
        "<user@exa mple.org>",
        "<user@example.org>\n",
        '<"user@example.org>',
        '<"a"b@example.org>',
        '<"\x00"@example.org>',
        '<"\x85"@example.org>',
        '<"\udcff"@example.org>',
        "<\udcff@example.org>",
        "<user@[]>",
        "<user@[1.2.3]>",
        "<user@[2001:db8::1]>",
        "<user@[IPv6:nowhere]>",
        "<user@[IPv6:fe80::1%eth0]>",
        "<user@[tag:content]>",
    ],
)
def test_a_malformed_path_is_refused(text):
    problem = parse_path(text)
    assert isinstance(problem, SyntaxProblem)
    assert (problem.reply.code, problem.reply.enhanced) == (501, "5.1.3")


@pytest.mark.parametrize(
    ("mailbox", "address", "path"),
    [
        (Mailbox("user", "example.org"), "user@example.org", "<user@example.org>"),
        (Mailbox("a b", "example.org"), "a b@example.org", '<"a\\ b"@example.org>'),
        (Mailbox("a..b", "example.org"), "a..b@example.org", '<"a..b"@example.org>'),
        (Mailbox("user", "[192.0.2.1]"), "user@[192.0.2.1]", "<user@[192.0.2.1]>"),
        (Mailbox("postmaster", None), "postmaster", "<postmaster>"),
        (NULL_PATH, "", "<>"),
    ],
)
def test_a_mailbox_prints_itself_for_people_and_for_the_wire(mailbox, address, path):
    assert (mailbox.address, mailbox.path) == (address, path)
    assert (mailbox.user, mailbox.host) == (mailbox.local_part, mailbox.domain)


def test_only_the_null_path_is_false():
    assert not NULL_PATH
    assert Mailbox("postmaster", None)
    assert Mailbox("", "example.org")


@pytest.mark.parametrize(
    ("mailbox", "is_ascii"),
    [
        (Mailbox("user", "example.org"), True),
        (Mailbox("ü", "example.org"), False),
        (Mailbox("user", "ä.example"), False),
        (NULL_PATH, True),
    ],
)
def test_ascii_is_told_from_utf8(mailbox, is_ascii):
    assert mailbox.is_ascii is is_ascii


@given(st.ip_addresses())
def test_an_address_literal_is_one_that_the_standard_library_reads(address):
    tag = "IPv6:" if isinstance(address, ipaddress.IPv6Address) else ""
    assert parse_path(f"<user@[{tag}{address}]>") == Mailbox("user", f"[{tag}{address}]")
