"""Settings that all tests share, and every driver behind one face: a server on loopback, a client's socket."""

import asyncio
import contextlib
import os
import socket
import threading
import time

import anyio
import pytest
import trio
import uvloop
from hypothesis import settings

from qpsmtpd.session.role import MX
from qpsmtpd.site import current_session
from qpsmtpd.transports import blocking
from qpsmtpd.transports.anyio import listen as listen_anyio
from qpsmtpd.transports.asyncio import listen as listen_asyncio
from qpsmtpd.transports.sockets import Listener
from qpsmtpd.transports.trio import listen as listen_trio

settings.register_profile("qpsmtpd", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("qpsmtpd")

GRACE = 0.2
SECONDS = 20


@pytest.fixture(autouse=True)
def _outside_of_sessions():
    """A session that a test drives by hand runs in the context of the test, and of those behind it."""
    token = current_session.set(None)
    yield
    current_session.reset(token)


def _asyncio(site, places, ready, stop, grace, loop=None):
    async def main():
        async with listen_asyncio(site, places, grace=grace) as server:
            ready(server.addresses[0])
            while not stop.is_set():
                await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def _trio(site, places, ready, stop, grace):
    async def main():
        async with listen_trio(site, places, grace=grace) as server:
            ready(server.addresses[0])
            while not stop.is_set():
                await trio.sleep(0.01)

    trio.run(main)


def _anyio(site, places, ready, stop, grace, backend="asyncio"):
    async def main():
        async with listen_anyio(site, places, grace=grace) as server:
            ready(server.addresses[0])
            while not stop.is_set():
                await anyio.sleep(0.01)

    anyio.run(main, backend=backend)


def _blocking(site, places, ready, stop, grace):
    with blocking.listen(site, places, grace=grace) as server:
        ready(server.addresses[0])
        stop.wait()


DRIVERS = {
    "asyncio": _asyncio,
    "uvloop": lambda *args: _asyncio(*args, uvloop.new_event_loop),
    "trio": _trio,
    "anyio": _anyio,
    "anyio-trio": lambda *args: _anyio(*args, "trio"),
    "blocking": _blocking,
}


@contextlib.contextmanager
def _running(driver, site, grace=GRACE, *, role=MX, place=("127.0.0.1", 0)):
    """A server on a driver, in a thread; gives its address."""
    found, started, stop = [], threading.Event(), threading.Event()

    def ready(address):
        found.append(address)
        started.set()

    def run():
        try:
            DRIVERS[driver](site, [Listener(place, role)], ready, stop, grace)
        except BaseException as error:
            found.append(error)
            raise
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(SECONDS)
        assert isinstance(found[0], tuple), found
        yield found[0]
    finally:
        stop.set()
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server does not stop"
        assert len(found) == 1, found


class _Wire:
    """A client's socket that knows where a reply ends."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        """One whole reply."""
        while True:
            end = 0
            while (line_end := self.received.find(b"\r\n", end)) >= 0:
                last = self.received[end + 3 : end + 4] != b"-"
                end = line_end + 2
                if last:
                    reply, self.received = self.received[:end], self.received[end:]
                    return reply
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self.received)
            self.received += data

    def ask(self, *lines):
        """Send lines and read as many replies."""
        self.send(b"".join(lines))
        return [self.reply() for _ in lines]

    def rest(self):
        """All until the server closes."""
        while data := self.socket.recv(65536):
            self.received += data
        return self.received


@pytest.fixture(scope="session")
def running():
    """Run a site on a driver, as a context manager."""
    return _running


@pytest.fixture(scope="session")
def wire():
    """Connect to an address; a context manager."""
    return _Wire


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def until():
    """Wait for a condition, for a bounded time."""

    def until(condition, seconds=SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "this has not come true"
            threading.Event().wait(0.005)

    return until
