"""What `help` answers, and that it reads no other files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit


@pytest.fixture
def files(directory):
    folder = directory.parent / "help"
    folder.mkdir()
    (folder / "mail").write_bytes(b"MAIL begins a message.\nIt names the sender.\n")
    (folder / "empty").write_bytes(b"")
    (folder / "odd").write_bytes(b"caf\xe9 \x1b[2J\r\n\r\nafter a gap\r\n")
    (folder / "long").write_text("line\n" * 150)
    (folder / "wide").write_text("x" * 40_000)
    (folder / "folder").mkdir()
    return folder


def ask(stage, line):
    reply = stage.connect().say(line)
    return reply.code, reply.text


@pytest.mark.parametrize("subject", ["mail", "MAIL", "Mail"])
def test_a_file_is_the_answer_line_by_line(kit, files, subject):
    assert ask(kit("help"), f"HELP {subject}") == (214, "MAIL begins a message.\nIt names the sender.")


@pytest.mark.parametrize("subject", ["empty", "unknown", "folder"])
def test_without_a_text_the_client_is_told_so(kit, files, subject):
    assert ask(kit("help"), f"HELP {subject}") == (214, f"There is no help on {subject}")


def test_without_a_directory_there_is_no_help(kit):
    assert ask(kit("help"), "HELP mail") == (214, "There is no help on mail")


def test_help_alone_tells_how_to_use_it(kit):
    assert ask(kit("help"), "HELP") == (214, "HELP COMMAND tells about a command")


@pytest.mark.parametrize(
    "subject", ["../config/me", "..", ".", "/etc/passwd", "mail extra", "mail\0", "mail.txt", "a" * 65, "máil", "-"]
)
def test_what_is_no_name_of_a_command_reads_no_file(kit, files, subject):
    stage = kit("help", config={"extensions": ("SMTPUTF8",)})
    code, text = ask(stage, f"HELP {subject}")
    assert (code, text) == (502, "HELP takes the name of a command")


def test_a_directory_may_be_named(kit, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "noop").write_text("does nothing")
    for name in ("elsewhere", f"{tmp_path}/elsewhere/"):
        assert ask(kit(f"help help_dir {name}"), "HELP NOOP") == (214, "does nothing")


def test_a_command_may_have_a_file_of_another_name(kit, files):
    (files.parent / "x.txt").write_text("from elsewhere")
    stage = kit(f"help HELO mail RSET {files.parent}/x.txt NOOP ./x.txt")
    assert ask(stage, "HELP helo")[1].startswith("MAIL begins")
    assert ask(stage, "HELP RSET") == ask(stage, "HELP NOOP") == (214, "from elsewhere")


def test_help_may_be_not_implemented(kit, files):
    stage = kit("help not_implemented 1")
    for line in ("HELP", "HELP mail"):
        assert ask(stage, line) == (502, "HELP is not implemented")
    assert ask(kit("help not_implemented 0"), "HELP mail")[0] == 214


def test_odd_content_is_sent_safely(kit, files):
    client = kit("help").connect()
    assert client.send(b"HELP odd\r\n") == b"214-2.0.0 caf\\ufffd ?[2J\r\n214-2.0.0 \r\n214 2.0.0 after a gap\r\n"


def test_what_is_sent_of_a_file_has_a_bound(kit, files):
    stage = kit("help")
    assert ask(stage, "HELP long")[1].count("line") == 100
    assert len(ask(stage, "HELP wide")[1].replace("\n", "")) == 16384


def test_a_file_that_cannot_be_read_is_logged(kit, files):
    (files / "loop").symlink_to("loop")
    stage = kit("help")
    assert ask(stage, "HELP loop") == (214, "There is no help on loop")
    assert stage.logged("error, ")


@pytest.mark.parametrize(
    ("args", "message"),
    [("help_dir nowhere", "help_dir: there is no directory"), ("MAIL nowhere", "there is no file"),
     ("not_implemented perhaps", "neither yes nor no"), ("help_dri x.y", "there is no file"), ("m-ail mail", "unknown argument 'm-ail'"),
     ("mail", "'mail' is left over")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, files, args, message):
    with pytest.raises(ConfigError, match=f"plugins:1: help: .*{message}"):
        kit(f"help {args}")


@given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1))
def test_whatever_is_asked_is_answered(subject):
    stage = Kit("help")
    assert stage.connect().say(f"HELP {subject}").code in (214, 502)
    assert not stage.logged("failed")
