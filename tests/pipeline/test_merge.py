"""Stores merged into one: nothing of a clip is lost, and nothing that must not mix is mixed."""

import json

import numpy as np
import pytest
from tiny_recipe import one_line_error, run_cli

from handcraft.data.merge import merge_stores, parse_shard
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError

CLASSES = ("a", "b", "c")
SOURCE = {"command": "extract", "extraction": {"backend": "holistic", "version": 1}}


def clip(number, layout_points=75):
    return np.random.default_rng(number).random((3 + number, layout_points, 3)).astype(np.float32)


def write(path, numbers, *, labels=CLASSES, points=75, **options):
    """A store of the clips with these numbers; everything about a clip is a function of its number."""
    fields = {"layout": "holistic75", "stage": "raw", "fps": 25.0, "source": SOURCE, "classes": labels} | options
    with StoreWriter(path, **fields) as writer:
        for number in numbers:
            landmarks = clip(number, points)
            landmarks[0, 40] = np.nan
            writer.add(
                landmarks,
                id=f"clip{number}",
                label=labels[number % len(labels)],
                group=f"g{number}",
                split=("train", "test", "")[number % 3],
                provenance={"number": number},
                digest=number if number % 2 else None,
            )
    return path


def files_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_everything_of_a_clip_is_kept(tmp_path):
    stores = [write(tmp_path / "one", [0, 1, 2]), write(tmp_path / "two", [5, 3])]
    summary = merge_stores(stores, tmp_path / "all")
    assert summary.lines() == [f"{tmp_path / 'all'}: 5 clips of 3 classes from 2 stores"]
    merged = Store(tmp_path / "all")
    assert merged.ids.tolist() == ["clip0", "clip1", "clip2", "clip5", "clip3"]
    assert merged.manifest.source == SOURCE
    for store in map(Store, stores):
        places = merged.find(store.ids)
        for name in ("labels", "groups", "splits", "digests", "frames"):
            np.testing.assert_array_equal(getattr(merged, name)[places], getattr(store, name))
        for here, there in zip(places, range(len(store)), strict=True):
            np.testing.assert_array_equal(merged.landmarks(here), store.landmarks(there))
            assert merged.provenance_of(here) == store.provenance_of(there)
    assert not merged.damage()


def test_parts_of_an_extraction_give_the_whole_byte_for_byte(tmp_path):
    write(tmp_path / "whole", range(7))
    ranges = {1: [0, 1], 2: [2, 3], 3: [4, 5, 6]}
    parts = [write(tmp_path / f"p{i}", own, source=SOURCE | {"shard": f"{i}/3"}) for i, own in ranges.items()]
    merge_stores(reversed(parts), tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


def test_a_part_without_clips_can_be_left_out(tmp_path):
    """Where told to; class c, of which no clip could be read, is then none, as if extracted in one piece."""
    parts = [write(tmp_path / f"p{i}", [i - 1], source=SOURCE | {"shard": f"{i}/4"}) for i in (1, 2)]
    summary = merge_stores(parts, tmp_path / "merged", without=[4, 3])
    assert summary.lines()[1:] == ["without the parts 3, 4, which gave no clip"]
    assert Store(tmp_path / "merged").manifest.source == SOURCE | {"without": [3, 4]}
    assert Store(tmp_path / "merged").classes == ("a", "b")
    for without, words in (
        ([3], "of which 4 is not given; .*: --without 4"),
        ([3, 4, 5], "without is 5: expected numbers of the 4 parts"),
        ([1, 3, 4], "without is 1: expected numbers of the 4 parts"),
    ):
        with pytest.raises(DataError, match=words):
            merge_stores(parts, tmp_path / "more", without=without)
    with pytest.raises(DataError, match=r"without is 3: numbers of parts, and .*other is none"):
        merge_stores([write(tmp_path / "other", [0])], tmp_path / "more", without=[3])


def test_the_command(tmp_path, capfd):
    """Options may stand behind the stores, where one adds what an error asks for."""
    parts = [write(tmp_path / f"p{i}", [i - 1], source=SOURCE | {"shard": f"{i}/3"}) for i in (1, 3)]
    words = ("data", "merge", *parts, tmp_path / "merged")
    assert "--without 2" in one_line_error(capfd, *words)
    assert run_cli(*words, "--without", 2) == 0
    assert capfd.readouterr().out.startswith(f"{tmp_path / 'merged'}: 2 clips of 2 classes from 2 stores\n")
    others = [write(tmp_path / name, [number], labels=(name,)) for number, name in enumerate("ab")]
    assert "--mix classes" in one_line_error(capfd, "data", "merge", *others, tmp_path / "both")
    assert run_cli("data", "merge", *others, tmp_path / "both", "--mix", "classes") == 0
    assert Store(tmp_path / "both").classes == ("a", "b")
    assert "and then the folder" in one_line_error(capfd, "data", "merge", others[0])


def test_parts_may_differ_in_what_a_task_cannot_know_of_the_others(tmp_path):
    rates = {1: 25.0, 2: None}  # one clip of the second has another
    parts = [write(tmp_path / f"p{i}", [i], fps=rates[i], source=SOURCE | {"shard": f"{i}/2"}) for i in rates]
    assert merge_stores(parts, tmp_path / "merged").notes == ("frames a second differ, and the store names none",)
    assert Store(tmp_path / "merged").manifest.fps is None


def test_a_part_that_is_not_there(tmp_path):
    parts = [write(tmp_path / f"p{i}", [i], source=SOURCE | {"shard": f"{i}/4"}) for i in (1, 4)]
    with pytest.raises(DataError, match="one of 4 parts, of which 2, 3 are not given; run the tasks that failed"):
        merge_stores(parts, tmp_path / "merged")
    with pytest.raises(DataError, match=r"not the parts of one extraction: .*part of none"):
        merge_stores([*parts, write(tmp_path / "other", [9])], tmp_path / "merged")
    with pytest.raises(DataError, match="both part 1/4"):
        merge_stores([parts[0], parts[0]], tmp_path / "merged")
    with pytest.raises(DataError, match="merge those of each extraction first"):
        merge_stores([parts[0], write(tmp_path / "o", [9], source={"shard": "2/5"})], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"layout": "holistic87", "points": 87}, "layout is holistic87"),
        ({"coordinates": "xyz", "stage": "centred", "preprocessing": "p"}, "stage is centred"),
        ({"aspect": 1.5}, "aspect is 1.5"),
    ],
)
def test_what_never_mixes(tmp_path, options, word):
    stores = [write(tmp_path / "one", [0]), write(tmp_path / "two", [1], **options)]
    with pytest.raises(DataError, match=word):
        merge_stores(stores, tmp_path / "all", mix=("backend", "classes", "fps"))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"labels": ("a", "d")}, "classes"),
        ({"fps": 30.0}, "fps"),
        ({"source": {"extraction": {"backend": "tasks"}}}, "backend"),
    ],
)
def test_what_mixes_when_told(tmp_path, options, name):
    stores = [write(tmp_path / "one", [0]), write(tmp_path / "two", [1], **options)]
    others = [other for other in ("backend", "classes", "fps") if other != name]
    with pytest.raises(DataError, match=f"its {name} is .* --mix {name} merges them"):
        merge_stores(stores, tmp_path / "all", mix=others)
    merge_stores(stores, tmp_path / "all", mix=[name])
    merged = Store(tmp_path / "all")
    manifest = merged.manifest
    assert manifest.classes == (("a", "b", "c", "d") if name == "classes" else CLASSES)
    assert [merged.classes[label] for label in merged.labels] == ["a", "d" if name == "classes" else "b"]
    assert manifest.fps == (None if name == "fps" else 25.0)
    if name == "backend":
        assert [entry["name"] for entry in manifest.source["stores"]] == ["one", "two"]
        assert manifest.source["stores"][1]["extraction"] == {"backend": "tasks"}


def test_licences_and_seen_clips_add_up(tmp_path):
    stores = [
        write(tmp_path / "one", [0], licence="MIT", seen_clips=["0" * 16]),
        write(tmp_path / "two", [1], licence="CC0", seen_clips=["1" * 16]),
    ]
    summary = merge_stores(stores, tmp_path / "all")
    manifest = Store(tmp_path / "all").manifest
    assert manifest.licence == "MIT; CC0"
    assert manifest.seen_clips == ("0" * 16, "1" * 16)
    assert summary.notes == ("licences differ: CC0, MIT",)


def test_an_id_in_two_stores(tmp_path):
    stores = [write(tmp_path / "one", [0, 1]), write(tmp_path / "two", [1])]
    with pytest.raises(DataError, match=r"two: clip 'clip1' is in .*one, too"):
        merge_stores(stores, tmp_path / "all")


def test_a_damaged_store(tmp_path):
    stores = [write(tmp_path / "one", [0]), write(tmp_path / "two", [1])]
    file = stores[1] / "part-00000" / "landmarks.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"two: .*has changed or is damaged"):
        merge_stores(stores, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_no_store():
    with pytest.raises(DataError, match="at least one"):
        merge_stores([], "all")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/3/5", "-1/3", "a/b", "01/3", "1/0", 3])
def test_numbers_of_parts(text):
    with pytest.raises(DataError, match=r"--shard is .*expected NUMBER/COUNT"):
        parse_shard(text, "--shard")
    assert parse_shard("3/3", "--shard") == (3, 3)


def test_a_forged_part_number_is_an_error(tmp_path):
    store = write(tmp_path / "one", [0], source={"shard": {"of": "things"}})
    with pytest.raises(DataError, match="expected NUMBER/COUNT"):
        merge_stores([store], tmp_path / "all")
    assert json.loads((store / "manifest.json").read_text())["source"] == {"shard": {"of": "things"}}
