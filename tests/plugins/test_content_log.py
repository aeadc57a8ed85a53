"""What `content_log` writes, and where."""

import errno
import fcntl
import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins import content_log
from qpsmtpd.testing import Kit

ON = {"content_log_enabled": ("1",)}
MESSAGE = b"Subject: x\r\n\r\nbody \xff\xfe\r\n..dots\r\n"


class Keep(Plugin):
    """Keeps what later plugins see."""

    def hook_queue(self, transaction):
        self.kept = b"".join(transaction.chunks())
        return OK


def kept(stage):
    return next(plugin for plugin in stage.site.plugins if isinstance(plugin, Keep)).kept


def test_a_message_is_written_as_it_is(kit, tmp_path):
    stage = kit("content_log", Keep, config=ON | {"content_log_file": (f"{tmp_path}/log",)})
    assert stage.connect().deliver(MESSAGE)[-1].code == 250
    written = (tmp_path / "log").read_bytes()
    assert written == kept(stage)
    assert written.endswith(MESSAGE)
    assert written.startswith(b"Authentication-Results: ")
    assert stage.logged(f"content_log: pass, in {tmp_path}/log")


def test_messages_stand_one_behind_the_other(kit, tmp_path):
    stage = kit("content_log", Keep, config=ON | {"content_log_file": ("log",)})
    whole = b""
    for number in range(3):
        stage.connect().deliver(MESSAGE * (number + 1))
        whole += kept(stage)
    assert (tmp_path / "log").read_bytes() == whole


def test_a_big_message_is_whole(kit, tmp_path):
    stage = kit("content_log", Keep, config=ON | {"content_log_file": ("log",), "size_threshold": ("1000",)})
    stage.connect().deliver(b"Subject: big\r\n\r\n" + b"x" * 998 + b"\r\n" * 300_000)
    assert (tmp_path / "log").read_bytes() == kept(stage)


def test_by_default_there_is_a_file_each_day_nobody_else_may_read(kit, directory):
    stage = kit("content_log", config=ON)
    for _ in range(2):
        stage.connect().deliver()
        stage.clock.advance(86_400)
    folder = directory.parent / "mail"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert all(len(name) == 8 and name.startswith("2026010") for name in names)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("word", "enabled"),
    [("1", True), ("true", True), ("YES", True), ("yes   ", True), ("0", False), ("false", False), ("no", False)],
)
def test_a_setting_switches_it_on(kit, directory, word, enabled):
    (directory / "content_log_enabled").write_text(word)
    stage = kit("content_log")
    stage.connect().deliver()
    assert (directory.parent / "mail").exists() is enabled
    assert bool(stage.calls("data_post", "content_log")) is enabled


def test_without_the_setting_nothing_is_written(kit, directory):
    kit("content_log").connect().deliver()
    assert not (directory.parent / "mail").exists()


def test_a_setting_that_makes_no_sense_is_seen_at_load(kit):
    with pytest.raises(ConfigError, match="content_log: content_log_enabled 'asdf' is neither yes nor no"):
        kit("content_log", config={"content_log_enabled": ("asdf",)})


def test_a_file_that_cannot_be_opened_is_logged_and_the_mail_goes_on(kit, directory):
    (directory.parent / "mail").write_text("in the way")
    stage = kit("content_log", config=ON)
    assert stage.connect().deliver()[-1].code == 250
    assert stage.logged("content_log: error, ")


def test_of_a_message_that_does_not_fit_nothing_is_left(kit, tmp_path, monkeypatch):
    stage = kit("content_log", config=ON | {"content_log_file": ("log",)})
    stage.connect().deliver()
    before = (tmp_path / "log").read_bytes()
    real = os.write

    def write(descriptor, data):
        if len(data) < 300:
            return real(descriptor, data)
        real(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", write)
    assert stage.connect().deliver(MESSAGE + b"x" * 998 + b"\r\n")[-1].code == 250
    assert (tmp_path / "log").read_bytes() == before
    assert stage.logged("error, ")


def test_a_file_that_somebody_has_locked_is_not_waited_for_for_ever(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(content_log, "_LOCK_SECONDS", 0.02)
    stage = kit("content_log", config=ON | {"content_log_file": ("log",)})
    with (tmp_path / "log").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert stage.connect().deliver()[-1].code == 250
    assert (tmp_path / "log").read_bytes() == b""
    assert stage.logged("somebody else has locked the file")


def test_messages_of_several_threads_do_not_mix(kit, tmp_path):
    stage = kit("content_log", config=ON | {"content_log_file": ("log",)})
    bodies = [b"Subject: x\r\n\r\n" + letter * 70 + b"\r\n" for letter in (b"a", b"b", b"c", b"d")]
    clients = [stage.connect() for _ in bodies]
    threads = [
        threading.Thread(target=lambda client=client, body=body: client.deliver(body + body[14:] * 3000))
        for client, body in zip(clients, bodies, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = (tmp_path / "log").read_bytes()
    for letter in (b"a", b"b", b"c", b"d"):
        assert (letter * 70 + b"\r\n") * 3001 in written


@given(st.binary(max_size=300))
def test_any_content_is_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("log") / "log"
    body = b"Subject: x\r\n\r\n" + content.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    accepts = type("Accepts", (Plugin,), {"hook_rcpt": lambda *_: OK})
    Kit("content_log", accepts, config=ON | {"content_log_file": (str(path),)}).connect().deliver(body)
    assert path.read_bytes().endswith(body)


def test_every_directory_that_is_made_is_private(kit, tmp_path):
    stage = kit("content_log", config=ON | {"content_log_file": (f"{tmp_path}/one/two/log",)})
    stage.connect().deliver(MESSAGE)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("one", "one/two")] == [0o700, 0o700]
