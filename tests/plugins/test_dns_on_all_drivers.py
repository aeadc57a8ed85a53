"""The plugins that ask the DNS, together, on every loop: a message that passes, and what is asked for it."""

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import make_site

CONFIG = {
    "dnsbl_zones": ["bl.example"], "whitelist_zones": ["wl.example"], "rhsbl_zones": ["dbl.example"], "uribl_zones": ["uri.example 0 deny"],
    "timeoutdns": ["3"], "max_per_ip": ["5"],
}  # fmt: skip
RECORDS = {
    "1.0.0.127.in-addr.arpa": {"PTR": ["host.example."]}, "host.example": {"A": ["127.0.0.1"], "MX": ["0 host.example."]},
    "evil.com.uri.example": {"A": ["127.0.0.2"]},
}  # fmt: skip
PLUGINS = (
    "dns_whitelist_soft timeout 2", "dnsbl timeout 2", "fcrdns", "helo policy rfc timeout 2", "resolvable_fromhost timeout 2",
    "rhsbl timeout 2", "uribl timeout 2",
)  # fmt: skip


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK


def test_they_run_together_on_every_driver(driver, running, wire, name_server):
    name_server.set(RECORDS)
    site = make_site(*PLUGINS, Accepts, config=CONFIG | {"nameservers": name_server.config})
    with running(driver, site) as address, wire(address) as client:
        assert client.reply().startswith(b"220")
        envelope = (
            b"EHLO host.example\r\n",
            b"MAIL FROM:<a@host.example>\r\n",
            b"RCPT TO:<b@x.example>\r\n",
            b"DATA\r\n",
        )
        for content, code in (
            (b"Subject: x\r\n\r\nwww.good.com\r\n.\r\n", b"250"),
            (b"\r\nwww.evil.com\r\n.\r\n", b"554"),
        ):
            assert [client.ask(line)[0][:3] for line in envelope] == [b"250", b"250", b"250", b"354"]
            assert client.ask(content)[0].startswith(code)
    assert {("host.example.dbl.example", "A"), ("1.0.0.127.bl.example", "A"), ("good.com.uri.example", "A")} <= set(
        name_server.asked
    )
