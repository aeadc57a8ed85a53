"""SMTP without any I/O, for a notebook or Pyodide: bytes in, replies and messages out.

Each `# %%` begins a cell.
"""

# %% What the server decides
from qpsmtpd.protocol import CLOSED, DECLINED, DENY, DRAIN, NEED_DATA, OK, Content, Server, hooks


class Session:
    """One client of a server in memory."""

    def __init__(self) -> None:
        self.server = Server(hooks={"rcpt", "data", "queue"}, hostname="mx.example.org")
        self.messages: list[bytes] = []
        self._content = bytearray()
        self.greeting = self._go_on()

    def send(self, data: bytes) -> str:
        """Send bytes, the empty ones to hang up; give what the server says."""
        self.server.receive_data(data)
        return self._go_on()

    def _go_on(self) -> str:
        said = b""
        while (event := self.server.next_event()) not in (NEED_DATA, CLOSED):
            match event:
                case hooks.Rcpt(recipient=mailbox):
                    known = mailbox.domain == "example.org"
                    self.server.answer(OK) if known else self.server.answer(DENY, "no such user here")
                case hooks.Data():
                    self._content.clear()
                    self.server.answer(DECLINED)
                case Content(data=chunk):
                    self._content += chunk
                case hooks.Queue():
                    self.messages.append(bytes(self._content))
                    self.server.answer(OK, f"message {len(self.messages)}")
                case signal if signal is DRAIN:
                    said += self.server.data_to_send()
        return (said + self.server.data_to_send()).decode()


# %% A client
session = Session()
print(session.greeting, end="")
for line in (
    "HELO me.example",
    "MAIL FROM:<me@me.example>",
    "RCPT TO:<you@example.org>",
    "DATA",
    "Subject: hi\r\n\r\n.",
):
    print(session.send(line.encode() + b"\r\n"), end="")

# %% What has come
print(session.messages)
