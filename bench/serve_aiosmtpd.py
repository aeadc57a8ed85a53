"""aiosmtpd on 127.0.0.1: taking every message and throwing it away, or into a Maildir by its own handler.

python bench/serve_aiosmtpd.py PORT [--maildir DIRECTORY] [--certificate FILE --key FILE]
"""

import argparse
import asyncio
import ssl
from functools import partial

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP


class Discard:
    async def handle_DATA(self, server, session, envelope):  # noqa: ARG002, N802 - its name for it
        return "250 queued"


async def serve(options: argparse.Namespace) -> None:
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    handler = Mailbox(options.maildir) if options.maildir else Discard()
    factory = partial(SMTP, handler, hostname="bench.example", tls_context=context)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", options.port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--maildir")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
