"""What is stored of a password lets exactly its owner in, and costs no more than it may."""

import hashlib
import os
import stat
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import passwords
from qpsmtpd.config import Config, ConfigError
from qpsmtpd.passwords import (
    SCHEMES,
    check,
    cost,
    hash_password,
    parse_entry,
    plain_text,
    scram_verifier,
    verify,
    verify_nothing,
    write_entry,
)
from qpsmtpd.protocol.sasl import ScramVerifier

PASSWORDS = ["with: colon", "pass w\u00f6rd \u2603", "$argon2id$", "{PLAIN}x", "{x}", "x" * 1000]
DEAR = ["argon2id", "scrypt"]
SALT, KEY = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
PENCIL = (
    "W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)
SCRYPT = "$scrypt$ln=4,r=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

stored_text = st.text() | st.builds(
    "{}{}{}".format,
    st.sampled_from(["$argon2id$v=19$m=", "$scrypt$ln=", "SCRAM-SHA-256$4096:", "{PLAIN}", "$2b$"]),
    st.from_regex(r"[0-9]{0,9}(,[trp]=[0-9]{0,9}){0,2}", fullmatch=True),
    st.text("$c29tZXNhbHQ=:,", max_size=60),
)


@pytest.mark.parametrize(
    ("scheme", "password"),
    [(scheme, password) for scheme in SCHEMES for password in PASSWORDS if scheme not in DEAR]
    + [(scheme, PASSWORDS[1]) for scheme in DEAR],
)
def test_the_password_lets_in_and_no_other_does(scheme, password):
    stored = hash_password(password, scheme)
    assert verify(stored, password)
    assert not verify(stored, f"{password} ")
    assert not verify(stored, "")
    assert (hash_password(password, "plain") in stored) is (scheme == "plain")


@pytest.mark.parametrize("scheme", ["argon2id", "scrypt", "scram-sha-256"])
def test_the_same_password_is_never_stored_the_same_way(scheme):
    assert hash_password("secret", scheme) != hash_password("secret", scheme)


@given(st.text(min_size=1), st.text())
def test_a_plain_password_is_compared_as_it_is(password, other):
    stored = hash_password(password, "plain")
    assert verify(stored, password)
    assert verify(stored, other) is (password == other)
    assert plain_text(stored) == password


def test_octets_that_are_not_utf_8_are_a_password_too():
    for stored in (hash_password("\udcffx", "plain"), hash_password("\udcffx", "scrypt")):
        assert verify(stored, "\udcffx")
        assert not verify(stored, "\ufffdx")


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        # the reference implementation's own test
        (f"$argon2id$v=19$m=65536,t=2,p=1${SALT}${KEY}", "password"),
        # passlib's documentation, and passlib 1.7.4 itself
        ("$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E", "password"),
        ("$scrypt$ln=10,r=8,p=2$fQ+hVOr9X8v5X0vpXQshRA$qDJsaeB3mtEjQyvhr8BNDIyK3zSEwvSSdCKmY5NaoLc", "s\u00e9cret: \u2603"),
        # the user of RFC 7677
        (
            f"SCRAM-SHA-256$4096:{PENCIL}",
            "pencil",
        ),
        ("{PLAIN}$argon2id$", "$argon2id$"),
    ],
)  # fmt: skip
def test_what_others_have_stored_is_understood(stored, password):
    check(stored)
    assert verify(stored, password)
    assert not verify(stored, password.upper())


@pytest.mark.parametrize(
    "stored",
    [
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$6$rounds=5000$saltstring$x",
        f"$argon2i$v=19$m=65536,t=2,p=1${SALT}${KEY}",
        "{SSHA}DkMTwBl+a/3DQTxCYEApdUtNXGgdUac3",
        "SCRAM-SHA-1$4096:c2FsdA==$a:b",
        f"$argon2id$v=16$m=65536,t=2,p=1${SALT}${KEY}",
        f"$argon2id$m=65536,t=2,p=1${SALT}${KEY}",
        "$argon2id$",
        "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$",
        f"$scrypt$ln=4,r=1,p=1$c29tZXNhbHQx1$CTFhFdXPJO1aFaMaO6Mm5{KEY}",  # no base64 has 4n + 1 letters
        "SCRAM-SHA-256$4096:c2FsdA==$a:b",
        "{PLAIN}",
        "",
    ],
)
def test_another_hash_or_a_broken_one_is_no_password(stored):
    with pytest.raises(ValueError, match=r"hash|verifier|password|padded|encoded") as caught:
        check(stored)
    assert len(stored) < 8 or stored not in str(caught.value)
    with pytest.raises(ValueError, match=r"."):
        verify(stored, stored)


@pytest.mark.parametrize(
    "stored",
    [
        f"$argon2id$v=19$m=9999999,t=1,p=1${SALT}${KEY}",
        f"$argon2id$v=19$m=262144,t=99,p=1${SALT}${KEY}",
        f"$argon2id$v=19$m=65536,t=1,p=17${SALT}${KEY}",
        f"$argon2id$v=19$m=8,t=1,p=2${SALT}${KEY}",
        f"$argon2id$v=19$m=8,t=0,p=1${SALT}${KEY}",
        f"$scrypt$ln=99,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=20,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=17,r=8,p=99${SALT}${KEY}",
        f"$scrypt$ln=16,r=1,p=1${SALT}${KEY}",
        f"$scrypt$ln=0,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=4,r=0,p=1${SALT}${KEY}",
        f"SCRAM-SHA-256$9999999:{PENCIL}",
    ],
)
def test_a_slip_of_the_pen_eats_neither_memory_nor_time(stored):
    with pytest.raises(ValueError, match=r"cost|no verifier"):
        verify(stored, "password")


@given(stored_text)
def test_any_text_is_a_stored_form_within_the_bounds_or_an_error(stored):
    try:
        check(stored)
    except ValueError:
        return
    assert cost(stored) <= passwords._COST_LIMIT
    if cost(stored) < 10_000:
        assert verify(stored, "password") in (True, False)


@given(ln=st.integers(1, 8), r=st.integers(1, 4), p=st.integers(1, 4), password=st.text(), salt=st.binary(min_size=9))
def test_scrypt_is_that_of_hashlib(ln, r, p, password, salt):
    salt = salt[:60]
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=r, p=p, dklen=32)
    text = "$".join(passwords._without_padding(each) for each in (salt, digest))
    assert verify(f"$scrypt$ln={ln},r={r},p={p}${text}", password)


@pytest.mark.parametrize("password", ["\u0007", "a\u0001", "\u00ad", "\u0627a"])
def test_scram_takes_no_password_that_nobody_could_log_in_with(password):
    with pytest.raises(ValueError, match="RFC 4013"):
        hash_password(password, "scram-sha-256")
    with pytest.raises(ValueError, match="RFC 4013"):
        scram_verifier(password, b"salt")
    kept = hash_password("secret", "scram-sha-256")
    assert not verify(kept, password)


def test_a_scram_verifier_is_made_of_a_plain_password_or_is_there_already():
    stored = hash_password("secret", "scram-sha-256")
    assert str(scram_verifier(stored, b"other salt")) == stored
    assert scram_verifier("secret", b"salt") == ScramVerifier.of_password("secret", b"salt")
    assert scram_verifier(SCRYPT, b"salt") is None
    assert plain_text(stored) is plain_text(SCRYPT) is None


@pytest.mark.parametrize("scheme", ["argon2", "md5", ""])
def test_a_scheme_that_there_is_not_is_an_error(scheme):
    with pytest.raises(ValueError, match="argon2id, scrypt, scram-sha-256, plain"):
        hash_password("secret", scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_there_is_no_empty_password(scheme):
    with pytest.raises(ValueError, match="empty"):
        hash_password("", scheme)


def test_without_its_library_argon2_says_what_to_install(monkeypatch):
    stored = f"$argon2id$v=19$m=65536,t=2,p=1${SALT}${KEY}"
    monkeypatch.setitem(sys.modules, "argon2", None)
    for act in (lambda: check(stored), lambda: verify(stored, "x"), lambda: hash_password("x", "argon2id")):
        with pytest.raises(ConfigError, match=r"pip install 'qpsmtpd\[argon2\]'"):
            act()


def test_a_user_that_there_is_not_costs_as_much_as_one_that_there_is(monkeypatch):
    given_to = []
    monkeypatch.setattr(hashlib, "scrypt", lambda *args, **names: given_to.append((args, names)) or b"x" * 32)
    verify(SCRYPT, "guess")
    verify_nothing("guess", SCRYPT)
    assert given_to[0] == given_to[1]
    verify_nothing("guess")  # where all are stored as such


def test_the_dearest_of_several_forms_has_the_highest_cost():
    forms = [
        "secret",
        SCRYPT,
        str(ScramVerifier.of_password("x", b"salt")),
        f"$argon2id$v=19$m=65536,t=3,p=4${SALT}${KEY}",
        f"$scrypt$ln=15,r=8,p=3${SALT}${KEY}",
    ]  # fmt: skip
    costs = [cost(form) for form in forms]
    assert costs == sorted(costs)


# The file


@pytest.mark.parametrize("line", ["", "nobody", ":secret", "user@example.org:", "user:$2b$12$abc"])
def test_a_line_without_user_or_password_is_an_error_that_shows_nothing(line):
    with pytest.raises(ValueError, match=r"USER:PASSWORD|password") as caught:
        parse_entry(line)
    assert "12$abc" not in str(caught.value)


def test_a_line_is_cut_at_its_first_colon():
    assert parse_entry("user@example.org:a:b:") == ("user@example.org", "a:b:")


def test_a_new_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "flat_auth_pw"
    umask = os.umask(0)
    try:
        write_entry(path, "user@example.org", "secret")
    finally:
        os.umask(umask)
    assert path.read_text() == "user@example.org:secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["flat_auth_pw"]


def test_a_line_takes_the_place_of_the_users_old_ones_and_others_stay(tmp_path):
    path = tmp_path / "flat_auth_pw"
    path.write_bytes(
        b"# user@example.org:no\n\n a@x:1 \r\nUSER@example.org:old\n\xff@x:2\nuser@example.org:older\nb@x:3"
    )
    path.chmod(0o640)
    write_entry(path, "user@example.org", "new")
    before = b"# user@example.org:no\n\n a@x:1 \r\n"
    assert path.read_bytes() == before + b"user@example.org:new\n\xff@x:2\nb@x:3"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_entry(path, "c@x", "4")
    assert path.read_bytes() == before + b"user@example.org:new\n\xff@x:2\nb@x:3\nc@x:4\n"


@pytest.mark.parametrize(
    ("user", "stored"),
    [
        ("a:b", "x"), ("", "x"), (" a", "x"), ("a ", "x"), ("a\nb", "x"), ("a\rb", "x"), ("a\u2028b", "x"),
        ("#a", "x"), ("$include a", "x"), ("a\0", "x"),
        ("a", ""), ("a", "x "), ("a", "x\ny"), ("a", "x\x85y"), ("a", "$2b$x"), ("a", "{PLAIN}"),
    ],
)  # fmt: skip
def test_what_would_be_read_as_something_else_is_not_written(tmp_path, user, stored):
    path = tmp_path / "flat_auth_pw"
    path.write_text("old@example.org:x\n")
    with pytest.raises(ValueError, match=r"."):
        write_entry(path, user, stored)
    assert path.read_text() == "old@example.org:x\n"


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, users):
    directory = tmp_path_factory.mktemp("config")
    written = {}
    for user, password in users.items():
        stored = hash_password(password, "plain")
        try:
            write_entry(directory / "flat_auth_pw", user, stored)
        except ValueError:
            continue
        written = {name: kept for name, kept in written.items() if name.lower() != user.lower()} | {user: stored}
    assert dict(map(parse_entry, Config(directory).values("flat_auth_pw"))) == written


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path, link = tmp_path / "elsewhere" / "users", tmp_path / "flat_auth_pw"
    path.write_text("a@x:1\n")
    link.symlink_to(path)
    write_entry(link, "b@x", "2")
    assert link.is_symlink()
    assert path.read_text() == "a@x:1\nb@x:2\n"


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "flat_auth_pw"
    path.write_text("a@x:1\n")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_entry(path, "b@x", "2")
    assert path.read_text() == "a@x:1\n"
    assert [each.name for each in tmp_path.iterdir()] == ["flat_auth_pw"]


def test_writers_at_the_same_time_do_not_undo_each_other(tmp_path):
    path = tmp_path / "flat_auth_pw"
    threads = [threading.Thread(target=write_entry, args=(path, f"user{number}", "x")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().split()) == sorted(f"user{number}:x" for number in range(12))
