"""Other people's programs in front of our server."""

import smtplib
import ssl

import pytest

from qpsmtpd import OK, Plugin
from qpsmtpd.loader import add
from qpsmtpd.site import Site
from qpsmtpd.testing import make_site

SENDER, RECIPIENT = "me@example.org", "you@example.org"
CONTENT = b"Subject: a real mail\r\n\r\n..two dots\r\n.\r\nlast\r\n"


class Keep(Plugin):
    """Accepts all, and keeps what came and from where."""

    def register(self, qp, *args):
        self.kept = []

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        self.kept.append((b"".join(transaction.chunks()), self.connection.peer, self.connection.security))
        return OK, "kept"


@pytest.fixture
def site():
    """Make a site that keeps what comes, with real clocks."""

    def site(**config):
        made = Site(make_site(config=config).settings, write=lambda line: None)
        made.settings._clock = made.clock
        add(made, Keep)
        made.current_settings()
        return made

    return site


def test_every_message_of_smtp_source_arrives(driver, running, site, smtp_source):
    made = site()
    with running(driver, made) as address:
        smtp_source(address, "-s", "4", "-m", "40", "-r", "3", "-l", "20000", "-f", SENDER, "-t", RECIPIENT)
    (kept,) = (plugin.kept for plugin in made.plugins)
    assert len(kept) == 40
    assert all(len(content) > 20_000 for content, _, _ in kept)


def test_haproxy_says_who_sends(driver, running, site, haproxy):
    made = site(proxy_networks=["127.0.0.1"])
    with running(driver, made) as address, haproxy(address) as front, smtplib.SMTP(*front, timeout=20) as client:
        ours = client.sock.getsockname()
        client.sendmail(SENDER, [RECIPIENT], CONTENT)
    ((content, peer, security),) = made.plugins[-1].kept
    assert content.endswith(CONTENT)
    assert (peer.remote_ip, peer.remote_port) == ours
    assert (peer.local_ip, peer.local_port) == front
    assert security is None


def test_haproxy_says_what_was_encrypted_and_by_whose_certificate(driver, running, site, haproxy, files):
    made, context = site(proxy_networks=["127.0.0.1"]), ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.client)
    with (
        running(driver, made) as address,
        haproxy(address, tls=True) as (_, port),
        smtplib.SMTP_SSL("localhost", port, timeout=20, context=context) as client,
    ):
        ours, cipher = client.sock.getsockname(), client.sock.cipher()[0]
        client.sendmail(SENDER, [RECIPIENT], CONTENT)
    ((_, peer, security),) = made.plugins[-1].kept
    assert (peer.remote_ip, peer.remote_port) == ours
    assert (security.version, security.cipher, security.server_name) == ("TLSv1.3", cipher, "localhost")
    assert security.client_certificate.verified
    assert security.client_certificate.subject == "CN=client.example"
