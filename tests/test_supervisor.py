"""`qpsmtpd run --workers N` as its users see it: processes that die, are replaced and end."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qpsmtpd.daemon import BACKENDS
from qpsmtpd.processes import Patience, in_words
from qpsmtpd.slots import Slots
from qpsmtpd.transports.sockets import Listener

SECONDS = 30
DIFFERENT = ["asyncio", "trio", "blocking"]

WHO = """
import os
from qpsmtpd import LOGWARN, OK

VERSION = "one"

def register(self, qp, *args):
    self.words = " ".join(args)

def hook_post_fork(self):
    self.log(LOGWARN, f"FORKED {VERSION}")

def hook_help(self, transaction, subject=""):
    return OK, f"{os.getpid()} {VERSION} {self.words}"
"""


class Output:
    """What a process writes, line by line, to be waited for."""

    def __init__(self, stream):
        self.lines = []
        self._at_end = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._changed:
                self.lines.append(line.decode())
                self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()

    def find(self, pattern):
        return [match for line in self.lines if (match := re.search(pattern, line))]

    def wait_for(self, pattern, times=1):
        with self._changed:
            self._changed.wait_for(lambda: self._at_end or len(self.find(pattern)) >= times, SECONDS)
            found = self.find(pattern)
            assert len(found) >= times, (pattern, self.lines)
        return found

    def wait_for_end(self):
        """The end of the last process that could write."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._at_end, SECONDS), self.lines
        self._thread.join()


@pytest.fixture
def place(tmp_path):
    """Write settings and plugins below a directory of our own."""

    def place(**files):
        defaults = {
            "me": "mx.example.test",
            "loglevel": "LOGINFO",
            "relayclients": "127.0.0.1",
            "timeoutshutdown": "1",
            "plugins": "who\nrelay\nrcpt_ok\nqueue/discard",
        }
        for name in ("config", "plugins"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "plugins" / "who.py").write_text(WHO)
        for name, text in (defaults | files).items():
            (tmp_path / "config" / name).write_text(f"{text}\n")
        return tmp_path

    return place


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a server; at the end all its processes have ended, whatever the test did."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # as for most users
    with contextlib.ExitStack() as at_end:

        def start(*more, workers=2, backend="asyncio", program=("-m", "qpsmtpd"), wait=True):
            listening = [] if "--listen" in more else ["--listen", "127.0.0.1:0"]
            options = ["--config", tmp_path / "config", *listening, "--backend", backend, *more]
            if workers is not None:
                options += ["--workers", str(workers)]
            process = subprocess.Popen(
                [sys.executable, *program, "run", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            process.output, process.errors = Output(process.stdout), Output(process.stderr)
            at_end.callback(end, process)
            if wait:
                (listens,) = process.output.wait_for(r"qpsmtpd listens on (?:127\.0\.0\.1|\[::1\]):(\d+)")
                process.address = ("127.0.0.1", int(listens[1]))
            return process

        yield start


def end(process):
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # the others end with it
    process.wait(SECONDS)
    for output in (process.output, process.errors):
        output.wait_for_end()
    process.stdout.close()
    process.stderr.close()


def stop(process, number=signal.SIGTERM):
    """End a server in good order."""
    process.send_signal(number)
    assert process.wait(SECONDS) == 0, process.errors.lines
    process.errors.wait_for_end()
    assert not process.errors.find("Traceback"), process.errors.lines


def pids(process):
    """The workers that have begun, in this order."""
    return [int(match[1]) for match in process.errors.find(r"^\[(\d+)\] who: FORKED")]


def whom(client):
    """Which worker a client talks to, and what it has loaded."""
    number, *rest = client.ask(b"HELP\r\n")[0].decode().removeprefix("214 2.0.0 ").split()
    return int(number), rest


@pytest.fixture
def connect(wire):
    """Connect, and see that the client is greeted."""

    @contextlib.contextmanager
    def connect(process):
        with wire(process.address) as client:
            assert client.reply()[:3] == b"220"
            yield client

    return connect


@pytest.fixture
def one_of_each(connect):
    """A client of each worker."""

    @contextlib.contextmanager
    def one_of_each(process, number=2):
        with contextlib.ExitStack() as clients:
            found = {}
            while len(found) < number:
                with contextlib.ExitStack() as maybe:
                    client = maybe.enter_context(connect(process))
                    pid, _ = whom(client)
                    if pid in found:
                        client.ask(b"QUIT\r\n")
                        client.rest()
                    else:
                        found[pid] = client
                        clients.push(maybe.pop_all())
            yield found

    return one_of_each


NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")


def stat(pid):
    """The state of a process, its parent, and more."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# Serving


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_workers_serve_and_end_in_good_order(place, start, one_of_each, tmp_path, monkeypatch, backend):
    path = place() / "lmtp.sock"
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    process = start("--listen", "127.0.0.1:0", "--listen", f"lmtp=unix:{path}", backend=backend)
    with one_of_each(process) as clients, socket.socket(socket.AF_UNIX) as local:
        assert sorted(clients) == sorted(pids(process)), "post-fork runs once in each"
        assert len(list((tmp_path / "tmp").iterdir())) == 1, "one spool directory for all"
        local.settimeout(SECONDS)
        local.connect(str(path))
        assert local.recv(4096).startswith(b"220 mx.example.test LMTP")
        process.send_signal(signal.SIGTERM)
        for client in clients.values():
            client.ask(b"QUIT\r\n")
        local.sendall(b"QUIT\r\n")
        assert local.recv(4096).startswith(b"221")
        local.close()
        stop(process)
    assert len(process.output.find("listens on")) == 1
    assert not path.exists()
    assert not list((tmp_path / "tmp").iterdir())
    assert len(process.errors.find("] stopped$")) == 2
    assert not process.errors.find("ended with")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(process.address, timeout=SECONDS):
        pass


def test_one_worker_can_be_replaced_too(place, start, connect):
    place()
    process = start(workers=1)
    with connect(process) as client:
        assert whom(client)[0] == pids(process)[0]
    stop(process)


def test_every_address_of_a_name_is_listened_on(place, start):
    place()
    process = start("--listen", "[::1]:0", "--listen", "127.0.0.1:0")
    (listens,) = process.output.wait_for(r"listens on \[::1\]:(\d+), 127\.0\.0\.1:(\d+) \(asyncio, --workers 2\)")
    for address in (("::1", int(listens[1])), ("127.0.0.1", int(listens[2]))):
        with socket.create_connection(address, timeout=SECONDS) as client:
            assert client.recv(3) == b"220"
    stop(process)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_goes_to_all_processes_and_ends_each_once(place, start, one_of_each, backend):
    place()
    process = start(backend=backend)
    with one_of_each(process):
        os.killpg(process.pid, signal.SIGINT)
        process.errors.wait_for("stopping; sessions have 1 s", 2)
        os.killpg(process.pid, signal.SIGINT)
    assert process.wait(SECONDS) == 0
    process.errors.wait_for_end()
    assert len(process.errors.find("stopping")) == len(process.errors.find("] stopped$")) == 2, process.errors.lines
    assert not process.errors.find("Traceback"), process.errors.lines


def test_sessions_have_their_time_and_then_are_told(place, start, one_of_each):
    place(timeoutshutdown="0.2")
    process = start()
    with one_of_each(process) as clients:
        process.send_signal(signal.SIGTERM)
        for client in clients.values():
            assert client.rest() == b"421 4.3.2 Service shutting down, closing the connection\r\n"
    assert process.wait(SECONDS) == 0


IMPATIENT = ("-c", "from qpsmtpd import cli, crew; crew._MARGIN = crew.LINGER = 0.1; cli.main()")


def test_a_worker_that_does_not_end_is_killed(place, start, connect):
    home = place(timeoutshutdown="0.1", plugins="stuck\nwho")
    (home / "plugins" / "stuck.py").write_text("def hook_noop(self, transaction):\n    while True: pass\n")
    process = start(program=IMPATIENT)
    with connect(process) as client:
        client.send(b"NOOP\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    process.errors.wait_for(r"worker \d \(\d+\) ended with SIGKILL$")
    process.errors.wait_for_end()


def test_all_processes_end_when_the_supervisor_is_killed(place, start, one_of_each):
    place(timeoutshutdown="0.2")
    process = start()
    with one_of_each(process) as clients:
        process.kill()
        for client in clients.values():
            assert client.rest().startswith(b"421 4.3.2")
    process.errors.wait_for_end()
    assert len(process.errors.find("] stopped$")) == 2


def test_a_signal_for_plugins_reaches_every_worker(place, start):
    home = place(plugins="who\nsignalled")
    (home / "plugins" / "signalled.py").write_text(
        "import signal\nfrom qpsmtpd import LOGWARN\n"
        "def hook_post_fork(self):\n"
        "    signal.signal(signal.SIGUSR1, lambda *_: self.log(LOGWARN, 'HEARD'))\n"
    )
    process = start(backend="blocking")
    process.send_signal(signal.SIGUSR2)  # nobody minds
    process.send_signal(signal.SIGUSR1)
    process.errors.wait_for("HEARD", 2)
    assert {int(match[1]) for match in process.errors.find(r"^\[(\d+)\] signalled: HEARD")} == set(pids(process))
    stop(process)


# What cannot be served


def refused(process):
    assert process.wait(SECONDS) == 1
    process.errors.wait_for_end()
    return "".join(process.errors.lines)


@pytest.mark.parametrize("workers", [2, None])
def test_a_second_server_is_refused_the_addresses_of_the_first(place, start, workers):
    path = place() / "lmtp.sock"
    first = start("--listen", "127.0.0.1:0", "--listen", f"lmtp=unix:{path}")
    port = first.address[1]
    second = start("--listen", f"127.0.0.1:{port}", workers=workers, wait=False)
    assert refused(second).endswith(f"qpsmtpd: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    second = start("--listen", f"lmtp=unix:{path}", workers=workers, wait=False)
    assert refused(second).endswith(f"qpsmtpd: cannot listen on {path}: Address already in use\n")
    stop(first)


def test_what_cannot_be_loaded_is_told_once_and_leaves_nothing_behind(place, start):
    path = place(plugins="relay\nrcptok") / "lmtp.sock"
    process = start("--listen", f"lmtp=unix:{path}", wait=False)
    said = refused(process)
    assert said.endswith("/config/plugins:2: rcptok: there is no plugin 'rcptok'; did you mean rcpt_ok?\n")
    assert said.startswith("qpsmtpd: ")
    assert said.count("\n") == 1
    assert not path.exists()


def test_a_role_that_cannot_work_is_told_at_the_start(place, start):
    place()
    process = start("--listen", "submissions=127.0.0.1:0", wait=False)
    assert refused(process).startswith("qpsmtpd: the role submissions needs a certificate")


def test_an_address_that_cannot_be_had_closes_those_before(tmp_path):
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Address already in use"):
        Slots([Listener(path), Listener(("127.0.0.1", 0)), Listener(taken.getsockname())], 2)
    assert not path.exists()


# Death


@pytest.mark.parametrize("backend", DIFFERENT)
def test_a_killed_worker_is_replaced_and_nobody_is_refused(place, start, connect, wire, backend):
    place()
    process = start(backend=backend)
    for count in range(1, 3):
        victim = pids(process)[0 if count == 1 else -1]
        os.kill(victim, signal.SIGKILL)
        process.errors.wait_for(r"ended with SIGKILL; the next begins", count)
        with contextlib.ExitStack() as clients:
            waiting = [clients.enter_context(wire(process.address)) for _ in range(20)]
            for client in waiting:
                assert client.reply()[:3] == b"220"
            assert victim not in {whom(client)[0] for client in waiting}
    process.errors.wait_for(rf"worker \d \({victim}\) ended with SIGKILL; the next begins in 1 s$")
    process.errors.wait_for("FORKED", 4)
    stop(process)


@NEEDS_PROC
def test_clients_in_the_queue_of_a_killed_worker_are_served_by_the_next(place, start, wire, until):
    place()
    process = start(workers=1)
    (victim,) = pids(process)
    os.kill(victim, signal.SIGSTOP)
    until(lambda: stat(victim)[0] == "T")
    with contextlib.ExitStack() as clients:
        waiting = [clients.enter_context(wire(process.address)) for _ in range(10)]
        os.kill(victim, signal.SIGKILL)
        for client in waiting:
            assert client.reply()[:3] == b"220"
            assert whom(client)[0] != victim
    stop(process)


EXITS = """
import os, pathlib
def hook_post_fork(self):
    if pathlib.Path(__file__).with_name("exits").exists():
        os._exit(3)
"""


def test_a_worker_that_dies_again_and_again_is_given_more_and_more_time(place, start):
    home = place(plugins="who\nexits")
    (home / "plugins" / "exits.py").write_text(EXITS)
    (home / "plugins" / "exits").touch()
    process = start(workers=1, wait=False)
    for delay in ("at once", "in 1 s", "in 2 s"):
        process.errors.wait_for(rf"worker 0 \(\d+\) ended with status 3; the next begins {delay}$")
    (home / "plugins" / "exits").unlink()
    process.output.wait_for("listens on")
    assert len(pids(process)) == 4
    stop(process)


def test_a_signal_is_heard_while_nothing_runs(place, start):
    home = place(plugins="who\nexits")
    (home / "plugins" / "exits.py").write_text(EXITS)
    (home / "plugins" / "exits").touch()
    process = start(workers=1, wait=False)
    process.errors.wait_for("the next begins in 2 s")
    before = len(pids(process))
    stop(process)
    assert len(pids(process)) == before


@NEEDS_PROC
def test_workers_whose_keeper_is_killed_end_and_others_take_over(place, start, connect, until):
    place()
    process = start()
    old = pids(process)
    (keeper,) = {int(stat(pid)[1]) for pid in old}
    with connect(process) as client:
        os.kill(keeper, signal.SIGKILL)
        client.ask(b"NOOP\r\n")
        process.errors.wait_for("loaded anew; 2 workers take over")
        client.ask(b"QUIT\r\n")
    process.errors.wait_for("the process that keeps the workers ended with SIGKILL; trying again at once")
    process.errors.wait_for("] stopped$", 2)
    with connect(process) as client:
        assert whom(client)[0] not in old
    stop(process)


@NEEDS_PROC
def test_the_connections_of_workers_killed_with_their_keeper_are_forgotten(place, start, connect, wire, until):
    place(max_per_ip="1")
    process = start()
    with connect(process):
        for pid in (int(stat(pids(process)[0])[1]), *pids(process)):
            os.kill(pid, signal.SIGKILL)
        process.errors.wait_for("loaded anew; 2 workers take over")

        def admitted():
            with wire(process.address) as client:
                if client.reply()[:3] == b"220":
                    client.ask(b"QUIT\r\n")
                    return not client.rest()
            return False

        until(lambda: all(admitted() for _ in range(30)))  # by both
    stop(process)


def test_patience_grows_with_each_early_death_and_comes_back():
    times = [0.0]
    patience = Patience(lambda: times[0])

    def live(seconds):
        patience.begin()
        times[0] += seconds
        return patience.after_death()

    assert [live(0.5) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert live(Patience.LONG_LIFE) == 0
    assert live(0.5) == 1


def test_how_a_process_ended_is_told_in_words():
    assert [in_words(code) for code in (0, 3, -9, -40)] == ["status 0", "status 3", "SIGKILL", "signal 40"]


# Loading anew


def reload(process):
    """Load anew, and wait until the two old workers have heard of it."""
    taken_over, heard = r"\] loaded anew; 2 workers take over", r"\] stopping"
    before = len(process.errors.find(taken_over)), len(process.errors.find(heard))
    process.send_signal(signal.SIGHUP)
    process.errors.wait_for(taken_over, before[0] + 1)
    process.errors.wait_for(heard, before[1] + 2)


def test_a_reload_takes_changed_lists_arguments_and_files(place, start, one_of_each, tmp_path):
    home = place(plugins="who")
    process = start()
    with one_of_each(process) as old:
        assert [whom(client)[1] for client in old.values()] == [["one"]] * 2
        # As long as before, and in the same second.
        (home / "plugins" / "who.py").write_text(WHO.replace('"one"', '"two"'))
        (home / "config" / "plugins").write_text("refuse_noop\nwho some words\n")
        (home / "plugins" / "refuse_noop.py").write_text(
            "from qpsmtpd import DENY\ndef hook_noop(self, transaction):\n    return DENY, 'no'\n"
        )
        reload(process)
        with one_of_each(process) as new:
            assert not new.keys() & old.keys()
            for client in new.values():
                assert whom(client)[1] == ["two", "some", "words"]
                assert client.ask(b"NOOP\r\n") == [b"500 5.7.1 no\r\n"]
        for client in old.values():  # sessions end with what they have begun with
            assert client.ask(b"NOOP\r\n", b"QUIT\r\n")[0][:3] == b"250"
    stop(process)


def test_a_reload_takes_changed_modules_that_plugins_import(place, start, connect, tmp_path, monkeypatch):
    home = place(plugins="package_of_mine.plugin")
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "plugin.py").write_text(
        "import os\nfrom qpsmtpd import OK\nfrom package_of_mine.words import TEXT\n"
        "def hook_help(self, transaction, subject=''):\n    return OK, f'{os.getpid()} {TEXT}'\n"
    )
    (package / "words.py").write_text("TEXT = 'old'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start()
    with connect(process) as client:
        assert whom(client)[1] == ["old"]
    (package / "words.py").write_text("TEXT = 'newer'\n")
    reload(process)
    with connect(process) as client:
        assert whom(client)[1] == ["newer"]
    stop(process)
    del home


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "config/plugins",
            "who\nrcptok",
            r"not loaded anew: \S+/config/plugins:2: rcptok: there is no plugin .* did you",
        ),
        (
            "plugins/who.py",
            "def hook_help(self:",
            r"not loaded anew: \S+/config/plugins:1: who: SyntaxError: .*who.py:1\)",
        ),
        ("plugins/who.py", "raise SystemExit(7)", "SystemExit: 7"),
        ("config/timeout", "soon", r"not loaded anew: \S+/config/timeout:1: 'soon' is no number"),
    ],
)
def test_a_reload_that_fails_keeps_what_there_was(place, start, connect, file, text, complaint):
    home = place()
    process = start()
    before = (home / file).read_text() if (home / file).exists() else None
    (home / file).write_text(text)
    process.send_signal(signal.SIGHUP)
    process.errors.wait_for(complaint)
    with connect(process) as client:
        assert whom(client) == (whom(client)[0], ["one"])
        assert whom(client)[0] in pids(process)[:2]
    # The code of the time is also what a worker that dies is replaced with.
    os.kill(pids(process)[0], signal.SIGKILL)
    process.errors.wait_for("FORKED one", 3)
    (home / file).write_text(before) if before else (home / file).unlink()
    reload(process)
    with connect(process) as client:
        assert whom(client)[0] in pids(process)[3:]
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0


@NEEDS_PROC
def test_a_reload_that_does_not_come_to_serve_is_replaced_by_the_next(place, start, connect, until):
    home = place()
    process = start()
    (home / "config" / "plugins").write_text("who\nexits\n")
    (home / "plugins" / "exits.py").write_text(EXITS)
    (home / "plugins" / "exits").touch()
    process.send_signal(signal.SIGHUP)
    keeper = process.errors.wait_for(r"^\[(\d+)\] .* ended with status 3")[0][1]
    with connect(process) as client:
        assert whom(client)[0] in pids(process)[:2]
    (home / "config" / "plugins").write_text("who third\n")
    reload(process)
    with connect(process) as client:
        assert whom(client)[1] == ["one", "third"]
    until(lambda: not Path(f"/proc/{keeper}").exists())
    stop(process)


def test_many_reloads_at_once_come_to_one_that_serves(place, start, connect):
    place()
    process = start()
    for _ in range(300):
        process.send_signal(signal.SIGHUP)
    process.errors.wait_for("loaded anew; 2 workers take over")
    reload(process)
    with connect(process) as client:
        whom(client)
    stop(process)


class Load:
    """Clients that come one after the other, each with a whole transaction, until told to stop."""

    def __init__(self, wire, address, clients=4):
        self.sessions = 0
        self.failures = []
        self._changed = threading.Condition()
        self._wire, self._address = wire, address
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._stopping.is_set() and not self.failures:
            try:
                self._session()
            except (OSError, EOFError, AssertionError) as error:
                self.failures.append(repr(error))
            with self._changed:
                self.sessions += 1
                self._changed.notify_all()

    def _session(self):
        with self._wire(self._address) as client:
            replies = [client.reply()]
            replies += client.ask(b"EHLO c\r\n")
            replies += client.ask(b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n")
            replies += client.ask(b"Subject: x\r\n\r\nbody\r\n.\r\n")
            replies += client.ask(b"QUIT\r\n")
            codes = [int(reply[:3]) for reply in replies]
            assert codes == [220, 250, 250, 250, 354, 250, 221], replies
            assert client.rest() == b""

    def more(self, number):
        """Wait for some more sessions."""
        with self._changed:
            enough = self.sessions + number
            assert self._changed.wait_for(lambda: self.failures or self.sessions >= enough, SECONDS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reloads_under_load_fail_no_session(place, start, wire, backend):
    place(timeoutshutdown="20")
    process = start(backend=backend)
    with Load(wire, process.address) as load:
        for _ in range(5):
            load.more(20)
            reload(process)
    assert not load.failures
    assert load.sessions >= 100
    stop(process)
    assert not process.errors.find("fail|error(?!, took)"), process.errors.lines


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_workers_sighup_ends_nothing(place, start, connect, backend):
    place()
    process = start(workers=None, backend=backend)
    with connect(process) as client:
        process.send_signal(signal.SIGHUP)
        process.errors.wait_for(r"SIGHUP: changed settings are read by themselves; .*`--workers 1`")
        assert client.ask(b"NOOP\r\n")[0][:3] == b"250"
        client.ask(b"QUIT\r\n")
    stop(process)


# Counting together


def told(client):
    return client.rest().decode()


@pytest.mark.parametrize("backend", DIFFERENT)
def test_the_caps_hold_for_all_workers_together(place, start, one_of_each, connect, wire, until, backend):
    place(max_per_ip="3", max_connections="1000")
    process = start(backend=backend)
    too_many = "421 Too many connections from your address, please try again later\r\n"
    with one_of_each(process) as clients, connect(process):
        for _ in range(8):
            with wire(process.address) as client:
                assert told(client) == too_many
        victim, client = clients.popitem()
        gone = sum(whom(other)[0] == victim for other in clients.values())
        os.kill(victim, signal.SIGKILL)
        client.socket.close()
        process.errors.wait_for("ended with SIGKILL")
        with contextlib.ExitStack() as more:
            admitted = 0
            until(lambda: len(pids(process)) == 3)
            while True:
                client = more.enter_context(wire(process.address))
                if client.reply() == too_many.encode():
                    break
                admitted += 1
            assert admitted in (1, 2)  # those of the killed worker
        del gone
    stop(process)


def test_the_cap_on_all_connections_holds_for_all_workers_together(place, start, one_of_each, wire):
    place(max_connections="2")
    process = start()
    with one_of_each(process):
        for _ in range(8):
            with wire(process.address) as client:
                assert told(client) == "421 Too many connections, please try again later\r\n"
    stop(process)


def test_old_and_new_workers_count_together(place, start, one_of_each, wire):
    place(max_per_ip="2", timeoutshutdown="20")
    process = start()
    with one_of_each(process) as clients:
        reload(process)
        for _ in range(4):
            with wire(process.address) as client:
                assert told(client).startswith("421 Too many connections from your address")
        for client in clients.values():
            client.ask(b"QUIT\r\n")
            client.rest()
    process.errors.wait_for("] stopped$", 2)
    with one_of_each(process):
        pass
    stop(process)


def test_the_hook_pre_connection_hears_of_the_clients_of_all_workers(place, start, one_of_each, wire):
    home = place(plugins="others\nwho")
    (home / "plugins" / "others.py").write_text(
        "from qpsmtpd import LOGWARN\n"
        "def hook_pre_connection(self, transaction, arrival):\n"
        "    self.log(LOGWARN, 'others: ' + str(arrival.child_addrs))\n"
    )
    process = start()
    with one_of_each(process) as clients:
        before = process.errors.find("others: ")
        for _ in range(4):
            with wire(process.address) as client:
                client.ask(b"QUIT\r\n")
                client.rest()
        seen = {match.string for match in process.errors.wait_for("others: ", len(before) + 4)[-4:]}
        assert len(clients) == 2
        assert {line.rpartition("others: ")[2] for line in seen} == {"('127.0.0.1', '127.0.0.1')\n"}
    stop(process)
