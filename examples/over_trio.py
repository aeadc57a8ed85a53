"""SMTP over trio's streams: python examples/over_trio.py FOLDER [SECONDS]."""

import trio

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


async def serve(stream: trio.SocketStream) -> None:
    """Serve one client; one that is gone, or reads nothing for too long, is left."""
    server, content = begin()
    try:
        while (event := server.next_event()) is not CLOSED:
            match event:
                case hooks.Queue():
                    await trio.to_thread.run_sync(keep, content)
                    server.answer(OK, "kept")
                case Signal():  # NEED_DATA or DRAIN: first write, then wait
                    with trio.fail_after(SECONDS):
                        await stream.send_all(server.data_to_send())
                    if event is NEED_DATA:
                        with trio.move_on_after(SECONDS) as waiting:
                            server.receive_data(await stream.receive_some(65536))
                        if waiting.cancelled_caught:
                            server.hang_up(SILENT)
                case _:
                    answer(server, event, content)
        with trio.fail_after(SECONDS):
            await stream.send_all(server.data_to_send())
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        pass


async def main() -> None:
    """Listen on loopback, until interrupted."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(*listener.socket.getsockname(), flush=True)
    await trio.serve_listeners(serve, [listener])


trio.run(main)
