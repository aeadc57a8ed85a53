"""The plugin that holds the certificates."""

import ssl

import pytest
import trustme

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

HOST = "mx.example.test"
AUTHORITY = trustme.CA()


class Watch(Plugin):
    """Keeps what clients have shown."""

    def register(self, qp):
        self.seen = []

    def hook_ehlo(self, transaction, host):
        self.seen.append(self.connection.security)


@pytest.fixture
def place(tmp_path):
    """A site's directory, with a certificate and `config` in it."""
    for name in (HOST, "other.example"):
        AUTHORITY.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "config").mkdir()
    return tmp_path


@pytest.fixture
def kit(place):
    def kit(line=f"tls {HOST}.pem {HOST}.pem", *plugins, **files):
        for name, text in files.items():
            (place / "config" / name).write_text(text)
        return Kit(line, *plugins, Watch, directory=place / "config")

    return kit


@pytest.fixture
def context():
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def encrypted(kit, context, name=HOST):
    client = kit.connect()
    assert "STARTTLS" in client.say("EHLO client.example").text
    assert client.say("STARTTLS").code == 220
    client.start_tls(context, name)
    client.say("EHLO client.example")
    return client


def test_starttls_works(kit, context):
    server = kit()
    encrypted(server, context)
    assert [security and security.version for security in server.site.plugins[-1].seen] == [None, "TLSv1.3"]


def test_the_names_of_the_files_have_defaults(place, kit, context):
    (place / "ssl").mkdir()
    for word in ("crt", "key"):
        (place / "ssl" / f"qpsmtpd-server.{word}").write_bytes((place / f"{HOST}.pem").read_bytes())
    encrypted(kit("tls"), context)


def test_there_may_be_more_certificates(kit, context):
    server = kit(tls_certificates="other.example.pem other.example.pem")
    encrypted(server, context, "other.example")
    encrypted(server, context, HOST)
    assert [each.server_name for each in server.site.plugins[-1].seen if each] == ["other.example", HOST]


def test_an_authority_of_our_own_asks_nothing_of_clients(kit, context):
    server = kit(f"tls {HOST}.pem {HOST}.pem ca.pem")
    encrypted(server, context)
    assert server.site.plugins[-1].seen[-1].client_certificate is None


def test_clients_may_show_a_certificate(place, kit, context):
    server = kit(tls_client_ca="ca.pem")
    encrypted(server, context)
    assert server.site.plugins[-1].seen[-1].client_certificate is None
    AUTHORITY.issue_cert("client.example", common_name="client.example").configure_cert(context)
    encrypted(server, context)
    shown = server.site.plugins[-1].seen[-1].client_certificate
    assert shown.verified
    assert "CN=client.example" in shown.subject


@pytest.mark.parametrize(
    ("line", "files", "message"),
    [
        ("tls", {}, "qpsmtpd-server.crt: No such file or directory"),
        ("tls missing.pem missing.pem", {}, "missing.pem: No such file or directory"),
        (f"tls {HOST}.pem ca.pem", {}, "ca.pem: this is no private key in PEM"),
        (f"tls {HOST}.pem other.example.pem", {}, "other.example.pem: this key does not belong to the certificate"),
        (f"tls {HOST}.pem {HOST}.pem no.pem", {}, "no.pem: there is no such file; leave out the third argument"),
        (f"tls {HOST}.pem {HOST}.pem", {"tls_certificates": "one"}, "tls_certificates:1: a line has two words"),
        (f"tls {HOST}.pem {HOST}.pem", {"tls_client_ca": "no.pem"}, "no.pem: No such file or directory"),
        (f"tls {HOST}.pem {HOST}.pem", {"tls_ciphers": "NONSENSE"}, "tls_ciphers: 'NONSENSE' names no cipher suite"),
    ],
)
def test_what_is_wrong_is_an_error_at_the_start_that_names_the_file(kit, line, files, message):
    with pytest.raises(ConfigError) as error:
        kit(line, **files)
    assert message in str(error.value)


def test_settings_that_the_command_line_would_hide_are_refused(kit):
    from qpsmtpd.config import Line
    from qpsmtpd.loader import add_line

    server = kit(tls_client_ca="ca.pem")
    with pytest.raises(ConfigError, match="of no use beside --tls-cert"):
        add_line(server.site, Line("tls missing.pem missing.pem", server.site.settings.directory / "plugins", 9))


def test_the_command_line_comes_first(kit):
    server = kit()
    before = server.site.tls
    from qpsmtpd.config import Line
    from qpsmtpd.loader import add_line

    add_line(server.site, Line("tls missing.pem missing.pem", server.site.settings.directory / "plugins", 9))
    assert server.site.tls is before
