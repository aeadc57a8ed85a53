"""What `rcpt_map` answers for the recipients of a domain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.rcpt_map import _parse_line
from qpsmtpd.testing import Kit

MAP = """\
# all there are
me@dest.example OK
  You@Dest.example\tOK  welcome

gone@dest.example DENY moved to other.example
norm@dest.example deny
later@dest.example DENYSOFT not today
soft@dest.example DENYSOFT
bye@dest.example DENY_DISCONNECT be gone
away@dest.example DENYSOFT_DISCONNECT come back
hard@dest.example DENYHARD
next@dest.example DECLINED
bad@dest.example FOO x
done@dest.example DONE
none@dest.example
OK
"""


@pytest.fixture
def mapped(kit, directory):
    """A kit with the plugin and a map."""

    def mapped(args="domain dest.example file map", content=MAP, base=False):
        (directory / "map").write_text(content)
        return kit(f"rcpt_map {args}", base=base)

    return mapped


def answer(stage, recipient, client=None):
    client = client or stage.connect()
    if client.transaction.sender is None:
        client.say("EHLO c.example")
        client.say("MAIL FROM:<a@c.example> SMTPUTF8")
    reply = client.say(f"RCPT TO:<{recipient}>")
    return reply.code, reply.enhanced, reply.text


@pytest.mark.parametrize(
    ("user", "code", "status", "text"),
    [("gone", 550, "5.7.1", "moved to other.example"), ("norm", 550, "5.1.1", "No such user"),
     ("later", 450, "4.7.1", "not today"), ("soft", 450, "4.1.1", "No such user"),
     ("bye", 550, "5.7.1", "be gone"), ("away", 421, "4.7.1", "come back"), ("hard", 550, "5.1.1", "No such user"),
     ("GONE", 550, "5.7.1", "moved to other.example"), ("unlisted", 550, "5.1.1", "No such user"),
     ("bad", 550, "5.1.1", "No such user"), ("none", 550, "5.1.1", "No such user"), ("done", 550, "5.1.1", "No such user")],
)  # fmt: skip
def test_a_refusal_is_what_the_line_says(mapped, user, code, status, text):
    assert answer(mapped(), f"{user}@dest.example") == (code, status, text)


@pytest.mark.parametrize("recipient", ["me@dest.example", "ME@DEST.Example", "you@dest.example"])
def test_who_is_listed_with_ok_is_accepted_whatever_plugins_behind_say(mapped, recipient):
    stage = mapped()
    assert answer(stage, recipient)[0] == 250
    assert stage.logged("rcpt_map: pass, OK, in the map")


@pytest.mark.parametrize("recipient", ["next@dest.example", "me@sub.dest.example", "me@other.example", "postmaster"])
def test_others_are_left_to_plugins_behind(mapped, recipient):
    assert answer(mapped(base=False), recipient)[0] == 450
    assert answer(mapped(base=True), recipient)[0] == 250


@pytest.mark.parametrize("user", ["bye", "away", "hard"])
def test_a_line_may_end_the_connection(mapped, user):
    client = mapped().connect()
    answer(None, f"{user}@dest.example", client)
    assert client.closed


@pytest.mark.parametrize(
    ("default", "wanted"),
    [("DENYSOFT", (450, "4.1.1", "No such user")), ("DENYSOFT=Try_later,_please", (450, "4.7.1", "Try later, please")),
     ("deny=5.1.6_moved=away", (550, "5.1.6", "moved=away")), ("DECLINED=go_on", (250, None, None)), ("OK", (250, None, None))],
)  # fmt: skip
def test_the_default_answer_may_be_chosen(mapped, default, wanted):
    stage = mapped(f"default {default} file map domain DEST.example", base=True)
    assert answer(stage, "unlisted@dest.example")[: 3 if wanted[1] else 1] == tuple(filter(None, wanted))


def test_bad_lines_are_logged_and_left_out(mapped, directory):
    stage = mapped()
    assert [line.partition("left out the line ")[2] for line in stage.logged(f"rcpt_map: error, {directory}/map: ")] == [
        "'bad@dest.example FOO x'\n", "'done@dest.example DONE'\n", "'none@dest.example'\n", "'OK'\n",
    ]  # fmt: skip
    assert stage.logged("'FOO' is no return code; known are OK, DECLINED, DENY, ")
    assert stage.logged("there is no address at its beginning")


def test_a_map_that_has_changed_is_read_again_and_one_that_has_not_is_not(mapped, directory):
    stage = mapped()
    client = stage.connect()
    assert answer(stage, "new@dest.example", client)[0] == 550
    assert len(stage.logged("'OK'\n")) == 1
    (directory / "map").write_text("new@dest.example OK\n")
    assert answer(stage, "new@dest.example", client)[0] == 250
    assert answer(stage, "me@dest.example", client)[0] == 550


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "nonsense\n"])
def test_while_the_new_map_makes_no_sense_the_old_one_stays(mapped, directory, content):
    stage = mapped()
    if content is None:
        (directory / "map").unlink()
    else:
        (directory / "map").write_text(content)
    for _ in range(2):
        assert answer(stage, "me@dest.example")[0] == 250
    assert len(stage.logged("; the old map stays")) == 1


def test_several_domains_have_a_map_each(kit, directory):
    (directory / "one").write_text("a@one.example OK\n")
    (directory / "two").write_text("b@two.example OK\n")
    stage = kit(
        "rcpt_map:0 domain one.example file one", f"rcpt_map:1 domain two.example file {directory}/two", base=False
    )
    found = [answer(stage, f"{user}@{domain}.example")[0] for user in "ab" for domain in ("one", "two")]
    assert found == [250, 550, 550, 250]


@pytest.mark.parametrize(
    ("args", "message"),
    [("file map", "the argument domain is missing"), ("domain dest.example", "the argument file is missing"),
     ("domain dest.example file nowhere", "No such file or directory"), ("domain dest.example file .", "Is a directory"),
     ("domain d.example file map default NO", "'NO' is no return code"), ("domain d.example fiel map", "did you mean file"),
     ("domain d.example file empty", "empty names no address")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(mapped, directory, args, message):
    (directory / "empty").write_text("")
    with pytest.raises(ConfigError, match="plugins:1: rcpt_map: ") as caught:
        mapped(args)
    assert message in str(caught.value)


@given(st.text())
def test_any_line_has_a_meaning_or_is_a_value_error(line):
    for text in (line, f"{line}@dest.example OK {line}"):
        try:
            address, (_code, *texts) = _parse_line(text)
        except ValueError:
            continue
        assert "@" in address
        assert len(texts) <= 1


def test_any_recipient_is_in_the_map_or_not(tmp_path):
    (tmp_path / "map").write_text("me@dest.example OK\n")
    stage = Kit(f"rcpt_map domain dest.example file {tmp_path}/map")

    @given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30))
    def answered(local):
        quoted = local.replace("\\", "\\\\").replace('"', '\\"')
        assert answer(stage, f'"{quoted}"@dest.example')[0] in ((250,) if local.lower() == "me" else (550, 501, 500))

    answered()
    assert not stage.logged("Traceback")
