"""Whether keys are found in constant databases."""

import os

import constant_database
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.plugins._cdb import _digest, find_key


def test_keys_are_found_in_a_large_database_and_others_are_not(tmp_path):
    path = tmp_path / "large.cdb"
    names = [f"host{number}.example" for number in range(5000)]
    constant_database.write(path, names)
    assert all(find_key(path, [name]) == name for name in names)
    assert not any(find_key(path, [f"x{name}"]) for name in names)
    assert find_key(path, ["nowhere", names[7], names[8]]) == names[7]


def test_the_digest_is_that_of_the_format():
    assert [_digest(key) for key in (b"", b"a", b"ab")] == [5381, 177604, 5860902]


@pytest.mark.parametrize("keys", [[], ["only"], ["", "x"], ["a", "a"]])
def test_a_small_database_is_one_too(tmp_path, keys):
    constant_database.write(tmp_path / "small.cdb", keys)
    assert all(find_key(tmp_path / "small.cdb", [key]) == key for key in keys)
    assert find_key(tmp_path / "small.cdb", ["other", "b"]) is None


def test_without_a_file_nothing_is_found(tmp_path):
    assert find_key(tmp_path / "none.cdb", ["x"]) is None


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(OSError, match="Is a directory"):
        find_key(tmp_path, ["x"])


@given(content=st.binary(max_size=3000), key=st.text(max_size=5))
def test_any_file_is_a_database_or_a_value_error(tmp_path_factory, content, key):
    path = tmp_path_factory.getbasetemp() / "any.cdb"
    path.write_bytes(content)
    try:
        assert find_key(path, [key]) in (key, None)
    except ValueError:
        assert True


def test_the_rest_of_a_file_that_was_cut_off_is_missed(tmp_path):
    path = tmp_path / "cut.cdb"
    constant_database.write(path, ["x.example"])
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="no cdb file, or not the whole of one"):
        find_key(path, [f"{number}" for number in range(1000)] + ["x.example"])
