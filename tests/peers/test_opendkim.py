"""What the plugin `dkim` signs OpenDKIM believes, and the other way round."""

import base64
import re
import subprocess

import pytest
import servers
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit, Names

DOMAIN, SELECTOR = "signed.example", "sel"
HEAD = b"From: Alice <alice@signed.example>\r\nTo: b@example.org\r\nSubject: a\r\n\tfolded  one \r\nDate: today\r\n"
BODIES = [b"", b"one line\r\n", b"blanks  and \t\r\n\r\nempty lines\r\n\r\n\r\n", b"long " * 20_000 + b"\r\n"]


@pytest.fixture(scope="module")
def opendkim():
    try:
        program = servers.program("opendkim")
    except servers.MissingError as reason:
        pytest.skip(str(reason))
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = base64.b64encode(
        key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).decode()
    with servers.directory() as base:
        yield OpenDkim(program, base, private, public)


class OpenDkim:
    """OpenDKIM's test mode: what it would do to a message that is in a file."""

    def __init__(self, program, base, private, public):
        self.program, self.base, self.private = program, base, private
        self.record = f"v=DKIM1; k=rsa; p={public}"
        (base / "keys").write_text(f"{SELECTOR}._domainkey.{DOMAIN} {self.record}\n")
        (base / "private").write_bytes(private)
        (base / "private").chmod(0o600)

    def run(self, message, *settings):
        (self.base / "message").write_bytes(message)
        (self.base / "conf").write_text("\n".join(["Syslog no", "RequireSafeKeys no", *settings, ""]))
        command = [self.program, "-vv", "-x", self.base / "conf", "-t", self.base / "message"]
        return subprocess.run(command, check=True, capture_output=True, timeout=servers.SECONDS).stdout.decode()

    def verdict(self, message):
        """The result of the only signature."""
        said = self.run(message, "Mode v", f"TestPublicKeys {self.base / 'keys'}")
        return re.search(r"dkim=(\w+)", said)[1]

    def signed(self, message, form):
        said = self.run(
            message, "Mode s", f"Domain {DOMAIN}", f"Selector {SELECTOR}", f"KeyFile {self.base / 'private'}",
            f"Canonicalization {form}", "SignatureAlgorithm rsa-sha256",
        )  # fmt: skip
        value = re.search(r"hname='DKIM-Signature' hvalue='([^']*)'", said)[1]
        return b"DKIM-Signature: " + value.replace("\n", "\r\n").encode() + b"\r\n" + message


class Keeps(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Keeps.message = b"".join(transaction.chunks())
        Keeps.results = transaction.header.get("Authentication-Results")
        return OK


@pytest.mark.parametrize("body", BODIES)
def test_opendkim_believes_what_we_sign(opendkim, tmp_path, body):
    folder = tmp_path / "dkim" / DOMAIN
    folder.mkdir(parents=True)
    (folder / "selector").write_text(SELECTOR)
    (folder / "private").write_bytes(opendkim.private)
    settings = {"relayclients": ["192.0.2."]}
    stage = Kit("relay", "dkim", Keeps, directory=tmp_path, config=settings, names=Names())
    assert stage.connect().deliver(HEAD + b"\r\n" + body, sender=f"alice@{DOMAIN}")[-1].code == 250
    assert opendkim.verdict(Keeps.message) == "pass"
    assert opendkim.verdict(Keeps.message.replace(b"Alice", b"Malice")) == "fail"
    assert opendkim.verdict(Keeps.message + b"more\r\n") == "fail"


@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/simple", "simple/relaxed"])
@pytest.mark.parametrize("body", BODIES)
def test_we_believe_what_opendkim_signs(opendkim, form, body):
    message = opendkim.signed(HEAD + b"\r\n" + body, form)
    names = Names({f"{SELECTOR}._domainkey.{DOMAIN}": {"TXT": [opendkim.record]}})
    stage = Kit("dkim", Keeps, names=names)
    stage.connect().deliver(message)
    assert Keeps.results.endswith(f"dkim=pass header.d={DOMAIN} header.s={SELECTOR}")
    stage.connect().deliver(message.replace(b"Alice", b"Malice"))
    assert "dkim=fail " in Keeps.results


@pytest.fixture(scope="module")
def milter(opendkim):
    """OpenDKIM as a milter that signs; gives its address."""
    with servers.free_port() as port:
        settings = [
            "Syslog no", "RequireSafeKeys no", "Mode s", f"Domain {DOMAIN}", f"Selector {SELECTOR}",
            f"KeyFile {opendkim.base / 'private'}", "SignatureAlgorithm rsa-sha256", "InternalHosts 0.0.0.0/0",
            f"Socket inet:{port}@127.0.0.1", "Canonicalization simple/simple",
        ]  # fmt: skip
        (opendkim.base / "milter.conf").write_text("\n".join([*settings, ""]))
        command = [opendkim.program, "-f", "-x", opendkim.base / "milter.conf"]
        address = ("127.0.0.1", port)
        with servers.running(command, opendkim.base / "log", lambda: servers.answers(address, greeting=b"")):
            yield address


@pytest.mark.parametrize("body", BODIES)
def test_opendkim_signs_as_a_milter_and_the_signature_is_good(opendkim, milter, body):
    kit = Kit(f"milter opendkim {milter[0]}:{milter[1]} default tempfail", Keeps)
    client = kit.connect()
    assert client.deliver(HEAD + b"\r\n" + body)[-1].code == 250
    client.say("QUIT")
    assert not kit.logged("error, ")
    assert b"DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=signed.example" in Keeps.message
    assert opendkim.verdict(Keeps.message) == "pass"
    assert opendkim.verdict(Keeps.message.replace(b"Alice", b"Malice")) == "fail"
