"""Whom `hosts_allow` turns away before the greeting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.plugins.hosts_allow import _parse_rule


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["192.0.2.10 DENY custom text"], b"554 custom text\r\n"),
        (["192.0.2.10\tdeny\tcustom text"], b"554 custom text\r\n"),
        (["192.0.2.0/24 DENY_DISCONNECT custom text"], b"554 custom text\r\n"),
        (["192.0.2. DENYSOFT custom text"], b"421 custom text\r\n"),
        (["192.0.2.10 DENY"], b"554 "),
        (["192.0.2.10 OK", "192.0.2.0/24 DENY custom text"], b"220 "),
        (["192.0.2.10 DECLINED", "192.0.2.0/24 DENY custom text"], b"220 "),
        (["192.0.2.11 DENY", "2001:db8::/32 DENY"], b"220 "),
        (["0.0.0.0/0 DENY everyone"], b"554 everyone\r\n"),
        ([], b"220 "),
    ],
)
def test_the_first_line_that_matches_decides(kit, lines, code):
    client = kit("hosts_allow", config={"hosts_allow": lines}).connect("192.0.2.10")
    assert client.replies.startswith(code)
    assert client.closed == (not code.startswith(b"220"))


@pytest.mark.parametrize(
    "line", ["192.0.2.10 NOSUCH custom text", "192.0.2.10", "192.0.2 DENY", "192.0.2.10/33 DENY", "", "DENY"]
)
def test_a_line_that_makes_no_sense_is_logged_and_left_out(kit, line):
    stage = kit("hosts_allow", config={"hosts_allow": (line, "192.0.2.11 DENY")})
    assert len(stage.logged("config/hosts_allow: ")) == 1
    assert stage.connect("192.0.2.10").replies.startswith(b"220")
    assert stage.connect("192.0.2.11").replies.startswith(b"554")


def test_an_ipv4_client_of_an_ipv6_socket_is_recognised(kit):
    stage = kit("hosts_allow", config={"hosts_allow": ("192.0.2.0/24 DENY",)})
    assert stage.connect("::ffff:192.0.2.10").replies.startswith(b"554")


@given(st.text() | st.text().map("192.0.2.1 DENY {}".format))
def test_any_line_is_a_rule_or_a_value_error(line):
    try:
        _parse_rule(line)
    except ValueError:
        return
