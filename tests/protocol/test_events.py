"""Events print as their names, so that a transcript can be read."""

from qpsmtpd.protocol import CLOSED, DENYSOFT_DISCONNECT, DRAIN, NEED_DATA


def test_signals_and_answers_print_as_their_names():
    assert [repr(value) for value in (NEED_DATA, DRAIN, CLOSED, DENYSOFT_DISCONNECT)] == [
        "NEED_DATA",
        "DRAIN",
        "CLOSED",
        "DENYSOFT_DISCONNECT",
    ]
