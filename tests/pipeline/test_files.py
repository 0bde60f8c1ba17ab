"""Files of settings: JSON comes back equal; what is no JSON, ambiguous or changed by accident is refused."""

import json
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handcraft.errors import DataError
from handcraft.files import is_printable, read_json, verified, with_checksum, write_json

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=25, deadline=None)  # each is synced to disk
@given(st.dictionaries(st.text().filter(lambda name: name != "checksum"), VALUES))
def test_settings_come_back_with_their_checksum_checked(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "settings.json"
    write_json(path, with_checksum(value))
    assert verified(read_json(path), path) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "9999 is no finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "two values of 'a'"),
        (b'[{"x": {"a": 1, "a": 1}}]', "two values of 'a'"),
        (b"[NaN]", "NaN is no finite number"),
        (b"-Infinity", "-Infinity is no finite number"),
        (b"[1e999]", "1e999 is no finite number"),
        (b"[1" + 400 * b"0" + b"]", "0000 is no finite number"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, content, message):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(DataError, match=f"f.json: not readable as JSON .*{message}"):
        read_json(tmp_path / "f.json")


def test_only_ordinary_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(DataError, match="no ordinary file"):
            read_json(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "none")
    (tmp_path / "f.json").write_text("[1, 2]")
    assert read_json(tmp_path / "f.json", largest=6) == [1, 2]
    with pytest.raises(DataError, match="has 6 bytes, expected at most 5"):
        read_json(tmp_path / "f.json", largest=5)


def test_every_change_of_a_value_is_noticed():
    value = {"a": 1, "b": [1.5, "x", None], "c": {"d": True}}
    signed = with_checksum(value)
    assert verified(signed, "f") == value
    assert verified(json.loads(json.dumps(dict(reversed(signed.items())))), "f") == value
    for change in ({"a": 2}, {"a": 1.0}, {"b": [1.5, "y", None]}, {"c": {"d": 1}}, {"e": 0}, {"checksum": "0" * 64}):
        with pytest.raises(DataError, match="f: has been changed since it was written"):
            verified(signed | change, "f")
    assert verified([1], "f") == [1]
    assert verified({"a": 1}, "f") == {"a": 1}


@pytest.mark.parametrize("text", ["", "plain", "élève, 手", "a b"])
def test_texts_that_can_be_shown(text):
    assert is_printable(text)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\nb", "\0", "\x7f", "\ud800"])
def test_texts_that_would_steer_a_terminal(text):
    assert not is_printable(text)


def test_an_error_cannot_steer_a_terminal():
    error = DataError("a.csv: label '\x1b[2J\x9b' of\nélève \ud800")
    assert str(error) == "a.csv: label '\\x1b[2J\\x9b' of\nélève \\ud800"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
