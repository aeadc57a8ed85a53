"""Which signatures `dkim` believes, and that others believe its own."""

import base64
import dataclasses
import io
import subprocess
import sys
import threading
import time

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from name_server import DROP

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins import _dkim
from qpsmtpd.session.message import Header
from qpsmtpd.testing import Kit, Names

PEM = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw

RESULTS = {"pass", "fail", "policy", "neutral", "temperror", "permerror"}
BODY = b"Hello  you \t\r\n\r\n.. dots\r\n\tindented\r\n\r\n\r\n"
HEAD = b"From: Alice <alice@signed.example>\r\nTo: b@example.org\r\nSubject: a\r\n\tfolded  one\r\nDate: today\r\n"


class Key:
    def __init__(self, private, public):
        self.private = private
        self.text = base64.b64encode(public).decode()

    @classmethod
    def rsa(cls, bits=2048):
        key = rsa.generate_private_key(65537, bits)
        return cls(key.private_bytes(*PEM), key.public_key().public_bytes(*SPKI))


@pytest.fixture(scope="module")
def key():
    return Key.rsa()


@pytest.fixture(scope="module")
def records(key):
    return {"sel._domainkey.signed.example": {"TXT": [f"v=DKIM1; k=rsa; p={key.text}"]}}


def signed(key, head=HEAD, body=BODY, selector="sel", domain="signed.example", **kwargs):
    message = head + b"\r\n" + body
    return dkim.sign(message, selector.encode(), domain.encode(), key.private, **kwargs) + message


class Keeps(Plugin):
    def hook_queue(self, transaction):
        Keeps.header, Keeps.message = transaction.header, b"".join(transaction.chunks())


def check(kit, message, records, args="", *plugins, **kwargs):
    """Deliver a message to a server that checks; give the words of its results, the reply and the stage."""
    names = records if isinstance(records, Names) else Names(records)
    stage = kit(f"dkim {args}", *plugins, Keeps, names=names, **kwargs)
    client = stage.connect()
    for line in ("EHLO c.example", "MAIL FROM:<a@other.example>", "RCPT TO:<b@example.org>", "DATA"):
        client.say(line)
    reply = client.send((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
    fields = Keeps.header.get("Authentication-Results").split("; ")[2:] if reply.startswith(b"250") else []
    return fields, reply, client


PASS = ["dkim=pass header.d=signed.example header.s=sel"]


@pytest.mark.parametrize("head", [b"relaxed", b"simple"])
@pytest.mark.parametrize("body", [b"relaxed", b"simple"])
def test_a_good_signature_is_a_pass(kit, key, records, head, body):
    assert check(kit, signed(key, canonicalize=(head, body)), records)[0] == PASS


def test_without_a_signature_there_is_none(kit):
    assert check(kit, HEAD + b"\r\n" + BODY, {})[0] == ["dkim=none"]


@pytest.mark.parametrize(
    ("old", "new"), [(b"Hello", b"Hallo"), (b"Alice", b"Malice"), (b"From:", b"From: x@evil.example\r\nFrom:"), (b"v=1;", b"v=1; n=x;"),
                     (b"indented\r\n", b"indented\r\nmore\r\n"), (b"From:", b"From : x@evil.example\r\nFrom:")],
)  # fmt: skip
def test_a_message_that_was_changed_fails(kit, key, records, old, new):
    message = signed(key)
    results, reply, client = check(kit, message.replace(old, new, 1), records)
    assert results == ["dkim=fail header.d=signed.example header.s=sel"]
    assert reply.startswith(b"250")  # RFC 6376 section 6.1
    assert client.connection.notes["karma"] == -1


def test_what_is_signed_in_part_only_is_a_pass_for_the_whole_alone(kit, key, records):
    message = signed(key, length=True)
    assert check(kit, message, records)[0] == PASS
    assert check(kit, message + b"added\r\n", records)[0] == ["dkim=fail header.d=signed.example header.s=sel"]


def test_ed25519_is_checked(kit):
    private = ed25519.Ed25519PrivateKey.generate()
    header = Header(HEAD)

    class Signs:  # the place of PyNaCl
        def sign(self, digest):
            return dataclasses.make_dataclass("Signed", ["signature"])(private.sign(digest))

    signer = dkim.DKIM(HEAD + b"\r\n" + BODY, signature_algorithm=b"ed25519-sha256")
    signer.hasher = dkim.HASH_ALGORITHMS[b"ed25519-sha256"]
    form = dkim.canonicalization.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
    body_hash = base64.b64encode(signer.hasher(form.canonicalize_body(BODY)).digest())
    tags = [
        (b"v", b"1"),
        (b"a", b"ed25519-sha256"),
        (b"c", b"relaxed/relaxed"),
        (b"d", b"signed.example"),
        (b"s", b"sel"),
        (b"h", b"from:to"),
        (b"bh", body_hash),
        (b"b", b""),
    ]
    message = (
        b"DKIM-Signature: "
        + signer.gen_header(tags, [b"from", b"to"], form, b"DKIM-Signature", Signs())
        + HEAD
        + b"\r\n"
        + BODY
    )
    public = base64.b64encode(private.public_key().public_bytes(*RAW)).decode()
    records = {"sel._domainkey.signed.example": {"TXT": [f"v=DKIM1; k=ed25519; p={public}"]}}
    assert len(header) == 4
    assert check(kit, message, records)[0] == PASS
    assert check(kit, message.replace(b"Alice", b"Malice"), records)[0] == [
        "dkim=fail header.d=signed.example header.s=sel"
    ]
    short = {"sel._domainkey.signed.example": {"TXT": ["k=ed25519; p=AAAA"]}}
    assert check(kit, message, short)[0] == ["dkim=permerror header.d=signed.example header.s=sel"]


def test_ed25519_without_its_library_is_neutral(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(_dkim._NotValidError, match="Ed25519 needs cryptography"):
        _dkim._ed25519_key(b"x" * 32)


def test_weak_means_are_policy(kit, key, records):
    old = signed(key, signature_algorithm=b"rsa-sha1")
    assert check(kit, old, records)[0] == ["dkim=policy"]
    small = Key(b"", rsa_768())
    weak = {"sel._domainkey.signed.example": {"TXT": [f"p={small.text}"]}}
    assert check(kit, signed(key), weak)[0] == ["dkim=policy header.d=signed.example header.s=sel"]


def rsa_768():
    """The public key, in DER, of a number of 768 bits."""
    integer = b"\x02\x61\x00" + b"\xff" * 96
    content = integer + b"\x02\x03\x01\x00\x01"
    return b"\x30" + bytes([len(content)]) + content


@pytest.mark.parametrize(
    "record",
    [None, "", "p=", "p=AAAA", "p=A", "nonsense", "v=DKIM2; p={}", "k=ed25519; p={}", "h=sha1; p={}", "s=tlsrpt; p={}", "k=rsa", "p={}" + " " * 5000,
     "p=\udcff", "v=DKIM1; p={}; p={}"],
)  # fmt: skip
def test_a_key_that_does_not_fit_is_a_permerror(kit, key, record):
    records = {} if record is None else {"sel._domainkey.signed.example": {"TXT": [record.replace("{}", key.text)]}}
    assert check(kit, signed(key), records)[0] == ["dkim=permerror header.d=signed.example header.s=sel"]


@pytest.mark.parametrize("extra", ["", "h=sha1:sha256; ", "s=email; ", "s=*; ", "t=y:s; ", "n=a note; "])
def test_a_key_may_say_what_it_is_for(kit, key, extra):
    records = {"sel._domainkey.signed.example": {"TXT": [f"{extra}p={key.text}"]}}
    assert check(kit, signed(key), records)[0] == PASS


def test_a_key_may_be_for_one_domain_only(kit, key):
    records = {"sel._domainkey.signed.example": {"TXT": [f"t=s; p={key.text}"]}}
    message = signed(key, identity=b"a@sub.signed.example")
    assert check(kit, message, records)[0] == ["dkim=permerror header.d=signed.example header.s=sel"]


def test_a_key_that_would_take_long_is_not_tried(kit, key):
    def integer(octets):
        return b"\x02\x82" + len(octets).to_bytes(2) + octets

    content = integer(b"\x7f" * 1100) + integer(b"\x01\x00\x01")
    large = base64.b64encode(b"\x30\x82" + len(content).to_bytes(2) + content).decode()
    records = {"sel._domainkey.signed.example": {"TXT": [f"p={large}"]}}
    assert check(kit, signed(key), records)[0] == ["dkim=policy header.d=signed.example header.s=sel"]


@pytest.mark.parametrize(
    "field",
    ["", "v=1", "v=1; a=rsa-sha256; d=x; s=y; h=from; bh=; b=", "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a..b; h=from; s=sel",
     "v=1; a=none; b=AAAA; bh=AAAA; d=a.b; h=from; s=sel", "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a.b; h=from; s=s; i=a.b",
     "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a.b; h=from; s=s; t=" + "9" * 5000, "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a.b; s=s; c=x; h=from",
     "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a.b; s=s; x=1; h=from", "v=1; " + " " * 200, "z=" + "a" * 20_000, "=;=;", "\xff=\xff",
     "v=1; a=rsa-sha256; b=AAAA; bh=AAAA; d=a.b; s=s; h=from" + ":x" * 300],
)  # fmt: skip
def test_a_signature_that_makes_no_sense_is_neutral(kit, field):
    message = b"DKIM-Signature: " + field.encode("latin-1") + b"\r\n" + HEAD + b"\r\n" + BODY
    assert [result.split()[0] for result in check(kit, message, {})[0]] == ["dkim=neutral"]


def test_a_signature_that_would_take_long_is_not_tried(kit, key, records):
    assert check(kit, signed(key).replace(b"v=1; ", b"v=1; " + b" " * 90), records)[0] == PASS
    assert check(kit, signed(key).replace(b"v=1; ", b"v=1; " + b" " * 100), records)[0] == ["dkim=neutral"]


def test_the_log_says_why(kit, key):
    class Says(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            Says.lines.append(text)

    Says.lines = []
    check(kit, signed(key), {"sel._domainkey.signed.example": {"TXT": ["p="]}}, "", Says)
    assert "fail, permerror, signed.example, selector sel: the key has been revoked" in Says.lines


def test_the_author_has_to_be_signed(kit, key, records):
    message = signed(key).replace(b"h=from", b"h=xfrom")
    message = message.replace(b" from", b" xfrom")
    assert check(kit, message, records)[0] == ["dkim=permerror"]


def test_the_client_adds_nothing_to_our_results(kit):
    for tag in (
        b"s=sel; d=a.b (x)",
        b"s=sel; d=a.b\r\n x",
        b's=sel; d="a.b"',
        b"d=a.b; s=x y",
        b"d=a.b; s=(x)",
        b"d=a.b; s=\xff",
    ):
        message = (
            b"DKIM-Signature: v=1; a=rsa-sha256; b=AAAA; bh=AAAA; h=from; " + tag + b"\r\n" + HEAD + b"\r\n" + BODY
        )
        assert check(kit, message, {})[0] == ["dkim=neutral"]


def test_each_signature_has_its_result_and_is_noted_for_others(kit, key, records):
    other = Key.rsa(1024)
    records = records | {"two._domainkey.other.example": {"TXT": [f"p={other.text}"]}}
    message = dkim.sign(HEAD + b"\r\n" + BODY, b"gone", b"gone.example", key.private) + signed(key)
    message = dkim.sign(message, b"two", b"other.example", other.private) + message

    class Notes(Plugin):
        def hook_data_post(self, transaction):
            Notes.notes = dict(transaction.notes)

    results, _, client = check(kit, message, records, "", Notes)
    assert results == [
        "dkim=pass header.d=other.example header.s=two", "dkim=permerror header.d=gone.example header.s=gone", *PASS
    ]  # fmt: skip
    assert Notes.notes["dkim_result"] == "pass"
    assert Notes.notes["dkim_pass_domains"] == ["other.example", "signed.example"]
    assert Notes.notes["dkim_signatures"] == [
        ("other.example", "pass"),
        ("gone.example", "permerror"),
        ("signed.example", "pass"),
    ]
    assert client.connection.notes["karma"] == 1


def test_there_is_a_bound_on_signatures_and_fields(kit, key, records):
    names = Names(records)
    assert len(check(kit, signed(key).split(b"From:")[0] * 20 + HEAD + b"\r\n" + BODY, names)[0]) == 8
    many = b"X: y\r\n" * 2001
    assert check(kit, many + signed(key), records)[0] == ["dkim=neutral"]


def test_the_dns_may_fail(kit, key, records):
    names = Names(failing=["sel._domainkey.signed.example"])
    results, reply, client = check(kit, signed(key), names, "reject 1")
    assert results == ["dkim=temperror header.d=signed.example header.s=sel"]
    assert reply.startswith(b"250")
    assert "karma" not in client.connection.notes


def test_a_silent_name_server_costs_a_bounded_time(kit, key, name_server):
    name_server.set({"sel._domainkey.signed.example": DROP})
    config = {"nameservers": name_server.config, "timeoutdns": ["0.3"]}
    start = time.monotonic()
    stage = kit("dkim", Keeps, config=config)
    client = stage.connect()
    for line in ("EHLO c.example", "MAIL FROM:<a@other.example>", "RCPT TO:<b@example.org>", "DATA"):
        client.say(line)
    assert client.send(signed(key).replace(b"\r\n..", b"\r\n...") + b".\r\n").startswith(b"250")
    assert "dkim=temperror" in Keeps.header.get("Authentication-Results")
    assert time.monotonic() - start < 3


def test_a_real_name_server_gives_the_key_in_pieces(kit, key, name_server):
    text = f"v=DKIM1; p={key.text}"
    name_server.set(
        {
            "sel._domainkey.signed.example": {
                "TXT": [" ".join(f'"{text[n : n + 200]}"' for n in range(0, len(text), 200))]
            }
        }
    )
    stage = kit("dkim", Keeps, config={"nameservers": name_server.config})
    client = stage.connect()
    for line in ("EHLO c.example", "MAIL FROM:<a@other.example>", "RCPT TO:<b@example.org>", "DATA"):
        client.say(line)
    client.send(signed(key).replace(b"\r\n..", b"\r\n...") + b".\r\n")
    assert PASS[0] in Keeps.header.get("Authentication-Results")


def test_reject_refuses_where_no_signature_is_good(kit, key, records):
    bad = signed(key).replace(b"Hello", b"Hallo")
    assert check(kit, bad, records, "reject 1")[1].startswith(b"554 5.7.1 the DKIM signature")
    assert check(kit, bad, records, "reject 1 reject_type soft")[1].startswith(b"451")
    assert check(kit, bad, records, "reject 0")[1].startswith(b"250")
    good = signed(key)
    false = b"DKIM-Signature: " + good[16:].replace(b"bh=", b"bh=AAAA", 1).partition(b"From: ")[0]
    assert check(kit, false + HEAD + b"\r\n" + BODY, records, "reject 1")[1].startswith(b"554")
    assert check(kit, false + good, records, "reject 1")[1].startswith(b"250")
    assert check(kit, bad, {}, "reject 1")[1].startswith(b"250")  # permerror
    assert check(kit, bad, records, "reject naughty", "naughty")[1].startswith(b"554")


def test_immune_clients_are_not_checked(kit, key, records):
    class Immune(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["whitelisthost"] = "yes"

    names = Names(records)
    assert check(kit, signed(key).replace(b"Hello", b"Hallo"), names, "reject 1", Immune)[0] == []
    assert names.asked == []


# Bodies


@given(
    body=st.lists(st.sampled_from([b"a", b" ", b"  ", b"\t", b"\r\n", b"\r\n\r\n", b".", b"\xff"])).map(b"".join),
    size=st.integers(1, 7),
)
def test_bodies_are_hashed_as_dkimpy_does_wherever_they_are_cut(body, size):
    class Small:
        def __init__(self):
            self.rest = [b"\r\n", *(body[n : n + size] for n in range(0, len(body), size))]

        def read(self, _):
            return self.rest.pop(0) if self.rest else b""

    for name, relaxed in ((b"relaxed/relaxed", True), (b"simple/simple", False)):
        form = dkim.canonicalization.CanonicalizationPolicy.from_c_value(name)
        whole = body + b"\r\n" if body and not body.endswith(b"\r\n") else body
        wanted = dkim.HASH_ALGORITHMS[b"rsa-sha256"](form.canonicalize_body(whole)).digest()
        assert _dkim._body_hash(Small(), relaxed=relaxed) == wanted


@pytest.mark.parametrize("body", [b" " * (1 << 20) + b"x\r\n", b"\r\n" * (1 << 19) + b"x\r\n", b" \t" * 300_000])
def test_blanks_and_empty_lines_take_no_time(kit, key, records, body):
    start = time.monotonic()
    check(kit, signed(key, body=b"short\r\n") + body, records)
    check(kit, signed(key, body=b"short\r\n", canonicalize=(b"relaxed", b"relaxed")) + body + b"\r\n", records)
    assert time.monotonic() - start < 5


# Signing


@pytest.fixture
def keys(directory, key):
    def keys(domain="signed.example", selector="sel\n", private=None):
        folder = directory / "dkim" / domain
        folder.mkdir(parents=True)
        (folder / "selector").write_text(selector)
        (folder / "private").write_bytes(key.private if private is None else private)
        return folder

    return keys


def submit(kit, head=HEAD, body=BODY, sender="alice@signed.example", *plugins, relay=True, names=None):
    stage = kit(
        "relay", "dkim", *plugins, Keeps, config={"relayclients": ["192.0.2."] if relay else []}, names=names or Names()
    )
    stage.connect().deliver(head + b"\r\n" + body, sender=sender)
    return stage


def verify(records):
    def look_up(name, timeout=5):
        return records.get(name.decode().rstrip("."), {}).get("TXT", [""])[0].encode()

    return dkim.verify(Keeps.message, dnsfunc=look_up)


def test_what_our_users_send_is_signed_and_dkimpy_believes_it(kit, keys, records):
    keys()
    stage = submit(kit)
    assert Keeps.header.fields[0].name == "DKIM-Signature"
    assert stage.logged("dkim: pass, signed for signed.example")
    assert "d=signed.example; s=sel; t=1767225600" in " ".join(Keeps.header.get("DKIM-Signature").split())
    assert verify(records)
    Keeps.message = Keeps.message.replace(b"Hello", b"Hallo")
    assert not verify(records)


@pytest.mark.parametrize("body", [b"", b"\r\n", b"x\r\n", b" \r\n\r\n", BODY * 5000])
def test_any_body_is_signed(kit, keys, records, body):
    keys()
    submit(kit, body=body)
    assert verify(records)


def test_other_plugins_may_change_the_message_before(kit, keys, records):
    class Changes(Plugin):
        def hook_data_post(self, transaction):
            transaction.header.replace("Subject", "[changed] it")
            transaction.body_write(b"a footer\n")

    keys()
    submit(kit, HEAD, BODY, "alice@signed.example", Changes)
    assert b"[changed]" in Keeps.message
    assert verify(records)


def test_a_second_author_breaks_our_signature(kit, keys, records):
    keys()
    submit(kit)
    Keeps.message = b"From: x@evil.example\r\n" + Keeps.message
    assert not verify(records)


def test_our_signature_survives_our_own_check(kit, keys, records):
    keys()
    submit(kit)
    assert check(kit, Keeps.message, records)[0] == PASS


@pytest.mark.parametrize("sender", ["a@mail.signed.example", "a@a.b.Signed.example", "a@signed.example"])
def test_the_directory_of_the_parent_domain_serves(kit, keys, records, sender):
    keys()
    submit(kit, sender=sender)
    assert verify(records)


def test_the_nearest_directory_counts(kit, keys):
    keys()
    keys("sub.signed.example")
    submit(kit, sender="a@host.sub.signed.example")
    assert "d=sub.signed.example" in Keeps.header.get("DKIM-Signature")


def test_a_link_signs_for_the_domain_it_leads_to(kit, keys, records):
    folder = keys()
    (folder.parent / "client.example").symlink_to("signed.example")
    submit(kit, sender="a@client.example")
    assert verify(records)


def test_a_message_without_a_sender_is_signed_for_its_author(kit, keys, records):
    keys()
    submit(kit, sender="")
    assert verify(records)


@pytest.mark.parametrize(
    ("sender", "head"), [("a@other.example", HEAD), ("", b"From: a@x.example, b@y.example\r\n"), ("a@[192.0.2.1]", HEAD), ("a@xsigned.example", HEAD)]
)  # fmt: skip
def test_without_a_key_nothing_is_signed(kit, keys, sender, head):
    keys()
    stage = submit(kit, head, sender=sender)
    assert Keeps.header.fields[0].name == "Authentication-Results"
    assert stage.logged("dkim: skip, there is no key for ")


def test_strangers_are_not_signed_for(kit, keys):
    keys()
    submit(kit, relay=False)
    assert not Keeps.header.get("DKIM-Signature")


@pytest.mark.parametrize(
    ("selector", "private", "head", "why"),
    [("", None, HEAD, "holds no selector"), ("a b", None, HEAD, "holds no selector"), ("../x", None, HEAD, "holds no selector"),
     ("sel", b"", HEAD, "the private key makes no sense"), ("sel", b"--\nAAAA\n--", HEAD, "the private key makes no sense"),
     ("sel", None, b"To: b@example.org\r\n", "there is no From field"), ("sel", None, HEAD + b"X: y\r\n" * 2001, "header fields are too many")],
)  # fmt: skip
def test_what_cannot_be_signed_goes_unsigned_and_the_log_says_why(kit, keys, selector, private, head, why):
    keys("signed.example", selector, private)
    stage = submit(kit, head)
    assert not Keeps.header.get("DKIM-Signature")
    (line,) = stage.logged("dkim: error, not signed for signed.example: ")
    assert why in line


def test_a_missing_file_is_logged(kit, keys):
    (keys() / "private").unlink()
    assert submit(kit).logged("dkim: error, not signed for signed.example: [Errno 2]")


def test_a_short_private_key_does_not_sign():
    class Library:
        class crypto:  # noqa: N801
            @staticmethod
            def parse_pem_private_key(text):
                return {"modulus": 1 << 767}

    with pytest.raises(ValueError, match="768 bits is too short"):
        _dkim._private_key(Library, b"")


def test_the_commands_of_the_documentation_make_such_a_directory(kit, directory):
    folder = directory / "dkim" / "signed.example"
    folder.mkdir(parents=True)
    (folder / "selector").write_text("mar2026\n")
    subprocess.run(["openssl", "genrsa", "-out", folder / "private", "2048"], check=True, capture_output=True)
    der = subprocess.run(
        ["openssl", "rsa", "-in", folder / "private", "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    submit(kit)
    public = base64.b64encode(der).decode()
    assert verify({"mar2026._domainkey.signed.example": {"TXT": [f"v=DKIM1; k=rsa; p={public}"]}})


def test_messages_are_checked_in_several_threads(key, records):
    message = signed(key)
    header, _, body = message.partition(b"\r\n\r\n")
    results = []

    def run():
        hasher = _dkim.hash_body(lambda: io.BytesIO(b"\r\n" + body))
        look_up = lambda name: records[name]["TXT"]  # noqa: E731
        results.extend(_dkim.check_signatures(dkim, Header(header + b"\r\n"), hasher, look_up))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.result for result in results] == ["pass"] * 8


# Whatever comes

TAGS = st.sampled_from([
    "v=1", "a=rsa-sha256", "a=ed25519-sha256", "a=rsa-sha1", "d=x.example", "d=", "s=sel", "h=from", "h=from:to:from", "h=", "bh=AAAA", "b=AAAA", "b=",
    "c=relaxed/relaxed", "c=/", "l=1", "l=-1", "x=1", "t=x", "i=@x.example", "i=", "q=dns/txt", "bh=A", "b=A A=",
])  # fmt: skip
SIGNATURES = st.one_of(st.binary(max_size=60), st.lists(TAGS, max_size=14).map(lambda tags: "; ".join(tags).encode()))
KEYS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["v=DKIM1", "k=rsa", "k=ed25519", "p=", "p=AAAA", "p=MIGf", "t=s", "s=x", "h=", "p=" + "A" * 43 + "="]
        )
    ).map("; ".join),
)


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Keeps.header, Accepts.notes = transaction.header, transaction.notes
        return OK


@given(signatures=st.lists(SIGNATURES, max_size=3), record=KEYS, body=st.binary(max_size=30))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_signature_and_any_key_have_a_result(signatures, record, body):
    stage = Kit("dkim reject 1", Accepts, names=Names({"sel._domainkey.x.example": {"TXT": [record]}}))
    client = stage.connect()
    clean = [bytes(c for c in signature if c not in b"\r\n\0") for signature in signatures]
    head = b"".join(b"DKIM-Signature: " + signature + b"\r\n" for signature in clean) + b"From: a@x.example\r\n"
    client.deliver(head + b"\r\n" + body.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n")
    for call in stage.calls("data_post_headers"):
        assert not isinstance(call.result, Exception)
    for _ in stage.calls("queue"):
        assert {result for _, result in Accepts.notes["dkim_signatures"]} <= RESULTS
        assert Keeps.header.get("Authentication-Results").isascii()


def test_whatever_dkimpy_raises_is_a_result(monkeypatch, key, records):
    def fail(*_):
        raise ZeroDivisionError("a test")

    monkeypatch.setattr(dkim.DKIM, "verify_sig_process", fail)
    header, _, body = signed(key).partition(b"\r\n\r\n")
    hasher = _dkim.hash_body(lambda: io.BytesIO(b"\r\n" + body))
    (found,) = _dkim.check_signatures(dkim, Header(header + b"\r\n"), hasher, lambda name: records[name]["TXT"])
    assert (found.result, found.reason) == ("permerror", "dkimpy cannot handle it: ZeroDivisionError: a test")


def test_whatever_dkimpy_raises_the_message_goes_unsigned(monkeypatch, kit, keys):
    def fail(*_):
        raise ZeroDivisionError("a test")

    keys()
    monkeypatch.setattr(dkim.DKIM, "gen_header", fail)
    assert submit(kit).logged("dkim: error, not signed for signed.example: dkimpy fails: ZeroDivisionError: a test")
    assert not Keeps.header.get("DKIM-Signature")


@pytest.mark.parametrize(
    ("args", "message"),
    [("rejct 1", "did you mean reject"), ("reject_type x", "reject_type 'x'"), ("reject", "'reject' is left over")],
)
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError, match="plugins:1: dkim: ") as caught:
        kit(f"dkim {args}", names=Names())
    assert message in str(caught.value)


def test_without_dkimpy_it_says_what_to_install(kit, monkeypatch):
    monkeypatch.setitem(sys.modules, "dkim", None)
    with pytest.raises(ConfigError, match=r"pip install 'qpsmtpd\[dkim\]'"):
        kit("dkim", names=Names())
