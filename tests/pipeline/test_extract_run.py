"""The run over all clips, with a detector that is no MediaPipe: what is kept, stopped and continued, what fails."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_landmarker import BLACK, BLUE, GREEN, STEP, Dots, Unable, video

from handcraft.data.check import check_store
from handcraft.data.merge import merge_stores
from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.extract import kept
from handcraft.extract.inputs import find_clips
from handcraft.extract.landmarker import Settings
from handcraft.extract.run import extract
from handcraft.extract.worker import ClipSource, extract_clip

pytest.importorskip("av", reason="reading videos needs the extra video")
SMALL = Settings(keep="holistic75")
ROOT = Path(__file__).parents[2]


def videos(folder, **colours):
    """FOLDER/SIGN/NAME.mp4 for each sign_name, in lengths that differ."""
    for number, (name, colour) in enumerate(colours.items()):
        sign, _, clip = name.partition("_")
        options = {} if colour is None else {"colour": colour}
        video(folder / sign / f"{clip}.mp4", frames=5 + number, **options)
    return folder


def go(folder, out, settings=SMALL, **options):
    found = find_clips([folder])
    more = {"unreadable": found.unreadable, "detector": Dots, "progress": False}
    return extract(found.clips, out, settings, **(more | options))


def content(store):
    return {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_a_clip_is_what_the_detector_saw(tmp_path):
    path = video(tmp_path / "a.mp4", frames=6, size=(80, 48), rate=30)
    found = extract_clip(ClipSource(path, "a", "x"), SMALL, detector=Dots)
    assert (found.width, found.height, found.fps, found.varies) == (80, 48, pytest.approx(30), False)
    assert found.landmarks.shape == (6, 75, 3)
    assert found.landmarks.dtype == found.visibility.dtype == np.float32
    assert dict(found.counts) == {"pose": 6, "left_hand": 0, "right_hand": 6}
    wanted = (np.arange(6) * STEP + 6) / 80
    np.testing.assert_allclose(found.landmarks[:, 0, 0], wanted, atol=0.02)
    np.testing.assert_allclose(found.landmarks[:, 54, 1], 16 / 48, atol=0.02)
    assert np.isnan(found.landmarks[:, 33:54]).all()
    np.testing.assert_allclose(found.visibility, 0.9)
    cut = extract_clip(ClipSource(path, "a", "x", start=0.1, end=0.17), SMALL, detector=Dots)
    np.testing.assert_array_equal(cut.landmarks, found.landmarks[3:])
    slow = extract_clip(ClipSource(path, "a", "x"), Settings(keep="holistic75", fps=15), detector=Dots)
    np.testing.assert_array_equal(slow.landmarks, found.landmarks[::2])
    assert slow.fps == 15


def test_every_layout_holds_what_the_small_ones_need(tmp_path):
    from handcraft.extract.landmarker import Detection
    from handcraft.extract.worker import arrange
    from handcraft.layouts import layout

    face = np.random.default_rng(0).random((478, 3), np.float32)
    every = arrange(Detection(face=face), layout("holistic553"))
    assert np.isnan(every[:75]).all()
    np.testing.assert_array_equal(every[75:], face)
    twelve = arrange(Detection(face=face), layout("holistic87"))[75:]
    np.testing.assert_array_equal(every[layout("holistic553").take(layout("handcraft60"))][48:], twelve)
    unrefined = arrange(Detection(face=face[:468]), layout("holistic553"))
    np.testing.assert_array_equal(unrefined[75:543], face[:468])
    assert np.isnan(unrefined[543:]).all()


def test_the_store_says_where_everything_comes_from(tmp_path):
    folder = videos(tmp_path / "v", hello_a=None, hello_b=None, bye_c=None)
    summary = go(folder, tmp_path / "s", licence="CC0", source={"dataset": "mine"})
    store = Store(tmp_path / "s")
    assert store.ids.tolist() == ["bye-c", "hello-a", "hello-b"]
    assert store.classes == ("bye", "hello")
    assert store.frames.tolist() == [7, 5, 6]
    manifest = store.manifest
    assert (manifest.stage, manifest.layout, manifest.licence) == ("raw", "holistic75", "CC0")
    assert (manifest.fps, manifest.aspect) == (25.0, 64 / 48)
    assert manifest.source["extraction"] == {"backend": "dots", "mediapipe": "0", "detection": 0.5}
    assert manifest.source["dataset"] == "mine"
    about = store.provenance_of(1)
    assert (about["file"], about["width"], about["height"]) == ("hello/a.mp4", 64, 48)
    assert about["bytes"] == (folder / "hello/a.mp4").stat().st_size
    assert about["found"] == {"pose": 5, "left_hand": 0, "right_hand": 5}
    np.testing.assert_allclose(store.visibility(0), 0.9)
    assert check_store(tmp_path / "s").problems == ()
    assert pd.read_parquet(tmp_path / "s/part-00000/clips.parquet")["label"].tolist() == ["bye", "hello", "hello"]
    assert summary.exit_code == 0
    lines = summary.lines()
    assert lines[0] == f"{tmp_path / 's'}: 3 clips of 2 classes, 18 frames, layout holistic75"
    assert lines[1] == "found in frames: pose 100%, left_hand 0%, right_hand 100%"
    assert not (tmp_path / "s.extracting").exists()


def test_the_number_of_workers_and_shards_changes_no_byte(tmp_path):
    folder = videos(tmp_path / "v", a_1=None, a_2=None, b_3=None, b_4=None, c_5=None, nobody_6=BLACK)
    go(folder, tmp_path / "one")
    go(folder, tmp_path / "three", workers=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    for shard in ("1/2", "2/2"):
        go(folder, tmp_path / shard[0], shard=shard)
    assert Store(tmp_path / "1").ids.tolist() == ["a-1", "a-2", "b-3"]
    merge_stores([tmp_path / "2", tmp_path / "1"], tmp_path / "merged", progress=False)
    assert content(tmp_path / "merged") == content(tmp_path / "one")


def test_each_failure_is_a_line_and_the_rest_is_stored(tmp_path, capfd):
    """A file that is none, a process that dies, a detector that raises, nobody to be seen: one line each."""
    folder = videos(tmp_path / "v", a_1=None, a_2=GREEN, a_3=BLUE, a_4=BLACK, b_5=None)
    (folder / "b/6.mp4").write_text("hello")
    summary = go(folder, tmp_path / "s", workers=2)
    assert Store(tmp_path / "s").ids.tolist() == ["a-1", "b-5"]
    assert summary.exit_code == 1
    ends = ["green is the end", "RuntimeError: blue is unknown", "it is damaged", "nobody was found"]
    names = ["a/2.mp4", "a/3.mp4", "b/6.mp4", "a/4.mp4"]
    for line, name, end in zip(summary.failed, names, ends, strict=True):
        assert line.startswith(str(folder / name))
        assert end in line
    assert "ended with code 7; its last words: green is the end" in summary.failed[0]
    assert summary.lines()[-5:] == ["failed: 4", *(f"  {line}" for line in summary.failed)]
    assert capfd.readouterr().err.count("failed: ") == 3  # as they happen; that nobody is there shows at the end


def test_progress_says_frames_a_second_and_the_time_left(tmp_path, capfd):
    go(videos(tmp_path / "v", a_1=None, a_2=None), tmp_path / "s", progress=True)
    steps = capfd.readouterr().err.split("\r")
    assert re.search(r"extract:  50%.*1/2 \[\d\d:\d\d<\d\d:\d\d, .*, \d+\.\d frames/s\]", "".join(steps))
    assert re.search(r"100%.* 2/2 ", steps[-1])


def test_where_everything_fails_there_is_no_store(tmp_path):
    folder = videos(tmp_path / "v", a_1=BLACK)
    summary = go(folder, tmp_path / "s")
    assert summary.exit_code == 2
    assert summary.lines()[0] == f"{tmp_path / 's'}: no clip, so no store was written"
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    (folder / "a/1.mp4").unlink()
    gone = extract([ClipSource(folder / "a/1.mp4", "x", "a")], tmp_path / "t", SMALL, detector=Dots, progress=False)
    assert "No such file" in gone.failed[0]


def test_what_a_store_lacks_is_added_and_nothing_is_done_twice(tmp_path, monkeypatch):
    folder = videos(tmp_path / "v", a_1=None, b_2=None)
    go(folder, tmp_path / "s")
    video(folder / "c/0.mp4", frames=9)
    video(folder / "a/0.mp4", frames=9, size=(48, 64))
    monkeypatch.setenv("HANDCRAFT_FAKE", str(tmp_path / "note"))
    summary = go(folder, tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.ids.tolist() == ["a-1", "b-2", "a-0", "c-0"]
    assert store.classes == ("a", "b", "c")
    assert len((tmp_path / "note").read_text().splitlines()) == 18
    assert (summary.clips, summary.known, summary.exit_code) == (2, 2, 0)
    assert "already there: 2 clips" in summary.lines()
    assert store.manifest.source["command"] == "extract"
    assert store.visibility(3).shape == (9, 33)
    again = go(folder, tmp_path / "s")
    assert again.lines()[:2] == [f"{tmp_path / 's'}: nothing new", "already there: 4 clips"]
    assert again.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note", "s", "v"]
    video(folder / "c/0.mp4", frames=12)
    with pytest.raises(DataError, match=r"has a clip 'c-0' made of c/0.mp4, not of .* as it is now"):
        go(folder, tmp_path / "s")


def test_pictures_of_another_shape_share_the_first_ones_aspect(tmp_path):
    video(tmp_path / "v/a/1.mp4", size=(80, 40), frames=3)
    video(tmp_path / "v/a/2.mp4", size=(40, 80), frames=3)
    summary = go(tmp_path / "v", tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.manifest.aspect == 2
    own = extract_clip(ClipSource(tmp_path / "v/a/2.mp4", "x", "a"), SMALL, detector=Dots).landmarks
    stored = store.landmarks(1)
    np.testing.assert_allclose(stored[..., 0] * 2, own[..., 0] * 0.5, rtol=1e-6)  # the same in units of the height
    np.testing.assert_allclose(stored[..., 2] * 2, own[..., 2] * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(stored[..., 1], own[..., 1])
    assert "1 clip of another shape: x and z are fractions of 2 x the height" in summary.notes


def test_rates_that_differ_or_vary_are_said(tmp_path):
    video(tmp_path / "v/a/1.mp4", rate=25)
    video(tmp_path / "v/a/2.mp4", rate=50)
    video(tmp_path / "v/a/3.mp4", frames=4, times=[0, 40, 80, 500])
    summary = go(tmp_path / "v", tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.manifest.fps is None
    assert store.provenance_of(1)["fps"] == pytest.approx(50)
    assert any("1 clip of variable frame rate" in note for note in summary.notes)
    assert any("frame rates differ, 6 to 50" in note for note in summary.notes)
    even = go(tmp_path / "v", tmp_path / "t", Settings(keep="holistic75", fps=20))
    assert Store(tmp_path / "t").manifest.fps == 20
    assert even.notes == ()


def test_landmarks_of_two_detectors_mix_only_when_told_to(tmp_path):
    folder = videos(tmp_path / "v", a_1=None)
    go(folder, tmp_path / "s")
    video(folder / "a/2.mp4")
    other = Settings(keep="holistic75", detection=0.7)
    with pytest.raises(DataError, match=r"made by another detector: .*0\.5.*0\.7.*--allow-mixed"):
        go(folder, tmp_path / "s", other)
    assert len(Store(tmp_path / "s")) == 1
    go(folder, tmp_path / "s", other, allow_mixed=True)
    assert len(Store(tmp_path / "s")) == 2
    video(folder / "a/3.mp4")
    with pytest.raises(DataError, match="made by another detector"):
        go(folder, tmp_path / "s", other)


def test_what_cannot_be_done_is_refused_before_anything_is_detected(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDCRAFT_FAKE", str(tmp_path / "note"))
    folder = videos(tmp_path / "v", a_1=None)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    for out, words in (("file", "is a file"), ("full", r"not empty .it holds mine\.txt")):
        with pytest.raises(DataError, match=words):
            go(folder, tmp_path / out)
    for out in (".", "..", "/"):
        with pytest.raises(ConfigError, match="has no name of its own"):
            go(folder, out)
    with pytest.raises(ConfigError, match="workers is 0"):
        go(folder, tmp_path / "s", workers=0)
    with pytest.raises(DataError, match="shard is '3/2'"):
        go(folder, tmp_path / "s", shard="3/2")
    with pytest.raises(ConfigError, match="shard is 2/3, of 1 clip; expected no more parts than clips"):
        go(folder, tmp_path / "s", shard="2/3")
    for change, words in (
        ({"id": "x" * 300}, "its id is 'xxx.* at most 256 characters"),
        ({"id": ""}, "its id is ''"),
        ({"label": "two\nlines"}, r"its label is 'two\\nlines'"),
        ({"signer": "\udcff"}, r"its signer is '\\udcff'"),
    ):
        wrong = dataclasses.replace(find_clips([folder]).clips[0], **change)
        with pytest.raises(DataError, match=words):
            extract([wrong], tmp_path / "s", detector=Dots)
    with pytest.raises(DataError, match="its id 'a-1' is that of another clip"):
        extract(2 * find_clips([folder]).clips, tmp_path / "s", detector=Dots)
    for change in ({"fps": 0}, {"detection": 2}, {"backend": "x"}, {"backend": "tasks"}, {"model": "m"}, {"fps": 1e9}):
        with pytest.raises(ConfigError):
            Settings(**change)
    assert not (tmp_path / "note").exists()
    go(folder, tmp_path / "s")
    with pytest.raises(DataError, match="layout is holistic75, expected holistic87"):
        go(folder, tmp_path / "s", Settings(keep="holistic87"))
    with pytest.raises(DataError, match="a store already, to which a part"):
        go(folder, tmp_path / "s", shard="1/1")


RUN = """
import sys
from handcraft.extract.inputs import find_clips
from handcraft.extract.landmarker import Settings
from handcraft.extract.run import extract
from fake_landmarker import Dots
if __name__ == "__main__":
    clips = find_clips([sys.argv[1]]).clips
    extract(clips, sys.argv[2], Settings(keep="holistic75"), workers=2, detector=Dots, progress=False)
"""


def test_a_killed_run_loses_and_repeats_nothing(tmp_path, monkeypatch):
    folder = videos(tmp_path / "v", **{f"a_{at}": None for at in range(8)})
    go(folder, tmp_path / "whole")
    script, note = tmp_path / "run.py", tmp_path / "note"
    script.write_text(RUN)
    monkeypatch.setenv("HANDCRAFT_FAKE", str(note))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(tmp_path / "s")], start_new_session=True)
    results, whole_files = tmp_path / "s.extracting/clips", "[0-9a-f]*.npz"
    patience = time.monotonic() + 60
    while len(list(results.glob(whole_files))) < 3:
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    assert not (tmp_path / "s").exists()
    done = len(list(results.glob(whole_files)))
    note.unlink()
    with pytest.raises(DataError, match="begun here with another fps"):
        go(folder, tmp_path / "s", Settings(keep="holistic75", fps=5))
    go(folder, tmp_path / "s", workers=2)
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert sum(line.split()[1] == "1" for line in note.read_text().splitlines()) == 8 - done
    assert not results.exists()


def test_a_detector_that_cannot_run_ends_the_run_and_leaves_nothing(tmp_path):
    video(tmp_path / "v/a/1.mp4")
    with pytest.raises(ConfigError, match="no models here"):
        go(tmp_path / "v", tmp_path / "s", detector=Unable)
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_a_second_run_on_the_same_store_waits_its_turn(tmp_path):
    from handcraft.data.writer import locked

    folder = videos(tmp_path / "v", a_1=None)
    (tmp_path / "s.extracting").mkdir()
    with locked(tmp_path / "s.extracting"), pytest.raises(DataError, match="another process"):
        go(folder, tmp_path / "s")
    assert go(folder, tmp_path / "s").exit_code == 0


def test_an_exchange_that_was_stopped_is_finished(tmp_path):
    folder = videos(tmp_path / "v", a_1=None)
    go(folder, tmp_path / "s")
    wanted = content(tmp_path / "s")
    work = tmp_path / "s.extracting"
    work.mkdir()
    (tmp_path / "s").rename(work / "merged")  # as if killed between taking the old store away and putting the new one
    (work / "old").mkdir()
    summary = go(folder, tmp_path / "s")
    assert (summary.known, summary.clips) == (1, 0)
    assert content(tmp_path / "s") == wanted
    assert not work.exists()


def test_a_damaged_result_is_named(tmp_path):
    source = ClipSource(video(tmp_path / "a.mp4"), "a", "x")
    made = kept.task(source, tmp_path)
    extracted = extract_clip(source, SMALL, detector=Dots)
    kept.save(extracted, made)
    landmarks, visibility = kept.load_arrays(made)
    np.testing.assert_array_equal(landmarks, extracted.landmarks)
    np.testing.assert_array_equal(visibility, extracted.visibility)
    assert kept.load_facts(made).counts == extracted.counts
    made.file.write_bytes(made.file.read_bytes()[:100])
    for load in (kept.load_arrays, kept.load_facts):
        with pytest.raises(DataError, match=rf"{made.file.name}: not a result that can be read .*; delete it"):
            load(made)


def test_a_video_that_changed_is_another_task(tmp_path):
    path = video(tmp_path / "a.mp4")
    names = {kept.task(ClipSource(path, "a", "x"), tmp_path).file}
    names.add(kept.task(ClipSource(path, "a", "other label", signer="anna"), tmp_path).file)
    assert len(names) == 1
    names.add(kept.task(ClipSource(path, "b", "x"), tmp_path).file)
    names.add(kept.task(ClipSource(path, "a", "x", end=1.0), tmp_path).file)
    os.utime(path, (1, 1))
    names.add(kept.task(ClipSource(path, "a", "x"), tmp_path).file)
    assert len(names) == 4
