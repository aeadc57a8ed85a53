"""`serve` in the loop of another program: it is cancelled like anything else, and starts no thread."""

import asyncio
import contextlib
import socket
import threading

import anyio
import pytest
import trio

from qpsmtpd import Plugin
from qpsmtpd.testing import make_site
from qpsmtpd.transports import anyio as over_anyio
from qpsmtpd.transports import asyncio as over_asyncio
from qpsmtpd.transports import trio as over_trio

SITE = ("relay", "rcpt_ok", "queue/discard")


def greeting(address):
    with socket.create_connection(address, timeout=10) as client:
        return client.recv(100)


@pytest.fixture
def threads():
    before = threading.active_count()
    yield lambda: threading.active_count() - before
    assert threading.active_count() == before


def test_asyncio(threads):
    async def main():
        started = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            over_asyncio.serve(make_site(*SITE), [("127.0.0.1", 0)], grace=0, started=started.set_result)
        )
        server = await started
        assert threads() == 0
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        assert (await reader.readline())[:4] == b"220 "
        assert threads() == 0
        writer.close()
        await writer.wait_closed()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(OSError):
            await asyncio.open_connection(*server.addresses[0])

    asyncio.run(main())


def test_trio(threads):
    async def main():
        found = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: over_trio.serve(make_site(*SITE), [("127.0.0.1", 0)], grace=0, started=found.append)
            )
            with trio.fail_after(10):
                while not found:
                    await trio.lowlevel.checkpoint()
            async with await trio.open_tcp_stream(*found[0].addresses[0]) as stream:
                assert (await stream.receive_some(100))[:4] == b"220 "
            assert threads() == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(threads, backend):
    async def main():
        async with over_anyio.listen(make_site(*SITE), [("127.0.0.1", 0), ("127.0.0.1", 0)], grace=0) as server:
            assert len({port for _, port in server.addresses}) == 2
            for address in server.addresses:
                stream = await anyio.connect_tcp(*address)
                async with stream:
                    assert (await stream.receive())[:4] == b"220 "
            assert threads() == 0

    anyio.run(main, backend=backend)


def test_a_socket_that_listens_already_is_taken_as_it_is():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with over_asyncio.listen(make_site(*SITE), [listener.dup()], grace=0) as server:
                assert server.addresses == [listener.getsockname()]
                assert (await asyncio.to_thread(greeting, server.addresses[0]))[:4] == b"220 "

    asyncio.run(main())


@pytest.mark.parametrize(
    ("driver", "backend"),
    [(over_asyncio, "asyncio"), (over_trio, "trio"), (over_anyio, "asyncio"), (over_anyio, "trio")],
)
def test_a_client_that_comes_while_a_server_stops_is_left_to_the_others_at_the_socket(driver, backend):
    async def served():
        """Whether a client that comes at the moment when the server stops is served, or still in the queue."""

        async def come():
            await anyio.wait_all_tasks_blocked()
            client.connect(listener.getsockname())
            client.sendall(b"QUIT\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.settimeout(10)
            async with (
                anyio.create_task_group() as others,
                driver.listen(make_site(*SITE), [listener.dup()], grace=10),
            ):
                others.start_soon(come)
                await anyio.wait_readable(listener)  # wakes together with the server
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                return True
            return b"\r\n221 " in client.makefile("rb").read()

    async def main():
        assert all([await served() for _ in range(20)])

    anyio.run(main, backend=backend)


def test_a_server_stops_once_and_leaves_nothing_in_the_loop():
    async def main():
        async with over_asyncio.listen(make_site(*SITE), [("127.0.0.1", 0)], grace=0) as server:
            await server.stop(0)
            await server.stop(0)
            with pytest.raises(OSError):
                async with over_asyncio.listen(make_site(*SITE), [("192.0.2.1", 1)]):
                    pass
        loop = asyncio.get_running_loop()
        return len(loop._selector.get_map())

    assert asyncio.run(main()) == 1, "the loop's own socket, and no other"


@pytest.mark.parametrize("driver", [over_asyncio, over_anyio])
def test_a_hook_that_is_cancelled_ends_its_own_session_alone(driver):
    class Cancelled(Plugin):
        async def hook_noop(self, transaction):
            raise asyncio.CancelledError

    async def talk(address, command):
        reader, writer = await asyncio.open_connection(*address)
        await reader.readline()
        writer.write(command)
        reply = await reader.readline()
        writer.close()
        return reply[:3]

    async def main():
        async with driver.listen(make_site(Cancelled), [("127.0.0.1", 0)], grace=0) as server:
            assert await asyncio.wait_for(talk(server.addresses[0], b"NOOP\r\n"), 10) == b""
            assert await asyncio.wait_for(talk(server.addresses[0], b"RSET\r\n"), 10) == b"250"

    asyncio.run(main())
