"""What does a message cost without any socket, loop or thread: bytes in, bytes out?

For the protocol core alone, and for a whole session with four plugins; with commands one by one,
pipelined, with 50 recipients, and with 1 MiB of content.

    python bench/core.py [options of pyperf: --fast, --rigorous, -o FILE, ...]
    python bench/core.py --quick [--seconds S] [--rounds N]    # without pyperf: medians, in one process
"""

import argparse
import atexit
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from qpsmtpd.protocol import NEED_DATA, OK, Content, Server
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.effects import CallBlocking, Receive
from qpsmtpd.session.session import Session
from qpsmtpd.testing import make_site

HEADER = b"From: sender@client.example\r\nTo: user@dest.example\r\nSubject: a benchmark\r\n\r\n"
LINE = b"x" * 62 + b"\r\n"
MEBIBYTE = 2**20
READ = 65_536  # what a transport reads at most

Writes = Sequence[bytes]
"""What the server receives in one message, a read each."""


def writes(*, size: int = 1024, recipients: int = 1, pipelined: bool = False) -> Writes:
    """A message as the server sees it come."""
    commands = [
        b"MAIL FROM:<sender@client.example>\r\n",
        *(b"RCPT TO:<user%d@dest.example>\r\n" % number for number in range(recipients)),
        b"DATA\r\n",
    ]
    text = HEADER + LINE * (size // len(LINE))
    content = text[: size - 2] + b"\r\n.\r\n"
    reads = [content[begin : begin + READ] for begin in range(0, len(content), READ)]
    return [b"".join(commands) if pipelined else commands[0], *([] if pipelined else commands[1:]), *reads]


DIALOGUES: Mapping[str, Writes] = {
    "one by one": writes(),
    "pipelined": writes(pipelined=True),
    "50 recipients": writes(recipients=50, pipelined=True),
    "1 MiB": writes(size=MEBIBYTE, pipelined=True),
}


def core() -> Callable[[bytes], bytes]:
    """The protocol alone, behind EHLO: every hook says OK, and content is dropped."""
    server = Server(hooks={"mail", "rcpt", "queue"}, hostname="mx.example.test")

    def pump(data: bytes) -> bytes:
        server.receive_data(data)
        while (event := server.next_event()) is not NEED_DATA:
            if not isinstance(event, Content):
                server.answer(OK)
        return server.data_to_send()

    server.next_event()
    pump(b"EHLO client.example\r\n")
    return pump


def session() -> Callable[[bytes], bytes]:
    """A session with the plugins of `compare.py`, behind EHLO."""
    site = make_site(
        "relay",
        "badrcptto",
        "rcpt_ok",
        "queue/discard",
        config={"rcpthosts": ["dest.example"], "badrcptto": ["nobody@dest.example"], "loglevel": ["LOGWARN"]},
    )
    atexit.register(site.remove_spool_dir)
    live = Session(site, Peer("192.0.2.10"))
    run = live.run()
    run.send(None)
    live.data_to_send()

    def pump(data: bytes) -> bytes:
        effect = run.send(data)
        while isinstance(effect, CallBlocking):
            effect = run.send(effect.function())
        assert isinstance(effect, Receive), effect  # these plugins ask for nothing else
        return live.data_to_send()

    pump(b"EHLO client.example\r\n")
    return pump


def message(pump: Callable[[bytes], bytes], dialogue: Writes) -> Callable[[], None]:
    """What is measured: one message from MAIL to the final reply."""

    def message() -> None:
        for data in dialogue:
            reply = pump(data)
        assert reply.startswith(b"250"), reply

    return message


def cases() -> Mapping[str, Callable[[], None]]:
    """Every measurement by its name."""
    return {
        f"{what}, {how}": message(start(), dialogue)
        for what, start in (("core", core), ("session", session))
        for how, dialogue in DIALOGUES.items()
    }


def quick(arguments: Sequence[str]) -> None:
    """Measure in this process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a sample (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    measured = cases()
    samples: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(options.rounds):
        for name, run in measured.items():
            samples[name].append(_microseconds(run, options.seconds))
    print(f"{'microseconds a message':28} {'median':>9} {'least':>9}")
    for name, figures in samples.items():
        print(f"{name:28} {statistics.median(figures):9.1f} {min(figures):9.1f}")


def _microseconds(run: Callable[[], None], seconds: float) -> float:
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        run()
        count += 1
    return spent / count * 1e6


def main() -> None:
    if "--quick" in sys.argv:
        quick(sys.argv[1:])
        return
    try:
        import pyperf
    except ImportError:
        sys.exit("bench/core.py: pyperf is not installed: pip install 'qpsmtpd[bench]', or give --quick")
    runner = pyperf.Runner()
    for name, run in cases().items():
        runner.bench_func(name, run)


if __name__ == "__main__":
    main()
