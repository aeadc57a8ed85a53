"""What `rspamd` asks Rspamd, and what it does with the answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import Daemon, Keep, queued, receive_exactly, receive_until, saying

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.rspamd import change_fields, parse_answer
from qpsmtpd.session.message import Header

CONTENT = b"From: a@client.example\r\nX-Spam: No\r\nSubject: offer\r\n\r\nbuy\r\n"


def http(body, status="200 OK"):
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode() + body


def verdict(action, **more):
    symbols = {"A": {"name": "A", "score": 9}, "B": {}}
    answer = {"action": action, "score": 7.5, "required_score": 15.0, "symbols": symbols, **more}
    return http(json.dumps(answer).encode())


class Worker:
    """Speaks as a worker of Rspamd does, and keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __call__(self, connection):
        first, *lines = receive_until(connection, b"\r\n\r\n").decode().split("\r\n")
        told = [tuple(line.split(": ", 1)) for line in lines]
        self.asked.append((first, told, receive_exactly(connection, int(dict(told)["Content-Length"]))))
        connection.sendall(self.answer)


class Look(Plugin):
    """Keeps what there is in the end."""

    notes: object = None
    karma = 0

    def hook_queue_pre(self, transaction):
        Look.notes, Look.karma = dict(transaction.notes), self.connection.notes.get("karma", 0)


class Relay(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


@pytest.fixture
def judge(kit):
    """Deliver a message through the plugin: gives the last reply, the message kept, and the stage."""

    def judge(talk, args="", plugins=(), recipients=("b@example.org",), sender="a@client.example"):
        with Daemon(Worker(talk) if isinstance(talk, bytes) else talk) as daemon:
            line = f"rspamd server 127.0.0.1:{daemon.port} {args}"
            stage = kit(*plugins, line, Look, Keep, config={"me": ["mx.example"]})
            reply = stage.connect().deliver(CONTENT, sender=sender, recipients=recipients)[-1]
        return reply, queued(), stage

    return judge


def test_rspamd_is_told_of_client_envelope_and_message(judge):
    worker = Worker(verdict("no action"))
    _, message, _ = judge(worker, "password secret", recipients=["b@example.org", "c@example.org"])
    first, told, content = worker.asked[0]
    assert first == "POST /checkv2 HTTP/1.0"
    assert [pair for pair in told if pair[0] not in ("Content-Length", "Queue-Id", "Helo")] == [
        ("IP", "192.0.2.10"), ("Hostname", "client.example"), ("Password", "secret"), ("MTA-Name", "mx.example"),
        ("From", "<a@client.example>"), ("Rcpt", "<b@example.org>"), ("Rcpt", "<c@example.org>"),
    ]  # fmt: skip
    assert content == message
    judge(worker)
    assert ("Deliver-To", "b@example.org") in worker.asked[1][1]


@pytest.mark.parametrize(
    ("action", "args", "code", "log", "karma"),
    [("no action", "", 250, "pass, no action, score 7.5 of 15.0", 0), ("greylist", "", 250, "pass, greylist", 0),
     ("add header", "", 250, "fail, add header", -1), ("soft reject", "", 451, "fail, soft reject", 0),
     ("reject", "", 554, "fail, reject, score 7.5", -1), ("reject", "reject 0", 250, "fail, reject disabled, reject, score", -1),
     ("reject", "reject_type soft", 451, "fail, reject", -1), ("made up", "", 250, "pass, made up", 0)],
)  # fmt: skip
def test_each_action_has_its_result(judge, action, args, code, log, karma):
    Look.karma = karma  # for those that never come to the queue
    reply, message, stage = judge(verdict(action), args)
    assert reply.code == code
    assert stage.logged(f"rspamd: {log}")
    assert Look.karma == karma
    if code == 250:
        assert (b"X-Spam: Yes\r\n" in message) is (karma < 0)
        assert b"X-Spam: No" not in message


@pytest.mark.parametrize(("action", "text"), [("reject", "554 as we say"), ("soft reject", "451 as we say")])
def test_rspamd_may_say_what_the_client_is_told(judge, action, text):
    reply, _, _ = judge(verdict(action, messages={"smtp_message": "as we say"}))
    assert f"{reply.code} {reply.text}" == text


def test_notes_hold_the_verdict(judge):
    judge(verdict("no action"))
    note = Look.notes["rspamd"]
    assert {name: note[name] for name in ("action", "score", "required_score", "symbols")} == {
        "action": "no action", "score": 7.5, "required_score": 15.0, "symbols": ["A", "B"],
    }  # fmt: skip
    judge(verdict("discard"))
    assert Look.notes["discard_mail"] is True


def test_the_subject_is_rewritten_on_that_action_only(judge):
    assert b"\r\nSubject: [spam] offer\r\n" in judge(verdict("rewrite subject", subject="[spam] offer"))[1]
    assert b"\r\nSubject: offer\r\n" in judge(verdict("no action", subject="[spam] offer"))[1]
    assert b"\r\nSubject: offer\r\n" in judge(verdict("rewrite subject"))[1]


def test_fields_are_added_and_removed_as_rspamd_says(judge):
    milter = {
        "add_headers": {"X-One": "1", "X-Two": [{"value": "a", "order": 0}, {"value": "b\nc", "order": -1}], "X Bad": "x", "X-Odd": 3},
        "remove_headers": {"from": 0, "Subject": 2},
    }  # fmt: skip
    answer = verdict("no action", milter=milter, **{"dkim-signature": "v=1;\r\n\tb=x"})
    message = judge(answer)[1]
    assert message.startswith(b"X-Two: a\r\nX-One: 1\r\nDKIM-Signature: v=1;\r\n\tb=x\r\nAuthentication-Results: ")
    assert message.endswith(b"\r\nSubject: offer\r\nX-Two: b\r\n\tc\r\n\r\nbuy\r\n")
    for name in (b"\r\nFrom:", b"Bad", b"X-Odd"):
        assert name not in message


@pytest.mark.parametrize(
    ("which", "left"), [([1, 2], "c"), ([-1, -2], "a"), ([2], "ac"), (-3, "bc"), (0, ""), (9, "abc")]
)
def test_fields_are_removed_by_their_numbers_as_they_were(which, left):
    header = Header(b"X: a\r\nX: b\r\nX: c\r\n")
    change_fields(header, {"action": "no action", "milter": {"remove_headers": {"x": which}}})
    assert "".join(header.get_all("X")) == left


@pytest.mark.parametrize(("args", "count"), [("", 1), ("relayclient check", 1), ("relayclient skip", 0)])
def test_relay_clients_may_be_left_out(judge, args, count):
    worker = Worker(verdict("no action"))
    judge(worker, args, plugins=[Relay])
    assert len(worker.asked) == count


def test_naughty_clients_and_large_messages_are_left_out(judge, kit):
    class Mark(Plugin):
        def hook_connect(self, transaction):
            self.is_naughty("we know you")

    worker = Worker(verdict("reject"))
    assert judge(worker, plugins=[Mark])[0].code == 250
    with Daemon(worker) as daemon:
        stage = kit(f"rspamd server 127.0.0.1:{daemon.port} max_size 1", Keep)
        assert stage.connect().deliver(CONTENT + b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n")[-1].code == 250
    assert stage.logged("skip, too large (20")
    assert not worker.asked


@pytest.mark.parametrize(("args", "code"), [("", 250), ("defer_on_error yes", 451)])
@pytest.mark.parametrize(
    "answer",
    [b"", b"\r\n", http(b"{}"), http(b"[]"), http(b"{"), http(b"[" * 100_000), http(b'{"action": 1}'), http(b'{"error": "bad", "action": "x"}'),
     http(b'{"action": "reject"}', "403 Unauthorized")],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_lets_the_message_pass_or_defers_it(judge, args, code, answer):
    reply, _, stage = judge(answer, args)
    assert reply.code == code
    assert stage.logged("rspamd: error, 127.0.0.1:")


def test_a_daemon_that_is_down_or_late_lets_the_message_pass_or_defers_it(kit, judge, tmp_path):
    assert kit(f"rspamd server {tmp_path}/none", Keep).connect().deliver(CONTENT)[-1].code == 250
    stage = kit(f"rspamd server {tmp_path}/none defer_on_error yes", Keep)
    assert stage.connect().deliver(CONTENT)[-1].code == 451
    assert stage.logged(f"error, {tmp_path}/none: No such file or directory")
    reply, _, stage = judge(lambda connection: receive_until(connection, b"never"), "timeout 0.05")
    assert reply.code == 250
    assert stage.logged("rspamd: error, 127.0.0.1:")


@pytest.mark.parametrize(
    ("args", "message"),
    [("server a:b:c", "neither HOST:PORT"), ("relayclient scan", "neither check nor skip"), ("max_size 0", "max_size"),
     ("defer_on_error x", "neither yes nor no"), ("sever x", "did you mean server")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"rspamd {args}")
    assert message in str(caught.value)


TEXT = st.text(max_size=6) | st.sampled_from(["x\r\nEvil: 1", "\n\nx", "\r", "X-A", "0", "\ud800"])
JSON = st.recursive(
    st.none() | st.integers(-3, 3) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["value", "order"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ANSWERS = st.fixed_dictionaries(
    {"action": st.sampled_from(["no action", "reject", "soft reject", "add header", "rewrite subject"]) | TEXT},
    optional={
        **dict.fromkeys(("score", "required_score", "symbols", "subject", "messages", "milter", "dkim-signature"), JSON),
        "milter": JSON | st.fixed_dictionaries({}, optional={"add_headers": JSON, "remove_headers": JSON}),
    },
)  # fmt: skip


def test_whatever_the_daemon_says_no_field_is_broken(kit):
    with Daemon(None) as daemon:
        stage = kit(f"rspamd server 127.0.0.1:{daemon.port} timeout 5 reject 0", Keep)

        @given(ANSWERS.map(lambda answer: http(json.dumps(answer).encode())) | st.binary(max_size=50))
        def check(answer):
            daemon.talk = saying(answer)
            reply = stage.connect().deliver(CONTENT)[-1]
            assert reply.code in (250, 451)
            message = queued()
            if reply.code == 250:
                assert message.endswith(b"\r\n\r\nbuy\r\n")
                assert all(field.name for field in Header(message.partition(b"\r\n\r\n")[0] + b"\r\n").fields)
                head = message.replace(b"\r\n", b"")
                assert b"\r" not in head
                assert b"\n" not in head
                assert b"Evil:" not in [line[:5] for line in message.split(b"\r\n")]

        check()


@given(st.binary(max_size=80))
def test_any_answer_is_a_verdict_or_an_error(noise):
    for answer in (noise, http(noise)):
        try:
            assert isinstance(parse_answer(answer)["action"], str)
        except OSError:
            continue


def test_no_client_can_add_a_line_to_what_rspamd_is_told(kit):
    class Claims(Plugin):
        host = ""

        def hook_data_post(self, transaction):
            self.connection.hello_host = Claims.host

    worker = Worker(verdict("no action"))
    with Daemon(worker) as daemon:
        stage = kit(Claims, f"rspamd server 127.0.0.1:{daemon.port}", Keep)

        @given(st.text(max_size=20) | st.just("x\r\nPassword: y"))
        def check(host):
            Claims.host = host
            assert stage.connect().deliver(CONTENT)[-1].code == 250
            assert {name for name, _ in worker.asked.pop()[1]} <= {
                "Content-Length", "IP", "Hostname", "Helo", "MTA-Name", "Queue-Id", "From", "Rcpt", "Deliver-To",
            }  # fmt: skip

        check()
