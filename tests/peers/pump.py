"""A blocking driver of `protocol.Client`, as small as it can be: what the tests here talk to servers with."""

import contextlib
import socket
from dataclasses import dataclass, field

from qpsmtpd.protocol import CLOSED, NEED_DATA, StartTls
from qpsmtpd.protocol.client import Breakdown, Ready, Report
from qpsmtpd.session.tls import TlsChannel, TlsError

SECONDS = 20


@dataclass
class Story:
    """What has come of a session."""

    reports: list[Report] = field(default_factory=list)
    breakdown: Breakdown | None = None
    written: list[bytes] = field(default_factory=list)
    """What the client has said, by the writes it was said in, in clear."""

    def results(self):
        """The results of the only message."""
        (report,) = self.reports
        return report.results


class Wire:
    """A socket, in clear at first."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(address if isinstance(address, tuple) else str(address))
        self._channel = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def encrypt(self, context):
        """Shake hands, and say what the connection is then. Raises TlsError, or EOFError if the server gives up."""
        channel = TlsChannel(context, server_side=False, server_hostname="localhost")
        try:
            while not channel.handshake():
                self._socket.sendall(channel.data_to_send())
                data = self._socket.recv(65536)
                if not data:
                    raise EOFError("in the handshake")
                channel.receive_data(data)
        finally:
            self._socket.sendall(channel.data_to_send())  # of a failure too: an alert
        self._channel = channel
        return channel.security

    def send(self, data):
        if self._channel:
            self._channel.write(data)
            data = self._channel.data_to_send()
        self._socket.sendall(data)

    def receive(self):
        """Some bytes; none at the end."""
        if self._channel is None:
            return self._socket.recv(65536)
        while not (data := self._channel.read()) and not self._channel.eof:
            self._channel.receive_data(self._socket.recv(65536))
        return data


def talk(client, address, context=None):
    """Drive a session until it is closed; a client that runs out of messages quits."""
    story = Story()
    with Wire(address) as wire:
        while True:
            event = client.next_event()
            if data := client.data_to_send():
                story.written.append(data)
                # A server that has closed may have said why, and that is still to be read.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    wire.send(data)
            if event is CLOSED:
                return story
            if event is NEED_DATA:
                client.receive_data(_receive(wire))
            elif isinstance(event, StartTls):
                try:
                    client.secure(wire.encrypt(context))
                except (TlsError, OSError, EOFError):
                    client.receive_data(b"")
            elif isinstance(event, Report):
                story.reports.append(event)
            elif isinstance(event, Breakdown):
                story.breakdown = event
            elif isinstance(event, Ready):
                client.quit()


def _receive(wire):
    try:
        return wire.receive()
    except ConnectionResetError:
        return b""
