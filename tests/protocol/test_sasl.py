"""SASL mechanisms: the examples of the RFCs, each side against the other, and both against another implementation."""

import contextlib
import hashlib
import hmac
import json
import stringprep
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace

import pytest
import scramp
from hypothesis import given
from hypothesis import strategies as st
from scramp.utils import saslprep as other_saslprep

from qpsmtpd.protocol import sasl
from qpsmtpd.protocol.sasl import (
    CLIENT_MECHANISMS,
    MECHANISMS,
    Credentials,
    Exchange,
    Login,
    Outcome,
    SaslError,
    ScramVerifier,
    VerifierFor,
    choose,
    cram_md5,
    decode_base64,
    saslprep,
)

SALT = b"sixteen of salt."
BINDINGS = {"tls-server-end-point": b"hash", "tls-unique": b"finished"}
NAMES = st.sampled_from(sorted(MECHANISMS))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TYPED = st.text("pencil=2C3D,\xe4\xdf\u2168\xaa \xad", min_size=1, max_size=8).filter(saslprep)
"""Text that SASLprep and the escapes of SCRAM have something to do with."""


def judged(password):
    """The judge who knows one password, whoever the user is."""

    def judge(given):
        if given.digest is not None:
            return given.digest == cram_md5(password, given.ticket)
        return given.password == password

    return judge


def said(response: bytes | None) -> bytes:
    """A response of a client that has to say something."""
    assert response is not None
    return response


def serve(name, respond, *, initial=None, judge: Callable[[Credentials], bool] = bool, stored=None, **exchange):
    """Go through a server's exchange, whose challenges `respond` answers, to its outcome."""
    steps = MECHANISMS[name].serve(replace(Exchange(initial, nonce="servers", hostname="mx.example"), **exchange))
    step = next(steps)
    try:
        while True:
            match step:
                case Credentials():
                    step = steps.send(judge(step))
                case VerifierFor():
                    step = steps.send(stored)
                case _:
                    step = steps.send(respond(step))
    except StopIteration as stop:
        return stop.value


def scripted(name, *responses, **settings):
    """What was asked of the client, and the outcome, for responses known before; the first is the initial one."""
    initial, *rest = responses
    asked = []
    outcome = serve(name, lambda challenge: (asked.append(challenge), rest.pop(0))[1], initial=initial, **settings)
    assert not rest
    return asked, outcome


def judgement(name, *responses, **settings):
    """What is to be judged."""
    judged = []
    scripted(name, *responses, judge=lambda given: judged.append(given) or True, **settings)
    return judged[0]


def authenticate(name, login, password, bindings=(), **settings):
    """Our client against our server, which knows the password, at both ends of one channel."""
    client = CLIENT_MECHANISMS[name](login, "clients", dict(bindings))
    stored = ScramVerifier.of_password(password, SALT)
    settings = {"judge": judged(password), "stored": stored, "bindings": dict(bindings)} | settings
    return serve(name, client.send, initial=next(client), **settings)


def refusal(name, *responses, **settings):
    with pytest.raises(SaslError) as caught:
        scripted(name, *responses, **settings)
    return caught.value


# The tables


def test_every_mechanism_has_both_sides():
    assert set(MECHANISMS) == set(CLIENT_MECHANISMS)
    assert all(name == mechanism.name for name, mechanism in MECHANISMS.items())


@given(NAMES, TYPED, TYPED, TYPED, st.booleans())
def test_the_client_gets_in_exactly_if_the_password_is_right(name, user, password, other, right):
    if name in ("CRAM-MD5", "OAUTHBEARER", "XOAUTH2"):  # the one ends a user name at a blank, a token is ASCII
        user = user.replace(" ", "_")
        password, other = password.encode().hex(), other.encode().hex()
    bindings = BINDINGS if name.endswith("-PLUS") else {}
    outcome = authenticate(name, Login(user, password if right else other), password, bindings)
    same = right or password == other or (name.startswith("SCRAM") and saslprep(password) == saslprep(other))
    assert outcome == Outcome(saslprep(user) if name.startswith("SCRAM") else user, success=same)


FRAGMENTS = (
    *(b"\0 , n,, y,, p=tls-unique,, a=user, n=user r=clients r=clientsservers c=biws p= v= e= m=x s=AAAA").split(b" "),
    *(b"i=4096 i=0 i=9999999999 =2C =3D = * < > AAAA AAA= user= auth=Bearer \1 \xc3\xa4 \xff \n").split(b" "),
    b" ",
    b"\1\1",
    b"n,,n=user,r=clients",
    b"c=biws,r=clientsservers,p=AAAA",
    b"r=clientsservers,s=AAAA,i=4096",
)
ANYTHING = (
    st.binary(max_size=40) | st.sampled_from(FRAGMENTS) | st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join)
)


@given(NAMES, st.none() | ANYTHING, st.lists(ANYTHING, min_size=3, max_size=3), st.booleans())
def test_whatever_a_client_sends_there_is_an_outcome_or_a_sasl_error(name, initial, responses, known):
    settings = {"bindings": BINDINGS, "stored": ScramVerifier(SALT, 4096, b"k" * 32, b"k" * 32) if known else None}
    with contextlib.suppress(SaslError):
        outcome = serve(name, lambda _: responses.pop(0), initial=initial, judge=lambda _: False, **settings)
        assert outcome.success is False


@given(NAMES, st.lists(ANYTHING, min_size=4, max_size=4))
def test_whatever_a_server_sends_the_client_responds_or_ends_or_objects(name, challenges):
    client = CLIENT_MECHANISMS[name](Login("user", "pencil"), "clients", BINDINGS)
    response = next(client)
    with contextlib.suppress(SaslError, StopIteration):
        for challenge in challenges:
            assert response is None or isinstance(response, bytes)
            response = client.send(challenge)
        pytest.fail("a client without an end")


@pytest.mark.parametrize("name", sorted(CLIENT_MECHANISMS))
@pytest.mark.parametrize("half", [Login("user\ud800", "pencil"), Login("user", "pencil\ud800")])
def test_a_login_that_no_octets_stand_for_is_an_error_without_it(name, half):
    client = CLIENT_MECHANISMS[name](half, "clients", BINDINGS)
    with pytest.raises(SaslError) as caught:  # noqa: PT012 - at which step is the mechanism's affair
        next(client)
        client.send(b"")
        client.send(b"")
    assert "pencil" not in repr(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        Login("user", "pencil"),
        Credentials("user", "pencil"),
        Credentials("user", digest="pencil", ticket="pencil"),
        Exchange(b"\0user\0pencil"),
        Exchange(None, bindings={"tls-unique": b"pencil"}, fake_key=b"pencil"),
        ScramVerifier(SALT, 4096, b"pencil", b"pencil"),
    ],
)
def test_no_repr_shows_a_secret(value):
    assert "pencil" not in repr(value)


@pytest.mark.parametrize(
    ("name", "responses"),
    [
        ("PLAIN", [b"pencil\0pencil"]),
        ("PLAIN", [b"\0us\ner\0pencil"]),
        ("LOGIN", [b"us\ner", b"pencil"]),
        ("CRAM-MD5", [b"pencil"]),
        ("CRAM-MD5", [None, b"pencil"]),
        ("XOAUTH2", [b"user=user\1auth=Bearer pencil\1"]),
        ("OAUTHBEARER", [b"n,a=pencil=pencil,\1auth=Bearer pencil\1\1"]),
        ("SCRAM-SHA-256", [b"n=pencil,r=pencil"]),
        ("SCRAM-SHA-256", [b"n,,n=user,r=clients", b"c=biws,r=clientsservers,p=pencil="]),
    ],
)
def test_no_error_tells_what_was_sent(name, responses):
    assert "pencil" not in repr(refusal(name, *responses))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("name", "initial"),
    [
        ("PLAIN", b"\0" * 200_000),
        ("SCRAM-SHA-256", b"n,," * 70_000),
        ("SCRAM-SHA-256", b"n,,n=user,r=" + b"r=," * 70_000 + b"\0"),
        ("SCRAM-SHA-256", b"n,a=" + b"=2C" * 70_000),
        ("SCRAM-SHA-256", b"p=" + b"-" * 200_000),
        ("OAUTHBEARER", b"n,," + b"\1auth=Bearer " * 20_000),
        ("OAUTHBEARER", b"n,a=user,\1auth=Bearer" + b" " * 200_000),
        ("XOAUTH2", b"user=" * 40_000 + b"\1auth=Bearer " * 20_000),
    ],
)
def test_no_response_makes_a_regular_expression_go_astray(name, initial):
    with contextlib.suppress(SaslError):
        serve(name, lambda _: b"c=biws,r=x" + b",p=AAAA" * 30_000 + b"!", initial=initial)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("tail", [b",p=AAAA" * 30_000 + b"!", b"," * 200_000, b",p=" + b"A" * 200_000 + b"==="])
def test_nor_does_the_last_one_of_scram(tail):
    assert refusal("SCRAM-SHA-256", b"n,,n=user,r=clients", b"c=biws,r=clientsservers" + tail)


@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\x7f", "\x80", "\x85", "\x9f"])
@pytest.mark.parametrize(
    ("name", "responses"),
    [
        ("PLAIN", ["\0us{}er\0pencil"]),
        ("LOGIN", ["us{}er", "pencil"]),
        ("CRAM-MD5", [None, "us{}er b913a602"]),
        ("SCRAM-SHA-256", ["n,,n=us{}er,r=x"]),
        ("OAUTHBEARER", ["n,a=us{}er,\1auth=Bearer x\1\1"]),
        ("XOAUTH2", ["user=us{}er\1auth=Bearer x\1\1"]),
    ],
)
def test_no_user_name_holds_a_control_character(name, responses, control):
    sent = [each and each.format(control).encode() for each in responses]
    assert refusal(name, *sent).malformed is False


# PLAIN (RFC 4616)


@pytest.mark.parametrize(
    ("response", "given"),
    [
        (b"\0tim\0tanstaaftanstaaf", Credentials("tim", "tanstaaftanstaaf")),
        (b"Ursel\0Kurt\0xipj3plmq", Credentials("Kurt", "xipj3plmq", authorize_as="Ursel")),
        (b"\0\xc3\xa4\0\xff", Credentials("\xe4", "\udcff")),
        (b"\0user\0pencil\0more", Credentials("user", "pencil")),
    ],
)
def test_plain(response, given):
    assert judgement("PLAIN", response) == given
    assert scripted("PLAIN", None, response) == ([b""], Outcome(given.user, success=True))


def test_what_plain_separates_its_parts_with_is_in_none_of_them():
    for login in (Login("a\0b", "c"), Login("a", "b\0c"), Login("a", "b", "c\0d")):
        with pytest.raises(SaslError):
            next(CLIENT_MECHANISMS["PLAIN"](login, "", {}))


@pytest.mark.parametrize("response", [b"", b"tim", b"\0tim", b"\0\0pencil", b"\0tim\0", b"\0t\rim\0x", b"\0tim\x7f\0x"])
def test_plain_without_a_user_or_a_password_is_of_no_use(response):
    assert refusal("PLAIN", response).malformed is False


# LOGIN


def test_login_asks_in_the_words_that_clients_look_for():
    assert scripted("LOGIN", None, b"tim", b"pencil") == ([b"Username:", b"Password:"], Outcome("tim", success=True))
    assert scripted("LOGIN", b"tim", b"pencil") == ([b"Password:"], Outcome("tim", success=True))
    assert judgement("LOGIN", None, b"tim", b"pencil\n") == Credentials("tim", "pencil\n")


@pytest.mark.parametrize("responses", [[b""], [b"*"], [None, b""], [None, b"*"], [b"tim", b""], [b"tim", b"*"]])
def test_login_takes_neither_nothing_nor_a_star(responses):
    assert refusal("LOGIN", *responses).malformed is True


# CRAM-MD5 (RFC 2195)

TICKET = "<1896.697170952@postoffice.reston.mci.net>"
TIM = b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_cram_md5():
    place = {"nonce": "1896.697170952", "hostname": "postoffice.reston.mci.net"}
    given = Credentials("tim", digest=TIM.decode()[4:], ticket=TICKET)
    assert judgement("CRAM-MD5", None, TIM, **place) == given
    assert scripted("CRAM-MD5", None, TIM + b" more", judge=judged("tanstaaftanstaaf"), **place) == (
        [TICKET.encode()],
        Outcome("tim", success=True),
    )
    client = CLIENT_MECHANISMS["CRAM-MD5"](Login("tim", "tanstaaftanstaaf"), "", {})
    assert next(client) is None
    assert client.send(TICKET.encode()) == TIM


def test_cram_md5_cannot_begin_with_the_response():
    assert refusal("CRAM-MD5", TIM).malformed is True


@pytest.mark.parametrize("response", [b"", b" ", b"tim", b"tim ", b" b913a602", b"t\tim b913a602"])
def test_cram_md5_without_a_user_or_a_digest_is_of_no_use(response):
    assert refusal("CRAM-MD5", None, response).malformed is False


# OAUTHBEARER (RFC 7628) and XOAUTH2

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
BEARER = (
    ("OAUTHBEARER", b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer %b\1\1" % TOKEN.encode()),
    ("OAUTHBEARER", b"y,a=user@example.com,\1AUTH=bearer  %b\1\1" % TOKEN.encode()),
    ("XOAUTH2", b"user=user@example.com\1auth=Bearer %b\1\1" % TOKEN.encode()),
)
EXPLANATION = {"OAUTHBEARER": "invalid_token", "XOAUTH2": "401"}


@pytest.mark.parametrize(("name", "response"), BEARER)
def test_a_bearer_token_is_given_in_one_response(name, response):
    given = judgement(name, response)
    assert (given.user, given.password) == ("user@example.com", TOKEN)
    assert scripted(name, None, response) == ([b""], Outcome("user@example.com", success=True))


@pytest.mark.parametrize(("name", "response"), BEARER)
def test_why_a_token_is_refused_is_told_before_the_end(name, response):
    (told,), outcome = scripted(name, response, b"\1", judge=lambda _: False)
    assert outcome == Outcome("user@example.com", success=False)
    assert json.loads(told)["status"] == EXPLANATION[name]
    client = CLIENT_MECHANISMS[name](Login("user@example.com", TOKEN), "", {})
    next(client)
    assert client.send(told) == (b"\1" if name == "OAUTHBEARER" else b"")
    with pytest.raises(StopIteration):
        client.send(b"")


def test_the_user_is_not_left_to_the_token():
    assert refusal("OAUTHBEARER", b"n,,\1auth=Bearer x\1\1").malformed is False
    assert refusal("OAUTHBEARER", b"n,a=,\1auth=Bearer x\1\1").malformed is False
    assert judgement("OAUTHBEARER", b"n,a=a=2Cb=3D=2C,\1auth=Bearer x\1\1").user == "a,b=,"


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("OAUTHBEARER", b""),
        ("OAUTHBEARER", b"\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"p=tls-unique,,\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"n,a=user,more\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"n,a=us=er,\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"n,a=user,\1auth=Basic x\1\1"),
        ("OAUTHBEARER", b"n,a=user,\1auth=Bearer x\1"),
        ("OAUTHBEARER", b"n,a=user,\1auth=Bearer x y\1\1"),
        ("OAUTHBEARER", "n,a=user,\1auth=Bearer \u017f\1\1".encode()),
        ("XOAUTH2", b"user=\1auth=Bearer x\1\1"),
        ("XOAUTH2", b"user=user\1auth=Bearer \1\1"),
        ("XOAUTH2", b"user=user\1auth=Bearer x\1"),
        ("XOAUTH2", b"user=user\0\1auth=Bearer x\1\1"),
    ],
)
def test_a_bearer_token_in_another_form_is_malformed(name, response):
    assert refusal(name, response).malformed is True


@pytest.mark.parametrize("name", ["OAUTHBEARER", "XOAUTH2"])
def test_a_client_puts_no_further_fields_into_its_response(name):
    for login in (Login("user\1auth=Bearer x", "y"), Login("user", "y\1host=z")):
        with pytest.raises(SaslError):
            next(CLIENT_MECHANISMS[name](login, "", {}))


# SCRAM (RFC 5802, RFC 7677)

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
EXAMPLE = {
    "nonce": "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    "stored": ScramVerifier.of_password("pencil", b64decode(b"W22ZaJ0SNY7soEsUEjb6gQ==")),
}
PENCIL = ScramVerifier.of_password("pencil", SALT)


def messages():
    """Both messages of a client that the server of `PENCIL` takes."""
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "clients", {})
    challenge = b"r=clientsservers,s=%b,i=4096" % b64encode(SALT)
    return said(next(client)), said(client.send(challenge))


def signed(first, bare):
    """The message `bare` with a proof, whatever it holds, as a client that is not ours might send it."""
    key = hmac.digest(hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096), b"Client Key", "sha256")
    challenge = b"r=clientsservers,s=%b,i=4096" % b64encode(SALT)
    message = b",".join((first.split(b",", 2)[2], challenge, bare))
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    return bare + b",p=" + b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


def test_the_example_of_rfc_7677_for_the_server():
    asked, outcome = scripted(SCRAM[0], FIRST, FINAL, b"", **EXAMPLE)
    assert asked == [SERVER_FIRST, SERVER_FINAL]
    assert outcome == Outcome("user", success=True)
    assert scripted(SCRAM[0], None, FIRST, FINAL, b"", **EXAMPLE)[0] == [b"", SERVER_FIRST, SERVER_FINAL]


def test_the_example_of_rfc_7677_for_the_client():
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "rOprNGfwEbeRWgbNEkqO", {})
    assert next(client) == FIRST
    assert client.send(SERVER_FIRST) == FINAL
    assert client.send(SERVER_FINAL) == b""
    with pytest.raises(StopIteration):
        client.send(b"")


class TheirClient:
    """The client of another implementation, as what answers our server's challenges."""

    def __init__(self, name, user, password, bound=None):
        self.client = scramp.ScramClient([name], user, password, channel_binding=bound, c_nonce="clients")
        self.initial = self.client.get_client_first().encode()
        self.verified = False

    def __call__(self, challenge):
        if challenge.startswith(b"v="):
            self.client.set_server_final(challenge.decode())
            self.verified = True
            return b""
        self.client.set_server_first(challenge.decode())
        return self.client.get_client_final().encode()


def scramp_accepts(name, login, password, theirs=(), bound=None):
    """Whether a server of another implementation, which knows the password, takes our client for the user."""
    mechanism = scramp.ScramMechanism(name)
    server = mechanism.make_server(
        lambda user: mechanism.make_auth_info(password, 4096, SALT) if user == saslprep(login.user) else None,
        channel_binding=bound,
        s_nonce="servers",
    )
    client = CLIENT_MECHANISMS[name](login, "clients", dict(theirs))
    try:
        server.set_client_first(said(next(client)).decode())
        final = client.send(server.get_server_first().encode())
        server.set_client_final(said(final).decode())
    except scramp.ScramException:
        return False
    assert client.send(server.get_server_final().encode()) == b""
    return True


@given(st.sampled_from(SCRAM), TYPED, TYPED, TYPED, st.booleans())
def test_their_client_gets_into_our_server_exactly_if_the_password_is_right(name, user, password, other, right):
    bound = ("tls-unique", b"finished") if name == SCRAM[1] else None
    client = TheirClient(name, user, password if right else other, bound)
    stored = ScramVerifier.of_password(password, SALT)
    outcome = serve(name, client, initial=client.initial, stored=stored, bindings=BINDINGS)
    same = right or saslprep(password) == saslprep(other)
    assert outcome == Outcome(saslprep(user), success=same)
    assert client.verified is same


@given(st.sampled_from(SCRAM), TYPED, TYPED, TYPED, st.booleans())
def test_our_client_gets_into_their_server_exactly_if_the_password_is_right(name, user, password, other, right):
    plus = {"theirs": BINDINGS, "bound": ("tls-server-end-point", b"hash")} if name == SCRAM[1] else {}
    accepted = scramp_accepts(name, Login(user, password if right else other), password, **plus)
    assert accepted is (right or saslprep(password) == saslprep(other))


def test_neither_server_takes_another_channel_for_its_own():
    other = ("tls-unique", b"of whoever is in the middle")
    client = TheirClient(SCRAM[1], "user", "pencil", other)
    assert not serve(SCRAM[1], client, initial=client.initial, stored=PENCIL, bindings=BINDINGS).success
    unique = {"tls-unique": b"finished"}
    assert not scramp_accepts(SCRAM[1], Login("user", "pencil"), "pencil", unique, other)
    assert scramp_accepts(SCRAM[1], Login("user", "pencil"), "pencil", unique, ("tls-unique", b"finished"))


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("offered", [False, True])
def test_a_client_that_was_not_shown_our_offer_of_channel_binding_is_refused(plus, offered):
    initial = b"y,,n=user,r=clients"
    final = signed(initial, b"c=" + b64encode(b"y,,") + b",r=clientsservers")
    settings = {"stored": PENCIL, "bindings": BINDINGS, "plus_offered": offered}
    if plus:
        assert refusal(SCRAM[1], initial, **settings).malformed is True
    elif offered:
        assert scripted(SCRAM[0], initial, final, **settings)[1] == Outcome("user", success=False)
    else:
        assert scripted(SCRAM[0], initial, final, b"", **settings)[1] == Outcome("user", success=True)


def test_our_client_says_that_it_could_have_bound_the_channel():
    first = {name: said(next(CLIENT_MECHANISMS[name](Login("u"), "x", BINDINGS))) for name in SCRAM}
    assert [each.partition(b",")[0] for each in first.values()] == [b"y", b"p=tls-server-end-point"]
    assert said(next(CLIENT_MECHANISMS[SCRAM[0]](Login("u"), "x", {}))).startswith(b"n,")
    with pytest.raises(SaslError):
        next(CLIENT_MECHANISMS[SCRAM[1]](Login("u"), "x", {"of another kind": b""}))


def test_a_client_whose_server_hid_its_offer_gets_no_further():
    login = Login("user", "pencil")
    assert not authenticate(SCRAM[0], login, "pencil", BINDINGS, plus_offered=True).success
    assert authenticate(SCRAM[1], login, "pencil", BINDINGS, plus_offered=True).success


@pytest.mark.parametrize(
    ("name", "first", "malformed"),
    [
        (SCRAM[0], b"p=tls-unique,,n=user,r=x", True),
        (SCRAM[1], b"n,,n=user,r=x", True),
        (SCRAM[1], b"p=tls-exporter,,n=user,r=x", False),
        (SCRAM[1], b"p=,,n=user,r=x", True),
        (SCRAM[0], b"", True),
        (SCRAM[0], b"n=user,r=x", True),
        (SCRAM[0], b"n,,m=mandatory,n=user,r=x", True),
        (SCRAM[0], b"n,,n=,r=x", True),
        (SCRAM[0], b"n,,n=user,r=", True),
        (SCRAM[0], b"n,,n=user,r=\xc3\xa4", True),
        (SCRAM[0], b"n,,n=user,r=a b", True),
        (SCRAM[0], b"n,,n=us\0er,r=x", True),
        (SCRAM[0], b"n,,n=us=er,r=x", True),
        (SCRAM[0], b"n,,n=us=2cer,r=x", True),
        (SCRAM[0], b"n,a=us=er,n=user,r=x", True),
        (SCRAM[0], b"n,,n=us\ner,r=x", False),
        (SCRAM[0], b"n,,n=\xff,r=x", False),
        (SCRAM[0], b"n,,n=\xc2\xad,r=x", False),
        (SCRAM[0], b"n,a=root,n=user,r=x", False),
    ],
)
def test_a_first_message_that_is_none(name, first, malformed):
    assert refusal(name, first, bindings=BINDINGS, stored=PENCIL).malformed is malformed


@pytest.mark.parametrize(
    ("escaped", "user"),
    [(b"a=2Cb", "a,b"), (b"=3D2C", "=2C"), (b"\xe2\x85\xa8", "IX"), (b"I\xc2\xadX", "IX")],
)
def test_user_names_are_unescaped_and_prepared(escaped, user):
    asked = MECHANISMS[SCRAM[0]].serve(Exchange(b"n,a=" + escaped + b",n=" + escaped + b",r=x"))
    assert next(asked) == VerifierFor(user)


def test_a_client_may_act_for_itself():
    login = Login("\u2168,", "pencil", authorize_as="\u2168,")
    assert authenticate(SCRAM[0], login, "pencil") == Outcome("IX,", success=True)


def test_unknown_extensions_are_let_pass_and_signed():
    first = b"n,,n=user,r=clients,x=y"
    final = signed(first, b"c=biws,r=clientsservers,p=other,x=z")
    assert scripted(SCRAM[0], first, final, b"", stored=PENCIL)[1].success
    assert not scripted(SCRAM[0], first, final.replace(b"x=z", b"x=q"), stored=PENCIL)[1].success


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"c=biws,r=clientsservers",
        b"c=biws,p=AAAA,r=clientsservers",
        b"c=biws,r=clientsservers,p=",
        b"c=biws,r=clientsservers,p=!",
        b"c=biws,r=clientsservers,p=A",
        b"c=b,r=clientsservers,p=AAAA",
        b"c=,r=clientsservers,p=AAAA",
        b"c=biws,r=clientsservers,p=AAAA\n",
    ],
)
def test_a_final_message_that_is_none_is_malformed(final):
    assert refusal(SCRAM[0], b"n,,n=user,r=clients", final, stored=PENCIL).malformed is True


@pytest.mark.parametrize(
    "bare",
    [
        b"c=eSws,r=clientsservers",  # y,,
        b"c=bixhPXVzZXIs,r=clientsservers",  # n,a=user,
        b"c=biwsaGFzaA==,r=clientsservers",  # with a binding behind it
        b"c=biws,r=clients",
        b"c=biws,r=clientsserver",
        b"c=biws,r=clientsserverss",
    ],
)
def test_a_proof_of_something_else_than_was_said_proves_nothing(bare):
    first = b"n,,n=user,r=clients"
    assert scripted(SCRAM[0], first, signed(first, b"c=biws,r=clientsservers"), b"", stored=PENCIL)[1].success
    assert scripted(SCRAM[0], first, signed(first, bare), stored=PENCIL)[1] == Outcome("user", success=False)


@given(st.binary(min_size=1, max_size=40))
def test_no_other_proof_is_taken(proof):
    first, final = messages()
    final = final.rpartition(b",p=")[0] + b",p=" + b64encode(proof)
    assert scripted(SCRAM[0], first, final, stored=PENCIL)[1] == Outcome("user", success=False)


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_a_verifier_with_keys_of_the_wrong_length_lets_nobody_in(length):
    first, final = messages()
    stored = replace(PENCIL, stored_key=b"k" * length, server_key=b"k" * length)
    for proof in (final, final.rpartition(b",p=")[0] + b",p=" + b64encode(b"k" * (length or 1))):
        assert scripted(SCRAM[0], first, proof, stored=stored)[1] == Outcome("user", success=False)


def test_the_unknown_user_looks_like_a_known_one_each_time_and_fails_at_the_end():
    first, final = messages()

    def challenge(user, **settings):
        unknown = {"fake_key": b"key"} | settings
        (asked,), outcome = scripted(SCRAM[0], first.replace(b"user", user), final, **unknown)
        assert outcome == Outcome(user.decode(), success=False)
        return asked

    known = scripted(SCRAM[0], first, final, b"", stored=PENCIL)[0][0]
    assert len(challenge(b"user")) == len(known)
    assert challenge(b"user") == challenge(b"user")
    salts = {challenge(b"user"), challenge(b"root"), challenge(b"user", fake_key=b"other")}
    assert len(salts) == 3
    assert all(salt.endswith(b",i=4096") for salt in salts)


@pytest.mark.parametrize("stored", [None, True, b"", str(PENCIL)])
def test_even_a_made_up_verifier_that_fits_lets_nobody_in(stored, monkeypatch):
    first, final = messages()
    monkeypatch.setattr(sasl, "_made_up", lambda _key, _user: PENCIL)
    assert scripted(SCRAM[0], first, final, b"", stored=PENCIL)[1].success
    assert scripted(SCRAM[0], first, final, stored=stored)[1] == Outcome("user", success=False)


@given(st.integers(0, len(SERVER_FINAL) - 1), st.integers(1, 255))
def test_our_client_tells_a_server_that_does_not_know_the_password(place, change):
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "rOprNGfwEbeRWgbNEkqO", {})
    next(client)
    client.send(SERVER_FIRST)
    tampered = bytearray(SERVER_FINAL)
    tampered[place] ^= change
    with pytest.raises(SaslError):
        client.send(bytes(tampered))


@pytest.mark.parametrize("final", [b"", b"e=invalid-proof", b"v=", SERVER_FINAL + b"\n", SERVER_FINAL[:-1]])
def test_nor_does_it_take_anything_else_for_a_signature(final):
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "rOprNGfwEbeRWgbNEkqO", {})
    next(client)
    client.send(SERVER_FIRST)
    with pytest.raises(SaslError):
        client.send(final)


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"e=other-error",
        b"m=x,r=clientsx,s=AAAA,i=4096",
        b"r=clients,s=AAAA,i=4096",
        b"r=client,s=AAAA,i=4096",
        b"r=xclientsx,s=AAAA,i=4096",
        b"r=clientsx,s=,i=4096",
        b"r=clientsx,s=A,i=4096",
        b"r=clientsx,s=AAAA,i=",
        b"r=clientsx,s=AAAA,i=0",
        b"r=clientsx,s=AAAA,i=-1",
        b"r=clientsx,s=AAAA,i=4095",
        b"r=clientsx,s=AAAA,i=04096",
        b"r=clientsx,s=AAAA,i=1000001",
        b"r=clientsx,s=AAAA,i=99999999999999999999",
        "r=clientsx,s=AAAA,i=\u0664\u0660\u0669\u0666".encode(),
    ],
)
def test_our_client_objects_to_a_first_message_of_the_server(challenge):
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "clients", {})
    next(client)
    with pytest.raises(SaslError):
        client.send(challenge)


def test_our_client_lets_extensions_of_the_server_pass():
    client = CLIENT_MECHANISMS[SCRAM[0]](Login("user", "pencil"), "clients", {})
    next(client)
    assert said(client.send(b"r=clientsx,s=AAAA,i=4096,x=y")).startswith(b"c=biws,r=clientsx,p=")


@pytest.mark.parametrize("login", [Login("us\ner", "pencil"), Login("user", "pen\ncil"), Login("user", "x", "\u0627a")])
def test_our_client_refuses_what_nobody_can_type(login):
    with pytest.raises(SaslError):
        next(CLIENT_MECHANISMS[SCRAM[0]](login, "clients", {}))


# What a server stores (RFC 5803)

KEYS = st.binary(min_size=32, max_size=32)


@given(st.builds(ScramVerifier, st.binary(min_size=1, max_size=40), st.integers(4096, 1_000_000), KEYS, KEYS))
def test_a_verifier_is_read_as_it_was_written(verifier):
    assert ScramVerifier.parse(str(verifier)) == verifier


@given(TYPED, st.binary(min_size=12, max_size=20))
def test_a_verifier_of_a_password_is_that_of_another_implementation(password, salt):
    verifier = ScramVerifier.of_password(password, salt, 4097)
    theirs = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(password, 4097, salt)
    assert (verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations) == theirs


KEY = b64encode(b"k" * 32).decode()
PARTS = st.sampled_from(("SCRAM-SHA-256", "$", ":", "4096", "0", "c2FsdA==", "A", "=", KEY, "\n", "\u0664", "\xe4"))


@given(TEXT | st.lists(PARTS, max_size=9).map("".join))
def test_any_text_is_a_verifier_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert ScramVerifier.parse(text) == ScramVerifier.parse(str(ScramVerifier.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"SCRAM-SHA-1$4096:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4095:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$1000001:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$99999999:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:A${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:AAAA",
        f"SCRAM-SHA-256$4096:c2FsdA==$AAAA:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}\n",
        f"SCRAM-SHA-256$\u0664\u0660\u0669\u0666:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2Fs\u017fA==${KEY}:{KEY}",
    ],
)
def test_what_is_no_verifier(text):
    with pytest.raises(ValueError, match=r"."):
        ScramVerifier.parse(text)


@pytest.mark.parametrize("password", ["pen\ncil", "\u0627a", "\ue000", "\ud800"])
def test_there_is_no_verifier_of_what_nobody_can_type(password):
    with pytest.raises(ValueError, match=r".") as caught:
        ScramVerifier.of_password(password, SALT)
    assert password not in repr(caught.value)


# SASLprep (RFC 4013)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\xadX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\xaa", "a"),
        ("\u2168", "IX"),
        ("a\xa0b\u3000c", "a b c"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u06271\u0628", "\u06271\u0628"),
        ("", ""),
        ("\xad", ""),
        ("\U0002f868", "\U0002136a"),  # as in Unicode 3.2, which erred
    ],
)
def test_what_is_prepared(text, prepared):
    assert saslprep(text) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\x07",
        "\x7f",
        "\xe4\x07",
        "\x85",
        "\u06271",
        "1\u0627",
        "\u0627a\u0628",
        "\ue000",
        "\ufffd",
        "\u200e",
        "\ufdd0",
        "\u2ff0",
        "\U000e0041",
    ],
)
def test_what_is_forbidden(text):
    with pytest.raises(ValueError, match=r"^(a control|a forbidden) character$|^text in two directions$"):
        saslprep(text)


@given(TEXT | st.text("ab1 \xad\xa0\xe4\u2168\u0627\u0628\u05d0\u0301\u200b\u200e\ufb01\x07\ue000\ufffd", max_size=6))
def test_text_is_prepared_as_another_implementation_does_it(text):
    """But for what Unicode 3.2 had not assigned: it is to be let pass in what a user types (RFC 5802 section 5.1)."""
    try:
        theirs = other_saslprep(text)
    except scramp.ScramException:
        theirs = None
    try:
        mine = saslprep(text)
    except ValueError:
        mine = None
    assert mine == theirs or (theirs is None and any(map(stringprep.in_table_a1, text)))


@given(TEXT)
def test_what_is_prepared_stays_as_it_is(text):
    with contextlib.suppress(ValueError):
        assert saslprep(saslprep(text)) == saslprep(text)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["\ufdfa" * 10_000, "\u0345\u0301\u0316" * 2_000, "\xe4" * 50_000])
def test_long_text_is_prepared_in_time(text):
    assert saslprep(text)


# What a client chooses

ALL = sorted(MECHANISMS)


@pytest.mark.parametrize(
    ("offered", "settings", "chosen"),
    [
        (ALL, {"bindings": BINDINGS, "encrypted": True}, "SCRAM-SHA-256-PLUS"),
        (ALL, {"bindings": {"of another kind": b""}, "encrypted": True}, "SCRAM-SHA-256"),
        (ALL, {"encrypted": True}, "SCRAM-SHA-256"),
        (ALL, {"encrypted": False}, "SCRAM-SHA-256"),
        (["login", "Plain", "cram-md5"], {"encrypted": True}, "PLAIN"),
        (["login", "cram-md5"], {"encrypted": True}, "LOGIN"),
        (["LOGIN", "PLAIN", "CRAM-MD5"], {"encrypted": False}, "CRAM-MD5"),
        (["LOGIN", "PLAIN"], {"encrypted": False}, None),
        (["SCRAM-SHA-256-PLUS"], {"encrypted": True}, None),
        (["GSSAPI"], {"encrypted": True}, None),
        ([], {"encrypted": True}, None),
        (ALL, {"encrypted": True, "token": True}, "OAUTHBEARER"),
        (["XOAUTH2", "PLAIN"], {"encrypted": True, "token": True}, "XOAUTH2"),
        (["PLAIN"], {"encrypted": True, "token": True}, None),
        (ALL, {"encrypted": False, "token": True}, None),
    ],
)
def test_the_strongest_mechanism_is_chosen(offered, settings, chosen):
    assert choose(iter(offered), **settings) == chosen


@given(st.sets(st.sampled_from([*ALL, "GSSAPI"])), st.booleans(), st.booleans(), st.booleans())
def test_nothing_is_chosen_that_was_not_offered_or_that_shows_a_secret(offered, bound, encrypted, token):
    chosen = choose(offered, bindings=BINDINGS if bound else {}, encrypted=encrypted, token=token)
    assert chosen is None or chosen in offered & set(CLIENT_MECHANISMS)
    assert encrypted or chosen not in ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2")
    assert bound or chosen != "SCRAM-SHA-256-PLUS"


@pytest.mark.parametrize("text", [b"AAAA====", b"AA==AAAA", b"A", b"AAA", b"AA=", b"=", b"A A=", b"AAA\n", b"AAA-"])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)


@given(st.binary(max_size=40))
def test_base64_is_read_as_it_was_written(octets):
    assert decode_base64(b64encode(octets)) == octets
