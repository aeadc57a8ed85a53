"""Whose word `stunnel` takes for who the client is."""

import pytest

from qpsmtpd.config import ConfigError

HEADER = b"PROXY TCP4 192.0.2.66 127.0.0.1 50060 465\r\n"


@pytest.mark.parametrize("word", ["on", "ON"])
def test_the_client_is_the_one_of_stunnel_s_header(kit, word):
    stage = kit(f"stunnel proxy {word}", config={"proxy_networks": ["198.51.100.0/24"]})
    stage.clock.advance(2)  # settings are read once a second
    for proxy in ("127.0.0.1", "198.51.100.7"):
        client = stage.connect(proxy, early=HEADER)
        assert client.replies.startswith(b"220 ")
        assert (client.connection.remote_ip, client.connection.remote_port) == ("192.0.2.66", 50060)


def test_others_are_who_they_are_and_may_not_say_it(kit):
    stage = kit("stunnel proxy on")
    stage.clock.advance(2)
    client = stage.connect("203.0.113.5")
    assert client.send(HEADER).startswith(b"5")
    assert client.connection.remote_ip == "203.0.113.5"


@pytest.mark.parametrize("args", ["", "proxy off"])
def test_it_is_off_by_default(kit, args):
    stage = kit(f"stunnel {args}")
    stage.clock.advance(2)
    client = stage.connect("127.0.0.1")
    assert client.replies.startswith(b"220 ")
    assert client.send(HEADER).startswith(b"5")


def test_other_settings_are_left_alone(kit):
    stage = kit("stunnel proxy on", config={"rcpthosts": ["example.org"]})
    assert stage.site.config("rcpthosts") == ("example.org",)


@pytest.mark.parametrize("args", ["on", "proxy maybe", "tunnel on"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: stunnel: "):
        kit(f"stunnel {args}")
