"""What `rcpt_regexp` answers for recipients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.rcpt_regexp import _parse_rule
from qpsmtpd.testing import Kit

LIST = {
    "rcpt_regexp": (
        "user@dest.example OK", "Gone@dest.example  DENY\tmoved to other.example", "/^no.*@dest/ DENY custom text",
        "/LATER/ DENYSOFT", "/(bad/ DENY x", "foo@dest.example NOSUCH x", "/^bye@/ DENY_DISCONNECT be gone",
        "nocode@dest.example", "nohost OK", "//", "/ DENY", r"/^a+b\+c@x\.example$/ DENY", "/^next@/ DECLINED",
        "/@closed\\.example$/ DENY closed",
    )
}  # fmt: skip


def answer(stage, recipient):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@c.example> SMTPUTF8")
    reply = client.say(f"RCPT TO:<{recipient}>")
    return reply.code, reply.text, client.closed


@pytest.mark.parametrize(
    ("recipient", "code", "text", "closed"),
    [("gone@DEST.example", 550, "moved to other.example", False), ("nobody@dest.example", 550, "custom text", False),
     ("NOBODY@DEST.EXAMPLE", 550, "custom text", False), ("bye@x.example", 550, "be gone", True),
     ("x@closed.example", 550, "closed", False)],
)  # fmt: skip
def test_the_first_line_that_matches_decides(kit, recipient, code, text, closed):
    assert answer(kit("rcpt_regexp", config=LIST), recipient) == (code, text, closed)


@pytest.mark.parametrize(
    ("recipient", "code"),
    [("see-later@x.example", 450), ("aab+c@x.example", 550), ("aab+c@xyexample", 250), ("next@closed.example", 250),
     ("nextx@closed.example", 550), ("user@dest.example", 250), ("foo@dest.example", 250), ("nocode@dest.example", 550),
     ("unlisted@x.example", 250), ("bar@dest.example.org", 250)],
)  # fmt: skip
def test_an_expression_matches_anywhere_and_an_address_as_a_whole(kit, recipient, code):
    assert answer(kit("rcpt_regexp", config=LIST), recipient)[0] == code


def test_ok_accepts_and_declined_leaves_it_to_others(kit):
    stage = kit("rcpt_regexp", config=LIST, base=False)
    assert answer(stage, "user@dest.example")[0] == 250
    assert [answer(stage, each)[0] for each in ("next@x.example", "unlisted@x.example", "postmaster")] == [450] * 3
    assert stage.logged("rcpt_regexp: pass, OK for user@dest.example")
    assert stage.logged("rcpt_regexp: pass, DECLINED for /^next@/")
    assert stage.logged("rcpt_regexp: pass, not listed")


def test_bad_lines_are_logged_once_and_left_out(kit):
    stage = kit("rcpt_regexp", config=LIST)
    for _ in range(3):
        answer(stage, "user@dest.example")
    assert [line.partition("left out the line ")[2] for line in stage.logged("left out")] == [
        "'/(bad/ DENY x'\n", "'foo@dest.example NOSUCH x'\n", "'nocode@dest.example'\n", "'nohost OK'\n", "'//'\n", "'/ DENY'\n",
    ]  # fmt: skip


def test_an_address_of_any_length_is_looked_up_but_no_expression_tried_on_a_long_one(kit):
    at_most, longer = (f"{'a' * (320 - len('@x.example') + more)}@x.example" for more in (0, 1))
    quadratic = {"rcpt_regexp": (f"{longer}x OK", r"/(a+)+$/ DENY", "/./ OK")}
    assert answer(kit("rcpt_regexp", config={"rcpt_regexp": (f"{longer} OK", "/./ DENY")}), longer)[0] == 250
    assert answer(kit("rcpt_regexp", config={"rcpt_regexp": ("/./ OK",)}), at_most)[0] == 250
    stage = kit("rcpt_regexp", config=quadratic)
    assert answer(stage, longer)[:2] == (550, "this address is too long")
    assert stage.logged("rcpt_regexp: fail, an address of 321 characters")
    assert answer(kit("rcpt_regexp", config={"rcpt_regexp": ("u@x.example OK",)}), longer)[0] == 250


def test_a_changed_file_counts_a_second_later(kit, directory):
    file = directory / "rcpt_regexp"
    file.write_text("/^one@/ DENY\n")
    stage = kit("rcpt_regexp")
    assert answer(stage, "one@x.example")[0] == 550
    file.write_text("/^other@/ DENY\n")
    stage.clock.advance(1.5)
    assert answer(stage, "one@x.example")[0] == 250
    assert answer(stage, "other@x.example")[0] == 550


def test_it_takes_no_arguments(kit):
    with pytest.raises(ConfigError, match="plugins:1: rcpt_regexp: "):
        kit("rcpt_regexp x")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Python's about odd sets in expressions
@given(st.text(), st.text())
def test_any_line_is_a_rule_or_a_value_error_and_any_address_may_be_looked_up(line, address):
    for text in (line, f"/{line}/ OK", f"{line}@x.example DENY"):
        try:
            rule = _parse_rule(text)
        except ValueError:
            continue
        assert rule.matches(address) in (True, False)


def test_any_recipient_gets_an_answer():
    stage = Kit("rcpt_regexp", config={"rcpt_regexp": ("/^[a-z]+@/ OK", "/./ DENY")})

    @given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30))
    def answered(local):
        quoted = local.replace("\\", "\\\\").replace('"', '\\"')
        assert answer(stage, f'"{quoted}"@dest.example')[0] in (250, 550, 501, 500)

    answered()
    assert not stage.logged("Traceback")
