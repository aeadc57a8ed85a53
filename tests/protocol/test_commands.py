"""Arguments of MAIL and RCPT: split, read and held against what was offered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import Command, Extension, SyntaxProblem
from qpsmtpd.protocol.commands import NO_PARAMETERS, parse_path_argument
from qpsmtpd.protocol.parameters import check_parameters

EVERYTHING = frozenset(Extension)
KEYWORDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,6}", fullmatch=True)
VALUES = st.none() | st.text(
    st.characters(min_codepoint=33, exclude_characters="=\x7f", exclude_categories=["Z", "C"]), min_size=1
)


@pytest.mark.parametrize(
    ("argument", "path", "parameters"),
    [
        ("FROM:<a@b>", "<a@b>", {}),
        ("from:<a@b>", "<a@b>", {}),
        ("FROM: <a@b> ", "<a@b>", {}),
        ("FROM:<a@b> SIZE=1 BODY=7BIT", "<a@b>", {"size": "1", "body": "7BIT"}),
        ("FROM:<a@b>\tSMTPUTF8", "<a@b>", {"smtputf8": None}),
        ('FROM:<"> SIZE=1"@b> X', '<"> SIZE=1"@b>', {"x": None}),
        ('FROM:<"\\""@b> X', '<"\\""@b>', {"x": None}),
        ("FROM:<\\>@b> X", "<\\>@b>", {"x": None}),
        ("FROM:a@b SIZE=1", "a@b", {"size": "1"}),
        ("FROM:a b@c SIZE=1 X", "a b@c", {"size": "1", "x": None}),
        ("FROM:a", "a", {}),
        ("FROM:<a@b", "<a@b", {}),
        ("FROM:a  b@c \t SIZE=1\t X \t", "a  b@c", {"size": "1", "x": None}),
        ("FROM:<a@b>\x1fSMTPUTF8", "<a@b>\x1fSMTPUTF8", {}),  # for SMTP these are no white space
        ("FROM:<a@b>\xa0SMTPUTF8 X", "<a@b>\xa0SMTPUTF8", {"x": None}),
        ("FROM:\x1c<a@b>", "\x1c<a@b>", {}),
    ],
)
def test_a_path_is_split_from_its_parameters(argument, path, parameters):
    assert parse_path_argument("FROM:", argument) == (path, parameters)


@pytest.mark.parametrize("argument", ["", "FROM", "FROM <a@b>", "FROM:", "FROM: ", "TO:<a@b>", "<a@b>"])
def test_a_command_without_its_keyword_or_path_is_refused(argument):
    problem = parse_path_argument("FROM:", argument)
    assert isinstance(problem, SyntaxProblem)
    assert problem.reply.code == 501


@pytest.mark.parametrize(
    "parameters", ["=1", "SIZE=", "SIZE==1", "SIZE=1=2", "-X", "X_Y", "X X", "SIZE=1 size=2", "X=\x07", "X\x1fY"]
)
def test_a_malformed_or_repeated_parameter_is_refused(parameters):
    problem = parse_path_argument("TO:", f"TO:<a@b> {parameters}")
    assert isinstance(problem, SyntaxProblem)
    assert (problem.reply.code, problem.reply.enhanced) == (501, "5.5.4")


@given(st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_parameters_are_read_as_sent(parameters):
    words = [key.upper() if value is None else f"{key}={value}" for key, value in parameters.items()]
    assert parse_path_argument("TO:", f"TO:<a@b> {' '.join(words)}") == ("<a@b>", parameters)


PIECES = st.sampled_from(
    ["<", ">", '"', "\\", " ", "\t", "a@b", "SIZE=1", "=", "X", "\udcff", "\x00", "\N{NO-BREAK SPACE}"]
)


@given(st.text(max_size=30) | st.lists(PIECES).map("".join))
def test_any_argument_gives_a_path_or_a_problem(text):
    for argument in (text, f"TO:{text}"):
        parsed = parse_path_argument("TO:", argument)
        if not isinstance(parsed, SyntaxProblem):
            path, parameters = parsed
            assert path in argument
            check = check_parameters(Command.RCPT, parameters, EVERYTHING)
            assert check is None or isinstance(check, SyntaxProblem)


def test_parameters_cannot_be_written():
    _, parameters = parse_path_argument("TO:", "TO:<a@b> X=1")
    for read_only in (parameters, NO_PARAMETERS):
        with pytest.raises(TypeError):
            read_only["y"] = None


def refusal(command, parameters, offered=EVERYTHING):
    problem = check_parameters(command, parameters, offered)
    return problem and problem.reply.code


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, None),
        ({"size": "0"}, None),
        ({"size": "9" * 20}, None),
        ({"size": "9" * 21}, 501),
        ({"size": None}, 501),
        ({"size": "1k"}, 501),
        ({"size": "-1"}, 501),
        ({"size": "\N{ARABIC-INDIC DIGIT ONE}"}, 501),
        ({"body": "7bit"}, None),
        ({"body": "8BITMIME"}, None),
        ({"body": "BINARYMIME"}, None),
        ({"body": "9BIT"}, 501),
        ({"body": None}, 501),
        ({"smtputf8": None}, None),
        ({"smtputf8": "1"}, 501),
        ({"x-unknown": "1"}, None),
        ({"x-unknown": "1", "size": "x"}, 501),
    ],
)
def test_values_of_mail_parameters(parameters, code):
    assert refusal(Command.MAIL, parameters) == code


@pytest.mark.parametrize(
    ("keyword", "value", "extension"),
    [
        ("size", "1", Extension.SIZE),
        ("body", "7BIT", Extension.EIGHTBITMIME),
        ("smtputf8", None, Extension.SMTPUTF8),
    ],
)
def test_a_parameter_belongs_to_an_offered_extension_and_to_mail(keyword, value, extension):
    assert refusal(Command.MAIL, {keyword: value}) is None
    assert refusal(Command.MAIL, {keyword: value}, EVERYTHING - {extension}) == 555
    assert refusal(Command.RCPT, {keyword: value}) == 555
