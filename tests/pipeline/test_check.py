"""`data check`: every kind of problem is found in a store that has it, and none in one that has not."""

import itertools

import numpy as np
import pytest
from rich.console import Console

from handcraft.data import check
from handcraft.data.check import check_store
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.layouts import layout


def clip(seed: int, frames: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 75, 3)).astype(np.float32)


def entry(seed: int, **change: object) -> dict:
    """One clip of a store without a problem: clips 0 to 3 train by ann, 4 to 7 test by bob, two classes each."""
    split, group = ("train", "ann") if seed < 4 else ("test", "bob")
    return {
        "landmarks": clip(seed, 3 + seed),
        "id": f"c{seed}",
        "label": ("no", "yes")[seed % 2],
        "split": split,
        "group": group,
    } | change


def write(path, *changes: dict, classes=("no", "yes"), **options: object):
    """A store of eight clips; changes[i] replaces fields of clip i, and further ones are added."""
    with StoreWriter(path, layout="holistic75", stage="raw", classes=classes, part_clips=3, **options) as out:
        for seed in range(max(8, len(changes))):
            out.add(**entry(seed, **(changes[seed] if seed < len(changes) else {})))
    return path


def text_of(report: check.Report) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(report)
    return captured.get()


def only_problem(path, message: str) -> None:
    report = check_store(path)
    assert len(report.problems) == 1, report.problems
    assert message in report.problems[0]
    assert not report.ok
    assert f"problem: {report.problems[0]}" in text_of(report)


def test_a_good_store_has_no_problem(tmp_path):
    report = check_store(write(tmp_path / "s"))
    assert report.ok
    assert report.problems == ()
    assert (report.clips, report.frames, report.stage, report.layout) == (8, (3, 6, 10), "raw", "holistic75")
    assert report.classes == {"no": {"test": 2, "train": 2}, "yes": {"test": 2, "train": 2}}
    assert report.groups == {"test": ("bob",), "train": ("ann",)}
    printed = text_of(report)
    assert "8 clips, 2 classes" in printed
    assert "no problems" in printed
    assert "class balance: 4 to 4 clips a class" in printed


@pytest.mark.parametrize("chunk", [1, 7, 1 << 15])
def test_missing_rates_are_counted_by_part(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(check, "CHUNK", chunk)
    slices = layout("holistic75").slices
    first, second = clip(0, 3), clip(1, 4)
    first[:, slices["left_hand"]] = np.nan
    second[1:3, slices["left_hand"]] = np.nan
    second[0, slices["pose"].start : slices["pose"].start + 3] = np.nan
    path = write(tmp_path / "s", {"landmarks": first}, {"landmarks": second})
    report = check_store(path)
    assert report.ok
    rows = Store(path).manifest.rows
    found = {part.name: (part.points, part.frames * rows, part.landmarks * rows * part.points) for part in report.parts}
    assert found["left_hand"] == (21, pytest.approx(5), pytest.approx(5 * 21))
    assert found["pose"] == (33, 0, pytest.approx(3))
    assert found["right_hand"] == (21, 0, 0)
    assert not any("left_hand" in note for note in report.notes)


def test_a_part_that_is_mostly_missing_is_a_note_and_no_problem(tmp_path):
    changes = [{"landmarks": clip(seed)} for seed in range(8)]
    for change in changes[:6]:
        change["landmarks"][:, layout("holistic75").slices["right_hand"]] = np.nan
    report = check_store(write(tmp_path / "s", *changes))
    assert report.ok
    assert "right_hand is missing in 75% of the frames" in report.notes


def test_clips_without_a_landmark(tmp_path):
    empty = np.full((2, 75, 3), np.nan, np.float32)
    path = write(tmp_path / "s", {}, {"landmarks": empty}, {}, {}, {"landmarks": empty[:1]})
    only_problem(path, "2 clips have no landmark in any frame: c1, c4")


def test_a_landmark_with_some_of_its_coordinates(tmp_path):
    half = clip(2)
    half[1, 5, 2] = np.nan
    only_problem(write(tmp_path / "s", {}, {}, {"landmarks": half}), "missing by half: c2")


def test_the_same_content_twice(tmp_path):
    path = write(tmp_path / "s", {}, {}, {"landmarks": clip(0, 3)})
    only_problem(path, "2 clips have the same content as another clip of the store, such as c0, c2")


def test_the_same_content_in_train_and_test(tmp_path):
    report = check_store(
        write(tmp_path / "s", {}, {}, {}, {}, {}, {"landmarks": clip(1)}, {}, {"landmarks": clip(1, 4)})
    )
    assert len(report.problems) == 2
    assert "same content" in report.problems[0]
    assert "split leak: 1 contents occur in train and in test: clips c1, c5, c7" in report.problems[1]


def test_the_same_group_in_train_and_test(tmp_path):
    path = write(tmp_path / "s", {}, {"group": "bob"})
    only_problem(path, "split leak: 1 groups occur in train and in test: bob")


def test_no_group_is_no_leak(tmp_path):
    report = check_store(write(tmp_path / "s", *({"group": ""} for _ in range(8))))
    assert report.ok
    assert report.groups == {}
    assert any("no clip names its group" in note for note in report.notes)


def test_a_class_without_clips(tmp_path):
    only_problem(write(tmp_path / "s", classes=("no", "yes", "tea")), "1 classes have no clip: tea")


@pytest.mark.parametrize(("split", "group"), [("train", "ann"), ("test", "bob")])
def test_a_class_without_clips_in_one_split(tmp_path, split, group):
    other = {"train": "test", "test": "train"}[split]
    changes = [{"label": "tea" if seed % 2 and entry(seed)["split"] == split else "no"} for seed in range(8)]
    only_problem(write(tmp_path / "s", *changes, classes=("no", "tea")), f"1 classes have no clip in {other}: tea")


def test_a_store_without_split_is_noted(tmp_path):
    report = check_store(write(tmp_path / "s", *({"split": ""} for _ in range(8))))
    assert report.ok
    assert "8 clips belong to no split" in report.notes
    assert "no split" in text_of(report)


def test_a_changed_file(tmp_path):
    path = write(tmp_path / "s")
    frames = np.lib.format.open_memmap(path / "part-00001" / "landmarks.npy", mode="r+")
    frames[0, 0, 0] += 1
    frames.flush()
    only_problem(path, "part-00001/landmarks.npy: its SHA-256 is not the manifest's")


def test_infinite_coordinates(tmp_path, monkeypatch):
    """The writer refuses them, so a store that has them came from elsewhere."""
    monkeypatch.setattr("handcraft.data.writer._is_infinite", lambda frames: np.zeros_like(frames, dtype=bool))
    wild = clip(3)
    wild[0, 0] = np.inf
    only_problem(write(tmp_path / "s", {}, {}, {}, {"landmarks": wild}), "1 clips have infinite coordinates")


def test_an_id_twice(tmp_path, monkeypatch):
    """The writer refuses it too."""
    numbers = itertools.count()
    monkeypatch.setattr("handcraft.data.writer.hash", lambda text: next(numbers), raising=False)
    only_problem(write(tmp_path / "s", {}, {}, {}, {}, {}, {"id": "c1"}), "1 ids name more than one clip: c1")


def test_a_store_that_cannot_be_opened_is_an_error(tmp_path):
    path = write(tmp_path / "s")
    (path / "part-00000" / "clips.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"clips\.parquet"):
        check_store(path)


def test_names_are_printed_as_they_are(tmp_path):
    """Brackets in a label or a group are no markup of the console."""
    changes = [{"label": "[red]no", "group": f"[bold]{entry(seed)['group']}"} for seed in range(8)]
    printed = text_of(check_store(write(tmp_path / "s", *changes, classes=("[red]no",))))
    assert "[red]no" in printed
    assert "[bold]ann" in printed


def test_many_classes_are_cut_to_the_extremes(tmp_path):
    names = [f"sign{i:03d}" for i in range(60)]
    with StoreWriter(tmp_path / "s", layout="holistic75", stage="raw", classes=names) as out:
        for at, name in enumerate(names):
            for i in range(1 + (at == 7) * 2):
                out.add(clip(100 * at + i, 1), id=f"{name}-{i}", label=name)
    report = check_store(tmp_path / "s")
    assert report.ok
    assert len(report.classes) == 60
    printed = text_of(report)
    assert "the 20 smallest and the 20 largest classes" in printed
    assert "sign007" in printed
    assert printed.count("sign0") == 40
