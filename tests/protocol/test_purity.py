"""The core is pure: it imports nothing that reaches outside, and needs nothing that could."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import qpsmtpd.protocol

FOLDER = Path(qpsmtpd.protocol.__file__).parent
PURE = {
    *("collections.abc", "dataclasses", "enum", "functools", "ipaddress", "re", "types", "typing"),
    *("base64", "binascii", "hashlib", "hmac", "json", "stringprep", "unicodedata"),
}
POISONED = (
    "asyncio,concurrent,datetime,io,logging,multiprocessing,os,pathlib,queue,random,secrets,select,selectors,"
    "shutil,signal,socket,ssl,subprocess,tempfile,threading,time"
)


def imports(source):
    """The modules that a module's own import statements name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def is_pure(name):
    return name in PURE or name == "qpsmtpd.protocol" or name.startswith("qpsmtpd.protocol.")


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_what_is_pure(path):
    assert [name for name in imports(path.read_text(encoding="utf-8")) if not is_pure(name)] == []


def test_imports_are_seen_wherever_they_stand():
    source = "import socket as s\ndef f():\n    from os import path\n    from . import errors\n"
    assert list(imports(source)) == ["socket", "os", "."]
    assert not any(map(is_pure, imports(source)))


def test_nothing_is_imported_by_name_at_run_time():
    for path in FOLDER.rglob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)
        }
        assert not names & {"__import__", "importlib", "open", "exec", "eval", "input", "print"}


SESSION = r"""
import builtins, collections.abc, dataclasses, enum, ipaddress, re, sys, types, typing

def poisoned(*_, **__):
    raise ImportError("the core reached for something outside itself")

# The package around the core is not run.
package = types.ModuleType("qpsmtpd")
package.__path__ = [sys.argv[1]]
sys.modules["qpsmtpd"] = package
outside = sys.argv[2].split(",")
sys.modules.update(dict.fromkeys(outside))  # importing a name that leads to None fails
builtins.open = builtins.input = builtins.print = poisoned

PROBE
from qpsmtpd.protocol import CLOSED, DECLINED, NEED_DATA, OK, Extension, Hook, Limits, Server, hooks

server = Server(hooks=hooks.HOOKS, limits=Limits(message_size=10_000))
output = b""
for chunk in (
    b"HELO old.example\r\nEHLO client.example\r\nXYZZY\r\nVRFY x\r\nHELP\r\nNOOP\r\n",
    b"MAIL FROM:<sender@[IPv6:::1]> SIZE=100 SMTPUTF8\r\nRCPT TO:<rcpt@[192.0.2.1]>\r\nDATA\r\n",
    b"Subject: test\r\n\r\n..body\r\n", b".\r\nRSET\r\nMAIL FROM:<>\r\n", b"QUIT\r\n",
):
    server.receive_data(chunk)
    while (event := server.next_event()) is not NEED_DATA and event is not CLOSED:
        if isinstance(event, Hook):
            if isinstance(event, hooks.ParseHook):
                server.answer(DECLINED)
            else:
                server.answer(OK, event.path) if hasattr(event, "path") else server.answer(OK)
    output += server.data_to_send()
assert event is CLOSED
sys.stdout.write(output.decode())
for name in outside:
    del sys.modules[name]
"""


def run(probe=""):
    code = textwrap.dedent(SESSION).replace("PROBE", probe)
    arguments = [sys.executable, "-I", "-c", code, str(FOLDER.parent), POISONED]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)


def test_a_session_runs_with_everything_outside_poisoned():
    session = run()
    assert (session.returncode, session.stderr) == (0, "")
    codes = [int(line[:3]) for line in session.stdout.split("\n") if line[3:4] == " "]
    assert codes == [220, 250, 250, 500, 250, 214, 250, 250, 250, 354, 250, 250, 250, 221]


@pytest.mark.parametrize(
    ("probe", "complaint"),
    [
        ("import time", "import of time halted"),
        ("from os import getpid", "import of os halted"),
        ("import socket; socket.socket()", "import of socket halted"),
        ("open('x')", "reached for something outside itself"),
    ],
)
def test_the_poison_works(probe, complaint):
    session = run(probe)
    assert session.returncode != 0
    assert complaint in session.stderr
