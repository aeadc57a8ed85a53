"""`qpsmtpd fuzz`, through the command line: it finds every planted fault, and nothing where there is none."""

import re
from importlib.util import find_spec

import pytest

from qpsmtpd.cli import main
from qpsmtpd.fuzz import TARGETS, command, crashes, guided, patience
from qpsmtpd.fuzz.plants import PLANTS

PROGRESS = re.compile(
    r"(\w+) +(\w+) +([\d.]+) s +([\d,]+) runs +[\d,]+/s +([\d,]+) paths +([\d,]+) inputs  (\d) crashes"
)
WITH_ATHERIS = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
NO_END = "no-end-of-stream"
ENOUGH = "400000"  # inputs; a core runs as many in less than half a minute


@pytest.fixture
def fuzz(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words, status=0):
        capsys.readouterr()
        assert main(["fuzz", *map(str, words)]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run


def progress(text):
    """What the last line about progress says: target, engine, runs, paths, inputs, crashes."""
    found = PROGRESS.findall(text)[-1]
    return found[0], found[1], *(int(number.replace(",", "")) for number in found[3:])


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_wrong(fuzz, target):
    text = fuzz(target, "--engine", "plain", "--count", 2000, "--seed", 7)
    assert progress(text)[:3] == (target, "plain", 2000)
    assert progress(text)[5] == 0


@pytest.mark.parametrize("plant", [name for name in PLANTS if name != NO_END])
def test_a_planted_fault_is_found_written_small_and_found_again(fuzz, tmp_path, plant):
    text = fuzz("--plant", plant, "--engine", "plain", "--count", ENOUGH, "--seed", 1, status=1)
    assert progress(text)[0] == PLANTS[plant].target
    assert progress(text)[5] == 1
    (path,) = (path for path in (tmp_path / "crashes").iterdir() if path.suffix != ".txt")
    assert len(path.read_bytes()) < 1100
    assert fuzz("--replay", path) == f"{path}: nothing is wrong\n"  # it was the fault
    text = fuzz("--plant", plant, "--replay", path, status=1)
    assert text.startswith(f"{path}:\nWrong: ") or "Error: " in text
    assert path.with_suffix(".txt").read_text().splitlines()[1:] == text.splitlines()[1:]


ONE_OF_EACH = {"server": "dots-kept", "bdat": "held-cr-lost", "address": "two-dots", "replies": "data-refused"}
ONE_OF_EACH |= {"sasl": "plain-any", "proxy": "proxy-families", "xclient": "xclient-twice"}


@pytest.mark.parametrize("target", TARGETS)
def test_hypothesis_finds_one_too(fuzz, target):
    text = fuzz(target, "--engine", "hypothesis", "--count", 200, "--seed", 1)
    assert progress(text)[2] >= 200
    text = fuzz("--plant", ONE_OF_EACH[target], "--engine", "hypothesis", "--count", 3000, "--seed", 1, status=1)
    assert progress(text)[:2] == (target, "hypothesis")


@WITH_ATHERIS
@pytest.mark.parametrize("target", ["server", "replies"])
def test_atheris_finds_one_too(fuzz, target, tmp_path):
    text = fuzz(target, "--engine", "atheris", "--count", 2000, "--seed", 1, "--corpus", tmp_path / "corpus")
    assert progress(text)[2] >= 2000
    assert progress(text)[3] > 100  # branches of the core
    assert list((tmp_path / "corpus" / target).iterdir())
    text = fuzz("--plant", ONE_OF_EACH[target], "--engine", "atheris", "--count", 20_000, "--seed", 1, status=1)
    assert progress(text)[:2] == (target, "atheris")


def test_the_same_seed_gives_the_same_inputs(fuzz, tmp_path):
    def corpus(name, seed):
        text = fuzz("server", "--engine", "plain", "--count", 3000, "--seed", seed, "--corpus", tmp_path / name)
        return progress(text), sorted(path.name for path in (tmp_path / name / "server").iterdir())

    first, again, other = corpus("a", 5), corpus("b", 5), corpus("c", 6)
    assert first == again
    assert first != other
    assert len(first[1]) > 100


def test_a_corpus_is_begun_with(fuzz, tmp_path):
    (tmp_path / "corpus" / "address").mkdir(parents=True)
    (tmp_path / "corpus" / "address" / "mine").write_bytes(b"<a..b@c>")
    words = (
        "address",
        "--engine",
        "plain",
        "--count",
        len(TARGETS["address"].seeds()) + 1,
        "--corpus",
        tmp_path / "corpus",
    )
    assert progress(fuzz(*words))[4] == len(TARGETS["address"].seeds()) + 1


def test_time_is_a_bound_too(fuzz):
    text = fuzz("proxy", "--engine", "plain", "--seconds", "0.05", "--seed", 1)
    assert progress(text)[2] > 100


def test_all_targets_get_their_turn_and_every_line_of_a_seed_is_one(fuzz):
    text = fuzz("--engine", "plain", "--count", 10)
    assert [found[0] for found in PROGRESS.findall(text)] == list(TARGETS)
    for target in TARGETS.values():
        for seed in target.seeds():
            target.check(seed, thoroughly=True)


def test_what_there_is_is_listed(fuzz):
    text = fuzz("--list")
    for name in (*TARGETS, *command.ENGINES, *PLANTS):
        assert re.search(rf"^  {re.escape(name)} ", text, re.MULTILINE)
    assert len(PLANTS) >= 12


def test_without_libraries_it_is_the_plain_engine(fuzz, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert progress(fuzz("address", "--count", 100))[1] == "plain"
    text = fuzz("address", "--engine", "hypothesis", status=1)
    assert "the engine hypothesis needs hypothesis, which is not installed; run `pip install 'qpsmtpd[fuzz]'`" in text
    assert "needs the library atheris" in fuzz("--list")


def test_where_nothing_can_be_written_it_is_said_and_what_was_found_is_shown(fuzz, tmp_path):
    (tmp_path / "file").touch()
    text = fuzz("address", "--engine", "plain", "--count", 10, "--corpus", tmp_path / "file", status=1)
    assert text.startswith("qpsmtpd: ")
    assert not (tmp_path / "crashes").exists()
    words = ("--plant", "two-dots", "--engine", "plain", "--count", ENOUGH, "--crashes", tmp_path / "file")
    text = fuzz(*words, status=1)
    assert "\nWrong: '<" in text
    assert "\nqpsmtpd: " in text


@pytest.mark.parametrize("engine", ["plain", "hypothesis", pytest.param("atheris", marks=WITH_ATHERIS)])
def test_what_comes_to_no_end_is_given_up(fuzz, monkeypatch, engine):
    monkeypatch.setattr(patience, "PATIENCE", 0.2)
    monkeypatch.setattr(crashes, "_SECONDS", 0.5)
    text = fuzz("--plant", NO_END, "--engine", engine, "--count", 100, "--seed", 1, status=1)
    assert "Wrong: after 0.2 seconds it has not come to an end" in text


@WITH_ATHERIS
def test_that_atheris_has_failed_is_said(fuzz, monkeypatch):
    monkeypatch.setattr(guided, "_CHILD", "raise SystemExit('no memory')")
    text = fuzz("address", "--engine", "atheris", "--count", 10, status=1)
    assert "qpsmtpd: atheris has failed:\nno memory" in text
    assert "crashes" not in text


@pytest.mark.parametrize("words", [("--count", "0"), ("--count", "-3"), ("--seconds", "0"), ("--seconds", "nan")])
def test_bounds_that_are_none_are_refused(capsys, words):
    with pytest.raises(SystemExit):
        main(["fuzz", "address", *words])
    assert f"argument {words[0]}: {words[1]!r} is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("adress",), "there is no target 'adress'; did you mean address"),
        (("--plant", "dot-keep"), "there is no fault 'dot-keep'; did you mean dot-kept"),
        (("--replay", "none"), "there is no target 'none'"),
        (("address", "--replay", "none"), "none"),
    ],
)
def test_what_cannot_be_is_said(fuzz, words, text):
    assert text in fuzz(*words, status=1)
