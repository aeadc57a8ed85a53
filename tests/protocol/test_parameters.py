"""ESMTP parameters: which are good with which extension, and what those of RFC 3461 say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import Command, Dsn, Extension, SyntaxProblem
from qpsmtpd.protocol.commands import NO_PARAMETERS, parse_parameters
from qpsmtpd.protocol.parameters import check_parameters, decode_xtext, encode_xtext, format_parameters

EVERYTHING = frozenset(Extension)
OWNERS = {
    "SIZE=1": Extension.SIZE,
    "BODY=7BIT": Extension.EIGHTBITMIME,
    "BODY=BINARYMIME": Extension.BINARYMIME,
    "SMTPUTF8": Extension.SMTPUTF8,
    "RET=HDRS": Extension.DSN,
    "ENVID=a+40b": Extension.DSN,
    "AUTH=<>": Extension.AUTH,
    "REQUIRETLS": Extension.REQUIRETLS,
    "MT-PRIORITY=3": Extension.MT_PRIORITY,
    "BY=120;R": Extension.DELIVERBY,
    "NOTIFY=NEVER": Extension.DSN,
    "ORCPT=rfc822;a@b.example": Extension.DSN,
    "ORCPT=utf-8;a\\x{E4}@b.example": Extension.DSN,
}


def code(word, command=None, offered=EVERYTHING):
    """What comes of a parameter: 250, or the code that refuses it."""
    of_rcpt = word.upper().startswith(("NOTIFY", "ORCPT"))
    problem = check_parameters(
        command or (Command.RCPT if of_rcpt else Command.MAIL), parse_parameters([word]), offered
    )
    return problem.reply.code if isinstance(problem, SyntaxProblem) else 250


@pytest.mark.parametrize(("word", "owner"), OWNERS.items())
def test_a_parameter_is_good_where_its_extension_is_offered(word, owner):
    assert code(word) == 250
    keyword, equals, value = word.partition("=")
    assert code(f"{keyword.lower()}{equals}{value if ';' in value else value.lower()}") == 250
    assert code(word, offered=EVERYTHING - {owner}) == 555


@pytest.mark.parametrize("word", OWNERS)
def test_a_parameter_of_the_other_command_is_none(word):
    other = Command.MAIL if word.startswith(("NOTIFY", "ORCPT")) else Command.RCPT
    assert code(word, command=other) == 555


@pytest.mark.parametrize(
    "word",
    [
        *("NOTIFY=SUCCESS,FAILURE,DELAY", "NOTIFY=delay", "ORCPT=x400;a", "ORCPT=utf-8;ä@b.example"),
        *("ORCPT=utf-8;\\x{E4}@b.example", "ORCPT=UTF-8;\\x{5C}\\x{20}\\x{416}\\x{D55C}\\x{1F600}\\x{10FFFF}@b"),
        *("AUTH=a+40b", "MT-PRIORITY=-9", "MT-PRIORITY=9", "MT-PRIORITY=0", "BY=-5;N", "BY=0;N", "BY=+9;nt"),
        *("ENVID=" + "x" * 100, "ENVID=" + "+2B" * 100, "ENVID=a+20b", "RET=full", "ORCPT=rfc822;" + "x" * 493),
    ],
)
def test_these_values_are_well_formed(word):
    assert code(word) == 250


@pytest.mark.parametrize(
    "word",
    [
        *("NOTIFY", "NOTIFY=NEVER,DELAY", "NOTIFY=DELAY,DELAY", "NOTIFY=x", "NOTIFY=DELAY,", "NOTIFY=\u017fUCCESS"),
        *("ORCPT", "ORCPT=a", "ORCPT=;a", "ORCPT=rfc822;", "ORCPT=rfc822;a+4", "ORCPT=rfc822;ä", "ORCPT=utf-8;a+b"),
        *("ORCPT=-;a", "ORCPT=rfc822;a+0Ab", "ORCPT=rfc822;" + "x" * 494, "ORCPT=utf-8;\udcff", "ORCPT=utf-8;"),
        *("ORCPT=utf-8;\\x{D800}", "ORCPT=utf-8;\\x{110000}", "ORCPT=utf-8;\\x{0D}", "ORCPT=utf-8;\\x{e4}"),
        *("ORCPT=utf-8;\\x{41}", "ORCPT=utf-8;\\x{0416}", "ORCPT=utf-8;\\", "ORCPT=utf-8;\\x{", "ORCPT=utf-8;\x80"),
        *("RET", "RET=ALL", "ENVID", "ENVID=+zz", "ENVID=" + "x" * 101, "ENVID=a+0D+0Ab", "AUTH", "AUTH=+4"),
        *("AUTH=a+00", "REQUIRETLS=1", "MT-PRIORITY", "MT-PRIORITY=10", "MT-PRIORITY=+1", "MT-PRIORITY=-0"),
        *("MT-PRIORITY=\u0663", "BY", "BY=0;R", "BY=-1;R", "BY=1", "BY=;N", "BY=1;X", "BY=1;NR", "BY=1234567890;N"),
        *("BODY", "BODY=9BIT", "BODY=8B\u0131TMIME", "SMTPUTF8=1", "SIZE", "SIZE=x", "SIZE=\u0663"),
    ],
)
def test_these_values_are_malformed(word):
    assert not isinstance(parse_parameters([word]), SyntaxProblem)
    assert code(word) == 501


@given(st.sampled_from([word.partition("=")[0] for word in OWNERS]), st.none() | st.text(max_size=20))
def test_any_value_is_good_or_refused(keyword, value):
    for command in (Command.MAIL, Command.RCPT):
        problem = check_parameters(command, {keyword.lower(): value}, EVERYTHING)
        assert problem is None or problem.reply.code in (501, 555)


@given(st.text())
def test_xtext_brings_text_back(text):
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    assert decode_xtext(encode_xtext(text)) == text


@pytest.mark.parametrize(
    ("text", "xtext"), [("a+b=c d", "a+2Bb+3Dc+20d"), ("ä", "+C3+A4"), ("\udcff", "+FF"), ("", "")]
)
def test_xtext_escapes_what_a_parameter_cannot_hold(text, xtext):
    assert encode_xtext(text) == xtext


def test_what_stands_for_no_octets_cannot_be_written():
    with pytest.raises(UnicodeEncodeError):
        encode_xtext("\ud800")


@given(st.text())
def test_any_text_is_xtext_or_not(text):
    decoded = decode_xtext(text)
    assert decoded is None or isinstance(decoded, str)


@pytest.mark.parametrize("text", ["+", "+4", "+4g", "+ab", "a b", "a=b", "ä", "\n"])
def test_these_are_no_xtext(text):
    assert decode_xtext(text) is None


@given(
    st.dictionaries(
        st.from_regex("[a-z0-9][a-z0-9-]{0,5}", fullmatch=True), st.none() | st.from_regex("[!-<>-~]+", fullmatch=True)
    )
)
def test_parameters_are_read_as_they_were_written(parameters):
    assert parse_parameters(format_parameters(parameters).split()) == parameters


def test_what_a_sender_asks_of_notifications_is_read():
    dsn = Dsn.of({"ret": "hdrs", "envid": "QQ+2B314"}, {"notify": "success,DELAY", "orcpt": "rfc822;a+2Bb@c.example"})
    assert dsn == Dsn("HDRS", "QQ+314", frozenset({"SUCCESS", "DELAY"}), ("rfc822", "a+b@c.example"))
    dsn = Dsn.of({"ret": "ALL", "envid": "a+0D+0Ab"}, {"notify": "NEVER", "orcpt": "utf-8;\\x{E4}ö\\x{2B}@c.example"})
    assert dsn == Dsn(None, None, frozenset(), ("utf-8", "äö+@c.example"))
    assert Dsn.of(NO_PARAMETERS, NO_PARAMETERS) == Dsn()


@given(st.dictionaries(st.sampled_from(["ret", "envid", "notify", "orcpt"]), st.none() | st.text()))
def test_anything_malformed_counts_as_not_said(parameters):
    assert isinstance(Dsn.of(parameters, parameters), Dsn)
