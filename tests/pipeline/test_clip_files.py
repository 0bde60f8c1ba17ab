"""Which clips a folder or a table names; importers of single formats test the rest of the loop."""

from pathlib import Path

import pytest

from handcraft.data.clip_files import ClipFile, clips_by_folder, clips_by_table, entries
from handcraft.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def table(root: Path, text: str) -> Path:
    (root / "clips.csv").write_text(text, encoding="utf-8")
    return root / "clips.csv"


def test_numbers_in_names_count_as_numbers(tmp_path):
    touch(tmp_path, "10.x", "9.x", "a2b10.x", "a2b9.x", "a10.x", "².x", ".hidden.x", "y.txt")
    assert [path.name for path in entries(tmp_path, ".x")] == ["9.x", "10.x", "a2b9.x", "a2b10.x", "a10.x", "².x"]
    assert entries(tmp_path, "") == []


def test_folders_are_classes(tmp_path):
    touch(tmp_path, "b/1.x", "a/c.d.x", "a/no.txt", ".git/1.x", "top.x")
    assert clips_by_folder(tmp_path, ".x") == [
        ClipFile(tmp_path / "a" / "c.d.x", "a-c.d", "a"),
        ClipFile(tmp_path / "b" / "1.x", "b-1", "b"),
    ]


def test_a_table_says_more(tmp_path):
    path = table(tmp_path, "path,label,id,split,group\nin/a.x , A,,train,\nb.x,B,own,,g\n")
    assert clips_by_table(path) == [
        ClipFile(tmp_path / "in" / "a.x", "in-a", "A", split="train"),
        ClipFile(tmp_path / "b.x", "own", "B", group="g"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,name\na.x,A\n", "no column 'label'"),
        ("path,label\n", "lists no clip"),
        ("path,label\na.x,\n", r"clip a\.x has no label"),
        ("path,label\n../a.x,A\n", "no path inside of"),
        ("path,label\n/etc/passwd,A\n", "no path inside of"),
        ("path,label\na/b.x,A\na-b.x,A\n", "would both have the id 'a-b'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        clips_by_table(table(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / "clips.csv"))


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="not a folder that can be read"):
        clips_by_folder(tmp_path / "absent", ".x")
    with pytest.raises(DataError, match="holds no folder, expected one for each class"):
        clips_by_folder(touch(tmp_path / "flat", "a.x"), ".x")
    with pytest.raises(DataError, match=r"empty: holds no \.x file, expected the clips of class 'empty'"):
        clips_by_folder(touch(tmp_path / "one", "empty/a.txt"), ".x")
    with pytest.raises(DataError, match="would both have the id 'a-b-c'"):
        clips_by_folder(touch(tmp_path / "two", "a/b-c.x", "a-b/c.x"), ".x")
    root = touch(tmp_path / "three", "a/1.x")
    (root / "a" / "2.x").symlink_to(root / "a" / "1.x")
    with pytest.raises(DataError, match=r"2\.x: is a symbolic link"):
        clips_by_folder(root, ".x")
