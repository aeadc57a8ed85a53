import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.logs import LEVELS, escape, log_level, message


@given(st.text())
def test_an_escaped_text_is_one_printable_line(text):
    shown = escape(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_printable_text_of_any_script_is_kept():
    assert escape("grüße, 世界") == "grüße, 世界"


def test_what_is_not_printable_is_shown_as_an_escape():
    assert escape("a\r\nb\x1b[31m\x9b\u2028\u202e\udcff\x00") == r"a\x0d\x0ab\x1b[31m\x9b\u2028\u202e\xff\x00"


def test_a_message_names_hook_and_plugin():
    assert message("rcpt", "rcpt_ok", "pass") == "(rcpt) rcpt_ok: pass"
    assert message("", "", "hello") == "hello"


@pytest.mark.parametrize("word", ["LOGINFO", "loginfo", "info", "6"])
def test_a_level_has_a_name_and_a_number(word):
    assert log_level(word) == LEVELS["LOGINFO"] == 6


@pytest.mark.parametrize("word", ["8", "-1", "LOGSOME", "", "²"])
def test_a_word_that_is_no_level_is_refused_with_the_known_ones(word):
    with pytest.raises(ValueError, match="is no log level; use 0 to 7 or one of LOGEMERG"):
        log_level(word)
