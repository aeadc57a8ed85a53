"""What every driver must do: the same cases on each."""

import contextlib
import errno
import gc
import itertools
import select
import socket
import struct
import threading
from pathlib import Path

import pytest

from qpsmtpd import DECLINED, DENY, OK, Pause, Plugin, blocking
from qpsmtpd.loader import add
from qpsmtpd.site import Site
from qpsmtpd.testing import make_site
from qpsmtpd.transports import reactor

ENVELOPE = (b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n")
CONTENT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


class Accept(Plugin):
    """Accepts all; keeps what it has queued, and when sessions have ended."""

    def register(self, qp, *args):
        self.queued = []
        self.ended = []

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        self.queued.append(b"".join(transaction.chunks()))
        return OK, "kept"

    def hook_disconnect(self, transaction):
        self.ended.append(self.connection.id)


@pytest.fixture
def log():
    return []


@pytest.fixture
def site(log, tmp_path):
    """Make a site of plugin classes, with real clocks; `Accept` is asked last."""

    def site(*classes, **config):
        base = make_site(config={"spool_dir": [str(tmp_path / "spool")], **config})
        made = Site(base.settings, write=log.append)
        made.settings._clock = made.clock
        for cls in (*classes, Accept):
            add(made, cls)
        made.current_settings()
        return made

    return site


def codes(replies):
    return [reply[:3].decode() for reply in replies]


def open_files():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def threads_alive():
    """Threads, less those that trio keeps for a while in case it needs them again."""
    return sum(not thread.name.startswith("Trio") for thread in threading.enumerate())


class Raises(Plugin):
    def hook_data_post(self, transaction):
        raise RuntimeError("a fault")


class RaisesAsync(Plugin):
    async def hook_data_post(self, transaction):
        raise RuntimeError("a fault")


class RaisesBlocking(Plugin):
    @blocking
    def hook_data_post(self, transaction):
        raise RuntimeError("a fault")


class RaisesEffects(Plugin):
    def hook_data_post(self, transaction):
        yield Pause(0.01)
        raise RuntimeError("a fault")


@pytest.mark.parametrize("fault", [Raises, RaisesAsync, RaisesBlocking, RaisesEffects])
def test_a_hook_that_raises_is_451_and_the_session_goes_on(driver, running, wire, site, log, until, fault):
    made = site(fault)
    with running(driver, made) as address, wire(address) as client:
        client.reply()
        assert codes(client.ask(*ENVELOPE)) == ["250", "250", "250", "354"]
        assert codes(client.ask(CONTENT)) == ["451"]
        assert codes(client.ask(b"NOOP\r\n", b"QUIT\r\n")) == ["250", "221"]
        until(lambda: made.plugins[-1].ended)
    assert made.plugins[-1].queued == []
    assert any("RuntimeError: a fault" in line for line in log)
    assert any("Traceback (most recent call last):" in line for line in log)


class Patient(Plugin):
    def hook_noop(self, transaction):
        early = yield Pause(60, until_input=True)
        return (DENY, early.decode().strip()) if early else DECLINED


@pytest.mark.parametrize("together", [True, False])
def test_what_comes_early_ends_a_pause_whether_it_has_come_already_or_not(driver, running, wire, site, together):
    with running(driver, site(Patient)) as address, wire(address) as client:
        client.reply()
        for piece in (b"NOOP\r\nQUIT\r\n",) if together else (b"NOOP\r\n", b"QUIT\r\n"):
            client.send(piece)
        assert client.reply() == b"500 5.7.1 QUIT\r\n"
        assert client.reply()[:3] == b"221"


class Lingers(Plugin):
    async def hook_post_connection(self, transaction):
        import anyio

        await anyio.sleep(60)


def test_a_hook_behind_the_end_of_the_connection_has_its_time_too(driver, running, wire, site, log, until):
    made = site(Lingers, timeout=["0.2"], timeouthook=["0.25"])
    with running(driver, made) as address, wire(address) as client:
        client.reply()
        assert codes(client.ask(b"QUIT\r\n")) == ["221"]
        until(lambda: any("(post-connection) Lingers: error, the hook failed: TimeoutError" in line for line in log))
        until(lambda: made.census.total == 0)


def test_a_reset_behind_content_is_seen(driver, running, wire, site, until):
    entered, release = threading.Event(), threading.Event()

    class Wait(Plugin):
        @blocking
        def hook_data_headers_end(self, transaction):
            entered.set()
            release.wait(20)
            return DECLINED

    made = site(Wait)
    with running(driver, made) as address:
        with wire(address) as client:  # it reads no reply, so that its end is a reset
            for line in (*ENVELOPE, b"Subject: x\r\n\r\n"):
                client.send(line)
            assert entered.wait(20)
            client.send(b"more\r\n")
        release.set()  # nothing is sent now that would show the reset
        until(lambda: made.census.total == 0)


class Slow(Plugin):
    """Takes 60 ms, by the clock that sessions look at."""

    def register(self, qp, *args):
        self.spent, clock = 0.0, qp.clock
        qp.clock = lambda: clock() + self.spent

    def hook_rcpt(self, transaction, recipient, parameters):
        self.spent += 0.06
        return DECLINED

    @blocking
    def hook_data(self, transaction):
        self.spent += 0.06  # in a thread, where nobody minds
        return DECLINED


def test_a_plain_hook_that_keeps_others_waiting_is_logged_once(driver, running, wire, site, log):
    with running(driver, site(Slow)) as address, wire(address) as client:
        client.reply()
        assert codes(client.ask(*ENVELOPE[:3], *ENVELOPE[2:])) == ["250", "250", "250", "250", "354"]
        assert codes(client.ask(CONTENT, b"QUIT\r\n")) == ["250", "221"]
    complaints = [line for line in log if "no other session could go on" in line]
    assert len(complaints) == (0 if driver == "blocking" else 1)
    assert all("(rcpt) Slow: error, took 60 ms" in line and "@blocking" in line for line in complaints)


class Looks(Plugin):
    """HELP waits for the test; NOOP looks how many of the clients can read."""

    def register(self, qp, *args):
        self.clients, self.readable = [], []
        self.entered, self.release = threading.Event(), threading.Event()

    def hook_help(self, transaction, subject=""):
        self.entered.set()
        self.release.wait(20)

    def hook_noop(self, transaction):
        self.readable.append(len(select.select(self.clients, [], [], 0)[0]))


@pytest.mark.parametrize("patient", [True, False])
def test_replies_of_one_turn_are_written_together_unless_it_takes_long(
    running, wire, site, until, monkeypatch, driver, patient
):
    if driver == "blocking":
        pytest.skip("there are no turns: each session has a thread")
    ticks = itertools.count()
    monkeypatch.setattr(reactor, "monotonic", lambda: 0.0 if patient else next(ticks) * 2 * reactor._PATIENCE)
    made = site(Looks)
    looks = made.plugins[0]
    with running(driver, made) as address, wire(address) as first, contextlib.ExitStack() as others:
        clients = [others.enter_context(wire(address)) for _ in range(6)]
        for client in (first, *clients):
            client.reply()
        looks.clients += [client.socket for client in clients]
        first.send(b"HELP\r\n")
        assert looks.entered.wait(20)
        for client in clients:
            client.send(b"NOOP\r\n")  # all are there when the next turn begins
        looks.release.set()
        until(lambda: len(looks.readable) == 6)
        assert codes([client.reply() for client in clients]) == ["250"] * 6
    assert (max(looks.readable) == 0) is patient, looks.readable


def test_an_async_hook_that_takes_too_long_is_451(driver, running, wire, site, log):
    class Slow(Plugin):
        async def hook_mail(self, transaction, sender, parameters):
            import anyio

            await anyio.sleep(60)

    with running(driver, site(Slow, timeouthook=["0.05"])) as address, wire(address) as client:
        client.reply()
        assert codes(client.ask(b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n", b"NOOP\r\n")) == ["250", "451", "250"]
    assert any("TimeoutError" in line for line in log)


def test_a_blocking_hook_that_takes_too_long_is_451(driver, running, wire, site, log):
    if driver == "blocking":
        pytest.skip("the thread of the session itself runs the hook")
    release = threading.Event()

    class Slow(Plugin):
        @blocking
        def hook_mail(self, transaction, sender, parameters):
            release.wait(20)

    with running(driver, site(Slow, timeouthook=["0.05"])) as address, wire(address) as client:
        client.reply()
        assert codes(client.ask(b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n")) == ["250", "451"]
        release.set()
        assert codes(client.ask(b"NOOP\r\n")) == ["250"]
    assert any("TimeoutError" in line for line in log)


def test_hooks_of_two_sessions_never_see_each_other(driver, running, wire, site):
    both = threading.Barrier(2, timeout=10)

    class Mixed(Plugin):
        @blocking
        def hook_mail(self, transaction, sender, parameters):
            both.wait()  # now both sessions are in this hook
            return self._check(sender)

        async def hook_rcpt(self, transaction, recipient, parameters):
            import anyio

            await anyio.sleep(0.01)
            return self._check(transaction.sender)

        def _check(self, sender):
            return DECLINED if self.connection.hello_host == sender.user else (OK, "mixed up")

    made = site(Mixed)
    results = []

    def talk(address, name):
        with wire(address) as client:
            client.reply()
            results.append(
                client.ask(b"EHLO %s\r\n" % name, b"MAIL FROM:<%s@b>\r\n" % name, b"RCPT TO:<c@d>\r\n", *ENVELOPE[3:])
            )

    with running(driver, made) as address:
        threads = [threading.Thread(target=talk, args=(address, name)) for name in (b"one", b"two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert [codes(replies) for replies in results] == [["250", "250", "250", "354"]] * 2


def test_a_silent_client_is_told_421(driver, running, wire, site):
    with running(driver, site(timeout=["0.05"])) as address, wire(address) as client:
        assert client.rest().split(b"\r\n")[1] == b"421 4.4.2 Timeout, closing the connection"


def test_content_has_a_time_of_its_own(driver, running, wire, site):
    with running(driver, site(timeoutdata=["0.05"])) as address, wire(address) as client:
        client.reply()
        client.ask(*ENVELOPE)
        assert client.rest() == b"421 4.4.2 Timeout, closing the connection\r\n"


def test_a_session_as_a_whole_is_limited(driver, running, wire, site):
    with running(driver, site(timeoutsession=["0.05"])) as address, wire(address) as client:
        assert client.rest().split(b"\r\n")[1].startswith(b"421 4.4.2 This session has lasted too long")


def test_connections_are_capped_for_each_address_and_in_total(driver, running, wire, site):
    with running(driver, site(max_per_ip=["2"])) as address, wire(address) as one, wire(address) as two:
        assert codes([one.reply(), two.reply()]) == ["220", "220"]
        with wire(address) as three:
            assert three.rest() == b"421 Too many connections from your address, please try again later\r\n"
    with running(driver, site(max_connections=["1"])) as address, wire(address) as one:
        one.reply()
        with wire(address) as two:
            assert two.rest() == b"421 Too many connections, please try again later\r\n"


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("stage", range(7))
def test_a_client_that_vanishes_leaves_nothing(driver, running, wire, site, until, tmp_path, stage, how):
    entered, release = threading.Event(), threading.Event()

    class Wait(Plugin):
        @blocking
        def hook_data_post(self, transaction):
            entered.set()
            release.wait(20)

    made = site(Wait, size_threshold=["0"])
    kept = made.plugins[-1]
    threads = threads_alive()
    with running(driver, made) as address:
        before = open_files()
        with wire(address) as client:
            client.reply()
            for line in (*ENVELOPE, CONTENT[:-5], CONTENT[-5:])[:stage]:
                client.send(line)
            if stage == 6:
                assert entered.wait(20)  # between the final dot and the reply
            if how == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        release.set()
        until(lambda: made.census.total == 0)
        until(lambda: len(kept.ended) == 1)
        until(lambda: open_files() <= before + 1)  # an event loop's worker thread may have woken it
    assert not (tmp_path / "spool").exists() or not list((tmp_path / "spool").iterdir())
    assert kept.queued in ([], [kept.queued[0]] if kept.queued else [])
    if stage < 6:
        assert not kept.queued
    until(lambda: threads_alive() <= threads)


def test_a_client_that_never_reads_is_bounded_and_timed_out(driver, running, wire, site, until):
    made = site(timeout=["0.6"])
    with running(driver, made) as address, wire(address) as client:
        client.socket.settimeout(0.3)  # longer than any pause of a server that still reads
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100_000_000:
                sent += client.socket.send(b"HELP\r\n" * 10_000)
        assert sent < 100_000_000
        until(lambda: made.census.total == 0)


def test_a_large_message_arrives_byte_for_byte(driver, running, wire, site):
    body = b"".join(b"%s%d \xff\x00 line\r\n" % (b"." * (i % 4), i) for i in range(200_000))
    made = site(size_threshold=["100000"])
    with running(driver, made) as address, wire(address) as client:
        client.reply()
        client.ask(*ENVELOPE)
        content = b"Subject: large\r\n\r\n" + body
        client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert client.reply() == b"250 2.0.0 kept\r\n"
    (kept,) = made.plugins[-1].queued
    assert kept.partition(b"Subject: large")[2] == content.partition(b"Subject: large")[2]


def test_a_client_that_is_refused_while_it_sends_reads_the_last_reply(driver, running, wire, site):
    with running(driver, site()) as address, wire(address) as client:
        client.reply()
        client.ask(*ENVELOPE)
        client.send(b"x\r\n.\n" + b"y" * 500_000)  # refused at once, and most of it still to come
        assert client.rest().startswith(b"421 4.5.2 ")


def test_a_server_that_stops_lets_sessions_finish_and_tells_the_others(driver, running, wire, site):
    made = site()
    with contextlib.ExitStack() as clients:
        with running(driver, made, grace=1.0) as address:
            idle, busy = clients.enter_context(wire(address)), clients.enter_context(wire(address))
            idle.reply()
            busy.reply()
            busy.ask(*ENVELOPE)
            closer = threading.Thread(target=lambda: (busy.ask(CONTENT), busy.ask(b"QUIT\r\n")))
            threading.Timer(0.2, closer.start).start()
        assert idle.rest() == b"421 4.3.2 Service shutting down, closing the connection\r\n"
        closer.join(10)
        assert len(made.plugins[-1].queued) == 1
        with pytest.raises(OSError):
            socket.create_connection(address, timeout=1)
    assert made.census.total == 0


def test_a_server_leaves_no_file_and_no_thread(driver, running, wire, site, until):
    made = site()
    with running(driver, made) as address, wire(address) as client:  # what is made once in a process
        client.reply()
    files, threads = open_files(), threads_alive()
    with running(driver, made) as address, wire(address) as client:
        client.reply()
        client.ask(*ENVELOPE)
    until(lambda: open_files() <= files and threads_alive() <= threads)  # fewer, if an earlier test's end meanwhile


def test_an_address_in_use_is_an_error_that_names_it(driver, running, site):
    from qpsmtpd.transports.sockets import bind

    with (
        running(driver, site()) as (host, port),
        pytest.raises(OSError, match=f"cannot listen on {host}:{port}: ") as e,
    ):
        bind([(host, port)])
    assert e.value.errno == errno.EADDRINUSE


class KeepsFile(Plugin):
    def hook_queue(self, transaction):
        assert transaction.body_filename().exists()
        return OK, "kept"


def test_the_files_of_each_message_go_with_it_even_if_more_is_pipelined_behind(
    driver, running, wire, site, until, tmp_path
):
    made = site(KeepsFile)
    with running(driver, made) as address, wire(address) as client:
        client.reply()
        client.send(ENVELOPE[0] + b"".join([*ENVELOPE[1:], CONTENT]) * 4)
        assert codes([client.reply() for _ in range(17)])[4::4] == ["250"] * 4
        until(lambda: not list((tmp_path / "spool").iterdir()))


def test_a_client_that_has_closed_its_side_is_sent_all_replies(driver, running, site):
    count = 150
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(20)
        with running(driver, site(), place=listener.dup()) as address:
            client.connect(address)
            client.sendall(b"EHLO c\r\n" * count + b"QUIT\r\n")
            client.shutdown(socket.SHUT_WR)
            received = b""
            while data := client.recv(1024):
                received += data
    assert received.count(b"\r\n250 ") == count
    assert b"\r\n221 " in received
