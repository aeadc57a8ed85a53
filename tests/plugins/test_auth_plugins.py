"""What holds for all plugins of AUTH, and how their tests authenticate."""

import base64
import inspect
import sys

import pytest

from qpsmtpd.config import Config
from qpsmtpd.loader import bundled_names, find_plugin
from qpsmtpd.protocol import parse_reply
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login

AUTH_PLUGINS = [name for name in bundled_names() if name.startswith("auth/")]


def ehlo(stage):
    """The lines of the reply to EHLO."""
    return stage.connect().say("EHLO client.example").text.split("\n")


def authenticate(client, mechanism, user, password):
    """Go through a mechanism as our own client does; give the last reply."""
    if not client.connection.hello:
        client.say("EHLO client.example")
    steps = CLIENT_MECHANISMS[mechanism](Login(user, password), "client-nonce", {})
    initial = next(steps)
    words = [b"AUTH", mechanism.encode()] + ([] if initial is None else [base64.b64encode(initial) or b"="])
    reply = client.send(b" ".join(words) + b"\r\n")
    while reply.startswith(b"334"):
        response = steps.send(base64.b64decode(reply[4:]))
        reply = client.send(base64.b64encode(response) + b"\r\n")
    return parse_reply(reply)


def test_all_of_them_are_here():
    assert set(AUTH_PLUGINS) == {
        "auth/auth_checkpassword", "auth/auth_flat_file", "auth/auth_imap", "auth/auth_ldap_bind", "auth/authdeny",
    }  # fmt: skip


@pytest.mark.parametrize("name", AUTH_PLUGINS)
def test_a_plugin_says_what_it_does_and_shows_a_line(name):
    plugin = find_plugin(Config(None), name)
    text = inspect.getdoc(sys.modules[plugin.__module__])
    assert inspect.getdoc(plugin) == text.split("\n")[0].partition(", as D. J.")[0] + (
        "." if ", as D. J." in text else ""
    )
    for word in ("Result: ", f"\n    {name}"):
        assert word in text
