"""A mail server on loopback that speaks SMTP or LMTP, with everything that may go wrong with one."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

SECONDS = 20

CLOSE, SILENCE, DEAFNESS = "close", "silence", "deafness"
"""What may happen in place of a reply: the connection ends; nothing, until the client goes; nothing, and nothing is
read either. A pair says the first, and then does the second."""

AFTER = {"RSET": "250 2.0.0 reset", "MAIL": "250 2.1.0 sender", "RCPT": "250 2.1.5 recipient",
         "DATA": "354 go on", "BDAT": "250 2.0.0 chunk", "END": "250 2.0.0 taken", "QUIT": "221 2.0.0 bye",
         "GREETING": "220 next.example", "XCLIENT": "220 next.example"}  # fmt: skip
"""What is said at each point where nothing goes wrong."""


@dataclass
class Taken:
    """A message whose whole content has come."""

    sender: str  # the MAIL command
    recipients: list[str]  # the RCPT commands that were accepted
    content: bytes
    confirmed: list[str] = field(default_factory=list)  # those of them for whom 2yz was said


class _GoneError(Exception):
    pass


class MailServer:
    """Listens until it is stopped, with a thread for each connection.

    `script` has for each connection what goes wrong, by the point where it does: the n-th time at a point, what the
    n-th member of its list says in place of the reply, None for nothing wrong. A last connection stands for all later
    ones. `later` is said unasked when a message has been done with.
    """

    def __init__(self, *script, lmtp=False, offers=(), tls=None, implicit=False, later=None):
        self.script, self.later = list(script) or [{}], later
        self.lmtp, self.offers, self._tls, self._implicit = lmtp, offers, tls, implicit
        self.said = []
        """The commands of each connection."""
        self.taken = []
        """The messages whose content has come."""
        self.stopped = threading.Event()
        self._talking = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hang_up()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._listener.close()

    def hang_up(self):
        """End all connections."""
        self.stopped.set()
        for connection in self._talking:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(SECONDS)

    @property
    def commands(self):
        """The words of all commands of all connections."""
        return [line.split()[0] for lines in self.said for line in lines]

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(SECONDS)
                thread = threading.Thread(target=self._serve, args=(connection, len(self.said)))
                self.said.append([])
                self._talking.append(connection)
                thread.start()
                self._threads.append(thread)

    def _serve(self, connection, number):
        with connection, contextlib.suppress(OSError, _GoneError):
            if self._implicit:
                connection = self._tls.wrap_socket(connection, server_side=True)
            _Talk(self, connection, self.said[number], self.script[min(number, len(self.script) - 1)]).run()


class _Talk:
    def __init__(self, server, connection, said, script):
        self._server, self._said = server, said
        self._script = {point: list(replies) for point, replies in script.items()}
        self._offers = server.offers
        self._use(connection)
        self._reset()

    def _use(self, connection):
        self._connection = connection
        self._file = connection.makefile("rb")

    def _reset(self):
        self._sender, self._recipients, self._chunks = "", [], b""

    def run(self):
        try:
            self._say("GREETING")
            while line := self._file.readline().decode("utf-8", "surrogateescape"):
                self._said.append(line.rstrip("\r\n"))
                word = line.split()[0].upper()
                getattr(self, f"_{word.lower()}")(line.strip())
        finally:
            self._file.close()
            self._connection.close()

    def _say(self, point, due=None):
        """Say what is due, or go wrong; whether it was 2yz or 3yz."""
        replies = self._script.get(point)
        wrong = replies.pop(0) if replies else None
        if isinstance(wrong, tuple):
            self._connection.sendall(wrong[0].encode() + b"\r\n")
            wrong = wrong[1]
        if wrong in (CLOSE, SILENCE, DEAFNESS):
            self._go_wrong(wrong)
        reply = wrong or due or AFTER[point]
        good = reply[:1] in ("2", "3")
        if good and point == "END":
            self._confirm()
        self._connection.sendall(reply.encode("utf-8", "surrogateescape") + b"\r\n")
        if reply.startswith("421"):
            raise _GoneError
        return good

    def _go_wrong(self, how):
        if how == DEAFNESS:
            self._server.stopped.wait(SECONDS)
        while how == SILENCE and self._connection.recv(65536):
            pass
        raise _GoneError

    def _confirm(self):
        message = self._server.taken[-1]
        if self._server.lmtp:
            message.confirmed.append(message.recipients[self._answered])
        else:
            message.confirmed += message.recipients

    def _ehlo(self, line):
        self._reset()
        words = ["next.example", *self._offers]
        if self._server._tls and not self._server._implicit and not hasattr(self._connection, "cipher"):
            words.append("STARTTLS")
        lines = [f"250-{word}" for word in words[:-1]] + [f"250 {words[-1]}"]
        self._say("EHLO", "\r\n".join(lines))

    _lhlo = _helo = _ehlo

    def _starttls(self, line):
        self._connection.sendall(b"220 go on\r\n")
        self._file.close()
        self._use(self._server._tls.wrap_socket(self._connection, server_side=True))

    def _xclient(self, line):
        self._reset()
        self._say("XCLIENT")

    def _rset(self, line):
        self._reset()
        self._say("RSET")

    def _quit(self, line):
        self._say("QUIT")
        raise _GoneError

    def _mail(self, line):
        if self._say("MAIL"):
            self._sender = line

    def _rcpt(self, line):
        if not self._sender:
            self._connection.sendall(b"503 5.5.1 no sender\r\n")
        elif self._say("RCPT"):
            self._recipients.append(line)

    def _data(self, line):
        if not self._recipients:
            self._connection.sendall(b"503 5.5.1 no recipients\r\n")
            return
        if self._say("DATA"):
            lines = []
            while (data := self._file.readline()) != b".\r\n":
                if not data:
                    raise _GoneError
                lines.append(data.removeprefix(b"."))
            self._end(b"".join(lines))

    def _bdat(self, line):
        size = int(line.split()[1])
        data = self._file.read(size)
        if len(data) < size:
            raise _GoneError
        if not self._recipients:
            self._connection.sendall(b"503 5.5.1 no recipients\r\n")
            return
        self._chunks += data
        if line.upper().endswith("LAST"):
            self._end(self._chunks)
        elif not self._say("BDAT"):
            self._reset()

    def _end(self, content):
        server = self._server
        server.taken.append(Taken(self._sender, self._recipients, content))
        for number in range(len(self._recipients) if server.lmtp else 1):
            self._answered = number
            self._say("END")
        self._reset()
        if server.later:
            self._connection.sendall(server.later.encode() + b"\r\n")
