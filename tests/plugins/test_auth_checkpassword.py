"""What `auth/auth_checkpassword` gives a program, and what it makes of its exit status."""

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.plugins.test_auth_plugins import authenticate, ehlo

from qpsmtpd import DECLINED, DENYSOFT, OK
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.auth import auth_checkpassword

CHECKER = f"""#!{sys.executable} -IS
import os, signal, sys
data = os.fdopen(3, "rb").read()
with open(os.path.join(os.path.dirname(__file__), "got"), "wb") as file:
    file.write(data)
with open(os.path.join(os.path.dirname(__file__), "open"), "w") as file:
    file.write(" ".join(sorted(os.listdir("/proc/self/fd"))) + " " + sys.argv[0])
user, password = data.split(b"\\0")[:2]
if password == b"good":
    os.execv(sys.argv[1], sys.argv[1:])
elif password == b"hang":
    signal.pause()
elif password == b"killed":
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(int(password) if password.isdigit() else 1)
"""
TRUE = "/bin/true"


def program(path, text):
    path.write_text(text)
    path.chmod(0o700)
    return path


@pytest.fixture
def checker(tmp_path):
    return program(tmp_path / "checker", CHECKER)


@pytest.fixture
def line(checker):
    return f"auth/auth_checkpassword checkpw {checker} true {TRUE}"


def attempt(stage, password, user="user@example.org", mechanism="PLAIN"):
    """Try to authenticate; give the reply code, and the plugin's code."""
    reply = authenticate(stage.connect(), mechanism, user, password)
    return reply.code, stage.calls(f"auth-{mechanism.lower()}")[-1].code


def test_it_offers_plain_and_login(kit, line):
    assert "AUTH LOGIN PLAIN" in ehlo(kit(line))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(
    ("password", "code", "result"),
    [
        ("good", 235, OK),
        ("bad", 535, DECLINED),
        ("1", 535, DECLINED),
        ("2", 535, DENYSOFT),
        ("100", 535, DENYSOFT),
        ("111", 535, DENYSOFT),
        ("killed", 535, DENYSOFT),
    ],
)
def test_the_exit_status_decides(kit, line, password, code, result, mechanism):
    stage = kit(line)
    assert attempt(stage, password, mechanism=mechanism) == (code, result)
    word = {OK: "pass", DECLINED: "fail", DENYSOFT: "error"}[result]
    assert [entry for entry in stage.log if f"auth::auth_checkpassword: {word}, " in entry]


@pytest.mark.parametrize(("true", "code"), [("/bin/true", 235), ("/bin/false", 535)])
def test_the_second_program_is_run_and_its_status_counts(kit, checker, true, code):
    assert attempt(kit(f"auth/auth_checkpassword checkpw {checker} true {true}"), "good")[0] == code


def descriptors():
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()}


def test_the_data_are_on_descriptor_3_and_none_of_ours_is_open(kit, line, tmp_path):
    not_ours = {number for number in descriptors() if os.get_inheritable(number)}  # by whoever started the tests
    attempt(kit(line), "p\u00e4ss word", user="us\u00e9r@example.org")
    assert (tmp_path / "got").read_bytes() == "us\u00e9r@example.org\0p\u00e4ss word\0Y123456\0".encode()
    # The program has closed it when it makes the list, to which the list and the file itself belong.
    found = set(map(int, (tmp_path / "open").read_text().split()[:-1]))
    assert found - not_ours <= {0, 1, 2, 3, 4, 5}


@pytest.fixture
def programs(monkeypatch):
    """The processes that were waited for."""
    programs = []
    wait = auth_checkpassword._wait
    monkeypatch.setattr(auth_checkpassword, "_wait", lambda *args: programs.append(args[0]) or wait(*args))
    return programs


def test_no_descriptor_and_no_process_is_left(kit, line, programs):
    stage = kit(line)
    before = descriptors()
    for password in ("good", "bad", "111"):
        attempt(stage, password)
    assert descriptors() == before
    assert len(programs) == 3
    for each in programs:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


def test_no_shell_sees_what_the_client_says(kit, line, tmp_path):
    nasty = f"$(touch {tmp_path}/touched); `touch {tmp_path}/touched`"
    assert attempt(kit(line), nasty, user=nasty)[0] == 535
    assert (tmp_path / "got").read_bytes() == f"{nasty}\0{nasty}\0Y123456\0".encode()
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("user", "password"),
    [("known", "a\0good"), ("u", "x" * 502), ("u" * 600, "good")],
)
def test_what_the_interface_cannot_carry_is_declined_and_no_program_asked(kit, line, tmp_path, user, password):
    assert attempt(kit(line), password, user, mechanism="LOGIN") == (535, DECLINED)
    assert not (tmp_path / "got").exists()


def test_a_user_cannot_move_the_fields_with_a_nul(kit, line, tmp_path):
    stage = kit(line, base=False)
    (plugin,) = stage.site.plugins
    assert plugin.hook_auth_plain(None, "login", "known\0good", "x", None, None) is DECLINED
    assert not (tmp_path / "got").exists()


def test_512_octets_are_carried(kit, line, tmp_path):
    attempt(kit(line), "x" * 501, "u")
    assert len((tmp_path / "got").read_bytes()) == 512


def test_a_program_that_hangs_is_killed(kit, line, programs):
    stage = kit(f"{line} timeout 0.05")
    assert attempt(stage, "hang") == (535, DENYSOFT)
    assert stage.logged("no answer within 0.05 s")
    assert len(set(programs)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(programs[0], 0)


def test_a_program_that_has_become_none_is_trouble(kit, line, checker):
    stage = kit(line)
    checker.unlink()
    assert attempt(stage, "good") == (535, DENYSOFT)
    assert stage.logged(f"error, {checker}: No such file")


def test_the_program_does_not_ignore_a_closed_pipe(kit, checker, line, tmp_path):
    program(checker, f"#!/bin/sh\ngrep SigIgn /proc/self/status > {tmp_path}/ignored\nexit 1\n")
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    attempt(kit(line), "x")
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16)
    assert not ignored & 1 << signal.SIGPIPE - 1


def test_the_programs_may_stand_in_a_file_with_arguments(kit, checker, directory, tmp_path):
    (directory / "smtpauth-checkpassword").write_text(f"/usr/bin/env {checker} {TRUE}\n")
    stage = kit("auth/auth_checkpassword")
    assert attempt(stage, "good") == (235, OK)
    assert (tmp_path / "open").read_text().endswith(str(checker))


def test_the_password_is_in_no_log(kit, line):
    stage = kit(line)
    for user, password in (("u", "s3cret"), ("u" * 600, "s3cret")):
        attempt(stage, password, user)
    Path(line.split()[2]).unlink()
    attempt(stage, "s3cret")
    assert not stage.logged("s3cret")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say `checkpw PATH true PATH`"),
        ("checkpw {checker}", "say `checkpw PATH true PATH`"),
        ("checkpw {checker} true /bin/nosuch", "/bin/nosuch is no absolute path"),
        ("checkpw {checker} true true", "true is no absolute path"),
        ("checkpw {checker}.txt true /bin/true", "/checker.txt is no absolute path"),
        ("checkpw /etc true /bin/true", "/etc is no absolute path"),
        ("checkpw {checker} true /bin/true timeout 0", "timeout '0' is no number"),
        ("{checker} /bin/true", "unknown argument"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, checker, words, message):
    Path(f"{checker}.txt").touch(mode=0o600)
    with pytest.raises(ConfigError) as caught:
        kit(f"auth/auth_checkpassword {words.format(checker=checker)}")
    assert message in str(caught.value)
