"""What does one message cost without any socket?

Prints microseconds a message for the protocol core alone and for a whole session with three
plugins, with commands sent one by one and pipelined. Runs in one process, no event loop.

    python bench/core.py [--messages N] [--rounds N]
"""

import argparse
import statistics
import time
from collections.abc import Callable

from qpsmtpd.protocol import NEED_DATA, OK, Content, Server
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.effects import Receive
from qpsmtpd.session.session import Session
from qpsmtpd.testing import make_site

HEADER = b"From: sender@client.example\r\nTo: user@dest.example\r\nSubject: a benchmark\r\n\r\n"
LINES = (b"x" * 62 + b"\r\n") * 16
CONTENT = HEADER + LINES[: 1022 - len(HEADER)] + b"\r\n"
COMMANDS = (
    b"MAIL FROM:<sender@client.example>\r\n",
    b"RCPT TO:<user@dest.example>\r\n",
    b"DATA\r\n",
    CONTENT + b".\r\n",
)
PIPELINED = (b"".join(COMMANDS[:3]), COMMANDS[3])


def core(writes: tuple[bytes, ...]) -> Callable[[], None]:
    server = Server(hooks={"mail", "rcpt", "queue"}, hostname="mx.example.test")

    def pump(data: bytes) -> bytes:
        server.receive_data(data)
        while (event := server.next_event()) is not NEED_DATA:
            if not isinstance(event, Content):
                server.answer(OK)
        return server.data_to_send()

    server.next_event()
    pump(b"EHLO client.example\r\n")
    return _message(pump, writes)


def session(writes: tuple[bytes, ...]) -> Callable[[], None]:
    site = make_site(
        "relay",
        "badrcptto",
        "rcpt_ok",
        "queue/discard",
        config={"rcpthosts": ["dest.example"], "badrcptto": ["nobody@dest.example"], "loglevel": ["LOGWARN"]},
    )
    live = Session(site, Peer("192.0.2.10"))
    run = live.run()
    run.send(None)
    live.data_to_send()

    def pump(data: bytes) -> bytes:
        effect = run.send(data)  # these plugins ask for no effect but to read on
        assert isinstance(effect, Receive)
        return live.data_to_send()

    pump(b"EHLO client.example\r\n")
    return _message(pump, writes)


def _message(pump: Callable[[bytes], bytes], writes: tuple[bytes, ...]) -> Callable[[], None]:
    def message() -> None:
        for data in writes:
            reply = pump(data)
        assert reply.startswith(b"250"), reply

    return message


def microseconds(message: Callable[[], None], messages: int) -> float:
    begin = time.perf_counter()
    for _ in range(messages):
        message()
    return (time.perf_counter() - begin) / messages * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cases = {
        "core, one by one": core(COMMANDS),
        "core, pipelined": core(PIPELINED),
        "session with plugins, one by one": session(COMMANDS),
        "session with plugins, pipelined": session(PIPELINED),
    }
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, message in cases.items():
            samples[name].append(microseconds(message, options.messages))
    print(f"{'1 KiB message, microseconds':36} {'median':>8} {'least':>8}")
    for name, figures in samples.items():
        print(f"{name:36} {statistics.median(figures):8.1f} {min(figures):8.1f}")


if __name__ == "__main__":
    main()
