"""What does a connection with STARTTLS cost? A generator for that workload alone.

Each message has a connection and a full handshake of its own: no session is ever resumed.

    python bench/tls_load.py --port N [--connections N] [--seconds S] [--size OCTETS]

Prints one JSON object as load.c does.
"""

import argparse
import json
import smtplib
import ssl
import statistics
import threading
import time

SENDER, RECIPIENT = "sender@client.example", "user0@dest.example"
HEAD = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: a benchmark\r\n\r\n"
LINE = "We measure what a connection costs, and this is one line of its text.\r\n"


class Load:
    """Clients in threads, until the time is over."""

    def __init__(self, port: int, size: int, seconds: float) -> None:
        self.port = port
        self.content = (HEAD + LINE * (size // len(LINE) + 1))[: size - 2] + "\r\n"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # self-signed, and the client's cost is not measured
        self.begin = self.last = time.monotonic()
        self.end = self.begin + seconds
        self.latencies: list[float] = []
        self.errors: list[str] = []

    def client(self) -> None:
        """Send a message a connection."""
        while (begin := time.monotonic()) < self.end and len(self.errors) < 100:
            try:
                with smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=30) as client:
                    client.starttls(context=self.context)
                    client.sendmail(SENDER, [RECIPIENT], self.content)
            except (OSError, smtplib.SMTPException) as error:
                self.errors.append(repr(error))
            else:
                self.last = time.monotonic()
                self.latencies.append((self.last - begin) * 1e3)

    def report(self) -> dict[str, object]:
        """The result."""
        cuts = statistics.quantiles(self.latencies, n=100) if len(self.latencies) > 1 else [0.0] * 99
        return {
            "messages": len(self.latencies),
            "connections": len(self.latencies) + len(self.errors),
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else "",
            "seconds": self.last - self.begin,
            "p50_ms": cuts[49],
            "p99_ms": cuts[98],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    load = Load(options.port, options.size, options.seconds)
    threads = [threading.Thread(target=load.client) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(load.report()))


if __name__ == "__main__":
    main()
