"""The server as one process: listeners, the driver, signals, an orderly end."""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from qpsmtpd.config import ConfigError
from qpsmtpd.logs import LOGINFO, LOGWARN
from qpsmtpd.processes import Bell, signals_named
from qpsmtpd.session.connection import Peer, plain_address
from qpsmtpd.session.role import MX, Role
from qpsmtpd.session.session import open_session
from qpsmtpd.site import Site
from qpsmtpd.transports import blocking
from qpsmtpd.transports.sockets import Address, Place, peer_of, remove_unix

__all__ = ["BACKENDS", "ENDING", "Drive", "Started", "check_backend", "inetd", "run", "serve"]

ENDING = (signal.SIGINT, signal.SIGTERM)
"""The signals that end the server."""

Started = Callable[[list[Address]], object]
"""Is told where the server listens, when it does."""

Drive = Callable[[Site, Sequence[Place], Started, Sequence[int]], None]
"""A driver: serves a site at some places until one of the signals comes that end it."""


def run(site: Site, backend: str, places: Sequence[Place], started: Started) -> None:
    """Serve until SIGTERM or SIGINT; sessions then have `timeoutshutdown` seconds to finish.

    `started` is told the bound addresses. Raises ConfigError for a driver that is not
    installed, and OSError for an address that cannot be listened on.
    """
    check_backend(site, backend)
    try:
        serve(site, backend, places, started, (*ENDING, *signals_named("SIGHUP")))
    finally:
        for place in places:
            remove_unix(place)
        site.remove_spool_dir()


def serve(site: Site, backend: str, places: Sequence[Place], started: Started, heard: Sequence[int]) -> None:
    """Run the hook post-fork, and serve until one of the signals `heard` that ends it; what is shared is left in place."""
    gc.freeze()  # what is loaded stays; the collector would halt the server each time it looks through all of it
    site.post_fork()
    BACKENDS[backend](site, places, started, heard)
    site.stopped()


def check_backend(site: Site, backend: str) -> None:
    """See that a driver has what it needs. Raises ConfigError that says what to install."""
    needed = {"uvloop": "uvloop", "trio": "trio", "anyio": "anyio", "anyio-trio": "trio"}.get(backend)
    if backend == "blocking" and site.awaits:
        needed = "anyio"
    if needed is not None:
        try:
            __import__(needed)
        except ImportError as error:
            raise ConfigError(
                f"the {backend} backend needs {needed}, which is not installed; run `pip install qpsmtpd[{needed}]`"
            ) from error


def inetd(site: Site, role: Role = MX) -> None:
    """Serve one session on standard input and output, as inetd, tcpserver and others start it.

    The client's address is that of the socket, or what `TCPREMOTEIP` and its kin say.
    """
    portal = blocking.Portal()
    try:
        blocking.Link(open_session(site, _inetd_peer(), role, alone=True), _StandardStreams(), portal).drive()
    finally:
        portal.close()
        site.remove_spool_dir()


# Drivers, each with its way to hear a signal. The first that ends the server begins the orderly end.


def _run_asyncio(
    site: Site,
    places: Sequence[Place],
    started: Started,
    signals: Sequence[int],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> None:
    from qpsmtpd.transports.asyncio import listen

    async def main() -> None:
        heard = asyncio.Queue[int]()
        loop = asyncio.get_running_loop()
        for number in signals:
            loop.add_signal_handler(number, heard.put_nowait, number)
        async with listen(site, places, grace=_grace(site)) as listening:
            started(listening.addresses)
            while not _ends(site, await heard.get()):
                pass

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def _run_uvloop(site: Site, places: Sequence[Place], started: Started, signals: Sequence[int]) -> None:
    import uvloop

    _run_asyncio(site, places, started, signals, uvloop.new_event_loop)


def _run_trio(site: Site, places: Sequence[Place], started: Started, signals: Sequence[int]) -> None:
    import trio

    from qpsmtpd.transports.trio import listen

    async def main() -> None:
        with trio.open_signal_receiver(*signals) as heard:
            async with listen(site, places, grace=_grace(site)) as listening:
                started(listening.addresses)
                while not _ends(site, await anext(heard)):
                    pass

    trio.run(main)


def _run_anyio(loop: str, site: Site, places: Sequence[Place], started: Started, signals: Sequence[int]) -> None:
    import anyio

    from qpsmtpd.transports.anyio import listen

    async def main() -> None:
        with anyio.open_signal_receiver(*map(signal.Signals, signals)) as heard:
            async with listen(site, places, grace=_grace(site)) as listening:
                started(listening.addresses)
                while not _ends(site, await anext(heard)):
                    pass

    anyio.run(main, backend=loop)


def _run_blocking(site: Site, places: Sequence[Place], started: Started, signals: Sequence[int]) -> None:
    with Bell(*signals) as bell, blocking.listen(site, places, grace=_grace(site)) as listening:
        started(listening.addresses)
        while not any(_ends(site, number) for number in bell.wait()[0]):
            pass


BACKENDS: Mapping[str, Drive] = {
    "asyncio": _run_asyncio,
    "uvloop": _run_uvloop,
    "trio": _run_trio,
    "anyio": partial(_run_anyio, "asyncio"),
    "anyio-trio": partial(_run_anyio, "trio"),
    "blocking": _run_blocking,
}
"""The drivers by the names the command line gives them."""


def _ends(site: Site, number: int) -> bool:
    """Whether a signal ends the server; the other one asks for what only a supervisor can do."""
    if number in ENDING:
        site.log(LOGINFO, f"stopping; sessions have {_grace(site):g} s to finish")
        return True
    site.log(LOGWARN, "SIGHUP: changed settings are read by themselves; to load plugins anew run with `--workers 1`")
    return False


def _grace(site: Site) -> float:
    return site.number("timeoutshutdown")


# inetd


def _inetd_peer() -> Peer:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(0)) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            return peer_of(connection, connection.getpeername())
    env = os.environ
    return Peer(
        remote_ip=plain_address(env.get("TCPREMOTEIP", "127.0.0.1")),
        remote_port=_port(env.get("TCPREMOTEPORT")),
        local_ip=plain_address(env.get("TCPLOCALIP", "127.0.0.1")),
        local_port=_port(env.get("TCPLOCALPORT")),
        remote_host=env.get("TCPREMOTEHOST"),
        remote_user=env.get("TCPREMOTEINFO"),
    )


def _port(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


class _StandardStreams(blocking.Channel):
    """Standard input and output as a channel: a socket, or a pair of pipes."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def wait_for(self, seconds: float) -> None:
        self._seconds = seconds

    def read(self) -> bytes:
        if not self.ready(self._seconds):
            raise TimeoutError
        return os.read(0, 65_536)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    def ready(self, seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])

    def write_eof(self) -> None:
        sys.stdout.flush()

    def interrupt(self) -> None:
        os.close(0)

    def close(self) -> None:
        os.close(1)
