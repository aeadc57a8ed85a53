"""AUTH (RFC 4954) as the server's side of it; the mechanisms themselves are tested with `sasl`."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.conftest import ANSWERS, DATA, EHLO, MAIL, MESSAGE, RCPT, Driver

from qpsmtpd.protocol import DECLINED, DENY, FAILED, OK, VERDICTS, Authentication, Limits, Security
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login, ScramVerifier, cram_md5

PLAIN = {"auth-plain"}
GENERAL = {"auth"}
SECURITY = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384", bindings={"tls-exporter": b"binding"})


def b64(data):
    return base64.b64encode(data)


USER = b64(b"\0user\0pass")


def server(*chunks, asked=GENERAL, answers=None, **settings):
    settings = {"auth_in_clear": True, "nonce": lambda: "nonce", "hostname": "mx.example", **settings}
    return Driver(*chunks, asked=asked, answers={"auth": OK, "auth-plain": OK} | (answers or {}), **settings)


def announced(driver):
    lines = driver.send(EHLO)[0].text.split("\n")
    return [line for line in lines if line.startswith("AUTH")]


def attempts(driver):
    return [event for event in driver.events if isinstance(event, Authentication)]


# What is offered


@pytest.mark.parametrize(
    ("asked", "mechanisms"),
    [
        (GENERAL, "CRAM-MD5 LOGIN PLAIN"),
        (PLAIN, "PLAIN"),
        ({"auth-plain", "auth-login"}, "LOGIN PLAIN"),
        ({"auth-scram-sha-256"}, "SCRAM-SHA-256"),
        ({"auth-oauthbearer", "auth-xoauth2"}, "OAUTHBEARER XOAUTH2"),
    ],
)
def test_a_mechanism_is_offered_where_a_hook_can_answer_it(asked, mechanisms):
    assert announced(server(asked=asked)) == [f"AUTH {mechanisms}"]


@pytest.mark.parametrize("asked", [set(), {"rcpt"}, {"auth_parse"}])
def test_without_a_hook_there_is_no_auth(asked):
    driver = server(asked=asked)
    assert announced(driver) == []
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 500


def test_in_clear_there_is_no_auth_unless_allowed():
    driver = server(auth_in_clear=False)
    assert announced(driver) == []
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 500


def test_without_a_nonce_there_are_no_challenges():
    assert announced(server(nonce=None)) == ["AUTH LOGIN PLAIN"]


def test_channel_binding_is_offered_under_tls_alone():
    driver = Driver(security=SECURITY, asked={"auth-scram-sha-256"}, nonce=lambda: "nonce")
    assert announced(driver) == ["AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS"]


# The exchange


def test_an_initial_response_needs_no_challenge():
    driver = server(EHLO)
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 235
    (asked,) = driver.asked("auth")
    assert asked.arguments == ("plain", "user", "pass", None, None)
    assert attempts(driver) == [Authentication("plain", "user", succeeded=True)]


def test_without_an_initial_response_there_is_an_empty_challenge():
    driver = server(EHLO)
    driver.send(b"AUTH PLAIN\r\n")
    assert driver.output.endswith(b"\r\n334 \r\n")
    assert driver.code(USER + b"\r\n") == 235


def test_names_of_mechanisms_have_no_case():
    assert server(EHLO).code(b"auth pLaIn " + USER + b"\r\n") == 235


def test_login_asks_for_user_and_password():
    driver = server(EHLO)
    driver.send(b"AUTH LOGIN\r\n")
    assert driver.output.endswith(b"334 VXNlcm5hbWU6\r\n")
    driver.send(b64(b"user") + b"\r\n")
    assert driver.output.endswith(b"334 UGFzc3dvcmQ6\r\n")
    assert driver.code(b64(b"pass") + b"\r\n") == 235
    assert driver.asked("auth")[0].arguments == ("login", "user", "pass", None, None)


def test_cram_md5_has_a_ticket_with_our_name():
    driver = server(EHLO)
    driver.send(b"AUTH CRAM-MD5\r\n")
    ticket = base64.b64decode(driver.output.split()[-1]).decode()
    assert ticket == "<nonce@mx.example>"
    assert driver.code(b64(f"user {cram_md5('pass', ticket)}".encode()) + b"\r\n") == 235
    assert driver.asked("auth")[0].arguments == ("cram-md5", "user", None, cram_md5("pass", ticket), ticket)


def test_the_hook_of_the_mechanism_comes_first():
    driver = server(EHLO, asked={"auth", "auth-plain"}, answers={"auth-plain": DENY})
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 535
    assert driver.names == ["auth-plain"]


def test_the_general_hook_is_asked_when_that_one_declines():
    driver = server(EHLO, asked={"auth", "auth-plain"}, answers={"auth-plain": DECLINED})
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 235
    assert driver.names == ["auth-plain", "auth"]


def test_the_text_of_the_plugin_is_shown():
    driver = server(EHLO, answers={"auth": (DENY, "go away")})
    (reply,) = driver.send(b"AUTH PLAIN " + USER + b"\r\n")
    assert (reply.code, reply.enhanced, reply.text) == (535, "5.7.8", "go away")


def test_a_failed_hook_is_a_temporary_failure_and_no_wrong_password():
    driver = server(EHLO, answers={"auth": FAILED}, limits=Limits(auth_failures=1))
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 454
    assert not driver.closed


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("password", ["pencil", "wrong"])
def test_scram(plus, password):
    verifier = ScramVerifier.of_password("pencil", b"salt", 4096)
    asked, name = {"auth-scram-sha-256"}, "SCRAM-SHA-256" + ("-PLUS" if plus else "")
    settings = {"asked": asked, "answers": {"auth-scram-sha-256": (OK, str(verifier))}, "nonce": lambda: "nonce"}
    driver = Driver(EHLO, security=SECURITY, **settings)
    bindings = SECURITY.bindings if plus else {}
    client = CLIENT_MECHANISMS[name](Login("user", password), "rOprNGfwEbeRWgbN", bindings)
    driver.send(f"AUTH {name} ".encode() + b64(next(client)) + b"\r\n")
    challenge = base64.b64decode(driver.output.split()[-1])
    (reply,) = driver.send(b64(client.send(challenge)) + b"\r\n")
    if password == "pencil":
        assert reply.code == 334
        final = base64.b64decode(driver.output.split()[-1])
        (reply,) = driver.send(b64(client.send(final) or b"") + b"\r\n")
        assert reply.code == 235
        assert str(verifier) not in reply.text
    else:
        assert reply.code == 535
    assert attempts(driver) == [Authentication(name.lower(), "user", succeeded=password == "pencil")]


@pytest.mark.parametrize("answer", [DECLINED, DENY, OK, (OK, "no verifier"), FAILED])
def test_scram_without_a_verifier_fails_at_the_end(answer):
    driver = server(EHLO, asked={"auth-scram-sha-256"}, answers={"auth-scram-sha-256": answer})
    client = CLIENT_MECHANISMS["SCRAM-SHA-256"](Login("user", "x"), "rOprNGfwEbeRWgbN", {})
    driver.send(b"AUTH SCRAM-SHA-256 " + b64(next(client)) + b"\r\n")
    challenge = base64.b64decode(driver.output.split()[-1])
    (reply,) = driver.send(b64(client.send(challenge)) + b"\r\n")
    assert reply.code == (454 if answer in (FAILED, (OK, "no verifier")) else 535)


BEARER = {
    "XOAUTH2": b"user=user\1auth=Bearer token\1\1",
    "OAUTHBEARER": b"n,a=user,\1host=mx.example\1auth=Bearer token\1\1",
}


@pytest.mark.parametrize("name", BEARER)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_bearer_token_is_judged_and_a_failure_is_explained_first(name, answer):
    hook = f"auth-{name.lower()}"
    driver = server(EHLO, asked={hook}, answers={hook: (answer, "text") if answer is not FAILED else answer})
    (reply,) = driver.send(f"AUTH {name} ".encode() + b64(BEARER[name]) + b"\r\n")
    if answer is not OK:
        assert reply.code == 334
        assert b"bearer" in base64.b64decode(driver.output.split()[-1])
        (reply,) = driver.send(b"AQ==\r\n")
    verdict = VERDICTS[hook][answer]
    assert reply == replace(verdict.reply, text=verdict.reply.text if answer is FAILED else "text")
    assert driver.asked(hook)[0].arguments == (name.lower(), "user", "token", None, None)
    assert attempts(driver) == [Authentication(name.lower(), "user", succeeded=answer is OK)]


# What goes wrong


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"AUTH"], 501),
        ([b"AUTH FOO"], 504),
        ([b"AUTH PLAIN !!"], 501),
        ([b"AUTH PLAIN ="], 535),
        ([b"AUTH PLAIN", b"*"], 501),
        ([b"AUTH PLAIN", b"!!!!"], 501),
        ([b"AUTH PLAIN", b"a"], 501),
        ([b"AUTH PLAIN", b""], 535),
        ([b"AUTH PLAIN", b"A" * 12287], 500),
        ([b"AUTH PLAIN", b"dXNlcg=="], 535),
        ([b"AUTH LOGIN", b"*"], 501),
        ([b"AUTH LOGIN", b"dXNlcg==", b"*"], 501),
        ([b"AUTH LOGIN", b"=\xff"], 501),
        ([b"AUTH CRAM-MD5", b"*"], 501),
        ([b"AUTH CRAM-MD5 eA=="], 501),
        ([b"AUTH CRAM-MD5", b"dXNlcg=="], 535),
    ],
)
def test_a_bad_exchange_has_one_reply_and_asks_nobody(lines, code):
    driver = server(EHLO)
    codes = [driver.code(line + b"\r\n") for line in lines]
    assert codes == [334] * (len(lines) - 1) + [code]
    assert driver.names == []
    assert driver.code(b"NOOP\r\n") == 250


def test_auth_needs_a_greeting_first():
    assert server().code(b"AUTH PLAIN " + USER + b"\r\n") == 503


def test_auth_twice_is_refused():
    driver = server(EHLO, b"AUTH PLAIN " + USER + b"\r\n")
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 503


def test_auth_in_a_transaction_is_refused():
    driver = server(EHLO, MAIL)
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 503


def test_too_many_failures_end_the_session():
    driver = server(EHLO, answers={"auth": DENY}, limits=Limits(auth_failures=3))
    codes = [driver.code(b"AUTH PLAIN " + USER + b"\r\n") for _ in range(3)]
    assert codes == [535, 535, 421]
    assert driver.closed


def test_failures_of_the_form_count_too():
    driver = server(EHLO, limits=Limits(auth_failures=1))
    assert driver.code(b"AUTH PLAIN =\r\n") == 421


def test_the_session_goes_on_behind_a_failure():
    driver = server(EHLO, answers={"auth": DENY})
    driver.send(b"AUTH PLAIN " + USER + b"\r\n")
    assert driver.code(MAIL) == 250


@pytest.mark.parametrize("name", [b"LOGIN", b"PLAIN", b"CRAM-MD5"])
def test_a_client_may_go_in_the_middle(name):
    driver = server(EHLO, b"AUTH " + name + b"\r\n")
    assert driver.eof() == []
    assert driver.closed


@given(st.sampled_from(["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2"]), st.data())
def test_any_bytes_are_answered(name, data):
    asked = {"auth", "auth-scram-sha-256", "auth-oauthbearer", "auth-xoauth2"}
    driver = server(EHLO, asked=asked, answers={"auth": DENY})
    driver.send(f"AUTH {name}\r\n".encode())
    raw = st.binary(max_size=60).filter(lambda line: b"\n" not in line)
    for line in data.draw(st.lists(raw | st.binary(max_size=60).map(b64), max_size=3)):
        if driver.closed:
            break
        assert len(driver.send(line + b"\r\n")) == 1


@given(st.binary(max_size=40), st.integers(1, 3))
def test_the_buffer_of_a_long_response_is_bounded(data, count):
    driver = server(EHLO, b"AUTH PLAIN\r\n", limits=Limits(auth_line=64))
    for _ in range(count * 80):
        driver.server.receive_data(data.replace(b"\n", b"") + b"x")
        driver.server.next_event()
        assert len(driver.server._input) <= 64 + 41
    assert driver.send(b"\r\n")[0].code == 500


# Where it is demanded


def test_mail_without_auth_is_refused_where_auth_is_demanded():
    driver = server(EHLO, auth_required=True)
    (reply,) = driver.send(MAIL)
    assert (reply.code, reply.enhanced) == (530, "5.7.0")
    assert driver.code(b"NOOP\r\n") == 250
    assert driver.code(b"AUTH PLAIN " + USER + b"\r\n") == 235
    assert driver.code(MAIL) == 250


def test_the_trace_tells_who_it_was():
    driver = server(
        EHLO, b"AUTH PLAIN " + b64(b"\0a(b)c@d.example\0pass") + b"\r\n", asked={"auth", "received_line", "rcpt"}
    )
    driver.send(MAIL, RCPT, DATA, MESSAGE)
    (hook,) = driver.asked("received_line")
    assert hook.arguments == ("ESMTPA", "(smtp-auth username a?b?c@d.example, mechanism plain)\n", "")


def test_cancelling_behind_a_judgement_does_not_save_a_client_from_the_limit():
    driver = server(EHLO, asked={"auth-xoauth2"}, answers={"auth-xoauth2": DENY}, limits=Limits(auth_failures=3))
    guess = b"AUTH XOAUTH2 " + b64(BEARER["XOAUTH2"]) + b"\r\n"
    codes = [reply.code for _ in range(3) for reply in driver.send(guess, b"*\r\n")]
    assert codes == [334, 501] * 3
    assert driver.code(guess) == 421
    assert driver.closed
    assert [attempt.user for attempt in attempts(driver)] == ["user"] * 3


def test_oauthbearer_needs_a_user():
    driver = server(EHLO, asked={"auth-oauthbearer"}, answers={"auth-oauthbearer": OK})
    assert driver.code(b"AUTH OAUTHBEARER " + b64(b"n,,\1auth=Bearer token\1\1") + b"\r\n") == 535
