"""What the examples do with mail: it is taken for example.org, and each message kept as a file in a folder."""

import os
import sys
import tempfile

from qpsmtpd.protocol import DECLINED, DENY, OK, Content, Event, Limits, Reply, Server, hooks

SILENT = Reply(421, "4.4.2", "You have been silent for too long")

FOLDER, SECONDS = sys.argv[1], float(sys.argv[2] if len(sys.argv) > 2 else 300)
"""Where messages are kept, and how long a client may be silent (RFC 5321 section 4.5.3.2.7)."""


def begin() -> tuple[Server, bytearray]:
    """A server for one client, and room for the message that comes."""
    return Server(hooks={"rcpt", "data", "queue"}, limits=Limits(message_size=10_000_000)), bytearray()


def answer(server: Server, event: Event, content: bytearray) -> None:
    """Answer what needs no waiting: all but the hook `queue`."""
    match event:
        case hooks.Rcpt(recipient=mailbox):
            server.answer(OK) if mailbox.domain == "example.org" else server.answer(DENY, "no such user here")
        case hooks.Data():  # a message that was refused has left its content here
            content.clear()
            server.answer(DECLINED)
        case Content(data=chunk):
            content += chunk


def keep(content: bytearray) -> None:
    """Write a message so that it is safe before the client is told 250: flushed, then given its name. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=FOLDER, suffix=".tmp", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(file.name, file.name.removesuffix("tmp") + "eml")
    directory = os.open(FOLDER, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
