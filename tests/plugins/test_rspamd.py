"""What `rspamd` tells rspamd, and what it makes of the answer."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from scanning import Daemon, Keep, queued, receive_exactly, receive_until, saying

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

MESSAGE = b"From: a@client.example\r\nSubject: hi\r\nX-Spam: No\r\n\r\nHello\r\n"


def http(body, status=b"200 OK"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return b"HTTP/1.0 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def answer(action="no action", **more):
    return {"action": action, "score": 3.5, "required_score": 15, "symbols": {"A": {}, "B": {}}, **more}


@pytest.fixture
def judge(kit):
    """Send a message that rspamd answers so; gives the reply, what was queued, the kit and what rspamd was asked."""

    def judge(said, args="", *plugins, content=MESSAGE, sender="a@client.example", recipients=("b@example.org",)):
        asked = []

        def talk(connection):
            head = receive_until(connection, b"\r\n\r\n").split(b"\r\n")
            length = int(dict(line.split(b": ", 1) for line in head[1:])[b"Content-Length"])
            asked.append((head, receive_exactly(connection, length)))
            connection.sendall(said)

        with Daemon(talk) as daemon:
            stage = kit(*plugins, f"rspamd server 127.0.0.1:{daemon.port} {args}", Keep, base=False)
            reply = stage.connect().deliver(content, sender=sender, recipients=recipients)[-1]
        assert not stage.logged("Traceback")
        return reply, queued(), stage, asked

    return judge


def test_rspamd_is_told_of_client_envelope_and_message(judge, tmp_path):
    (tmp_path / "password").write_text("sesame\n")
    *_, ((head, content),) = judge(
        http(answer()), f"password_file {tmp_path}/password", recipients=["b@example.org", "c@example.org"], sender=""
    )
    assert head[0] == b"POST /checkv2 HTTP/1.0"
    for line in (
        b"IP: 192.0.2.10", b"Helo: client.example", b"From: <>", b"Rcpt: <b@example.org>", b"Rcpt: <c@example.org>",
        b"MTA-Name: mx.example.test", b"Hostname: client.example", b"Password: sesame",
    ):  # fmt: skip
        assert line in head
    assert content.endswith(b"Subject: hi\r\nX-Spam: No\r\n\r\nHello\r\n")


@pytest.mark.parametrize(
    ("action", "args", "code", "marked", "karma"),
    [("no action", "", 250, False, None), ("greylist", "", 250, False, None), ("greylist", "greylist yes", 451, None, None),
     ("add header", "", 250, True, -1), ("quarantine", "", 250, True, -1), ("discard", "", 250, False, -1),
     ("rewrite subject", "", 250, True, -1), ("soft reject", "", 451, None, None), ("reject", "", 554, None, -1),
     ("reject", "reject 0", 250, False, -1), ("reject", "reject_type soft", 451, None, -1)],
)  # fmt: skip
def test_the_action_decides(judge, action, args, code, marked, karma):
    class Watch(Plugin):
        def hook_reset_transaction(self, transaction):
            Watch.karma = self.connection.notes.get("karma")

    reply, content, stage, _ = judge(http(answer(action)), args, Watch)
    assert (reply.code, Watch.karma) == (code, karma)
    if code == 250:
        assert (b"\r\nX-Spam: Yes\r\n" in b"\r\n" + content) is marked
        assert b"X-Spam: No" not in content
    assert stage.logged(f"{action}, 3.5 of 15, A,B")


def test_texts_and_subjects_are_rspamds(judge):
    said = answer("soft reject", messages={"smtp_message": "come\r\n250 later"})
    assert judge(http(said))[0].text == "come\n250 later"
    content = judge(http(answer("rewrite subject", subject="[SPAM]\r\nX-Evil: 1")))[1]
    assert b"\r\nSubject: [SPAM]\r\n\tX-Evil: 1\r\n" in content


def test_fields_are_added_and_removed(judge):
    milter = {
        "add_headers": {
            "X-A": "1",
            "X-B": {"value": "2", "order": 1},
            "X-C": ["3", {"value": "4"}],
            "X D": "5",
            "X-E": 6,
        },
        "remove_headers": {"Subject": 0},
    }
    content, stage = judge(http(answer(milter=milter, **{"dkim-signature": ["v=1; a=x"]})))[1:3]
    head = content.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert head.startswith(b"DKIM-Signature: v=1; a=x\r\nX-B: 2\r\n")
    assert head.endswith(b"X-A: 1\r\nX-C: 3\r\nX-C: 4\r\nX-E: \r\n")
    assert b"Subject" not in head
    assert stage.logged("error, a field that cannot be added: ")


@pytest.mark.parametrize(
    "said",
    [b"", b"nonsense", http(b"no json"), http(b"[" * 100_000), http([]), http({}), http({"action": "explode"}),
     http({"action": 5}), http(answer("reject"), b"403 Forbidden"), b"HTTP/1.0 200 OK\r\nContent-Length: 50\r\n\r\n{}",
     b"x" * (2 << 20)],
    ids=range(11),
)  # fmt: skip
@pytest.mark.parametrize(("args", "code"), [("", 250), ("defer_on_error yes", 451)])
def test_an_answer_that_makes_no_sense_is_an_error(judge, said, args, code):
    reply, _, stage, _ = judge(said, args)
    assert reply.code == code
    assert stage.logged("rspamd: error, 127.0.0.1:")


@pytest.mark.parametrize(("args", "code"), [("", 250), ("defer_on_error 1", 451)])
def test_without_rspamd_the_arguments_decide(kit, args, code):
    stage = kit(f"rspamd server /nowhere/at/all {args}")
    assert stage.connect().deliver()[-1].code == code
    assert stage.logged("rspamd: error, /nowhere/at/all: ")


def test_an_rspamd_that_is_silent_has_its_time(kit):
    with Daemon(lambda connection: receive_until(connection, b"never")) as daemon:
        stage = kit(f"rspamd server 127.0.0.1:{daemon.port} timeout 0.1")
        assert stage.connect().deliver()[-1].code == 250
    assert stage.logged("rspamd: error, ")


def test_some_are_not_judged(kit):
    class Relays(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    stage = kit(Relays, "rspamd server /nowhere/at/all defer_on_error yes")
    assert stage.connect().deliver()[-1].code == 250
    assert stage.logged("skip, relay client")
    stage = kit(Relays, "rspamd server /nowhere/at/all defer_on_error yes relay_clients yes")
    assert stage.connect().deliver()[-1].code == 451
    stage = kit("rspamd server /nowhere/at/all defer_on_error yes max_size 1")
    assert stage.connect().deliver(b"\r\n" + b"x" * 1100 + b"\r\n")[-1].code == 250
    assert stage.logged("skip, too large")


@pytest.mark.parametrize(
    "args", ["server a:b", "max_size 0", "timeout x", "greylist maybe", "password_file /nowhere/at/all", "host x"]
)
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: rspamd: "):
        kit(f"rspamd {args}")


texts = st.text(max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    action=st.sampled_from(["no action", "add header", "rewrite subject", "reject", "soft reject"]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "score": anything,
            "required_score": anything,
            "symbols": anything,
            "subject": anything,
            "messages": anything,
            "dkim-signature": anything,
            "milter": anything
            | st.fixed_dictionaries({"add_headers": st.dictionaries(texts, anything), "remove_headers": anything}),
        },
    ),
)
def test_any_answer_leaves_a_sound_header(action, more):
    with Daemon(saying(http({"action": action, **more}))) as daemon:
        stage = Kit(f"rspamd server 127.0.0.1:{daemon.port}", Keep)
        code = stage.connect().deliver(MESSAGE)[-1].code
    assert code in {"reject": (554,), "soft reject": (451,)}.get(action, (250,))
    assert not stage.logged("Traceback")
    assert all(line.rstrip("\n").isprintable() for line in stage.log)
    content = queued()
    if code == 250:
        head = content.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"")
        assert b"\r" not in head
        assert b"\n" not in head


@given(said=st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_an_error(said):
    with Daemon(saying(said)) as daemon:
        stage = Kit(f"rspamd server 127.0.0.1:{daemon.port} defer_on_error yes", Keep)
        assert stage.connect().deliver(MESSAGE)[-1].code in (250, 451, 554)
    assert not stage.logged("Traceback")


@example(helo="a\r\nPassword: guessed")
@example(helo="a\nb\x7f")
@given(helo=st.text(min_size=1, max_size=40))
def test_nothing_of_the_client_s_ends_a_line(helo):
    heads = []

    def talk(connection):
        heads.append(receive_until(connection, b"\r\n\r\n"))
        connection.sendall(http(answer()))

    class Odd(Plugin):
        def hook_data_post(self, transaction):
            self.connection.hello_host = helo

    with Daemon(talk) as daemon:
        Kit(Odd, f"rspamd server 127.0.0.1:{daemon.port}", Keep).connect().deliver(MESSAGE)
    (head,) = heads
    assert not re.search(rb"[\x00-\x1f\x7f]", head.replace(b"\r\n", b""))
    names = [line.partition(b": ")[0] for line in head.split(b"\r\n")[1:]]
    assert names == [b"IP", b"Helo", b"From", b"Rcpt", b"Queue-Id", b"MTA-Name", b"Hostname", b"Content-Length"]
