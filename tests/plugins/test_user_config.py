"""Which settings `user_config` finds for an address, and that no address leads elsewhere."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qpsmtpd import DECLINED, OK, Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins import user_config

USER = Mailbox("user", "dest.example")
COUNTS = "the setting that all users share counts"


@pytest.fixture
def users(directory):
    """The directory below which users have theirs."""
    return directory / "users"


def write(path, text="own\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_recipients_own_settings_come_before_those_of_all(kit, users):
    class Ask(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK, repr([self.qp.config(name, recipient) for name in ("x", "y", "z")])

    write(users / "user/x", "v1\nv2\n")
    stage = kit("user_config users/%u", Ask, config={"x": ("global",), "y": ("shared",)})
    stage.connect().deliver(recipients=["user@dest.example", "other@dest.example"])
    assert [call.result[1] for call in stage.calls("rcpt", "Ask")] == [
        "[('v1', 'v2'), ('shared',), ()]", "[('global',), ('shared',), ()]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "place"),
    [("users/%u", "user"), ("users/%h", "dest.example"), ("users/%h/%u", "dest.example/user"),
     ("users/%a", "user@dest.example"), ("users/%u/of/%h/", "user/of/dest.example"), ("users/100%%/%u-x", "100%/user-x"),
     ("users/%u%u", "useruser")],
)  # fmt: skip
@pytest.mark.parametrize("address", [USER, Mailbox("USER", "Dest.Example")])
def test_the_directory_is_made_from_the_address_in_lower_case(kit, users, pattern, place, address):
    write(users / place / "x")
    assert kit(f"user_config {pattern}").site.config("x", address) == ("own",)


def test_a_directory_may_be_absolute_and_the_home_directory_counts_by_default(kit, tmp_path):
    write(tmp_path / "elsewhere/user/x")
    assert kit(f"user_config {tmp_path}/elsewhere/%u").site.config("x", USER) == ("own",)
    stage = kit("user_config")
    assert stage.site.plugins[0]._pattern == "/home/%u/.qpsmtpd"


def test_a_config_directory_may_have_the_letters_in_its_name(kit, directory, tmp_path):
    odd = tmp_path / "%u"
    write(odd / "users/user/x")
    stage = kit("user_config users/%u")
    stage.site.plugins[0]._base = odd
    assert stage.site.config("x", USER) == ("own",)


def test_a_file_is_read_as_config_files_are_but_without_include(kit, users, directory):
    write(directory / "secret", "of another\n")
    write(users / "user/x", "# a remark\n\n  one  \r\n\t# another\n$include ../secret\nna\xefve\n")
    stage = kit("user_config users/%u")
    assert stage.site.config("x", USER) == ("one", "$include ../secret", "na\xefve")


def test_a_file_in_another_encoding_keeps_its_octets(kit, users):
    write(users / "user/x")
    (users / "user/x").write_bytes(b"na\xefve\n")
    assert kit("user_config users/%u").site.config("x", USER) == ("na\udcefve",)


@pytest.mark.parametrize("place", ["user", "user/other", "other"])
def test_that_there_is_no_file_is_no_reason_to_complain(kit, users, place):
    write(users / place)
    stage = kit("user_config users/%u", config={"x": ("global",)})
    assert stage.site.config("x", USER) == ("global",)
    assert not stage.logged("error")


def test_an_empty_file_is_a_setting_without_values(kit, users):
    write(users / "user/x", "# nothing\n")
    assert kit("user_config users/%u", config={"x": ("global",)}).site.config("x", USER) == ()


def test_a_changed_file_counts_at_once(kit, users):
    write(users / "user/x", "one")
    stage = kit("user_config users/%u")
    assert stage.site.config("x", USER) == ("one",)
    write(users / "user/x", "two")
    assert stage.site.config("x", USER) == ("two",)


def test_a_word_that_looks_like_a_letter_stays_as_it_is(kit, users):
    write(users / "dest.example/x")
    stage = kit("user_config users/%u", config={"x": ("global",)})
    assert stage.site.config("x", Mailbox("%h", "dest.example")) == ("global",)


@pytest.mark.parametrize("address", [Mailbox("", None), Mailbox("postmaster", None)])
def test_an_address_without_a_domain_has_no_directory_by_domain(kit, users, address):
    write(users / "x")
    assert kit("user_config users/%h").site.config("x", address) == ()


@pytest.mark.parametrize("setting", ["../x", "..", ".x", "", "a/x", "user/../x"])
def test_a_setting_is_the_name_of_a_file_too(kit, users, setting):
    for place in ("x", "user/.x", "user/a/x"):
        write(users / place)
    assert kit("user_config users/%u").site.plugins[0].hook_user_config(None, USER, setting) is DECLINED


def a_pipe(path):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def a_large_file(path):
    write(path, "")
    os.truncate(path, user_config._SIZE_LIMIT + 1)


@pytest.mark.parametrize(
    ("make", "why"),
    [(a_pipe, "is no plain file"), (a_large_file, "is larger than"), (lambda path: path.mkdir(parents=True), "is no plain")],
)  # fmt: skip
def test_what_cannot_be_a_setting_is_logged_and_the_setting_of_all_counts(kit, users, make, why):
    make(users / "user/x")
    stage = kit("user_config users/%u", config={"x": ("global",)})
    assert stage.site.config("x", USER) == ("global",)
    assert [line for line in stage.logged(COUNTS) if f"{users}/user/x {why}" in line]


def test_a_file_that_cannot_be_read_is_logged_and_the_setting_of_all_counts(kit, users):
    write(users / "user/x")
    (users / "user/x").unlink()
    (users / "user/x").symlink_to("x")  # a circle, which stops root too
    stage = kit("user_config users/%u", config={"x": ("global",)})
    assert stage.site.config("x", USER) == ("global",)
    assert [line for line in stage.logged(COUNTS) if "Too many levels of symbolic links" in line]


def test_a_name_that_the_pattern_makes_too_long_is_logged_and_leads_nowhere(kit, users):
    users.mkdir()
    stage = kit("user_config users/%u-%h", config={"x": ("global",)})
    assert stage.site.config("x", Mailbox("u" * 200, "h" * 200)) == ("global",)
    assert [line for line in stage.logged(COUNTS) if "File name too long" in line]


@pytest.mark.parametrize(
    ("args", "message"),
    [("users", "users is the same directory for all users; put %u, %h or %a into it"), ("u/%%", "is the same directory"),
     ("users/%d", "there is no %d; known are %u, %h, %a and %%"), ("%u/%", "there is no %;"),
     ("users/%u more", "its arguments are: [pattern]")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"user_config {args}")
    assert message in str(caught.value)


ODD = (
    st.text()
    | st.text("./\\%uha~ \0\n@:-", max_size=8)
    | st.sampled_from(["..", ".", "", "../x", "/etc", "a/../b", "x" * 255, "x" * 256, "\u00e9" * 128, "%u", "%%"])
)


@pytest.mark.parametrize("pattern", ["%u", "%h", "%a", "%h/%u", "%u/%h", "of-%u/x%h", "%u%u"])
def test_no_address_and_no_setting_leads_out_of_the_directory(kit, users, monkeypatch, pattern):
    plugin = kit(f"user_config users/{pattern}").site.plugins[0]
    read = []
    monkeypatch.setattr(user_config, "_read", lambda path: read.append(path) or ["own"])

    @given(ODD, ODD | st.none(), ODD | st.just("x"))
    @example("..", "..", "..")
    @example("u", "h", "x")
    def holds(local, domain, setting):
        read.clear()
        result = plugin.hook_user_config(None, Mailbox(local, domain), setting)
        assert (result is DECLINED) == (not read)
        for path in read:
            assert Path(os.path.normpath(path)) == path
            assert path.parts[: len(users.parts)] == users.parts
            assert len(path.parts) == len(users.parts) + pattern.count("/") + 2
            assert path.name == setting
            assert "\0" not in str(path)

    holds()


@given(ODD)
@example("x" * 255)
@example("x" * 256)
@example("\udc80")
@example("..\\x")
def test_what_is_a_name_is_one_to_the_system_as_well(word):
    if user_config._is_file_name(word):
        assert Path("/x", word).parts == ("/", "x", word)
        assert not word.startswith(".")
        assert "\\" not in word  # which other systems take for a slash
        assert len(os.fsencode(word)) <= 255
    else:
        assert not word.isalnum() or len(word.encode("utf-8", "surrogateescape")) > 255
