"""A thousand generated sessions on each driver: what is recorded is what the client was told, and plays the same."""

import base64
import itertools
import random
import re
import socket

import pytest

from qpsmtpd import DECLINED, DENY, DENYSOFT, DENYSOFT_DISCONNECT, DONE, OK, Plugin, blocking
from qpsmtpd.loader import add
from qpsmtpd.protocol import ScramVerifier
from qpsmtpd.recording import RecordingSite, compare, play_recorded
from qpsmtpd.recording.tape import tapes_in
from qpsmtpd.resolver import DnsError
from qpsmtpd.testing import Names, make_site

SESSIONS = 1000
SECRETS = re.compile(rb"secret|c2VjcmV0|AHUAc2VjcmV0")
VERIFIER = ScramVerifier.of_password("secret", b"salt", 4096)

pytestmark = pytest.mark.timeout(180)


class Capricious(Plugin):
    """Answers at random, in every way in which a plugin can."""

    def any_of(self, *answers):
        return answers[int(self.qp.rng.random() * len(answers))]

    def hook_connect(self, transaction):
        return self.any_of(*[DECLINED] * 30, (DENY, "not you"), DENYSOFT_DISCONNECT)

    def hook_ehlo(self, transaction, host, *words):
        transaction.notes["capabilities"] = self.any_of([], ["XTEST a=b"])
        return DECLINED

    async def hook_mail(self, transaction, sender, parameters):
        try:
            await self.qp.resolver.look_up(sender.domain or "nowhere.example", "MX")
        except DnsError:
            return DENYSOFT, "who knows"
        return self.any_of(DECLINED, DECLINED, OK, (DENY, "no\nthanks"))

    @blocking
    def hook_rcpt(self, transaction, recipient, parameters):
        return self.any_of(OK, OK, OK, DECLINED, (DENYSOFT, "4.2.1 later"), DENYSOFT_DISCONNECT)

    def hook_data_post(self, transaction):
        if self.qp.rng.random() < 0.1:
            raise RuntimeError("a fault")
        return DECLINED

    def hook_queue(self, transaction):
        if self.qp.rng.random() < 0.2:
            self.qp.respond(250, "2.6.0 mine", "alone")
            return DONE
        return self.any_of((OK, "kept"), (DENY, "no"))

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return self.any_of(OK, (DENY, "wrong"), DECLINED)

    def hook_auth_scram_sha_256(self, transaction, mechanism, user):
        return OK, str(VERIFIER)

    def hook_unrecognized_command(self, transaction, command, rest=None):
        return self.any_of(DECLINED, (DENY, "what?"))


def encoded(text):
    return base64.b64encode(text).decode()


COMMANDS = [
    "EHLO client.example", "HELO x", "EHLO", "MAIL FROM:<a@b.example>", "MAIL FROM:<a@b.example> SIZE=10",
    "MAIL FROM:<>", "MAIL FROM:nobody", "RCPT TO:<c@d.example>", "RCPT TO:<c@d.example> NOTIFY=NEVER", "RSET", "NOOP x",
    "VRFY a", "HELP", "STARTTLS", "nonsense here", "DATA", "DATA now", "BDAT x", f"AUTH PLAIN {encoded(bytes(1) + b'u' + bytes(1) + b'secret')}",
    f"AUTH LOGIN\r\n{encoded(b'user')}\r\n{encoded(b'secret')}", "AUTH LOGIN\r\n*", "AUTH LOGIN\r\nsecret!", "AUTH CRAM-MD5\r\n" + encoded(b"u 0123"),
    f"AUTH SCRAM-SHA-256 {encoded(b'n,,n=user,r=abc')}\r\n{encoded(b'c=biws,r=abc,p=AAAA')}", "AUTH X", "auth", "QUIT", "\xe4\x00", "NOOP\rNOOP",
]  # fmt: skip
BODIES = [
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b".\r\n",
    b"no header\n.\r\n.\r\n",
    b"A: b\r\n\r\n..dots\r\n\xff\x00" + b"y" * 3000 + b"\r\n.\r\n",
]
CONTENT = b"Subject: chunk\r\n\r\nbinary"


def mail(rng):
    yield b"EHLO c\r\n"
    yield b"MAIL FROM:<a@b.example>\r\n"
    for number in range(rng.randrange(3)):
        yield b"RCPT TO:<r%d@d.example>\r\n" % number
    if rng.random() < 0.5:
        yield b"DATA\r\n"
        yield rng.choice(BODIES)
    else:
        yield b"BDAT %d%s\r\n" % (len(CONTENT), rng.choice([b"", b" LAST"]))
        yield CONTENT


def session(number):
    """What a client sends, in the pieces in which it does."""
    rng = random.Random(number)
    pieces = []
    for _ in range(rng.randrange(6)):
        pieces += mail(rng) if rng.random() < 0.4 else [rng.choice(COMMANDS).encode("latin-1") + b"\r\n"]
    stream = b"".join(pieces)
    if rng.random() < 0.5:
        return pieces
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(8)))
    return [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)]) if start < end]


def talk(address, pieces):
    """Send the pieces; give what was said, from which port, and whether the server closed before it had all of them."""
    said = b""
    with socket.create_connection(address, timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = client.getsockname()[1]
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                said += data
        except OSError:  # it has said QUIT, and goes on
            return port, said, True
    return port, said, False


@pytest.mark.parametrize("driver", ["asyncio", "uvloop", "trio", "anyio", "anyio-trio", "blocking"])
def test_what_is_recorded_is_what_was_said_and_plays_byte_for_byte(driver, running):
    lines, told = {}, {}

    def keep(site, identity):
        return lines.setdefault(identity, []).append

    names = Names({"b.example": {"MX": ["mx.b.example"]}}, failing=["nowhere.example"])
    base = make_site(config={"max_per_ip": ["1000"], "loglevel": ["LOGEMERG"]})
    site = RecordingSite(base.settings, keep, rng=random.Random(driver), write=lambda _: None, resolver=names)
    site.settings._clock = site.clock
    add(site, Capricious)
    with running(driver, site) as address:
        for number in range(SESSIONS):
            port, *heard = talk(address, session(number))
            told.setdefault(port, []).append(heard)
    tapes = [tape for written in lines.values() for tape in tapes_in("a test", "".join(written).splitlines())]
    assert len(tapes) == SESSIONS
    assert not [tape for tape in tapes if SECRETS.search(tape.received)]
    for tape in tapes:
        assert tape.whole
        found = list(compare(tape, play_recorded(tape)))
        assert found == [], (found[0], [turn.received for turn in tape.turns[:3]])
    unmasked = [tape for tape in tapes if b"SCRAM" not in tape.received]
    for tape in unmasked:
        told_there = told[tape.head.peer.remote_port]
        assert any(tape.said == said or (reset and tape.said.startswith(said)) for said, reset in told_there)
    assert len(unmasked) > SESSIONS / 2
    assert sum(reset for several in told.values() for _, reset in several) < SESSIONS / 20
