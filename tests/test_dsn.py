"""What the names of `qpsmtpd.dsn` stand for, and what a client sees of them."""

import pytest

from qpsmtpd import DECLINED, DENY, DENY_DISCONNECT, DENYSOFT, DENYSOFT_DISCONNECT, DONE, OK, Plugin, dsn
from qpsmtpd.testing import Kit

ROWS = {name: status for name, status in vars(dsn).items() if isinstance(status, dsn.Status)}
CLASSES = {OK: 2, DENY: 5, DENY_DISCONNECT: 5, DENYSOFT: 4, DENYSOFT_DISCONNECT: 4}

DETAILS = {0: 0, 1: 8, 2: 4, 3: 5, 4: 7, 5: 5, 6: 5, 7: 7}
"""The last detail of each subject in RFC 3463."""
SUBJECTS = {"addr": 1, "mbox": 2, "sys": 3, "net": 4, "proto": 5, "media": 6, "sec": 7}

ORIGINAL = """
    unspecified 0.0 DENYSOFT
    addr_unspecified 1.0 DENYSOFT; no_such_user 1.1 DENY; addr_bad_dest_mbox 1.1 DENY; addr_bad_dest_system 1.2 DENY;
    addr_bad_dest_syntax 1.3 DENY; addr_dest_ambigous 1.4 DENYSOFT; addr_dest_ambiguous 1.4 DENYSOFT; addr_rcpt_ok 1.5 OK;
    addr_mbox_moved 1.6 DENY; addr_bad_from_syntax 1.7 DENY; addr_bad_from_system 1.8 DENY
    mbox_unspecified 2.0 DENYSOFT; mbox_disabled 2.1 DENY; mbox_full 2.2 DENYSOFT; mbox_msg_too_long 2.3 DENY;
    mbox_list_expansion_problem 2.4 DENYSOFT
    sys_unspecified 3.0 DENYSOFT; sys_disk_full 3.1 DENYSOFT; sys_not_accepting_mail 3.2 DENYSOFT;
    sys_not_supported 3.3 DENYSOFT; sys_msg_too_big 3.4 DENY
    net_unspecified 4.0 DENYSOFT; temp_resolver_failed 4.3 DENYSOFT; net_directory_server_failed 4.3 DENYSOFT;
    net_system_congested 4.5 DENYSOFT; net_routing_loop 4.6 DENY; too_many_hops 4.6 DENY
    proto_unspecified 5.0 DENYSOFT; proto_invalid_command 5.1 DENY; proto_syntax_error 5.2 DENY;
    proto_rcpt_list_too_long 5.3 DENYSOFT; too_many_rcpts 5.3 DENYSOFT; proto_invalid_cmd_args 5.4 DENY;
    proto_wrong_version 5.5 DENYSOFT
    media_unspecified 6.0 DENYSOFT; media_unsupported 6.1 DENY; media_conv_prohibited 6.2 DENY;
    media_conv_unsupported 6.3 DENYSOFT; media_conv_lossy 6.4 DENYSOFT
    sec_unspecified 7.0 DENYSOFT; sec_sender_unauthorized 7.1 DENY; bad_sender_ip 7.1 DENY; relaying_denied 7.1 DENY;
    sec_list_dest_prohibited 7.2 DENY; sec_conv_failed 7.3 DENY; sec_feature_unsupported 7.4 DENY;
    sec_crypto_failure 7.5 DENY; sec_crypto_algorithm_unsupported 7.6 DENYSOFT; sec_msg_integrity_failure 7.7 DENY
"""

each_row = pytest.mark.parametrize("status", ROWS.values(), ids=list(ROWS))
each_code = pytest.mark.parametrize("code", CLASSES, ids=repr)


def test_names_statuses_and_codes_are_the_originals():
    rows = [f"{name} {row.subject}.{row.detail} {row.code!r}" for name, row in ROWS.items()]
    wanted = [words.strip() for words in ORIGINAL.replace("\n", ";").split(";")]
    assert sorted(rows) == sorted(filter(None, wanted))
    assert sorted(dsn.__all__) == sorted([*ROWS, "Status"])


@each_row
def test_every_status_is_in_the_rfc(status):
    assert 0 <= status.detail <= DETAILS[status.subject]


@pytest.mark.parametrize("name", ROWS)
def test_a_name_that_begins_with_a_subject_is_of_it(name):
    subject = SUBJECTS.get(name.partition("_")[0])
    assert subject in (None, ROWS[name].subject)


@each_row
def test_a_text_is_one_line_that_people_can_read(status):
    assert status.text.isascii()
    assert status.text.isprintable()
    assert 5 < len(status.text) < 80
    assert status.text[0].isupper()
    assert status.text[-1].isalpha()


@each_row
def test_without_arguments_code_and_text_are_the_rows(status):
    code, text = status()
    assert code is status.code
    assert text == f"{CLASSES[code]}.{status.subject}.{status.detail} {status.text}"


@each_row
@each_code
def test_the_class_follows_the_code(status, code):
    assert status(code, "what I say") == (code, f"{CLASSES[code]}.{status.subject}.{status.detail} what I say")
    assert status(code)[1] == f"{CLASSES[code]}.{status.subject}.{status.detail} {status.text}"


@each_row
@each_code
def test_a_client_sees_the_status_once_and_the_reply_is_of_its_class(status, code):
    class Answer(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

        def hook_queue(self, transaction):
            return status(code)

    client = Kit(Answer).connect()
    reply = client.deliver()[-1]
    wanted = f"{CLASSES[code]}.{status.subject}.{status.detail}"
    assert reply.enhanced == wanted
    assert str(reply.code)[0] == wanted[0]
    assert reply.text == status.text
    assert client.transcript[-1] == f"S: {reply.code} {wanted} {status.text}"
    assert client.closed == (code in (DENY_DISCONNECT, DENYSOFT_DISCONNECT))


def test_a_text_may_stand_alone_and_an_empty_one_is_none():
    assert dsn.relaying_denied("not from there") == (DENY, "5.7.1 not from there")
    assert dsn.relaying_denied(text="not from there") == (DENY, "5.7.1 not from there")
    assert dsn.relaying_denied(DENY, "") == dsn.relaying_denied("") == (DENY, "5.7.1 Relaying denied")
    assert dsn.relaying_denied(DENYSOFT, "not now") == (DENYSOFT, "4.7.1 not now")


@each_row
@pytest.mark.parametrize("code", [DECLINED, DONE], ids=repr)
def test_what_says_nothing_has_no_status(status, code):
    with pytest.raises(ValueError, match=f"^{code!r} says nothing to the client"):
        status(code)


def test_a_text_of_several_lines_has_the_status_on_each():
    class Answer(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return dsn.no_such_user("one\ntwo")

    client = Kit(Answer).connect()
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    assert client.send(b"RCPT TO:<b@example.org>\r\n") == b"550-5.1.1 one\r\n550 5.1.1 two\r\n"


def test_a_status_cannot_be_changed():
    with pytest.raises(AttributeError):
        dsn.mbox_full.detail = 3
    assert not hasattr(dsn.mbox_full, "__dict__")
