import pytest

from qpsmtpd.config import Config, ConfigError
from qpsmtpd.testing.memory import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def config(tmp_path, clock):
    return Config(tmp_path, clock=clock)


def test_comments_and_empty_lines_are_left_out_and_lines_are_stripped(config, write):
    write("x", "# c\n  # c2\none # not a comment\n\n   \n\ttwo \n")
    assert config.values("x") == ("one # not a comment", "two")
    assert config.value("x") == "one # not a comment"


def test_a_line_knows_its_file_and_number(config, write, tmp_path):
    write("x", "# c\n\none\n")
    assert config.lines("x")[0].where == f"{tmp_path}/x:3"


def test_an_absent_file_has_no_values_or_the_defaults(config):
    assert config.values("nothing") == ()
    assert config.value("timeout") == "300"


def test_an_include_stands_for_the_lines_of_the_other_file(config, write):
    write("a", "first\n  $include b  \nlast\n")
    write("b", "one\ntwo\n")
    assert config.values("a") == ("first", "one", "two", "last")


def test_an_included_directory_stands_for_its_files_by_name(config, write):
    write("a", "$include sub\n")
    write("sub/2", "two\n")
    write("sub/1", "one\n")
    write("sub/.hidden", "no\n")
    assert config.values("a") == ("one", "two")


def test_a_missing_include_is_empty_and_one_of_two_words_is_a_value(config, write):
    write("a", "x\n$include nothing\n$include two words\n")
    assert config.values("a") == ("x", "$include two words")


@pytest.mark.parametrize("files", [{"a": "$include a"}, {"a": "$include b", "b": "\n$include a"}])
def test_a_cycle_of_includes_is_refused_with_file_and_line(config, write, files):
    for name, text in files.items():
        write(name, text)
    with pytest.raises(ConfigError, match=r":\d+: a includes itself; remove this \$include"):
        config.values("a")


def test_a_file_included_twice_is_no_cycle(config, write):
    write("a", "$include b\n$include b\n")
    write("b", "x\n")
    assert config.values("a") == ("x", "x")


def test_a_changed_file_is_read_again_after_a_second_at_most(config, write, clock):
    write("x", "old\n")
    assert config.values("x") == ("old",)
    write("x", "new one\n")
    clock.now = 0.9
    assert config.values("x") == ("old",)
    clock.now = 1.1
    assert config.values("x") == ("new one",)


def test_a_changed_include_is_read_again_too(config, write, clock):
    write("a", "$include b\n")
    write("b", "old\n")
    assert config.values("a") == ("old",)
    write("b", "new one\n")
    clock.now = 2
    assert config.values("a") == ("new one",)


def test_a_file_that_appears_or_goes_is_noticed(config, write, clock):
    assert config.values("x") == ()
    path = write("x", "here\n")
    clock.now = 2
    assert config.values("x") == ("here",)
    path.unlink()
    clock.now = 4
    assert config.values("x") == ()


def test_an_unchanged_file_is_not_read_again(config, write, clock, monkeypatch):
    write("x", "one\n")
    first = config.values("x")
    clock.now = 5
    assert config.values("x") is first


def test_a_file_that_has_gone_bad_leaves_the_old_values_and_is_reported_once(tmp_path, write, clock):
    complaints = []
    config = Config(tmp_path, clock=clock, on_error=complaints.append)
    write("x", "good\n")
    assert config.values("x") == ("good",)
    write("x", "$include x\n")
    clock.now = 2
    assert config.values("x") == ("good",)
    clock.now = 4
    assert config.values("x") == ("good",)
    assert len(complaints) == 1
    assert "old values of x stay in force" in complaints[0]


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", ""])
def test_a_number_that_is_none_is_refused_with_its_place(config, write, tmp_path, text):
    write("timeout", f"\n{text or 'x y'}\n")
    with pytest.raises(ConfigError, match=r"timeout:2: .* is no number of 0 or more"):
        config.number("timeout", config.value("timeout"))


def test_overrides_stand_before_the_files(tmp_path, write):
    write("x", "file\n")
    assert Config(tmp_path, {"x": ("override",)}).values("x") == ("override",)


def test_a_directory_that_is_none_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"no such config directory; `qpsmtpd init .*` writes one"):
        Config(tmp_path / "nothing")


def test_octets_that_are_no_utf8_are_kept(config, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\n")
    assert config.values("x")[0].encode("utf-8", "surrogateescape") == b"\xff\xfe"
