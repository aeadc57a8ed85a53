"""Whom `dns_whitelist_soft` has others spare."""

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, SERVFAIL

from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit, Names

CONFIG = {"whitelist_zones": ["wl.example", "other.example"], "dnsbl_zones": ["bl.example"]}
GOOD = {"10.2.0.192.wl.example": {"A": ["127.0.5.1"], "TXT": ["a bank"]}, "10.2.0.192.bl.example": {"A": ["127.0.0.2"]}}
PLUGINS = ("dns_whitelist_soft", "dnsbl")


def test_a_listed_client_is_spared_by_later_plugins(kit):
    stage = kit(*PLUGINS, config=CONFIG, names=Names(GOOD))
    client = stage.connect()
    assert client.replies.startswith(b"220")
    assert client.connection.notes["whitelisthost"] == "a bank"
    assert stage.logged("dns_whitelist_soft: pass, in wl.example")
    assert stage.logged("dnsbl: skip, whitelisted host")


def test_without_a_text_the_note_names_the_list(kit):
    names = Names({"10.2.0.192.other.example": {"A": ["127.0.0.2"]}})
    assert (
        kit(*PLUGINS, config=CONFIG, names=names).connect().connection.notes["whitelisthost"]
        == "listed by other.example"
    )


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "127.0.0.255", "127.255.255.255"])
def test_others_are_not_spared_nor_who_is_not_served_by_the_list(kit, address):
    stage = kit(*PLUGINS, config=CONFIG, names=Names(GOOD | {"10.2.0.192.wl.example": {"A": [address]}}))
    assert stage.connect().replies.startswith(b"554")


def test_a_list_of_the_whole_world_spares_nobody(kit):
    stage = kit(*PLUGINS, config=CONFIG, names=Names(GOOD | {"1.0.0.127.wl.example": {"A": ["127.0.0.2"]}}))
    assert stage.connect().replies.startswith(b"554")
    assert stage.logged("error, wl.example lists everything")


@pytest.mark.parametrize("trouble", [DROP, SERVFAIL])
def test_a_list_that_does_not_answer_is_logged_and_spares_nobody(kit, name_server, trouble):
    name_server.set({"10.2.0.192.wl.example": trouble})
    stage = kit(*PLUGINS, config=CONFIG | {"nameservers": name_server.config, "timeoutdns": ["0.3"]})
    assert "whitelisthost" not in stage.connect().connection.notes
    assert stage.logged("error, wl.example cannot be asked")


def test_all_lists_are_asked_at_the_same_time(kit):
    names = Gathered({"10.2.0.192.other.example": {"A": ["127.0.0.2"]}}, at_once=4)
    assert "whitelisthost" in kit("dns_whitelist_soft", config=CONFIG, names=names).connect().connection.notes


def test_without_lists_or_an_address_nothing_is_looked_up(kit):
    names = Names(GOOD)
    kit("dns_whitelist_soft", names=names).connect()
    kit("dns_whitelist_soft", config=CONFIG, names=names).connect("unknown")
    assert not names.asked


@pytest.mark.parametrize("args", ["x", "reject 1", "timeout 0"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: dns_whitelist_soft: "):
        kit(f"dns_whitelist_soft {args}", names=Names())


@given(st.text())
def test_whatever_a_list_says_makes_a_printable_note(text):
    names = Names({"10.2.0.192.wl.example": {"A": ["127.0.0.2"], "TXT": [text]}})
    note = Kit("dns_whitelist_soft", config=CONFIG, names=names).connect().connection.notes["whitelisthost"]
    assert note
    assert note.isascii()
    assert note.isprintable()
