"""Whom `auth/auth_flat_file` lets in, by which mechanism, and what it says of a file that is wrong."""

import base64
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins.test_auth_plugins import authenticate, ehlo

from qpsmtpd import DECLINED, DENY, DENYSOFT, OK, passwords
from qpsmtpd.config import ConfigError
from qpsmtpd.passwords import hash_password, verify
from qpsmtpd.plugins.auth import auth_flat_file
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login, ScramVerifier
from qpsmtpd.site import Kind
from qpsmtpd.testing import Kit

FILE = {"flat_auth_pw": ("good@example.com:good_pass", "other@example.com:with:colon")}
CLEAR = ("PLAIN", "LOGIN", "CRAM-MD5")
ALL = "auth/auth_flat_file plain login cram-md5 scram-sha-256"
SCRYPT = "$scrypt$ln=10,r=8,p=2$fQ+hVOr9X8v5X0vpXQshRA$qDJsaeB3mtEjQyvhr8BNDIyK3zSEwvSSdCKmY5NaoLc"
SCRYPT_PASSWORD = "s\u00e9cret: \u2603"
ARGON2ID = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"


def attempt(kit, mechanism, user, password, line="auth/auth_flat_file", config=FILE):
    """Try to authenticate; give the reply code, and the plugin's code."""
    stage = kit(line, config=config)
    reply = authenticate(stage.connect(), mechanism, user, password)
    (call,) = stage.calls(f"auth-{mechanism.lower()}")
    return reply.code, call.code


def test_plain_login_and_cram_md5_are_offered_unless_told_otherwise(kit):
    assert "AUTH CRAM-MD5 LOGIN PLAIN" in ehlo(kit("auth/auth_flat_file", config=FILE))
    assert "AUTH LOGIN SCRAM-SHA-256" in ehlo(kit("auth/auth_flat_file scram-sha-256 Login login", config=FILE))


@pytest.mark.parametrize("mechanism", [*CLEAR, "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    ("user", "password", "code", "result"),
    [
        ("good@example.com", "good_pass", 235, OK),
        ("GOOD@EXAMPLE.com", "good_pass", 235, OK),
        ("other@example.com", "with:colon", 235, OK),
        ("good@example.com", "nope", 535, DENY),
        ("good@example.com", "good_pass ", 535, DENY),
        ("good@example.com", "GOOD_PASS", 535, DENY),
        ("other@example.com", "with", 535, DENY),
        ("no@example.com", "good_pass", 535, DECLINED),
        ("good", "good_pass", 535, DECLINED),
        ("good@example.com:good_pass", "good_pass", 535, DECLINED),
        ("good@example.com:", "good_pass", 535, DECLINED),
        ("g..d@example.com", "good_pass", 535, DECLINED),  # the original takes a name as a pattern
        (".*@.*", "good_pass", 535, DECLINED),
        ("good@example.com@evil.example", "good_pass", 535, DECLINED),
    ],
)
def test_who_is_let_in(kit, mechanism, user, password, code, result):
    if mechanism == "SCRAM-SHA-256" and result is DENY:
        result = OK  # the verifier is given, and the server judges
    assert attempt(kit, mechanism, user, password, ALL) == (code, result)


@pytest.mark.parametrize("mechanism", [*CLEAR, "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    ("user", "password"),
    [("us\u00e9r@ex\u00e4mple.org", "pass w\u00f6rd \u2603"), ("plain-name", "{PLAIN}"), ("u@x", "$5$")],
)
def test_unicode_names_without_a_domain_and_odd_passwords_do(kit, mechanism, user, password):
    config = {"flat_auth_pw": (f"{user}:{hash_password(password, 'plain')}",)}
    assert attempt(kit, mechanism, user, password, ALL, config) == (235, OK)
    assert attempt(kit, mechanism, user, password[:-1] + "?", ALL, config)[0] == 535


@settings(max_examples=40)
@given(
    users=st.dictionaries(
        st.text("ab@.+\u00e4", min_size=1), st.text("ab:$\u00e4", min_size=1), min_size=1, max_size=4
    ),
    other=st.tuples(st.text("ab@.+\u00e4", min_size=1), st.text("ab:$\u00e4", min_size=1)),
    mechanism=st.sampled_from(CLEAR),
)
def test_exactly_those_in_the_file_are_let_in(users, other, mechanism):
    lines = tuple(f"{user}:{hash_password(password, 'plain')}" for user, password in users.items())
    stage = Kit("auth/auth_flat_file", config={"flat_auth_pw": lines})
    for user, password in (*users.items(), other):
        reply = authenticate(stage.connect(), mechanism, user, password)
        assert (reply.code == 235) is (users.get(user) == password)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_the_reply_does_not_tell_who_is_in_the_file(kit, mechanism):
    stage = kit(ALL, config=FILE)
    wrong, unknown = (authenticate(stage.connect(), mechanism, user, "x") for user in ("good@example.com", "no@x"))
    assert wrong == unknown


# Stored forms


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        (SCRYPT, SCRYPT_PASSWORD),
        (ARGON2ID, "password"),
        (str(ScramVerifier.of_password("p\u00e4ss", b"salt")), "p\u00e4ss"),
    ],
    ids=["scrypt", "argon2id", "scram"],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_hash_serves_plain_and_login(kit, stored, password, mechanism):
    config = {"flat_auth_pw": (f"user@example.org:{stored}",)}
    assert attempt(kit, mechanism, "user@example.org", password, config=config) == (235, OK)
    assert attempt(kit, mechanism, "user@example.org", "x", config=config) == (535, DENY)
    assert attempt(kit, mechanism, "user@example.org", stored, config=config) == (535, DENY)
    assert attempt(kit, mechanism, "nobody@example.org", password, config=config) == (535, DECLINED)


@pytest.mark.parametrize("stored", [SCRYPT, ARGON2ID, str(ScramVerifier.of_password("password", b"salt"))])
def test_a_hash_cannot_serve_cram_md5_and_the_log_says_why(kit, stored):
    stage = kit("auth/auth_flat_file", config={"flat_auth_pw": (f"user@example.org:{stored}",)})
    for password in ("password", stored, ""):
        assert authenticate(stage.connect(), "CRAM-MD5", "user@example.org", password).code == 535
    assert [call.code for call in stage.calls("auth-cram-md5")] == [DECLINED] * 3
    assert len(stage.logged("skip, user@example.org: cram-md5 needs the password itself")) == 3


def test_a_stored_verifier_serves_scram_as_it_is(kit):
    verifier = str(ScramVerifier.of_password("p\u00e4ss", b"salt", 5000))
    stage = kit(ALL, config={"flat_auth_pw": (f"user@example.org:{verifier}",)})
    assert authenticate(stage.connect(), "SCRAM-SHA-256", "User@example.org", "p\u00e4ss").code == 235
    assert authenticate(stage.connect(), "SCRAM-SHA-256", "user@example.org", "x").code == 535
    assert {call.result for call in stage.calls("auth-scram-sha-256")} == {(OK, verifier)}


@pytest.mark.parametrize("stored", [SCRYPT, ARGON2ID, "\u00ad"])
def test_scram_cannot_use_other_hashes_or_what_saslprep_forbids(kit, stored):
    stage = kit(ALL, config={"flat_auth_pw": (f"user@example.org:{stored}",)})
    for _ in range(2):
        assert authenticate(stage.connect(), "SCRAM-SHA-256", "user@example.org", "").code == 535
    assert [call.code for call in stage.calls("auth-scram-sha-256")] == [DECLINED] * 2
    assert len(stage.logged("skip, user@example.org: ")) == 2


def test_scram_of_a_plain_password_has_the_same_salt_each_time_and_runs_pbkdf2_once(kit, monkeypatch):
    made = []
    of_password = passwords.ScramVerifier.of_password
    monkeypatch.setattr(passwords.ScramVerifier, "of_password", lambda *args: made.append(args) or of_password(*args))
    stage = kit(ALL, config=FILE)
    for user in ("good@example.com", "GOOD@example.com", "other@example.com"):
        authenticate(stage.connect(), "SCRAM-SHA-256", user, "good_pass")
    first, again, other = (ScramVerifier.parse(call.result[1]) for call in stage.calls("auth-scram-sha-256"))
    assert first == again
    assert first.salt != other.salt
    assert len(made) == 2
    elsewhere = kit(ALL, config=FILE)
    authenticate(elsewhere.connect(), "SCRAM-SHA-256", "good@example.com", "good_pass")
    assert ScramVerifier.parse(elsewhere.calls("auth-scram-sha-256")[0].result[1]).salt != first.salt


def test_with_scram_an_unknown_user_looks_as_one_in_the_file(kit):
    stage = kit(ALL, config=FILE)

    def challenge(user):
        client = stage.connect()
        client.say("EHLO client.example")
        first = next(CLIENT_MECHANISMS["SCRAM-SHA-256"](Login(user, "x"), "nonce", {}))
        reply = client.send(b"AUTH SCRAM-SHA-256 " + base64.b64encode(first) + b"\r\n")
        return dict(word.split("=", 1) for word in base64.b64decode(reply[4:]).decode().split(","))

    known, unknown = challenge("good@example.com"), challenge("no@example.com")
    assert known["i"] == unknown["i"]
    assert len(known["s"]) == len(unknown["s"])
    assert challenge("no@example.com")["s"] == unknown["s"] != known["s"]


# What it costs


@pytest.mark.parametrize("lines", [(SCRYPT,), ("x", SCRYPT, "y"), ("x",), ()])
def test_for_an_unknown_user_the_work_is_that_of_the_dearest_entry(kit, monkeypatch, lines):
    verified = []
    monkeypatch.setattr(
        passwords, "verify", lambda stored, password: verified.append(stored) or verify(stored, password)
    )
    config = {"flat_auth_pw": tuple(f"user{number}@example.org:{stored}" for number, stored in enumerate(lines))}
    assert attempt(kit, "PLAIN", "no@example.org", "x", config=config) == (535, DECLINED)
    assert verified == [SCRYPT if SCRYPT in lines else "x" if lines else "{PLAIN}x"]


def test_no_more_are_checked_at_once_than_there_are_processors(kit, monkeypatch):
    monkeypatch.setattr(auth_flat_file.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(auth_flat_file, "_WAIT", 0.01)
    stage = kit("auth/auth_flat_file", config=FILE)
    client = stage.connect()
    nested = []

    def verify_while_others_try(stored, password):
        if not nested:
            nested.append(authenticate(stage.connect(), "PLAIN", "other@example.com", "with:colon"))
        return verify(stored, password)

    monkeypatch.setattr(auth_flat_file, "verify", verify_while_others_try)
    assert authenticate(client, "PLAIN", "good@example.com", "good_pass").code == 235
    assert nested[0].code == 535
    assert "try again later" in nested[0].text
    assert DENYSOFT in [call.code for call in stage.calls("auth-plain")]
    assert stage.logged("error, other@example.com: too many")
    assert authenticate(stage.connect(), "PLAIN", "other@example.com", "with:colon").code == 235


def test_a_check_that_fails_gives_its_turn_back(kit, monkeypatch):
    stage = kit("auth/auth_flat_file", config=FILE)
    with monkeypatch.context() as broken:
        broken.setattr(auth_flat_file, "verify", lambda stored, password: 1 / 0)
        for _ in range((os.cpu_count() or 1) + 1):
            assert authenticate(stage.connect(), "PLAIN", "good@example.com", "good_pass").code == 454
    assert authenticate(stage.connect(), "PLAIN", "good@example.com", "good_pass").code == 235


def test_checks_that_take_time_run_in_a_thread(kit):
    chains = kit(ALL, config=FILE).site.chains
    kinds = {name: [entry.kind for entry in chain] for name, chain in chains.items() if name.startswith("auth-")}
    in_turn = [Kind.EFFECTS]
    assert kinds == {
        "auth-plain": in_turn,
        "auth-login": in_turn,
        "auth-scram-sha-256": [Kind.BLOCKING],
        "auth-cram-md5": [Kind.PLAIN],
    }


def test_every_check_takes_as_long_as_the_longest(kit, monkeypatch):
    costly = hash_password("x", "scrypt")
    spent = []
    monkeypatch.setattr(auth_flat_file, "verify_nothing", lambda password, like: spent.append(like))
    stage = kit(
        "auth/auth_flat_file", config={"flat_auth_pw": ["plain@example.com:secret", f"hashed@example.com:{costly}"]}
    )
    for user, password in (
        ("plain@example.com", "secret"),
        ("nobody@example.com", "secret"),
        ("hashed@example.com", "x"),
    ):
        authenticate(stage.connect(), "PLAIN", user, password)
    assert spent == [costly, costly]


def test_a_mechanism_that_cannot_serve_every_user_is_told(kit):
    config = {"flat_auth_pw": [f"hashed@example.com:{hash_password('x', 'scrypt')}"]}
    assert kit("auth/auth_flat_file", config=config).logged("cram-md5 cannot serve users with a hash")
    assert not kit("auth/auth_flat_file plain login", config=config).logged("cannot serve")


# The file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nocolon-s3cret", "a line is USER:PASSWORD"),
        (":s3cret", "a line is USER:PASSWORD"),
        ("user@example.org:", "there is no password"),
        ("user@example.org:$2b$12$s3cret", "this kind of hash is not known here"),
        ("user@example.org:$scrypt$ln=31,r=8,p=1$s3cret", "no hash of scrypt"),
        ("user@example.org:$scrypt$ln=30,r=8,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "memory"),
    ],
)
def test_a_bad_line_is_an_error_at_the_start_with_file_and_line_and_no_more_of_it(kit, directory, line, message):
    path = directory / "flat_auth_pw"
    path.write_text(f"# users\n\ngood@example.com:x\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        kit("auth/auth_flat_file")
    assert f"{path}:4: " in str(caught.value)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="config/flat_auth_pw, value 2: "):
        kit("auth/auth_flat_file", config={"flat_auth_pw": ("good@example.com:x", line)})


def test_a_line_that_is_bad_later_is_logged_and_counts_as_absent(kit, directory):
    path = directory / "flat_auth_pw"
    path.write_text("a@example.org:1\nb@example.org:2\n")
    stage = kit("auth/auth_flat_file")
    assert authenticate(stage.connect(), "PLAIN", "b@example.org", "2").code == 235
    path.write_text("a@example.org:1\nb@example.org:$9$s3cret\nc@example.org:3\n")
    stage.clock.advance(2)
    for user, password, code in (("a", "1", 235), ("b", "2", 535), ("b", "$9$s3cret", 535), ("c", "3", 235)):
        assert authenticate(stage.connect(), "PLAIN", f"{user}@example.org", password).code == code
    assert len(stage.logged(f"error, {path}:2: ")) == 1
    assert not stage.logged("s3cret")


def test_a_changed_password_counts_without_a_restart_for_scram_too(kit, directory):
    path = directory / "flat_auth_pw"
    path.write_text("a@example.org:old\n")
    stage = kit(ALL)
    for mechanism in ("SCRAM-SHA-256", "CRAM-MD5"):
        assert authenticate(stage.connect(), mechanism, "a@example.org", "old").code == 235
    path.write_text("a@example.org:newer\n")
    stage.clock.advance(2)
    for mechanism in ("SCRAM-SHA-256", "CRAM-MD5"):
        assert authenticate(stage.connect(), mechanism, "a@example.org", "old").code == 535
        assert authenticate(stage.connect(), mechanism, "a@example.org", "newer").code == 235


def test_of_several_lines_for_a_user_the_first_counts_and_the_log_says_so(kit, directory):
    (directory / "flat_auth_pw").write_text("a@example.org:1\nA@example.org:2\n")
    stage = kit("auth/auth_flat_file")
    assert authenticate(stage.connect(), "PLAIN", "a@example.org", "1").code == 235
    assert authenticate(stage.connect(), "PLAIN", "A@example.org", "2").code == 535
    assert stage.logged(f"{directory}/flat_auth_pw:2: A@example.org has an earlier line")


def test_without_a_file_nobody_can_authenticate_and_the_log_says_so(kit):
    stage = kit("auth/auth_flat_file")
    assert stage.logged("nobody can authenticate yet")
    assert authenticate(stage.connect(), "PLAIN", "a@example.org", "1").code == 535


@pytest.mark.parametrize(
    ("words", "message"),
    [("plian", "'plian' here; did you mean plain?"), ("plain xoauth2", "'xoauth2'"), ("plain,login", "'plain,login'")],
)
def test_a_mechanism_that_there_is_not_is_an_error(kit, words, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"auth/auth_flat_file {words}")
    assert message in str(caught.value)


@pytest.mark.parametrize("mechanism", [*CLEAR, "SCRAM-SHA-256"])
@pytest.mark.parametrize("stored", ["st0red", SCRYPT, str(ScramVerifier.of_password("st0red", b"salt"))])
def test_neither_what_is_sent_nor_what_is_stored_is_in_the_log(kit, mechanism, stored):
    stage = kit(ALL, config={"flat_auth_pw": (f"user@example.org:{stored}", "user@example.org:s3cret")})
    for user in ("user@example.org", "nobody@example.org"):
        for password in ("s3cret", "st0red"):
            authenticate(stage.connect(), mechanism, user, password)
    assert len(stage.log) >= 4
    for secret in ("s3cret", "st0red", stored, stored.rpartition("$")[2]):
        assert not stage.logged(secret)
