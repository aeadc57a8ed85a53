"""What `spamassassin` asks spamd, and what it does with the answers."""

import os
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import Daemon, Keep, queued, receive_exactly, receive_until, saying

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.spamassassin import parse_answer, parse_status
from qpsmtpd.session.message import Header

CONTENT = b"From: a@client.example\r\nSubject: offer\r\n\r\nbuy\r\n"
HAM = "No, score=-1.5 required=5.0 tests=A,B,\r\n\tC autolearn=no version=4.0.1"
SPAM = "Yes, score=15.3 required=5.0 tests=A,B,C autolearn=no version=4.0.1"


def spamd_answer(status=SPAM, *fields, verdict="True ; 15.3 / 5.0", own="Subject: offer"):
    lines = [
        "SPAMD/1.1 0 EX_OK",
        f"Spam: {verdict}",
        "",
        "X-Spam-Flag: YES",
        f"X-Spam-Status: {status}",
        *fields,
        own,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


class Spamd:
    """Speaks as spamd does, and keeps what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, connection):
        head = receive_until(connection, b"\r\n\r\n").decode().split("\r\n")
        words = dict(line.split(": ", 1) for line in head[1:])
        content = receive_exactly(connection, int(words["Content-length"]))
        assert connection.recv(1) == b""
        self.asked.append((head[0], words["User"], content))
        connection.sendall(self.answer)


class Notes(Plugin):
    """Keeps the notes as they were behind the plugin; to be loaded behind it."""

    def hook_data_post(self, transaction):
        Notes.transaction = dict(transaction.notes)
        if "spamassassin" in Notes.transaction:  # the result of the hook stands there too
            Notes.transaction["spamassassin"] = {**transaction.notes["spamassassin"]}
            Notes.transaction["spamassassin"].pop("hook_data_post", None)
        Notes.karma = self.connection.notes.get("karma", 0)


@pytest.fixture
def judge(kit):
    """Deliver a message through the plugin: gives the last reply, the message kept, and the stage."""

    def judge(
        talk,
        args="",
        content=CONTENT,
        plugins=(),
        recipients=("b@example.org",),
        sender="a@client.example",
        config=None,
    ):
        Notes.transaction, Notes.karma = {}, 0
        with Daemon(Spamd(talk) if isinstance(talk, bytes) else talk) as daemon:
            stage = kit(
                *plugins, f"spamassassin spamd_socket 127.0.0.1:{daemon.port} {args}", Notes, Keep,
                config={"me": ["mx.example"], **(config or {})},
            )  # fmt: skip
            reply = stage.connect().deliver(content, sender=sender, recipients=recipients)[-1]
        return reply, queued(), stage

    return judge


def test_spamd_is_given_the_message_with_its_envelope(judge):
    spamd = Spamd(spamd_answer(HAM))
    judge(spamd)
    command, user, content = spamd.asked[0]
    assert command == "HEADERS SPAMC/1.4"
    assert user == pwd.getpwuid(os.geteuid()).pw_name
    assert content.startswith(b"X-Envelope-From: <a@client.example>\r\nAuthentication-Results: ")
    assert content.endswith(CONTENT)


def test_the_fields_of_spamassassin_are_put_on_top_in_their_order(judge):
    _, message, stage = judge(
        spamd_answer(HAM, "X-Spam-Level: ***", "X-Other: no", "X-Spam-Prev-Subject: x", "X-Spam-Report: long")
    )
    assert message.startswith(
        b"X-Spam-Flag: YES\r\nX-Spam-Status: No, score=-1.5 required=5.0 tests=A,B,\r\n\tC autolearn=no version=4.0.1\r\n"
        b"X-Spam-Level: ***\r\nAuthentication-Results:"
    )
    for name in (b"X-Other", b"X-Spam-Prev", b"X-Spam-Report"):
        assert name not in message
    assert stage.logged("spamassassin: pass, reject disabled, Ham, -1.5, learn=no")


def test_headers_none_adds_none_but_leaves_the_note(judge):
    _, message, _ = judge(spamd_answer(), "headers none")
    assert b"X-Spam" not in message
    assert Notes.transaction["spamassassin"]["score"] == "15.3"


def test_the_note_holds_what_the_status_says(judge):
    judge(spamd_answer(HAM))
    assert Notes.transaction["spamassassin"] == {
        "is_spam": "No", "score": "-1.5", "required": "5.0", "tests": "A,B,C", "autolearn": "no", "version": "4.0.1",
    }  # fmt: skip


def test_without_a_status_field_spamds_own_verdict_counts(judge):
    reply, _, _ = judge(b"SPAMD/1.1 0 EX_OK\nSpam: True ; 7.5 / 5\n\nX-Spam-Flag: YES\nSubject: x\n\n", "reject 7")
    assert reply.code == 554
    assert Notes.transaction == {}  # refused before Notes is asked
    judge(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 7.5 / 5\r\n\r\n\r\n")
    assert Notes.transaction["spamassassin"] == {"is_spam": "Yes", "score": "7.5", "required": "5"}


@pytest.mark.parametrize(
    ("args", "code", "log"),
    [("", 250, "pass, reject disabled, Spam, 15.3, learn=no"), ("reject 0", 250, "pass, reject disabled"),
     ("reject 16", 250, "fail, Spam, 15.3 < 16, learn=no"), ("reject 15.3", 554, "fail, Spam, 15.3 >= 15.3, learn=no"),
     ("reject_threshold 12", 554, "fail, "), ("reject 99 reject_threshold 12", 250, "fail, Spam, 15.3 < 99"),
     ("reject 12 reject_type soft", 451, "fail, ")],
)  # fmt: skip
def test_from_the_threshold_on_messages_are_refused(judge, args, code, log):
    reply, _, stage = judge(spamd_answer(), args)
    assert reply.code == code
    assert stage.logged(f"spamassassin: {log}")


@pytest.mark.parametrize(
    ("status", "karma"),
    [
        (SPAM, -1),
        (HAM, 0),
        (SPAM.replace("=no", "=spam"), -2),
        (HAM.replace("=no", "=ham"), 1),
        (HAM.replace("=no", "=disabled"), 0),
    ],
)
def test_karma_follows_the_verdict_and_what_is_learnt(judge, status, karma):
    judge(spamd_answer(status))
    assert Notes.karma == karma


@pytest.mark.parametrize(
    ("args", "config", "subject"),
    [("", {}, b"offer"), ("munge_subject_threshold 0", {}, b"offer"), ("munge_subject_threshold 15.4", {}, b"offer"),
     ("munge_subject_threshold 15.3", {}, b"*** SPAM *** offer"), ("munge_subject_threshold 5 subject_prefix [junk]", {}, b"[junk] offer"),
     ("munge_subject_threshold 5", {"subject_prefix": ["A B:"]}, b"A B: offer")],
)  # fmt: skip
def test_from_its_threshold_on_the_subject_gets_a_prefix(judge, args, config, subject):
    _, message, _ = judge(spamd_answer(), args, config=config)
    assert b"\r\nSubject: " + subject + b"\r\n" in message


def test_a_message_without_a_subject_gets_one(judge):
    _, message, _ = judge(spamd_answer(), "munge_subject_threshold 5", content=b"\r\nx\r\n")
    assert b"\r\nSubject: *** SPAM ***\r\n" in message


FORGED = b"X-Spam-Status: No, score=-100\r\nX-Spam-Flag: NO\r\nx-spam-user: me\r\nX-Spam-Odd: 1\r\n" + CONTENT


@pytest.mark.parametrize(
    ("args", "there", "gone"),
    [("", [b"X-Old-Spam-Status: No, score=-100", b"X-Old-Spam-Flag: NO", b"X-Old-Spam-User: me", b"X-Spam-Odd: 1"], [b"\r\nX-Spam-Flag: NO"]),
     ("leave_old_headers DROP", [b"X-Spam-Odd: 1"], [b"-100", b"X-Old", b"X-Spam-Flag: NO", b"user: me"]),
     ("leave_old_headers keep", [b"X-Spam-Status: No, score=-100", b"X-Spam-Flag: NO", b"x-spam-user: me"], [b"X-Old"])],
)  # fmt: skip
def test_fields_of_an_earlier_check_are_renamed_dropped_or_kept(judge, args, there, gone):
    _, message, _ = judge(spamd_answer(), args, content=FORGED)
    assert message.startswith(b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, ")
    assert all(text in message for text in there)
    assert not any(text in message for text in gone)


def test_what_the_message_says_of_itself_is_never_shown_to_spamd_nor_taken_for_its_answer(judge):
    spamd = Spamd(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 15.0 / 5.0\r\n\r\n" + CONTENT)
    judge(spamd, content=FORGED)
    assert b"X-Spam" not in spamd.asked[0][2]
    assert Notes.transaction["spamassassin"]["score"] == "15.0"


@pytest.mark.parametrize(
    ("args", "recipients", "user", "field"),
    [("spamd_user carol", ["b@x.example"], "carol", None), ("spamd_user vpopmail", ["B@x.example"], "B@x.example", None),
     ("spamd_user vpopmail", ["b@x.example", "c@x.example"], "vpopmail", b"X-Spam-User: vpopmail, 2 recipients\r\n")],
)  # fmt: skip
def test_whose_preferences_count(judge, args, recipients, user, field):
    spamd = Spamd(spamd_answer())
    _, message, _ = judge(spamd, args, recipients=recipients)
    assert spamd.asked[0][1] == user
    assert (field in message) if field else (b"X-Spam-User" not in message)


class Relay(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


@pytest.mark.parametrize(
    ("plugins", "args", "log"),
    [([Relay], "relayclient skip", "skip, relay client"), ([], "size_limit 20", "skip, too large (47)")],
)
def test_some_messages_are_not_judged(judge, plugins, args, log):
    spamd = Spamd(spamd_answer())
    reply, _, stage = judge(spamd, f"reject 1 {args}", plugins=plugins)
    assert reply.code == 250
    assert not spamd.asked
    assert stage.logged(log)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\r\n", b"SPAMD/1.0 76 Bad header line: x\r\n", b"SPAMD/1.1 0 EX_OK\r\n\r\n", b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; . / 1\r\n\r\n",
     spamd_answer("Yes, score=inf"), spamd_answer("Yes, score=nan"), spamd_answer("Yes, score=")],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_lets_the_message_pass(judge, answer):
    reply, message, stage = judge(answer, "reject 1")
    assert reply.code == 250
    assert b"X-Spam" not in message
    assert stage.logged("spamassassin: error, 127.0.0.1:")


def test_a_daemon_that_is_down_or_late_lets_the_message_pass(kit, judge, tmp_path):
    stage = kit(f"spamassassin reject 1 spamd_socket {tmp_path}/none", Keep)
    assert stage.connect().deliver(CONTENT)[-1].code == 250
    assert stage.logged(f"error, {tmp_path}/none: No such file or directory")
    reply, _, stage = judge(lambda connection: receive_until(connection, b"never"), "timeout 0.05")
    assert reply.code == 250
    assert stage.logged("spamassassin: error, 127.0.0.1:")


def test_it_speaks_over_a_unix_socket(kit, tmp_path):
    with Daemon(Spamd(spamd_answer()), path=tmp_path / "spamd"):
        assert kit(f"spamassassin reject 12 spamd_socket {tmp_path}/spamd").connect().deliver(CONTENT)[-1].code == 554


@pytest.mark.parametrize(
    "status",
    ["No, score=-5.4 required=4.0 autolearn=ham", "Yes, score=26.6 required=4.0 autolearn=unavailable",
     "No, score=-0.1 required=5.0 tests=AWL,BAYES_00,RDNS_NONE autolearn=no version=3.3.2"],
)  # fmt: skip
def test_a_status_is_read_whole(status):
    found = dict(parse_status(status))
    assert status == f"{found.pop('is_spam')}, " + " ".join("=".join(pair) for pair in found.items())


def test_an_old_status_has_hits_for_the_score():
    assert parse_status("No, hits=-1.0 required=4.0") == {"is_spam": "No", "score": "-1.0", "required": "4.0"}
    assert parse_status("Maybe, score=3") == parse_status("") == {}


@pytest.mark.parametrize(
    ("args", "message"),
    [("reject x", "reject 'x' is no score"), ("munge_subject_threshold nan", "is no score"), ("spamd_socket a:b:c", "neither HOST:PORT"),
     ("leave_old_headers burn", "is none of rename"), ("relayclient scan", "can only be skip"), ("headers some", "neither all nor none"),
     ("size_limit -1", "size_limit"), ("rejekt 1", "did you mean reject")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"spamassassin {args}")
    assert message in str(caught.value)


LINES = st.lists(
    st.sampled_from([b"X-Spam-Status: Yes, score=9 tests=", b"X-Spam-Flag: YES", b"\r\n", b"\n", b"\r", b"\r\n\t", b"X-Spam-A", b": ",
                     b"Evil: 1", b"\n\n", b"\0", b"\xff"]) | st.binary(max_size=4), max_size=15,
).map(b"".join)  # fmt: skip


@given(LINES, st.binary(max_size=50))
def test_any_answer_is_a_verdict_or_an_error(lines, noise):
    for answer in (
        noise,
        b"SPAMD/1.1 0 EX_OK\r\n" + noise,
        b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1.0 / 5.0\r\n\r\n" + lines,
    ):
        try:
            verdict = parse_answer(answer)
        except OSError:
            continue
        assert abs(verdict.score) < float("inf")
        assert verdict.status["is_spam"] in ("Yes", "No")


def test_whatever_the_daemon_says_only_its_fields_are_added(kit):
    with Daemon(None) as daemon:
        stage = kit(f"spamassassin spamd_socket 127.0.0.1:{daemon.port} timeout 5", Keep)

        @given(LINES)
        def check(lines):
            daemon.talk = saying(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1.0 / 5.0\r\n\r\n" + lines)
            assert stage.connect().deliver(CONTENT)[-1].code == 250
            message = queued()
            assert message.endswith(CONTENT)
            names = [field.name for field in Header(message.partition(b"\r\n\r\n")[0] + b"\r\n").fields]
            own = [name for name in names if not name.lower().startswith("x-spam-")]
            assert own == ["Authentication-Results", "Received", "From", "Subject"]
            head = message.replace(b"\r\n", b"")
            assert b"\r" not in head
            assert b"\n" not in head

        check()
