"""SMTP with `selectors` alone, an object a client: python examples/over_selectors.py FOLDER [SECONDS]."""

import socket
import time
from selectors import EVENT_READ as READ
from selectors import EVENT_WRITE as WRITE
from selectors import DefaultSelector

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


class Client:
    def __init__(self, sock):
        sock.setblocking(False)
        self.sock, self.out, self.until = sock, b"", time.monotonic() + SECONDS
        self.server, self.content = begin()

    def go_on(self, ready):
        """Do what the socket is ready for, and all that follows; give what to wait for next, 0 for nothing."""
        if ready & WRITE:
            self.out = self.out[self.sock.send(self.out) :]
        elif ready & READ:
            self.server.receive_data(self.sock.recv(65536))
        elif self.out:
            raise TimeoutError
        else:
            self.server.hang_up(SILENT)
        self.until = time.monotonic() + SECONDS
        while not self.out:
            match event := self.server.next_event():
                case hooks.Queue():
                    keep(self.content)
                    self.server.answer(OK, "kept")
                case Signal():  # what is to be sent is sent before anything else is done
                    self.out = self.server.data_to_send()
                    if not self.out and event in (NEED_DATA, CLOSED):
                        return READ if event is NEED_DATA else 0
                case _:
                    answer(self.server, event, self.content)
        return WRITE


def turn(selector, client, ready):
    try:
        selector.unregister(client.sock)
        selector.register(client.sock, client.go_on(ready), client)
    except (OSError, ValueError):  # the client is gone, does not read, or there is nothing to wait for
        client.sock.close()


with socket.create_server(("127.0.0.1", 0)) as listener, DefaultSelector() as selector:
    print(*listener.getsockname(), flush=True)
    selector.register(listener, READ)
    while True:
        for key, ready in selector.select(min(1, SECONDS)):
            if key.data is None:
                selector.register(sock := listener.accept()[0], WRITE, Client(sock))
            else:
                turn(selector, key.data, ready)
        for client in [each.data for each in selector.get_map().values() if each.data]:
            if client.until < time.monotonic():
                turn(selector, client, 0)
