"""SMTP over asyncio's streams: python examples/over_asyncio.py FOLDER [SECONDS]."""

import asyncio
import contextlib

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client; one that is gone, or reads nothing for too long, is left."""
    server, content = begin()
    with contextlib.closing(writer), contextlib.suppress(OSError):  # TimeoutError is one
        while (event := server.next_event()) is not CLOSED:
            match event:
                case hooks.Queue():
                    await asyncio.to_thread(keep, content)
                    server.answer(OK, "kept")
                case Signal():  # NEED_DATA or DRAIN: first write, then wait
                    writer.write(server.data_to_send())
                    await asyncio.wait_for(writer.drain(), SECONDS)
                    if event is NEED_DATA:
                        try:
                            server.receive_data(await asyncio.wait_for(reader.read(65536), SECONDS))
                        except TimeoutError:
                            server.hang_up(SILENT)
                case _:
                    answer(server, event, content)
        writer.write(server.data_to_send())
        await asyncio.wait_for(writer.drain(), SECONDS)


async def main() -> None:
    """Listen on loopback, until interrupted."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        print(*listener.sockets[0].getsockname(), flush=True)
        await listener.serve_forever()


asyncio.run(main())
