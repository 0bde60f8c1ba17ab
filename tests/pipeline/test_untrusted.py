"""Names, paths, files, arrays and tables from anywhere: what is good comes through unchanged, the rest is refused."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from handcraft.data import untrusted
from handcraft.data.untrusted import csv_rows, file_name, path_inside, read_npy, relative_path, require_file
from handcraft.errors import DataError


@pytest.mark.parametrize("name", ["a", "Hello world", "élève-3", "CLSFBI0103A_S001", "x" * 200, "a..b", "signer:clip"])
def test_good_names_are_taken_as_they_are(name):
    assert file_name(name, "f.csv") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../a",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "\x7f",
        "x" * 201,
        7,
        "\ud800",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(DataError, match=r"^f\.csv: .* cannot be the name of a file; expected") as caught:
        file_name(name, "f.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text())
def test_a_file_name_never_leaves_its_folder(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    try:
        name = file_name(text, "here")
    except DataError:
        return
    assert (folder / name).parent == folder
    assert os.path.normpath(folder / name) == str(folder / name)


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/etc/passwd", "..", "a/../../b", "a/..", "a\\..\\b", "C:/x", "a\nb", None]
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path, path):
    with pytest.raises(DataError, match=r"^f\.csv: .*no path inside"):
        path_inside(tmp_path, path, "f.csv")


@given(st.text("ab./\\~:\0", max_size=12))
def test_a_relative_path_only_leads_down(text):
    try:
        path = relative_path(text, "here")
    except DataError:
        return
    assert os.path.normpath(f"/folder/{path}").startswith("/folder/")


def test_links_are_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good").mkdir()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "good" / "x").symlink_to(tmp_path / "out" / "x")
    assert path_inside(tmp_path / "in", "good/y", "f") == tmp_path / "in" / "good" / "y"
    for path in ("folder/x", "good/x"):
        with pytest.raises(DataError, match="symbolic link"):
            path_inside(tmp_path / "in", path, "f")
    with pytest.raises(DataError, match="symbolic link"):
        require_file(tmp_path / "in" / "good" / "x")


def test_only_ordinary_files_are_read(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert require_file(tmp_path / "f", 5) == 5
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        ("none", "no such file"),
        ("", "no ordinary file"),
        ("pipe", "no ordinary file"),
        ("x" * 300, "cannot be read|no such file"),
    ):
        with pytest.raises(DataError, match=message):
            require_file(tmp_path / path)
    with pytest.raises(DataError, match="has 5 bytes, expected at most 4"):
        require_file(tmp_path / "f", 4)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    write = {(1, 0): np.lib.format.write_array_header_1_0, (2, 0): np.lib.format.write_array_header_2_0}[version]
    write(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


DTYPES = st.sampled_from(["<f4", ">f8", "<i8", "u1", "?", "<U3", "S2"])


@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0)))
def test_arrays_come_back(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "array.npy"
    for given_array in (array, np.array(array, order="F")):
        path.write_bytes(npy(given_array))
        found = read_npy(path)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()


BOMBS = {
    "more than there is": header((2**50,)),
    "a product that wraps around": header((2**32, 2**32, 2**2)),
    "elements of no size": header((2**50,), "|S0"),
    "a header of 4 GB": header((1,), version=(2, 0)).replace(b"\x74\0\0\0", b"\xff\xff\xff\xff", 1)[:40],
    "less than there is": header((1,)) + b"\0" * 8,
    "negative": header((-4,)) + b"\0" * 8,
    "pickle": npy(np.array([{}], dtype=object)),
    "nested deeply": b"\x93NUMPY\x01\x00" + b"\xf0\x0f" + b"(" * 0x0FF0,
    "nothing": b"",
    "control characters in its dtype": header((1,)).replace(b"<f4", b"\x1b[2J", 1)[:128] + b"\0" * 4,
}


@pytest.mark.parametrize("case", BOMBS)
def test_forged_arrays_are_refused(tmp_path, case):
    (tmp_path / "a.npy").write_bytes(BOMBS[case])
    with pytest.raises(DataError, match=r"a\.npy: not a readable \.npy file") as caught:
        read_npy(tmp_path / "a.npy")
    assert str(caught.value).isprintable()


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros(1000, np.float32))
    monkeypatch.setattr(untrusted, "_memory", lambda: 8000)
    with pytest.raises(DataError, match="this machine can spare"):
        read_npy(tmp_path / "a.npy")
    monkeypatch.undo()
    assert untrusted._memory() > 1 << 28
    assert read_npy(tmp_path / "a.npy").shape == (1000,)


def test_csv_rows_are_read_by_name(tmp_path):
    (tmp_path / "f.csv").write_bytes('\ufeffid,sign,extra\r\n"a,1",élève,\r\n\r\nb,"two\nlines",x\r\n'.encode())
    assert list(csv_rows(tmp_path / "f.csv", ["sign", "id"])) == [
        {"id": "a,1", "sign": "élève", "extra": ""},
        {"id": "b", "sign": "two\nlines", "extra": "x"},
    ]


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path):
    """A sparse file: a terabyte of zeros that takes no room on the disk."""
    with open(tmp_path / "f.csv", "wb") as file:
        file.write(b"id\n")
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"f\.csv: not readable as CSV \(a line has over 1048576 characters"):
        list(csv_rows(tmp_path / "f.csv", ["id"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'id'"),
        (b"sign\na\n", "no column 'id'"),
        (b"id,id\n1,2\n", "two columns of one name"),
        (b"id,sign\na,b\nc\n", "line 3 has 1 cells"),
        (b"id,sign\na,b,c\n", "line 2 has 3 cells"),
        (b'id\n"a', "CSV"),
        (b"id\n\xff\xfe\n", "UTF-8"),
        (b"id\n" + b"x" * 200_000, "CSV"),
    ],
)
def test_damaged_csv_is_refused(tmp_path, content, message):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s)f\.csv: .*{message}"):
        list(csv_rows(tmp_path / "f.csv", ["id"]))
