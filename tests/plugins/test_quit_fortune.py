"""The farewell of `quit_fortune`, by a program that stands for `fortune`."""

import subprocess

import pytest

from qpsmtpd.plugins import quit_fortune


@pytest.fixture
def fortune(tmp_path, monkeypatch):
    monkeypatch.setattr(quit_fortune, "_PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(script):
        program = tmp_path / "fortune"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


def farewell(stage, hello=b"HELO me\r\n"):
    client = stage.connect()
    client.send(hello)
    reply = client.send(b"QUIT\r\n")
    assert client.closed
    return reply


def test_a_client_that_says_helo_hears_the_saying(kit, fortune):
    fortune(r"""test "$1" = -s && printf 'Be\twell.\n\nAnd\033 come back.\n'""")
    assert farewell(kit("quit_fortune")) == (
        b"221-2.0.0 mx.example.test closing the connection\r\n"
        b"221-2.0.0   / Be      well.\r\n"
        b"221 2.0.0   / And? come back.\r\n"
    )


def test_a_client_that_says_ehlo_has_no_time(kit, fortune):
    fortune("echo well")
    assert farewell(kit("quit_fortune"), b"EHLO me\r\n").count(b"\r\n") == 1


def test_a_long_saying_is_cut(kit, fortune):
    fortune("i=0; while [ $i -lt 500 ]; do echo $i; i=$((i + 1)); done")
    assert farewell(kit("quit_fortune")).count(b"\r\n") == 11


def test_without_the_program_there_is_no_hook(kit, fortune):
    stage = kit("quit_fortune")
    assert "quit" not in stage.site.chains
    assert farewell(stage).startswith(b"221 ")


def test_a_program_that_fails_is_passed_over(kit, fortune):
    fortune("exit 1")
    stage = kit("quit_fortune")
    assert farewell(stage).startswith(b"221 ")
    assert stage.logged("quit_fortune: error, ")


def test_a_program_that_hangs_is_stopped(kit, fortune, monkeypatch):
    fortune("echo well")

    def hang(*args, timeout, **kwargs):
        assert timeout <= 5
        raise subprocess.TimeoutExpired(args[0], timeout)

    stage = kit("quit_fortune")
    monkeypatch.setattr(subprocess, "run", hang)
    assert farewell(stage).startswith(b"221 ")
    assert stage.logged("quit_fortune: error, ")
