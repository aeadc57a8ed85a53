"""Which senders `badmailfrom` refuses, and how."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._lists import parse_pattern

LIST = {
    "badmailfrom": (
        "bad@evil.example", "@badhost.example", "reason@evil.example   Custom Reason Text", "^Spam.*@", "nohostpart",
        "MiXed@Case.example", "  lead@evil.example", "a+b@evil.example\tno plus", "*a", r"\.biz$", "", "^$",
    )
}  # fmt: skip


class Karma(Plugin):
    karma: object = None

    def hook_disconnect(self, transaction):
        Karma.karma = self.connection.notes.get("karma")


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, path):
    client = stage.connect()
    client.send(b"EHLO c.example\r\n")
    reply = client.send(f"MAIL FROM:{path}\r\n".encode())
    return reply, client


@pytest.mark.parametrize(
    "path",
    ["<bad@evil.example>", "<x@badhost.example>", "<x@BadHost.Example>", "<mixed@case.example>", "<lead@evil.example>",
     "<spammy@any.example>", "<SPAM@any.example>", "<a+b@evil.example>", "<aaab@evil.example>", "<x@y.biz>"],
)  # fmt: skip
def test_listed_senders_are_refused(kit, path):
    assert answer(kit("badmailfrom", config=LIST), path)[0].startswith(b"550")


@pytest.mark.parametrize(
    "path", ["<good@evil.example>", "<x@sub.badhost.example>", "<nohostpart@x.example>", "<x@ybiz>", "<xspam@y.example>", "<>"]
)  # fmt: skip
def test_other_senders_and_bounces_pass(kit, path):
    assert answer(kit("badmailfrom", config=LIST), path)[0].startswith(b"250")


def test_the_client_is_told_the_reason(kit):
    stage = kit("badmailfrom", config=LIST)
    assert answer(stage, "<reason@evil.example>")[0] == b"550 5.7.1 Custom Reason Text\r\n"
    assert answer(stage, "<a+b@evil.example>")[0] == b"550 5.7.1 no plus\r\n"


def test_bad_lines_are_logged_once_and_left_out(kit):
    stage = kit("badmailfrom", config=LIST)
    for _ in range(3):
        answer(stage, "<good@evil.example>")
    assert [line.partition("left out the line ")[2] for line in stage.logged("left out")] == [
        "'nohostpart'\n", "'*a'\n", "''\n",
    ]  # fmt: skip
    assert stage.logged("bad regular expression: ")


@pytest.mark.parametrize(
    ("args", "code", "closed"),
    [("reject 0", b"250", False), ("reject 1", b"550", False), ("reject_type soft", b"450", False),
     ("reject_type perm", b"550", False), ("reject_type disconnect", b"550", True),
     ("reject_type temp_disconnect", b"421", True)],
)  # fmt: skip
def test_the_arguments_say_how_to_refuse_and_karma_falls_in_any_case(kit, args, code, closed):
    reply, client = answer(kit(Karma, f"badmailfrom {args}", config=LIST), "<bad@evil.example>")
    assert (reply[:3], client.closed) == (code, closed)
    if not closed:
        client.send(b"QUIT\r\n")
    assert Karma.karma == -1


def test_relay_clients_pass(kit):
    assert answer(kit(RelayClient, "badmailfrom", config=LIST), "<bad@evil.example>")[0].startswith(b"250")


def test_a_changed_file_counts_a_second_later(kit, directory):
    file = directory / "badmailfrom"
    file.write_text("^one@\n")
    stage = kit("check_badmailfrom")
    assert answer(stage, "<one@x.example>")[0].startswith(b"550")
    file.write_text("^the-other@\n")
    stage.clock.advance(1.5)
    assert answer(stage, "<one@x.example>")[0].startswith(b"250")
    assert answer(stage, "<the-other@x.example>")[0].startswith(b"550")


def test_bad_arguments_are_seen_at_load(kit):
    with pytest.raises(ConfigError, match="plugins:1: badmailfrom: unknown argument 'rejct'"):
        kit("badmailfrom rejct 0")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Python's about odd sets in expressions
@given(st.text(), st.text(), st.none() | st.text())
def test_any_line_is_a_pattern_or_a_value_error_and_any_address_may_be_looked_up(line, local, domain):
    for text in (line, f"^{line}", f"@{line}"):
        try:
            pattern = parse_pattern(text)
        except ValueError:
            continue
        assert pattern.matches(Mailbox(local, domain)) in (True, False)


@pytest.mark.parametrize("line", ["^x{99999999999999999999}", "^" + "(" * 5000, "*", "\\", "^(?P<x", "?"])
def test_an_expression_of_any_badness_is_a_value_error(line):
    with pytest.raises(ValueError, match="bad regular expression"):
        parse_pattern(line)


@given(st.emails())
def test_every_address_is_found_by_itself_and_by_its_domain(address):
    local, _, domain = address.rpartition("@")
    assert parse_pattern(f"@{domain} reason").matches(Mailbox(local, domain))
    try:
        pattern = parse_pattern(address.swapcase())
    except ValueError:  # a bad expression, such as *x@example.org
        return
    assert pattern.matches(Mailbox(local, domain))


def test_with_an_empty_list_all_senders_pass(kit):
    assert answer(kit("badmailfrom"), "<bad@evil.example>")[0].startswith(b"250")


def test_an_address_too_long_for_expressions_is_refused_where_there_is_one(kit):
    at_most, longer = (f"<{'a' * (310 + more)}@x.example>" for more in (0, 1))
    plain, expressions = ({"badmailfrom": lines} for lines in (("b@y.example",), ("b@y.example", "(a+)+$")))
    assert answer(kit("badmailfrom", config=plain), longer)[0].startswith(b"250")
    assert answer(kit("badmailfrom", config={"badmailfrom": ("^b@",)}), at_most)[0].startswith(b"250")
    stage = kit("badmailfrom", config=expressions)
    assert answer(stage, longer)[0] == b"550 5.7.1 this address is too long\r\n"
    assert stage.logged("fail, more than 320 characters")
