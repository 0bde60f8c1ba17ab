"""Counts and lists in sentences."""

from handcraft.words import counted, some


def test_counted():
    assert [counted(n, "clip") for n in (0, 1, 2, 1740)] == ["0 clips", "1 clip", "2 clips", "1,740 clips"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


def test_some():
    assert some([]) == ""
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdef")) == "a, b, c, d, e and 1 more"
    assert some(range(1005), shown=2) == "0, 1 and 1,003 more"
