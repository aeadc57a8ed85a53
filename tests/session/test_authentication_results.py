"""The Authentication-Results field: what plugins store, and what a client has forged (RFC 8601)."""

from qpsmtpd import DECLINED, OK, Plugin
from qpsmtpd.testing import Kit


class Stores(Plugin):
    """A result of the connection, and one of each message."""

    def hook_connect(self, transaction):
        self.store_auth_results("iprev=pass policy.iprev=192.0.2.10")
        return DECLINED

    def hook_mail(self, transaction, sender, parameters):
        self.store_auth_results(f"spf=pass smtp.mailfrom={sender.domain}")
        return DECLINED


class Keeps(Plugin):
    def init(self, qp):
        self.headers = []

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        self.headers.append(bytes(transaction.header))
        return OK


def fields(kit, number=-1):
    """The fields of a message that was queued, unfolded."""
    keeps = next(plugin for plugin in kit.site.plugins if isinstance(plugin, Keeps))
    return keeps.headers[number].replace(b"\r\n\t", b" ").split(b"\r\n")[:-1]


def test_the_field_stands_on_top_and_names_this_host():
    kit = Kit(Keeps)
    kit.connect().deliver(b"Subject: x\r\n\r\n")
    assert fields(kit)[0] == b"Authentication-Results: mx.example.test; auth=none"
    assert fields(kit)[1].startswith(b"Received: ")
    assert fields(kit)[2:] == [b"Subject: x"]


def test_it_holds_what_plugins_have_stored():
    kit = Kit(Stores, Keeps)
    kit.connect().deliver(sender="a@one.example")
    assert fields(kit)[0] == (
        b"Authentication-Results: mx.example.test; auth=none; iprev=pass policy.iprev=192.0.2.10;"
        b" spf=pass smtp.mailfrom=one.example"
    )


def test_the_results_of_one_message_are_not_the_next_ones():
    kit = Kit(Stores, Keeps)
    client = kit.connect()
    client.deliver(sender="a@one.example")
    client.deliver(sender="a@two.example")
    assert b"one.example" in fields(kit, 0)[0]
    assert b"one.example" not in fields(kit, 1)[0]
    assert fields(kit, 1)[0].count(b"iprev=pass") == 1


def test_all_fields_that_the_client_has_forged_are_moved_aside():
    kit = Kit(Keeps)
    kit.connect().deliver(
        b"authentication-results: mx.example.test; spf=pass\r\nFrom: a\r\n"
        b"Authentication-Results: mx.example.test;\r\n\tdkim=pass\r\nSubject: x\r\n\r\nbody\r\n"
    )
    assert fields(kit)[2:] == [
        b"From: a",
        b"Subject: x",
        b"Original-Authentication-Results: mx.example.test; spf=pass",
        b"Original-Authentication-Results: mx.example.test; dkim=pass",
    ]


def test_a_result_cannot_begin_another_field():
    class Careless(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            self.store_auth_results("spf=pass\r\nX-Forged: yes\x00")
            return DECLINED

    kit = Kit(Careless, Keeps)
    kit.connect().deliver(b"\r\n")
    assert not any(line.startswith(b"X-Forged") for line in fields(kit))
    assert b"\x00" not in fields(kit)[0]
