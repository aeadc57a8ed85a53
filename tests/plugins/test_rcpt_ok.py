"""Which recipients `rcpt_ok` takes."""

import constant_database
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Plugin
from qpsmtpd.plugins.rcpt_ok import _covers

HOSTS = {"rcpthosts": ("dest.example", ".sub.example", "MiXed.example  a remark", "[192.0.2.1]")}


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, path):
    client = stage.connect()
    client.send(b"EHLO c.example\r\n")
    client.send(b"MAIL FROM:<a@c.example>\r\n")
    return client.send(f"RCPT TO:{path}\r\n".encode())


@pytest.mark.parametrize(
    "path",
    ["<u@dest.example>", "<u@DEST.Example>", "<u@a.sub.example>", "<u@a.b.sub.example>", "<u@mixed.example>",
     "<u@[192.0.2.1]>", "<postmaster>", "<Postmaster>"],
)  # fmt: skip
def test_listed_domains_and_the_postmaster_are_taken(kit, path):
    assert answer(kit("rcpt_ok", config=HOSTS), path).startswith(b"250")


@pytest.mark.parametrize(
    "path",
    ["<u@sub.example>", "<u@xsub.example>", "<u@xdest.example>", "<u@dest.example.org>", "<u@a.dest.example>",
     "<postmaster@other.example>", "<u@[192.0.2.2]>", "<u@mx.example.test>", "<u@remark>"],
)  # fmt: skip
def test_every_other_domain_is_refused_this_host_among_them(kit, path):
    assert answer(kit("rcpt_ok", config=HOSTS), path) == b"550 5.7.1 relaying denied\r\n"


def test_without_any_list_only_the_postmaster_is_taken(kit):
    stage = kit("rcpt_ok")
    assert answer(stage, "<u@dest.example>").startswith(b"550")
    assert answer(stage, "<postmaster>").startswith(b"250")


def test_more_hosts_stand_in_a_second_file(kit):
    assert answer(kit("rcpt_ok", config={"morercpthosts": ("dest.example",)}), "<u@dest.example>")[:3] == b"250"


def test_many_hosts_stand_in_a_constant_database(kit, directory):
    constant_database.write(directory / "morercpthosts.cdb", ["dest.example", ".sub.example"])
    stage = kit("rcpt_ok")
    for path in ("<u@dest.example>", "<u@DEST.example>", "<u@a.b.sub.example>", "<postmaster>"):
        assert answer(stage, path).startswith(b"250")
    for path in ("<u@a.dest.example>", "<u@sub.example>", f"<u@{'a.' * 1000}sub.example>"):
        assert answer(stage, path).startswith(b"550")
    assert stage.logged("rcpt_ok: pass, dest.example in morercpthosts.cdb")


def test_who_cannot_be_looked_up_is_to_try_again(kit, directory):
    (directory / "morercpthosts.cdb").write_bytes(b"not a database")
    stage = kit("rcpt_ok", config=HOSTS)
    assert answer(stage, "<u@dest.example>").startswith(b"250")
    assert answer(stage, "<u@other.example>").startswith(b"450 4.3.0 we cannot tell")
    assert stage.logged("rcpt_ok: error, morercpthosts.cdb: this is no cdb file")


def test_a_relay_client_may_send_to_anyone(kit):
    assert answer(kit(RelayClient, "rcpt_ok"), "<u@far.away.example>").startswith(b"250")


def test_a_changed_file_counts_a_second_later(kit, directory):
    file = directory / "rcpthosts"
    file.write_text("old.example\n")
    stage = kit("rcpt_ok")
    assert answer(stage, "<u@new.example>").startswith(b"550")
    file.write_text("old.example\nnew.example\n")
    stage.clock.advance(1.5)
    assert answer(stage, "<u@new.example>").startswith(b"250")


NAMES = st.lists(st.text("ab-", min_size=1), min_size=1)


@given(NAMES, st.lists(NAMES.map(".".join) | NAMES.map(".".join).map(".".__add__)))
def test_a_domain_is_covered_by_itself_and_its_parents_with_a_dot(labels, listed):
    covering = {".".join(labels)} | {"." + ".".join(labels[i:]) for i in range(1, len(labels))}
    assert _covers(frozenset(listed), ".".join(labels)) is not covering.isdisjoint(listed)
    assert all(_covers(frozenset({name}), ".".join(labels)) for name in covering)
