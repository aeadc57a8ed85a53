"""What `logging/file` writes, and into which file."""

import os
import re
import threading

import pytest

from qpsmtpd.config import ConfigError
from qpsmtpd.logs import LOGALERT, LOGERROR
from qpsmtpd.testing import make_site
from qpsmtpd.testing.memory import Clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def site(line, **kwargs):
    return make_site(config={"logging": (f"logging/file {line}",), "loglevel": ("0",)}, **kwargs)


@pytest.mark.parametrize(
    ("words", "last"), [("", 4), ("loglevel LOGERROR", 3), ("loglevel LOGDEBUG", 7), ("nosplit loglevel 5 reopen", 5)]
)
def test_messages_up_to_the_level_are_written(path, words, last):
    made = site(f"{words} {path}")
    for level in range(8):
        made.log(level, f"level {level}")
    assert re.findall(r"level (\d)\n", path.read_text()) == [str(level) for level in range(last + 1)]


def test_a_line_has_time_identity_hook_and_plugin_and_cannot_be_broken(path):
    site(f"{path}").log(LOGERROR, "one\r\ntwo\x1b[31m \udcff grüße", hook="rcpt", plugin="rcpt_ok")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \S+ \(rcpt\) rcpt_ok: one\\x0d\\x0atwo\\x1b\[31m \\xff grüße\n",
        path.read_text("utf-8"),
    )


def test_the_form_of_the_time_can_be_chosen(path):
    site(f"tsformat %Y:%d {path}").log(LOGERROR, "x")
    assert re.match(r"202\d:\d\d \S+ ", path.read_text())


def test_a_file_is_appended_to_and_made_for_owner_and_group(path):
    old = os.umask(0o022)
    try:
        for word in ("one", "two"):
            site(f"{path}").log(LOGERROR, word)
    finally:
        os.umask(old)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("how", ["renamed", "removed", "replaced"])
def test_a_file_that_has_moved_is_made_anew_within_a_second(path, how):
    clock = Clock()
    made = site(f"{path}", clock=clock)
    made.log(LOGERROR, "one")
    old = path.with_name("log.1")
    if how == "removed":
        path.unlink()
    else:
        path.rename(old)
    if how == "replaced":
        path.touch()
    clock.now += 0.5
    made.log(LOGERROR, "two")
    clock.now += 0.6
    made.log(LOGERROR, "three")
    assert path.read_text().split()[-1] == "three"
    assert "two" not in path.read_text()
    if how != "removed":
        assert [line.split()[-1] for line in old.read_text().splitlines()] == ["one", "two"]


def test_a_path_may_have_the_date_in_it(tmp_path):
    clock = Clock()
    made = site(f"{tmp_path}/log.%Y-%j", clock=clock)
    made.log(LOGERROR, "one")
    clock.now += 86_400
    made.log(LOGERROR, "two")
    assert [path.read_text().split()[-1] for path in sorted(tmp_path.iterdir())] == ["one", "two"]


def test_a_file_that_cannot_be_made_anew_leaves_the_old_one_in_use(tmp_path):
    clock, log = Clock(), []
    directory = tmp_path / "dir"
    directory.mkdir()
    made = make_site(config={"logging": (f"logging/file {directory}/log",)}, clock=clock, log=log)
    directory.rename(tmp_path / "moved")
    clock.now += 2
    made.log(LOGERROR, "one")
    made.log(LOGERROR, "two")
    assert [line.split()[-1] for line in (tmp_path / "moved" / "log").read_text().splitlines()] == ["one", "two"]
    assert len([line for line in log if "No such file" in line]) == 1


def test_lines_of_many_threads_stay_whole_and_none_is_lost_while_the_file_is_rotated(tmp_path):
    clock = Clock()
    made = site(f"{tmp_path}/log", clock=clock)

    def write(number):
        for count in range(100):
            made.log(LOGALERT, f"thread {number} line {count} {'x' * 200}")
            if number == 0 and count % 5 == 0:
                (tmp_path / "log").rename(tmp_path / f"log.{count}")
                clock.now += 2
                made.log(LOGALERT, "rotated")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    whole = [line for line in lines if re.fullmatch(r"\S+ \[\d+\] .*thread \d line \d+ x{200}", line)]
    assert len(whole) == 8 * 100
    assert len(lines) == 8 * 100 + 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the arguments are"),
        ("loglevel", "loglevel needs a value"),
        ("loglevel LOGSOME log", "is no log level"),
        ("one two", "the arguments are"),
        ("/nowhere/at/all/log loglevel 5", "the arguments are"),
        ("loglevel LOGINFO", "the arguments are"),
        ("|/bin/cat", "neither programs"),
        ("log.%i", "neither programs"),
        ("/nowhere/at/all/log", "/nowhere/at/all/log: No such file or directory"),
    ],
)
def test_bad_arguments_are_refused_at_load(line, message):
    with pytest.raises(ConfigError, match=message):
        site(line)
