"""`auth/authdeny` offers AUTH, and lets nobody in."""

import pytest
from tests.plugins.test_auth_plugins import authenticate, ehlo

from qpsmtpd import DECLINED, OK, Plugin
from qpsmtpd.config import ConfigError


class Others(Plugin):
    """Lets everybody in, where it is asked."""

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return OK


def test_it_answers_for_all_mechanisms_of_the_original(kit):
    assert "AUTH CRAM-MD5 LOGIN PLAIN" in ehlo(kit("auth/authdeny"))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_nobody_is_let_in_and_nothing_of_the_client_is_echoed(kit, mechanism):
    stage = kit("auth/authdeny")
    reply = authenticate(stage.connect(), mechanism, "user@example.org", "s3cret")
    assert reply.code == 535
    assert "relay" in reply.text
    assert "user@example.org" not in reply.text
    assert stage.calls("auth")[0].code is DECLINED
    assert stage.logged(f"fail, user@example.org by {mechanism.lower()}")
    assert not stage.logged("s3cret")


def test_it_declines_so_that_plugins_behind_it_are_asked(kit):
    assert authenticate(kit("auth/authdeny", Others).connect(), "PLAIN", "user", "x").code == 235
    assert authenticate(kit("auth/authdeny").connect(), "PLAIN", "user", "x").code == 535


def test_it_takes_no_arguments(kit):
    with pytest.raises(ConfigError, match="arguments"):
        kit("auth/authdeny now")
