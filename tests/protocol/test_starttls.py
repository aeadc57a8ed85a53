"""STARTTLS (RFC 3207), and what is known about a client before and after it; XCLIENT likewise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.conftest import DATA, EHLO, MAIL, MESSAGE, RCPT, Driver

from qpsmtpd.protocol import (
    CLOSED,
    DEFAULT_EXTENSIONS,
    DENY,
    NEED_DATA,
    OK,
    Extension,
    LocalProtocolError,
    Security,
    Server,
    StartTls,
    XClient,
    hooks,
)

SECURITY = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384")
WITH_TLS = DEFAULT_EXTENSIONS | {Extension.STARTTLS}
STARTTLS = b"STARTTLS\r\n"


def offering(*chunks, handshake=SECURITY, **settings):
    driver = Driver(extensions=settings.pop("extensions", WITH_TLS), **settings)
    driver.handshake = handshake
    driver.send(*chunks)
    return driver


def keywords(driver):
    return [line.split()[0] for line in driver.send(EHLO)[0].text.split("\n")[1:]]


def test_it_is_offered_until_it_is_used():
    driver = offering()
    assert "STARTTLS" in keywords(driver)
    assert driver.code(STARTTLS) == 220
    assert "STARTTLS" not in keywords(driver)
    assert driver.code(STARTTLS) == 503


def test_without_the_extension_it_is_unknown():
    assert Driver(EHLO).code(STARTTLS) == 500


def test_it_takes_no_argument():
    driver = offering(EHLO)
    assert driver.code(b"STARTTLS now\r\n") == 501
    assert not any(isinstance(event, StartTls) for event in driver.events)


def test_it_is_refused_in_a_transaction():
    assert offering(EHLO, MAIL).code(STARTTLS) == 503


def test_all_knowledge_is_forgotten():
    driver = offering(EHLO, STARTTLS, asked={"auth", "rcpt"}, auth_in_clear=True)
    assert driver.code(MAIL) == 503
    assert driver.code(EHLO) == 250
    assert driver.code(MAIL) == 250


def test_an_identity_is_forgotten():
    driver = offering(EHLO, asked={"auth"}, answers={"auth": OK}, auth_in_clear=True)
    login = b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n"
    assert driver.code(login) == 235
    driver.send(STARTTLS, EHLO)
    assert driver.code(login) == 235


def test_announced_keywords_are_forgotten():
    driver = offering()
    driver.server.announce("XSECRET")
    driver.send(STARTTLS)
    assert "XSECRET" not in keywords(driver)


def test_the_transaction_is_reset():
    driver = offering(EHLO)
    driver.events.clear()
    driver.send(STARTTLS)
    assert [type(event) for event in driver.events] == [StartTls, hooks.ResetTransaction]


@given(st.binary(max_size=80))
def test_nothing_behind_it_is_executed(injected):
    driver = offering(EHLO)
    before = len(driver.output)
    driver.send(STARTTLS + injected)
    assert driver.output[before:].count(b"\r\n") == 1
    assert driver.output[before:].startswith(b"220 ")
    assert driver.code(EHLO) == 250


def test_an_injected_command_split_by_reads_is_dropped():
    driver = offering(EHLO)
    driver.send(STARTTLS + b"NO")
    assert driver.send(b"OP\r\n")[0].code == 500


def test_a_failed_handshake_ends_the_session():
    driver = offering(EHLO, STARTTLS, handshake=None)
    assert driver.closed
    assert driver.names[-2:] == ["reset_transaction", "disconnect"]


def test_until_the_handshake_is_over_nothing_else_goes():
    server = Server(extensions=WITH_TLS)
    server.next_event()
    server.receive_data(STARTTLS)
    assert isinstance(server.next_event(), StartTls)
    with pytest.raises(LocalProtocolError):
        server.next_event()
    with pytest.raises(LocalProtocolError):
        server.receive_data(b"EHLO x\r\n")
    server.secure(SECURITY)
    assert server.next_event() is NEED_DATA
    server.receive_data(b"")
    assert server.next_event() is CLOSED


def test_encryption_begins_before_the_session_or_not_at_all():
    server = Server()
    server.secure(SECURITY)
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.secure(SECURITY)


@pytest.mark.parametrize(
    ("hello", "protocol"), [(b"EHLO x\r\n", "ESMTPS"), (b"HELO x\r\n", "ESMTPS"), (b"LHLO x\r\n", "LMTPS")]
)
def test_the_trace_tells_of_it(hello, protocol):
    driver = Driver(hello, security=SECURITY, lmtp=hello.startswith(b"L"))
    driver.send(MAIL, RCPT, DATA, MESSAGE)
    assert driver.asked("received_line")[0].arguments == (protocol, "", "(TLSv1.3 TLS_AES_256_GCM_SHA384 encrypted) ")


def test_requiretls_is_offered_under_tls_alone():
    extensions = DEFAULT_EXTENSIONS | {Extension.REQUIRETLS}
    assert "REQUIRETLS" not in keywords(Driver(extensions=extensions))
    driver = Driver(EHLO, extensions=extensions)
    assert driver.code(b"MAIL FROM:<a@b.example> REQUIRETLS\r\n") == 555
    driver = Driver(security=SECURITY, extensions=extensions)
    assert "REQUIRETLS" in keywords(driver)
    assert driver.code(b"MAIL FROM:<a@b.example> REQUIRETLS\r\n") == 250


def test_where_auth_needs_tls_the_reply_says_so():
    driver = offering(EHLO, asked={"auth"}, auth_required=True)
    (reply,) = driver.send(MAIL)
    assert reply.code == 530
    assert "STARTTLS" in reply.text


# XCLIENT

TRUSTED = DEFAULT_EXTENSIONS | {Extension.XCLIENT}
CLAIM = b"XCLIENT ADDR=192.0.2.77 NAME=client.example\r\n"


def test_xclient_is_for_trusted_clients():
    assert Driver(EHLO).code(CLAIM) == 500
    assert "XCLIENT" in keywords(Driver(extensions=TRUSTED))


def test_xclient_begins_the_session_anew():
    driver = Driver(EHLO, extensions=TRUSTED)
    (reply,) = driver.send(CLAIM)
    assert reply.code == 220
    (claim,) = (event for event in driver.events if isinstance(event, XClient))
    assert (claim.address, claim.name) == ("192.0.2.77", "client.example")
    assert driver.names.count("connect") == 2
    assert driver.code(MAIL) == 503


def test_the_client_spoken_for_may_be_denied():
    answers = iter([OK, DENY])

    def answer(server, hook):
        server.answer(next(answers) if hook.name == "connect" else OK)

    driver = Driver(EHLO, extensions=TRUSTED, answers=answer)
    assert driver.code(CLAIM) == 554
    assert driver.closed


def test_xclient_may_bring_an_identity():
    driver = Driver(EHLO, extensions=TRUSTED, auth_required=True)
    driver.send(b"XCLIENT ADDR=192.0.2.77 LOGIN=user\r\n", EHLO)
    assert driver.code(MAIL) == 250


def test_nobody_is_no_identity():
    driver = Driver(EHLO, extensions=TRUSTED, auth_required=True)
    driver.send(b"XCLIENT ADDR=192.0.2.77 LOGIN=[UNAVAILABLE]\r\n", EHLO)
    assert driver.code(MAIL) == 530


@pytest.mark.parametrize("argument", [b"", b"FOO=1", b"ADDR=300.1.1.1", b"PORT=x", b"NAME"])
def test_a_malformed_claim_changes_nothing(argument):
    driver = Driver(EHLO, extensions=TRUSTED)
    assert driver.code(b"XCLIENT " + argument + b"\r\n") == 501
    assert driver.code(MAIL) == 250


def test_xclient_is_refused_in_a_transaction():
    assert Driver(EHLO, MAIL, extensions=TRUSTED).code(CLAIM) == 503
