"""The strategies: what is valid is accepted by the core, what is not is refused, and all of it shrinks."""

import subprocess
import sys

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import Driver

from qpsmtpd import DECLINED, DENY, OK
from qpsmtpd.protocol import (
    FAILED,
    NEED_DATA,
    Command,
    Extension,
    Hook,
    Mailbox,
    Message,
    Reply,
    Server,
    SyntaxProblem,
    hooks,
    parse_path,
    parse_reply,
)
from qpsmtpd.protocol.commands import parse_parameters
from qpsmtpd.protocol.framing import has_bare
from qpsmtpd.protocol.parameters import check_parameters, format_parameters
from qpsmtpd.testing import Kit
from qpsmtpd.testing import strategies as qst
from qpsmtpd.testing.smuggling import VARIANTS


def occurs(strategy, wanted):
    """Find an example, whatever its size. Raises NoSuchExample."""
    return find(strategy, wanted, settings=settings(phases=[Phase.generate], max_examples=5_000))


@given(st.booleans().flatmap(lambda utf8: qst.mailboxes(utf8=utf8)))
def test_mailboxes_are_read_as_they_are_printed(mailbox):
    assert parse_path(mailbox.path) == mailbox
    assert len(mailbox.domain.encode()) <= 255


@given(qst.mailboxes())
def test_mailboxes_are_ascii_unless_utf8_is_asked_for(mailbox):
    assert mailbox.is_ascii


@given(qst.mailboxes(quoted=False))
def test_unquoted_mailboxes_need_no_quotes(mailbox):
    assert '"' not in mailbox.path


def test_utf8_mailboxes_are_not_all_ascii():
    occurs(qst.mailboxes(utf8=True), lambda mailbox: not mailbox.local_part.isascii() and not mailbox.domain.isascii())


@given(qst.paths(utf8=True, null=True))
def test_valid_paths_are_accepted_and_mean_what_they_print(path):
    mailbox = parse_path(path)
    assert isinstance(mailbox, Mailbox)
    assert parse_path(mailbox.path) == mailbox


@pytest.mark.parametrize("start", ["<@", '<"', "<>"])
def test_valid_paths_have_routes_and_quotes_and_the_null_path(start):
    occurs(qst.paths(null=True), lambda path: path.startswith(start))


@given(qst.nearly_valid_paths())
def test_nearly_valid_paths_are_refused(path):
    assert isinstance(parse_path(path), SyntaxProblem)


@given(st.sampled_from([Command.MAIL, Command.RCPT]).flatmap(lambda c: st.tuples(st.just(c), _all_parameters(c))))
def test_parameters_are_well_formed_and_of_extensions_that_are_offered(drawn):
    command, parameters = drawn
    assert parse_parameters(format_parameters(parameters).split()) == parameters
    assert check_parameters(command, parameters, frozenset(Extension)) is None


def _all_parameters(command):
    return qst.parameters(command, offered=Extension)


@given(qst.parameters())
def test_parameters_are_of_what_is_offered(parameters):
    assert check_parameters(Command.MAIL, parameters, qst.OFFERED) is None


@given(qst.dialogues())
def test_the_core_finds_no_fault_with_a_dialogue(dialogue):
    driver = Driver()
    for write in dialogue:
        for reply in driver.send(write):
            assert reply.code < 400, (write, reply)
    assert driver.closed


@given(qst.dialogues())
def test_a_dialogue_has_a_reply_to_each_write(dialogue):
    driver = Driver()
    assert all(len(driver.send(write)) == 1 for write in dialogue)


@given(qst.nearly_valid_paths(), st.sampled_from([b"MAIL FROM:%b\r\n", b"RCPT TO:%b\r\n"]))
def test_a_command_with_a_nearly_valid_path_is_refused(path, line):
    driver = Driver(b"EHLO a\r\n", *[b"MAIL FROM:<>\r\n"] * (line[:1] == b"R"))
    assert 500 <= driver.code(line % path.encode()) < 600


@given(qst.hostile_dialogues(), qst.cuts())
def test_hostile_dialogues_get_replies_and_no_exception_however_they_are_cut(dialogue, cuts):
    stream = b"".join(dialogue)
    whole, pieces = Driver(stream), Driver(*qst.cut(stream, cuts))
    assert whole.output == pieces.output


@given(qst.contents())
def test_contents_have_whole_lines_of_allowed_length(content):
    assert not has_bare(content)
    assert content.endswith(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 998


@given(qst.contents(eight_bit=False))
def test_contents_are_ascii_where_that_is_asked_for(content):
    assert content.isascii()


@pytest.mark.parametrize("octets", [b"\r\n.\r\n", b"\r\n..", b"\xff", b"x" * 998, b"\r\n "])
def test_contents_have_what_servers_stumble_over(octets):
    occurs(qst.contents(), lambda content: octets in content)


@pytest.mark.parametrize("octets", [b"\r\n.\r\n", b"\n.\n", b"\r\r\n", b"\x00", b"x" * 1001])
def test_hostile_contents_have_what_servers_disagree_on(octets):
    occurs(qst.hostile_contents(), lambda content: octets in content)


@given(qst.smuggling_dialogues())
def test_no_smuggling_dialogue_gives_the_core_two_messages(dialogue):
    driver = Driver()
    for write in dialogue:
        if not driver.closed:
            driver.send(write)
    assert driver.names.count("queue") <= 1


def test_every_variant_is_drawn():
    for variant in VARIANTS.values():
        assert occurs(qst.smuggling_variants(), lambda drawn, wanted=variant: drawn is wanted) is variant


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_a_cut_loses_nothing_and_leaves_no_piece_empty(data, places):
    pieces = qst.cut(data, places)
    assert b"".join(pieces) == data
    assert all(pieces)


@given(qst.replies())
def test_replies_are_read_as_they_are_written(reply):
    assert parse_reply(reply.encode(utf8=True)) == reply


def replies_of(server, answer, *chunks):
    said = b""
    for chunk in (b"", *chunks):
        if chunk:
            server.receive_data(chunk)
        while (event := server.next_event()) is not NEED_DATA and isinstance(event, Hook):
            answer(server, event)
        said += server.data_to_send()
    return said


def test_the_first_of_scripted_plugins_that_does_not_decline_decides():
    first = qst.Scripted({"noop": ((DECLINED, ""), (DENY, "first"))})
    second = qst.Scripted({"noop": ((OK, "second"), (FAILED, "")), "helo": ((DENY, "not you"),)})
    said = replies_of(
        Server(hooks={"noop", "helo"}),
        qst.answering([first, second]),
        b"NOOP\r\n",
        b"NOOP\r\n",
        b"NOOP\r\n",
        b"HELO a\r\n",
    )
    assert [line[:3] for line in said.split(b"\r\n")[1:-1]] == [b"250", b"500", b"451", b"550"]
    assert b"500 5.7.1 first" in said
    assert b"550 not you" in said


@given(qst.plugin_lists(), qst.dialogues())
def test_scripted_plugins_answer_every_question_of_a_server(plugins, dialogue):
    driver = Driver(asked={hook for plugin in plugins for hook in plugin.results}, answers=qst.answering(plugins))
    for write in dialogue:
        if not driver.closed:
            driver.send(write)
    assert driver.replies[0].code // 100 in (2, 4, 5)


@given(qst.plugin_lists())
def test_scripted_plugins_can_be_loaded_and_are_asked(plugins):
    kit = Kit(*(plugin.plugin() for plugin in plugins))
    client = kit.connect()
    if not client.closed:
        client.send(b"NOOP\r\n")
        served = any("noop" in plugin.results for plugin in plugins)
        assert bool(kit.calls("noop")) is served


def test_a_scripted_plugin_says_what_its_list_says():
    plugin = qst.Scripted({"rcpt": ((DENY, "no"), (OK, "")), "mail": ((FAILED, "broken"), (DECLINED, ""))})
    client = Kit(plugin.plugin()).connect()
    client.say("HELO a")
    assert [client.say("MAIL FROM:<a@a>").code for _ in range(2)] == [451, 250]
    assert [client.say("RCPT TO:<a@a>").code for _ in range(2)] == [550, 250]


@pytest.mark.parametrize(
    ("strategy", "wanted", "smallest"),
    [
        (qst.mailboxes(), lambda mailbox: "0" in mailbox.path, ["<0@0>"]),
        (qst.mailboxes(), lambda mailbox: "." in mailbox.local_part, ['<"."@0>', "<0.0@0>"]),
        (qst.mailboxes(), lambda mailbox: mailbox.path.startswith('<"'), ['<""@0>']),
        (qst.mailboxes(), lambda mailbox: "[" in mailbox.domain, ["<0@[0.0.0.0]>"]),
        (qst.paths(), lambda path: path.startswith("<@"), ["<@0:0@0>"]),
        (qst.nearly_valid_paths(), lambda path: ".." in path, ["<0..0@0>"]),
        (qst.hostile_paths(), lambda path: "\r\n" in path, ["\r\n"]),
        (qst.command_lines(), lambda line: b"TO:" in line, [b"RCPT TO:<0@0>\r\n"]),
        (qst.contents(), lambda content: b"\r\n.\r\n" in content, [b"\r\n.\r\n"]),
        (qst.hostile_contents(), lambda content: b"\n.\n" in content, [b"\n.\n"]),
        (qst.dialogues(), lambda dialogue: len(dialogue) == 2, [[b"EHLO A\r\n", b"QUIT\r\n"]]),
        (qst.cuts(), lambda cuts: len(cuts) == 2, [[0, 0]]),
        (qst.plugin_lists(), lambda plugins: len(plugins) == 1, [[qst.Scripted({})]]),
        (qst.results(), lambda result: result[0] is DENY, [(DENY, "")]),
    ],
    ids=str,
)  # fmt: skip
def test_it_shrinks_to_something_short(strategy, wanted, smallest):
    import random

    found = find(strategy, wanted, random=random.Random(0))
    assert (found.path if isinstance(found, Mailbox) else found) in smallest


@pytest.mark.parametrize("kind", [Mailbox, Reply, Message, hooks.Mail, hooks.Rcpt, hooks.Queue, hooks.Hook, hooks.Help])
def test_types_have_strategies(kind):
    @given(st.from_type(kind))
    def check(value):
        assert isinstance(value, kind)
        if isinstance(value, hooks.Rcpt):
            assert parse_path(value.recipient.path) == value.recipient

    check()


def test_the_entry_point_registers_the_types_however_they_are_imported_first():
    for first in ("hypothesis", "qpsmtpd.testing.strategies"):
        code = (
            f"import importlib; importlib.import_module({first!r}); import qpsmtpd.testing.strategies; "
            "from hypothesis import find, strategies as st; from qpsmtpd.protocol import Mailbox;"
            "print(find(st.from_type(Mailbox), lambda mailbox: '0' in mailbox.path))"
        )
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "<0@0>\n"
        )
