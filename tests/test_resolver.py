"""Look-ups, at a real server that answers, refuses, is silent, or talks nonsense."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import anyio
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent / "plugins"))

import anyio.lowlevel
from name_server import DROP, GARBAGE, REFUSED, SERVFAIL, STRANGE, TRUNCATED, NameServer

from qpsmtpd.config import Config, ConfigError
from qpsmtpd.resolver import DnsError, SystemResolver, parse_name_server, reversed_address
from qpsmtpd.site import Site
from qpsmtpd.testing import Names, make_site

RECORDS = {
    "example.org": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"],
                    "MX": ["20 B.example.org.", "10 a.example.org."], "TXT": ['"v=spf1 " "-all"', '"\\255"']},
    "nomail.example": {"MX": ["0 ."]},
    "alias.example": {"CNAME": ["example.org."]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Host.example.org."]},
    "silent.example": DROP, "servfail.example": SERVFAIL, "refused.example": REFUSED, "garbage.example": GARBAGE,
    "long.example": TRUNCATED, "strange.example": STRANGE,
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with NameServer(RECORDS) as server:
        yield server


def by_asyncio(resolver, name, kind):
    return asyncio.run(resolver.look_up(name, kind))


def by_trio(resolver, name, kind):
    return trio.run(resolver.look_up, name, kind)


def by_anyio(resolver, name, kind):
    return anyio.run(resolver.look_up, name, kind)


def by_thread(resolver, name, kind):
    return resolver.look_up_blocking(name, kind)


@pytest.fixture(params=[by_asyncio, by_trio, by_anyio, by_thread])
def look_up(request, server):
    resolver = SystemResolver([server.address], 0.4)
    return lambda name, kind: request.param(resolver, name, kind)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [("example.org", "A", ("192.0.2.1", "192.0.2.2")), ("EXAMPLE.org.", "AAAA", ("2001:db8::1",)),
     ("example.org", "MX", ("a.example.org", "b.example.org")), ("example.org", "TXT", ("v=spf1 -all", "\udcff")),
     ("nomail.example", "MX", ("",)), ("alias.example", "A", ("192.0.2.1", "192.0.2.2")),
     ("1.2.0.192.in-addr.arpa", "PTR", ("host.example.org",)), ("long.example", "TXT", ("came by TCP",)),
     ("example.org", "NS", ()), ("nowhere.example", "A", ()), ("", "A", ()), (".", "MX", ()), ("a..b", "A", ()),
     ("x" * 64 + ".example", "A", ()), ("x." * 200, "A", ()), ("\\999", "A", ()), ("\ud800", "A", ())],
)  # fmt: skip
def test_what_there_is_is_found_and_what_there_is_not_is_nothing(look_up, name, kind, found):
    assert set(look_up(name, kind)) == set(found)
    assert kind != "MX" or look_up(name, kind) == found


@pytest.mark.parametrize("name", ["silent.example", "servfail.example", "refused.example", "garbage.example"])
def test_a_server_that_does_not_answer_is_an_error_and_costs_a_bounded_time(look_up, name):
    start = time.monotonic()
    with pytest.raises(DnsError, match=name):
        look_up(name, "A")
    assert time.monotonic() - start < 5


def test_records_of_another_name_are_not_taken(look_up):
    with contextlib.suppress(DnsError):
        assert look_up("strange.example", "A") == ()


@pytest.mark.parametrize("run", [lambda f: asyncio.run(f()), trio.run, anyio.run])
def test_independent_look_ups_wait_together_and_fail_apart(server, run):
    resolver = SystemResolver([server.address], 0.5)
    names = [f"silent{number}.example" for number in range(10)]
    server.set(dict.fromkeys(names, DROP))
    questions = [*((name, "A") for name in names), ("example.org", "AAAA"), ("nowhere.example", "A")]

    async def ask():
        start = time.monotonic()
        found = await resolver.look_up_all(questions)
        return found, time.monotonic() - start

    found, seconds = run(ask)
    assert found == [*[None] * 10, ("2001:db8::1",), ()]
    assert seconds < 4  # one after the other they would take 5


def test_addresses_and_names_of_a_host(server):
    resolver = SystemResolver([server.address], 0.3)
    assert set(asyncio.run(resolver.addresses("example.org"))) == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}
    assert asyncio.run(resolver.addresses("nowhere.example")) == ()
    with pytest.raises(DnsError):
        asyncio.run(resolver.addresses("servfail.example"))
    assert asyncio.run(resolver.names_of("192.0.2.1")) == ("host.example.org",)
    assert asyncio.run(resolver.names_of("2001:db8::5%eth0")) == ()


def test_what_was_found_is_kept(server):
    resolver = SystemResolver([server.address])
    server.set({"kept.example": {"A": ["192.0.2.7"]}})
    assert by_thread(resolver, "kept.example", "A") == by_trio(resolver, "kept.example", "A") == ("192.0.2.7",)
    assert server.asked.count(("kept.example", "A")) == 1


@pytest.mark.parametrize("run", [lambda f: asyncio.run(f()), trio.run])
def test_those_above_the_bound_wait_for_their_turn(server, monkeypatch, run):
    monkeypatch.setattr("qpsmtpd.resolver._MOST_AT_ONCE", 2)
    monkeypatch.setattr("qpsmtpd.resolver._SHARE", 3)
    resolver = SystemResolver([server.address], 5)
    names = [f"many{number}.example" for number in range(20)]
    server.set({name: {"A": ["192.0.2.7"]} for name in names})

    async def ask():
        return await resolver.look_up_all([(name, "A") for name in names])

    assert run(ask) == [("192.0.2.7",)] * 20
    assert resolver._under_way == 0


def test_a_turn_that_does_not_come_in_time_is_an_error(server, monkeypatch):
    monkeypatch.setattr("qpsmtpd.resolver._MOST_AT_ONCE", 1)
    resolver = SystemResolver([server.address], 0.2)
    server.set({"hanging.example": DROP, "hanging2.example": DROP, "hanging3.example": DROP})

    async def ask():
        start = time.monotonic()
        found = await resolver.look_up_all(
            [("hanging.example", "A"), ("hanging2.example", "A"), ("hanging3.example", "A")]
        )
        return found, time.monotonic() - start

    found, seconds = anyio.run(ask)
    assert found == [None] * 3
    assert seconds < 3
    assert resolver._under_way == 0
    assert set(by_asyncio(resolver, "example.org", "A")) == {"192.0.2.1", "192.0.2.2"}


def test_a_dead_server_does_not_stall_the_loop(server):
    resolver = SystemResolver([server.address], 0.5)
    ticks = 0

    async def ask():
        nonlocal ticks
        async with anyio.create_task_group() as group:

            async def look_up():
                with pytest.raises(DnsError):
                    await resolver.look_up("silent.example", "AAAA")
                group.cancel_scope.cancel()

            group.start_soon(look_up)
            while True:
                await anyio.lowlevel.checkpoint()
                ticks += 1

    anyio.run(ask)
    assert ticks > 100


@given(name=st.text(), kind=st.sampled_from(["A", "MX", "TXT", "PTR"]))
def test_any_name_has_an_answer(server, name, kind):
    resolver = SystemResolver([server.address], 2)
    with contextlib.suppress(DnsError):
        assert isinstance(resolver.look_up_blocking(name, kind), tuple)


@pytest.mark.parametrize(
    ("text", "server"),
    [("192.0.2.53", ("192.0.2.53", 53)), ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("::1", ("::1", 53)),
     ("[::1]:5353", ("::1", 5353)), ("[::1]", ("::1", 53))],
)  # fmt: skip
def test_a_name_server_is_an_address_and_a_port(text, server):
    assert parse_name_server(text) == server


@pytest.mark.parametrize("text", ["", "dns.example", "192.0.2.53:0", "192.0.2.53:99999", "[::1", "1.2.3.4:x", "[::1]x"])
def test_a_bad_name_server_is_refused_with_its_place(tmp_path, text):
    if text:
        (tmp_path / "nameservers").write_text(f"{text}\n")
        with pytest.raises(ConfigError, match=r"nameservers:1: .* is no name server such as"):
            _ = Site(Config(tmp_path)).resolver
    with pytest.raises(ValueError, match=r"."):
        parse_name_server(text)


def test_changed_settings_make_another_resolver_and_the_same_keep_it(tmp_path):
    (tmp_path / "nameservers").write_text("192.0.2.53\n")
    now = 0.0
    site = Site(Config(tmp_path, clock=lambda: now), clock=lambda: now)
    first = site.resolver
    assert site.resolver is first
    (tmp_path / "nameservers").write_text("192.0.2.54\n")
    now = 2.0
    assert site.resolver is not first


def test_settings_that_go_bad_leave_the_resolver_that_there_is(tmp_path):
    (tmp_path / "nameservers").write_text("192.0.2.53\n")
    now, log = 0.0, []
    site = Site(Config(tmp_path, clock=lambda: now), clock=lambda: now, write=log.append)
    first = site.resolver
    (tmp_path / "nameservers").write_text("nonsense\n")
    now = 2.0
    assert site.resolver is first
    assert site.resolver is first
    (line,) = [line for line in log if "nameservers:1" in line]
    assert "the old settings stay in force" in line


def test_a_resolver_that_is_given_counts_in_any_case():
    names = Names()
    assert make_site(resolver=names, config={"nameservers": ["nonsense"]}).resolver is names


def test_without_dnspython_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(ConfigError, match=r"pip install 'qpsmtpd\[dns\]'"):
        SystemResolver()


def test_an_address_as_lists_have_it():
    assert reversed_address("192.0.2.1") == "1.2.0.192"
    assert reversed_address("2001:db8::1") == "1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2"
    with pytest.raises(ValueError, match="does not appear"):
        reversed_address("[192.0.2.1]")
