"""The server as its driver and its client see it: properties, smuggling, and the rules of a session."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import (
    ANSWERS,
    ASKED,
    BODY,
    DATA,
    EHLO,
    LINES,
    MAIL,
    MESSAGE,
    QUIT,
    RCPT,
    STREAMS,
    TRANSACTION,
    Driver,
    plugins,
    respond,
    singly,
    split_replies,
)

from qpsmtpd.protocol import (
    CLOSED,
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DONE,
    FAILED,
    NEED_DATA,
    OK,
    Extension,
    Limits,
    LineEndings,
    LocalProtocolError,
    Reply,
    Server,
    hooks,
)
from qpsmtpd.testing.strategies import cut, cuts

NOOP = b"NOOP\r\n"
RSET = b"RSET\r\n"
TIMEOUT = Reply(421, "4.4.2", "Timeout")
SMALL = Limits(command_line=80, recipients=2, errors=4, message_size=60, header_size=40, output=200)
NEVER_DONE = [answer for answer in ANSWERS if answer is not DONE]


# Properties


@given(plugins(), STREAMS, cuts(), st.booleans(), st.sampled_from(LineEndings))
@settings(max_examples=300)
def test_cutting_the_stream_never_changes_replies_or_events(plugin, data, cuts, small, line_endings):
    asked, settle = plugin

    def run(chunks):
        driver = Driver(
            *chunks,
            asked=asked,
            answers=settle(),
            limits=SMALL if small else Limits(),
            line_endings=line_endings,
        )
        driver.eof()
        return driver.output, driver.events, driver.closed

    whole = run([data])
    assert run(cut(data, cuts)) == whole
    assert run(singly(data)) == whole
    assert whole[2]


@given(plugins(), STREAMS, cuts())
def test_whatever_a_client_sends_replies_are_well_formed_lines_without_control_characters(plugin, data, cuts):
    asked, settle = plugin
    driver = Driver(*cut(data, cuts), asked=asked, answers=settle())
    driver.eof()
    assert split_replies(driver.output)
    assert all(len(line) <= 512 for line in driver.output.splitlines(keepends=True))
    text = driver.output.decode().replace("\r\n", "")
    assert not [character for character in text if unicodedata.category(character) in ("Cc", "Zl", "Zp")]


@given(plugins(answers=NEVER_DONE), st.lists(LINES.filter(lambda line: line.count(b"\n") == 1)))
def test_every_command_gets_exactly_one_reply(plugin, lines):
    asked, settle = plugin
    driver = Driver(asked=asked, answers=settle(), limits=SMALL)
    assert len(driver.replies) == 1
    for line in lines:
        if driver.closed:
            assert driver.send(line) == []
        elif driver.code(line) == 354:
            assert len(driver.send(BODY, BODY, b".\r\n")) == 1
    assert driver.eof() == []


# Dialogues


def parse_dialogue(text):
    """What the client sends and what the server sends in a dialogue of `C: ` and `S: ` lines."""
    lines = [line for line in text.splitlines() if line[:3] in ("C: ", "S: ")]
    client = "".join(f"{line[3:]}\r\n" for line in lines if line[0] == "C")
    server = "".join(f"{line[3:]}\r\n" for line in lines if line[0] == "S")
    return client.encode(), server.encode()


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "dialogues").glob("*.txt")), ids=lambda path: path.stem
)
def test_a_dialogue_is_the_same_line_by_line_whole_and_byte_by_byte(path):
    client, server = parse_dialogue(path.read_text(encoding="utf-8"))
    for chunks in (client.splitlines(keepends=True), [client], singly(client)):
        assert Driver(*chunks).output.decode() == server.decode()


# Smuggling: what other servers take for the end of a message (CVE-2023-51764 and its kin)

NO_END = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\r.\r\n",
    b"\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\r\x00\n",
    b"\r\x00\n.\r\n",
    b"\x00\r\n\x00.\x00\r\n",
    b"\r\n.\x0b",
    b"\xc2\x85.\xc2\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\r\n..\r\n",
    b"\r\n. \r\n",
]
SECOND = b"MAIL FROM:<smuggled@example.org>\r\n" + RCPT + DATA + b"second" + b"\r\n.\r\n"


@pytest.mark.parametrize("chunked", [lambda data: [data], singly], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("line_endings", LineEndings)
@pytest.mark.parametrize("no_end", NO_END)
def test_no_second_message_can_be_smuggled_in(no_end, line_endings, chunked):
    driver = Driver(EHLO, TRANSACTION, line_endings=line_endings)
    replies = driver.send(*chunked(b"first" + no_end + SECOND))
    assert len(driver.asked("mail")) == 1
    assert len(driver.asked("queue")) <= 1
    assert len(replies) == 1
    if driver.closed:
        assert replies[0].code == 421
        assert b"\n.\n" in b"\r\n" + no_end
    else:
        assert replies[0].code == (250 if driver.asked("queue") else 554)
        assert driver.code(NOOP) == 250


@pytest.mark.parametrize("no_end", [no_end for no_end in NO_END if b"\r" in no_end.replace(b"\r\n", b"")])
def test_a_bare_cr_refuses_the_message_and_the_dialogue_stays_in_step(no_end):
    driver = Driver(EHLO, TRANSACTION)
    (reply,) = driver.send(b"first" + no_end + b"\r\n.\r\n")
    assert (reply.code, reply.enhanced) == (554, "5.6.0")
    assert not driver.asked("queue")
    assert [reply.code for reply in driver.send(TRANSACTION, MESSAGE)] == [250, 250, 354, 250]


@pytest.mark.parametrize("content", [b".\n", b"\n.\n", b"x\r\n.\n", b"x\n.\n", b"x\rx\n.\n"])
def test_a_dot_on_a_line_with_a_bare_lf_is_told_off_at_once(content):
    driver = Driver(EHLO, TRANSACTION)
    (reply,) = driver.send(content)
    assert (reply.code, reply.enhanced) == (421, "4.5.2")
    assert driver.closed
    assert driver.names[-2:] == ["disconnect", "reset_transaction"]


@pytest.mark.parametrize("line", [b"NOOP\n", b"NOOP\rNOOP\r\n", b"NOOP\r\r\n", b"\n", b"\r\r\n"])
def test_a_command_line_ends_with_crlf_and_holds_no_other(line):
    driver = Driver(EHLO)
    (reply,) = driver.send(line)
    assert (reply.code, reply.enhanced) == (500, "5.5.2")
    assert driver.asked("noop") == []
    assert driver.code(NOOP) == 250


# Greeting, HELO and EHLO


def test_the_greeting_names_the_host():
    assert Driver(hostname="mx.example.org").output == b"220 mx.example.org ESMTP qpsmtpd\r\n"
    assert Driver(greeting="hi %s").output == b"220 hi %s\r\n"


def test_ehlo_lists_what_is_offered():
    (reply,) = Driver(hostname="mx.example.org", limits=Limits(message_size=1000)).send(EHLO)
    assert reply.text.split("\n") == [
        "mx.example.org",
        "PIPELINING",
        "8BITMIME",
        "SIZE 1000",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "DSN",
        "LIMITS RCPTMAX=1000",
    ]
    (reply,) = Driver(extensions={Extension.SIZE, Extension.PIPELINING}).send(EHLO)
    assert reply.text.split("\n") == ["localhost", "PIPELINING", "SIZE"]
    (reply,) = Driver(extensions=(), limits=Limits(message_size=1000)).send(EHLO)
    assert reply.text == "localhost"


def test_helo_gives_no_keywords():
    driver = Driver(answers=announcing)
    (reply,) = driver.send(b"HELO client.example\r\n")
    assert reply == Reply(250, None, "localhost")


def announcing(server, hook):
    if hook.name in {"connect", "helo", "ehlo"}:
        server.announce(f"X-{hook.name}", "X-MORE 1 2")
    server.answer(DECLINED)


def test_announced_keywords_are_in_the_reply_to_the_next_ehlo_alone():
    driver = Driver(answers=announcing, extensions=())
    (first,) = driver.send(EHLO)
    (second,) = driver.send(EHLO)
    assert first.text.split("\n") == ["localhost", "X-connect", "X-MORE 1 2", "X-ehlo", "X-MORE 1 2"]
    assert second.text.split("\n") == ["localhost", "X-ehlo", "X-MORE 1 2"]


def test_helo_forgets_what_was_announced():
    driver = Driver(b"HELO client.example\r\n", answers=announcing, extensions=())
    (reply,) = driver.send(EHLO)
    assert reply.text.split("\n") == ["localhost", "X-ehlo", "X-MORE 1 2"]


@pytest.mark.parametrize("line", [b"EHLO\r\n", b"HELO  \r\n", b"HELO 42\r\n"])
def test_a_greeting_needs_a_host_name(line):
    driver = Driver()
    assert driver.send(line) == [Reply(501, None, "This command needs your host name or address literal")]
    assert driver.code(MAIL) == 503


@pytest.mark.parametrize("hello", [EHLO, b"HELO client.example\r\n"])
def test_a_second_greeting_is_a_reset(hello):
    driver = Driver(EHLO, MAIL, RCPT)
    assert driver.code(hello) == 250
    assert driver.names[-2:] == ["reset_transaction", hello[:4].decode().lower()]
    assert driver.code(RCPT) == 503
    assert driver.code(MAIL) == 250


def test_a_refused_second_greeting_leaves_the_session_greeted():
    answers = {}
    driver = Driver(EHLO, answers=lambda server, hook: server.answer(answers.get(hook.name, DECLINED)))
    answers["ehlo"] = DENY
    assert driver.code(EHLO) == 550
    assert driver.code(MAIL) == 250


def test_without_enhanced_status_codes_replies_have_none():
    driver = Driver(EHLO, extensions=(), answers={"noop": (DENY, "no")})
    assert driver.send(RSET, NOOP) == [Reply(250, None, "OK"), Reply(500, None, "no")]


# MAIL and RCPT


def test_a_nested_mail_is_refused_and_the_transaction_goes_on():
    driver = Driver(EHLO, MAIL)
    assert driver.code(MAIL) == 503
    assert driver.code(RCPT) == 250


def test_the_null_path_is_a_sender_and_no_recipient():
    driver = Driver(EHLO)
    assert driver.send(b"MAIL FROM:<>\r\n") == [Reply(250, "2.1.0", "<>, sender OK")]
    (reply,) = driver.send(b"RCPT TO:<>\r\n")
    assert (reply.code, reply.enhanced) == (501, "5.1.3")
    assert driver.asked("rcpt") == []


def test_rset_forgets_recipients():
    driver = Driver(EHLO, MAIL, RCPT)
    assert driver.send(RSET) == [Reply(250, "2.0.0", "OK")]
    assert [driver.code(line) for line in (DATA, RCPT, MAIL, DATA)] == [503, 503, 250, 503]


def test_a_refused_mail_leaves_no_transaction():
    driver = Driver(EHLO, b"MAIL FROM:<nobody\r\n")
    assert driver.replies[-1].code == 501
    assert driver.code(RCPT) == 503


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"MAIL\r\n", 501),
        (b"MAIL TO:<a@b>\r\n", 501),
        (b"MAIL FROM:<a@b> SIZE=\r\n", 501),
        (b"MAIL FROM:<a@b> SIZE=60\r\n", 250),
        (b"MAIL FROM:<a@b> SIZE=61\r\n", 552),
        (b"MAIL FROM:<a@b> BODY=7BIT\r\n", 250),
        (b"MAIL FROM:<a@b> BODY=8BITMIME\r\n", 250),
        (b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n", 555),
        (b"MAIL FROM:<a@b> X-UNKNOWN=1\r\n", 250),
        (b"MAIL FROM:<\xc3\xbc@b>\r\n", 553),
        (b"MAIL FROM:<a@\xc3\xa4.b>\r\n", 553),
        (b"MAIL FROM:<\xc3\xbc@b> SMTPUTF8\r\n", 250),
        (b"MAIL FROM:<\xff@b> SMTPUTF8\r\n", 501),
    ],
)
def test_parameters_of_mail(line, code):
    assert Driver(EHLO, limits=SMALL).code(line) == code


@pytest.mark.parametrize("line", [b"RCPT\r\n", b"RCPT FROM:<a@b>\r\n", b"RCPT TO:<a>\r\n", b"RCPT TO:<a@b> X=\r\n"])
def test_a_malformed_rcpt_is_refused(line):
    assert Driver(EHLO, MAIL).code(line) == 501


@pytest.mark.parametrize("parameter", [b"SIZE=1", b"BODY=7BIT", b"SMTPUTF8"])
def test_a_parameter_of_an_extension_that_is_off_gets_555(parameter):
    assert Driver(EHLO, extensions=()).code(b"MAIL FROM:<a@b> " + parameter + b"\r\n") == 555
    assert Driver(EHLO, MAIL).code(b"RCPT TO:<a@b> " + parameter + b"\r\n") == 555


def test_an_unknown_parameter_goes_to_the_hooks():
    driver = Driver(EHLO, b"MAIL FROM:<a@b> X=1\r\n", b"RCPT TO:<a@b> Y\r\n")
    assert [driver.asked(name)[0].parameters for name in ("mail_pre", "mail")] == [{"x": "1"}] * 2
    assert [driver.asked(name)[0].parameters for name in ("rcpt_pre", "rcpt")] == [{"y": None}] * 2


def test_a_utf8_recipient_needs_the_parameter_at_mail():
    recipient = b"RCPT TO:<\xc3\xbc@b>\r\n"
    assert Driver(EHLO, MAIL).code(recipient) == 553
    driver = Driver(EHLO, b"MAIL FROM:<a@b> SMTPUTF8\r\n")
    assert driver.send(recipient) == [Reply(250, "2.1.5", "<ü@b>, recipient OK")]
    driver.send(RSET, MAIL)
    assert driver.code(recipient) == 553


@pytest.mark.parametrize(("name", "line"), [("mail_pre", b"MAIL FROM:broken\r\n"), ("rcpt_pre", b"RCPT TO:broken\r\n")])
def test_a_plugin_may_replace_a_path(name, line):
    before = [EHLO] if name == "mail_pre" else [EHLO, MAIL]
    driver = Driver(*before, answers={name: (OK, "<mended@example.org>")})
    (reply,) = driver.send(line)
    assert reply.code == 250
    assert reply.text.startswith("<mended@example.org>, ")
    assert driver.asked(name)[0].path == "broken"
    assert Driver(*before, answers={name: (DECLINED, "<mended@example.org>")}).code(line) == 501
    assert Driver(*before, answers={name: OK}).code(line) == 501
    assert Driver(*before, answers={name: (OK, "broken too")}).code(line) == 501


def test_recipients_over_the_limit_get_452_until_the_next_transaction():
    driver = Driver(EHLO, MAIL, limits=SMALL)
    assert [driver.code(RCPT) for _ in range(20)] == [250] * 2 + [452] * 18
    assert driver.code(DATA) == 354
    driver.send(MESSAGE, MAIL)
    assert driver.code(RCPT) == 250


def test_without_hooks_no_recipient_is_accepted():
    assert Driver(EHLO, MAIL, asked=()).code(RCPT) == 450


# DATA


def test_data_takes_no_argument():
    driver = Driver(EHLO, MAIL, RCPT)
    assert driver.code(b"DATA now\r\n") == 501
    assert driver.code(b"DATA \x1c\r\n") == 501  # white space for `str.strip`, and not for SMTP
    assert driver.code(b"DATA \r\n") == 354


def test_content_is_given_unstuffed_between_its_hooks():
    driver = Driver(EHLO, TRANSACTION, b"A: b\r\n\r\n..dot\r\nx\r\n.\r\n")
    assert driver.contents == [b"A: b\r\n", b"\r\n.dot\r\nx\r\n"]
    position = driver.events.index(hooks.DataHeadersEnd())
    assert [type(event).__name__ for event in driver.events[position - 2 : position + 3]] == [
        "Data",
        "Content",
        "DataHeadersEnd",
        "Content",
        "DataPostHeaders",
    ]


@pytest.mark.parametrize("content", [b".\r\n", b"A: b\r\n.\r\n", b"\r\n.\r\n"])
def test_the_end_of_the_header_is_asked_about_once_in_every_message(content):
    driver = Driver(EHLO, TRANSACTION, content)
    assert len(driver.asked("data_headers_end")) == 1
    assert driver.replies[-1] == Reply(250, "2.0.0", "queued")


def test_in_content_says_what_is_being_received():
    driver = Driver(EHLO, MAIL, RCPT)
    assert not driver.server.in_content
    driver.send(DATA, b"Subject: x\r\n")
    assert driver.server.in_content
    driver.send(b".\r\n")
    assert not driver.server.in_content


@pytest.mark.parametrize("chunked", [lambda data: [data], singly], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\r\n" + b"x" * 60 + b"\r\n.\r\n", "Message too large"),
        (b"A: " + b"b" * 50 + b"\r\n.\r\n", "Message header too large"),
    ],
)
def test_what_is_too_large_gets_552_at_its_end_and_the_dialogue_stays_in_step(content, text, chunked):
    driver = Driver(EHLO, TRANSACTION, limits=SMALL)
    assert driver.send(*chunked(content)) == [Reply(552, "5.3.4", text)]
    assert driver.names[-1] == "reset_transaction"
    assert not driver.asked("queue")
    assert sum(map(len, driver.contents)) <= 62
    assert [reply.code for reply in driver.send(TRANSACTION, MESSAGE)] == [250, 250, 354, 250]


def test_a_header_without_room_gives_no_content():
    driver = Driver(EHLO, TRANSACTION, b"x\r\n.\r\n", limits=Limits(header_size=0))
    assert driver.replies[-1].code == 552
    assert driver.contents == []


def test_a_failure_at_the_end_of_the_header_is_told_at_the_end_of_the_content():
    driver = Driver(EHLO, TRANSACTION, answers={"data_headers_end": FAILED})
    assert driver.send(BODY) == []
    (reply,) = driver.send(b".\r\n")
    assert (reply.code, reply.enhanced) == (451, "4.3.0")
    assert not driver.asked("data_post")


@pytest.mark.parametrize(("code", "reply"), [(DENY, 554), (DENYSOFT, 451)])
def test_a_refusal_at_the_end_of_the_header_is_told_at_the_end_of_the_content(code, reply):
    driver = Driver(EHLO, TRANSACTION, answers={"data_headers_end": (code, "no", "really")})
    assert driver.send(BODY) == []
    (told,) = driver.send(b".\r\n")
    assert (told.code, told.text) == (reply, "no\nreally")
    assert not driver.asked("data_post_headers")
    assert driver.code(RCPT) == 503  # the transaction is over


def test_a_refusal_at_the_end_of_the_header_that_closes_is_told_at_once():
    driver = Driver(EHLO, TRANSACTION, answers={"data_headers_end": (DENY_DISCONNECT, "spam")})
    assert driver.send(BODY) == [Reply(554, "5.7.1", "spam")]
    assert driver.closed
    assert driver.contents == [b"Subject: test\r\n"]


def test_the_reply_to_utf8_mail_may_be_utf8_and_the_next_may_not():
    texts = {"mail": (DECLINED, "ü"), "queue": (OK, "ü"), "help": (OK, "ü")}
    driver = Driver(EHLO, b"MAIL FROM:<a@b> SMTPUTF8\r\n", RCPT, DATA, MESSAGE, b"HELP\r\n", answers=texts)
    assert [reply.text for reply in driver.replies[-2:]] == ["ü", "\\xfc"]


# The plugin's own reply


def test_a_plugin_may_reply_itself():
    driver = Driver(answers=respond("noop", DONE, 250, "one", "two"))
    assert driver.send(NOOP) == [Reply(250, None, "one\ntwo")]


def test_of_several_replies_of_its_own_the_last_is_sent():
    def twice(server, hook):
        if hook.name == "noop":
            server.respond(250, "one")
            server.respond(251)
        server.answer(DONE)

    assert Driver(answers=twice).send(NOOP) == [Reply(251, None, "")]


def test_a_reply_of_the_plugins_own_is_not_sent_behind_a_farewell():
    server = Server(hooks={"noop"})
    server.receive_data(NOOP)
    assert server.next_event() == hooks.Noop()
    server.respond(299, "late")
    server.answer(DONE)
    server.hang_up(TIMEOUT)
    assert server.next_event() is CLOSED
    assert split_replies(server.data_to_send())[1:] == [TIMEOUT]


# The end of a session


def test_nothing_behind_quit_is_executed():
    driver = Driver(EHLO + QUIT + NOOP)
    assert driver.replies[-1].code == 221
    assert driver.closed
    assert driver.asked("noop") == []
    assert driver.send(NOOP) == []
    assert driver.eof() == []
    assert driver.server.next_event() is CLOSED


@pytest.mark.parametrize("finish", [lambda driver: driver.send(QUIT), lambda driver: driver.eof()])
def test_a_peer_has_finished_when_it_quits_or_closes_its_side(finish):
    driver = Driver(EHLO)
    assert not driver.server.peer_has_finished
    finish(driver)
    assert driver.server.peer_has_finished


def test_a_peer_that_is_hung_up_on_has_not_finished():
    driver = Driver(EHLO)
    driver.hang_up(TIMEOUT)
    assert not driver.server.peer_has_finished


def test_the_end_of_file_ends_a_session():
    driver = Driver(EHLO)
    assert driver.eof() == []
    assert driver.closed
    assert driver.names[-2:] == ["reset_transaction", "disconnect"]


def test_the_end_of_file_within_a_command_executes_nothing():
    driver = Driver(EHLO, b"NOOP")
    assert driver.eof() == []
    assert driver.asked("noop") == []
    assert driver.closed


@pytest.mark.parametrize("sent", [b"", b"Subject: test\r\n\r\n", b"x\r\n.", b"x\r\n.\r", b"x\ny"])
def test_the_end_of_file_within_content_is_told_and_queues_nothing(sent):
    driver = Driver(EHLO, TRANSACTION, sent)
    (reply,) = driver.eof()
    assert (reply.code, reply.enhanced) == (451, "4.4.2")
    assert driver.names[-3:] == ["reset_transaction", "reset_transaction", "disconnect"]
    assert not driver.asked("queue")
    assert driver.closed


@pytest.mark.parametrize("sent", [(), (EHLO,), (EHLO, TRANSACTION, BODY), (EHLO, b"NOO")])
def test_hanging_up_says_farewell_and_closes(sent):
    driver = Driver(*sent)
    assert driver.hang_up(TIMEOUT) == [TIMEOUT]
    assert driver.closed
    assert driver.names[-2:] == ["disconnect", "reset_transaction"]
    assert not driver.asked("queue")
    assert driver.hang_up(TIMEOUT) == []


def test_hanging_up_before_the_first_event_greets_nobody():
    server = Server(hooks=ASKED)
    server.hang_up(TIMEOUT)
    assert server.next_event() == hooks.Disconnect()
    server.answer(DECLINED)
    server.hang_up(Reply(421, None, "again"))
    assert server.next_event() == hooks.ResetTransaction()
    server.answer(DECLINED)
    assert server.next_event() is CLOSED
    assert split_replies(server.data_to_send()) == [TIMEOUT]


def test_the_command_over_the_errors_limit_is_answered_421():
    driver = Driver(EHLO, limits=Limits(errors=3))
    assert [driver.code(line) for line in (b"XYZZY\r\n", RCPT, b"\n", NOOP, RCPT)] == [500, 503, 500, 250, 421]
    assert driver.closed
    assert driver.names[-2:] == ["disconnect", "reset_transaction"]


def test_an_unknown_command_over_the_errors_limit_is_answered_421_and_not_asked_about():
    driver = Driver(EHLO, limits=Limits(errors=0))
    assert driver.code(b"XYZZY\r\n" + NOOP) == 421
    assert driver.asked("unrecognized_command") == []
    assert driver.closed


@pytest.mark.parametrize("errors", [0, 1])
def test_a_session_closes_once(errors):
    driver = Driver(EHLO, limits=Limits(errors=errors), answers={"unrecognized_command": DENY_DISCONNECT})
    assert driver.code(b"XYZZY\r\n") == (521 if errors else 421)
    assert len(driver.asked("disconnect")) == 1


# Misuse by the driver


def test_an_unknown_hook_is_refused():
    with pytest.raises(ValueError, match="no such hook: rctp"):
        Server(hooks={"rctp", "queue"})


def test_an_answer_without_a_hook_is_misuse():
    server = Server()
    for misuse in (lambda: server.answer(OK), server.fail, lambda: server.respond(250)):
        with pytest.raises(LocalProtocolError, match="no hook was asked"):
            misuse()


def test_going_on_without_an_answer_is_misuse():
    server = Server(hooks={"connect"})
    assert server.next_event() == hooks.Connect()
    for misuse in (server.next_event, lambda: server.hang_up(TIMEOUT)):
        with pytest.raises(LocalProtocolError, match="the connect hook waits"):
            misuse()
    server.answer(OK)
    assert server.next_event() is NEED_DATA


def test_a_hook_is_answered_once():
    server = Server(hooks={"connect"})
    server.next_event()
    server.answer(OK)
    with pytest.raises(LocalProtocolError):
        server.answer(OK)


def test_data_behind_the_end_of_file_is_misuse():
    server = Server()
    server.receive_data(b"")
    server.receive_data(b"")
    with pytest.raises(LocalProtocolError, match="after the end of file"):
        server.receive_data(NOOP)


@pytest.mark.parametrize("answer", [42, None, "OK", FAILED])
def test_what_is_no_return_code_is_no_answer(answer):
    server = Server(hooks={"connect"})
    server.next_event()
    with pytest.raises(TypeError, match="not a return code"):
        server.answer(answer)
    server.fail()
    assert server.next_event() is CLOSED
    assert server.data_to_send().startswith(b"421 ")


@pytest.mark.parametrize("code", [0, 199, 600])
def test_an_impossible_reply_code_is_refused(code):
    server = Server(hooks={"connect"})
    server.next_event()
    with pytest.raises(ValueError, match="not a reply code"):
        server.respond(code, "text")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_data_may_come_in_any_kind_of_buffer(kind):
    server = Server()
    server.next_event()
    server.receive_data(kind(NOOP))
    server.next_event()
    assert server.data_to_send().endswith(b"250 2.0.0 OK\r\n")


def test_what_was_sent_is_forgotten():
    server = Server()
    server.next_event()
    assert server.data_to_send() != b""
    assert server.data_to_send() == b""


@pytest.mark.parametrize("line", [b"EXPN list\r\n", b"etrn example.org\r\n"])
def test_a_command_of_an_rfc_that_is_not_served_is_502(line):
    driver = Driver(EHLO)
    assert driver.code(line) == 502
    assert driver.names[-1] == "unrecognized_command"


def test_a_plugin_may_answer_for_it():
    driver = Driver(EHLO, answers={"unrecognized_command": (DENY, "not for you")})
    (reply,) = driver.send(b"EXPN list\r\n")
    assert (reply.code, reply.text) == (500, "not for you")
    assert Driver(EHLO, answers={"unrecognized_command": FAILED}).code(b"EXPN list\r\n") == 451
