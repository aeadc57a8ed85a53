"""SMTP with `selectors` alone, an object a client: python examples/over_selectors.py FOLDER [SECONDS]."""

import selectors
import socket
import time

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


class Client:
    def __init__(self, sock):
        sock.setblocking(False)
        (self.server, self.content), self.sock, self.out, self.until = begin(), sock, b"", time.monotonic() + SECONDS

    def go_on(self, ready):
        """Do what the socket is ready for, and all that follows; give what to wait for next, 0 for nothing."""
        if ready & selectors.EVENT_WRITE:
            self.out = self.out[self.sock.send(self.out) :]
        elif ready & selectors.EVENT_READ:
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
                        return selectors.EVENT_READ if event is NEED_DATA else 0
                case _:
                    answer(self.server, event, self.content)
        return selectors.EVENT_WRITE


def turn(selector, client, ready):
    try:
        selector.unregister(client.sock)
        selector.register(client.sock, client.go_on(ready), client)
    except (OSError, ValueError):  # the client is gone, does not read, or there is nothing to wait for
        client.sock.close()


with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
    print(*listener.getsockname(), flush=True)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, ready in selector.select(min(1, SECONDS)):
            if key.data is None:
                selector.register(sock := listener.accept()[0], selectors.EVENT_WRITE, Client(sock))
            else:
                turn(selector, key.data, ready)
        for client in [k.data for k in selector.get_map().values() if k.data and k.data.until < time.monotonic()]:
            turn(selector, client, 0)
