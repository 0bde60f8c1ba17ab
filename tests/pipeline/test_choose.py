"""Which clips are drawn, and what is written under them."""

import numpy as np
import pytest
from drawn import person, write_recorded, write_synthetic

from handcraft.data.store import Store, StoreWriter
from handcraft.errors import ConfigError, DataError
from handcraft.render.choose import choose, from_file, from_store, one_a_class, with_sources
from handcraft.render.view import view


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write_recorded(tmp_path_factory.mktemp("choose") / "real", fps=30.0, aspect=1.5)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, real):
    return write_synthetic(tmp_path_factory.mktemp("choose") / "synthetic", real)


def test_a_stores_clip_brings_its_words_and_what_is_needed_to_draw_it(real, synthetic):
    clip, last = from_store(real, [3, 5])
    assert (clip.title, clip.note) == ("yes", "1-0 · signer0 · train")
    assert last.note == "1-2 · signer2 · test"
    assert (clip.fps, clip.aspect, clip.raw, clip.layout.name) == (30, 1.5, True, "holistic75")
    np.testing.assert_array_equal(clip.landmarks, real.landmarks(3))
    made = from_store(synthetic, [0], "synthetic")[0]
    assert (made.title, made.note) == ("no (synthetic)", "s0 · train")
    assert not made.raw


def test_the_aspect_is_that_of_a_raw_clips_picture_alone(tmp_path):
    options = {"layout": "pose_hands48", "classes": ["a"], "aspect": 2.0, "coordinates": "xy"}
    clip = np.random.default_rng(0).normal(size=(4, 48, 2)).astype(np.float32)
    for stage, more in (("raw", {}), ("centred", {"preprocessing": "some"})):
        with StoreWriter(tmp_path / stage, stage=stage, **options, **more) as writer:
            writer.add(clip, id="a", label="a")
    raw, centred = (from_store(Store(tmp_path / stage), [0])[0].view() for stage in ("raw", "centred"))
    width = np.linalg.norm(clip[:, 3] - clip[:, 0], axis=1)  # the shoulders
    origin = np.median((clip[:, 3] + clip[:, 0]) / 2, axis=0)
    np.testing.assert_allclose(centred.points, (clip - origin) / np.median(width), rtol=1e-5, atol=1e-5)
    assert not np.allclose(raw.points, centred.points)


def test_a_sheet_has_the_clip_of_median_length_of_each_class_that_has_clips(tmp_path):
    with StoreWriter(tmp_path / "store", layout="holistic75", stage="raw", classes=["a", "b", "empty"]) as writer:
        for number, (label, frames) in enumerate(zip("baabab", (9, 4, 9, 5, 6, 8), strict=True)):
            writer.add(person(frames, seed=number), id=str(number), label=label)
    assert one_a_class(Store(tmp_path / "store")).tolist() == [4, 5]
    cells = choose(tmp_path / "store", sheet=True)
    assert [cell[0].title for cell in cells] == ["a", "b"]


def test_a_synthetic_clip_comes_with_the_clip_it_was_made_from(real, synthetic):
    cells = with_sources(synthetic, [4, 1], real)
    assert [(one.note, other.note) for one, other in cells] == [
        ("1-1 · signer1 · train", "s4 · train"),
        ("0-1 · signer1 · train", "s1 · train"),
    ]
    assert [clip.title for clip in cells[0]] == ["yes (real)", "yes (synthetic)"]
    np.testing.assert_array_equal(cells[0][0].landmarks, real.landmarks(4))
    assert choose(synthetic.path, ["s4"], beside=real.path)[0][0].note == cells[0][0].note


def test_a_source_that_is_unknown_or_another_clip_is_refused(tmp_path, real, synthetic):
    with pytest.raises(DataError, match="names no source clip"):
        with_sources(real, [0], real)
    with pytest.raises(DataError, match="has no clip '0-0'"):
        with_sources(synthetic, [0], synthetic)
    other = write_synthetic(tmp_path / "other", real, source_digest="0" * 16)
    with pytest.raises(DataError, match="same id, other content"):
        with_sources(other, [0], real)


def test_choose_takes_ids_the_first_clip_or_a_file(tmp_path, real):
    assert [cell[0].note[:3] for cell in choose(real.path, ["1-0", "0-2"])] == ["1-0", "0-2"]
    assert [cell[0].note[:3] for cell in choose(real.path)] == ["0-0"]
    np.save(tmp_path / "clip.npy", person())
    (clip,) = choose(tmp_path / "clip.npy", fps=50, aspect=2)[0]
    assert (clip.title, clip.layout.name, clip.fps, clip.aspect) == ("clip", "holistic75", 50, 2)
    known, asked = choose(real.path)[0][0], choose(real.path, fps=5, aspect=9)[0][0]
    assert (known.fps, known.aspect) == (30, 1.5)
    assert (asked.fps, asked.aspect) == (5, 1.5), "another speed can be wanted, another picture cannot"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": ["0-0"], "sheet": True}, "either --sheet or --ids"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"aspect": -1}, "aspect is -1"),
    ],
)
def test_choices_that_make_no_sense_are_refused(real, options, message):
    with pytest.raises(ConfigError, match=message):
        choose(real.path, **options)


def test_a_pose_file_says_its_own_aspect_and_speed(tmp_path):
    pytest.importorskip("pose_format", reason="pose-format is not installed")
    from handcraft.data.pose_file import write_pose

    write_pose(tmp_path / "clip.pose", person(aspect=2.0), "holistic75", fps=30.0, aspect=2.0)
    clip = from_file(tmp_path / "clip.pose", aspect=7.0)
    assert (clip.title, clip.layout.name, clip.fps, clip.aspect) == ("clip", "holistic75", 30, 2)
    np.testing.assert_allclose(clip.view().points, view(person(), clip.layout).points, atol=0.02)
    assert from_file(tmp_path / "clip.pose", fps=9).fps == 9


def test_a_file_cannot_be_chosen_from(tmp_path):
    np.save(tmp_path / "clip.npy", person())
    with pytest.raises(ConfigError, match="is one clip"):
        choose(tmp_path / "clip.npy", sheet=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 74, 3), "f4"), r"shape \(4, 74, 3\).*75 \(holistic75\)"),
        (np.zeros((4, 75), "f4"), "expected floating point"),
        (np.zeros((4, 75, 3), "i4"), "int32"),
        (np.zeros((4, 75, 9), "f4"), "holistic75 has"),
    ],
)
def test_files_that_hold_no_clip_are_refused(tmp_path, content, message):
    np.save(tmp_path / "clip.npy", content)
    with pytest.raises(DataError, match=message):
        from_file(tmp_path / "clip.npy").view()


def test_other_files_and_pickles_are_refused(tmp_path):
    (tmp_path / "clip.txt").write_text("no")
    with pytest.raises(DataError, match="neither a store nor a clip"):
        from_file(tmp_path / "clip.txt")
    np.save(tmp_path / "clip.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled"):
        from_file(tmp_path / "clip.npy")
    with pytest.raises(DataError, match="no such store"):
        choose(tmp_path / "absent")


def test_a_clip_that_cannot_be_drawn_is_named(tmp_path):
    with StoreWriter(tmp_path / "store", layout="holistic75", stage="raw", classes=["a"]) as writer:
        writer.add(np.full((3, 75, 3), np.nan, "f4"), id="lost", label="a")
    with pytest.raises(DataError, match=r"clip a \(lost\): no landmark"):
        choose(tmp_path / "store")[0][0].payload()
