"""SMTP in a loop of generators, in the way of curio: python examples/over_generators.py FOLDER [SECONDS]."""

import contextlib
import selectors
import socket
import time

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def send(sock, data):
    while data:
        yield sock, WRITE
        data = data[sock.send(data) :]


def serve(sock):
    sock.setblocking(False)
    server, content = begin()
    with sock, contextlib.suppress(OSError):  # TimeoutError is one
        while (event := server.next_event()) is not CLOSED:
            match event:
                case hooks.Queue():
                    keep(content)
                    server.answer(OK, "kept")
                case Signal():  # NEED_DATA or DRAIN: first write, then wait
                    yield from send(sock, server.data_to_send())
                    if event is NEED_DATA:
                        try:
                            yield sock, READ
                            server.receive_data(sock.recv(65536))
                        except TimeoutError:
                            server.hang_up(SILENT)
                case _:
                    answer(server, event, content)
        yield from send(sock, server.data_to_send())


def step(selector, task, resume, *value):
    with contextlib.suppress(StopIteration):
        selector.register(*resume(*value), (task, time.monotonic() + SECONDS))


with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
    print(*listener.getsockname(), flush=True)
    selector.register(listener, READ, (None, float("inf")))
    while True:
        for key, _ in selector.select(min(1, SECONDS)):
            old = key.fileobj is not listener
            task = selector.unregister(key.fileobj).data[0] if old else serve(listener.accept()[0])
            step(selector, task, task.send, None)
        for key in [each for each in selector.get_map().values() if each.data[1] < time.monotonic()]:
            selector.unregister(key.fileobj)
            step(selector, key.data[0], key.data[0].throw, TimeoutError())
