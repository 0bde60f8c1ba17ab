"""`handcraft predict`: from a video, a `.pose` file or a store to a sign, on a model trained on toy signs."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from scripted_detector import script, write_video
from small_clips import small_clips
from tiny_recipe import one_line_error, run_cli, write_recipe, write_toy
from twins import classifier, twin

from handcraft.checkpoint import save
from handcraft.data.preprocess import signature
from handcraft.data.store import Store, StoreWriter
from handcraft.extract import holistic
from handcraft.extract.video import read_frames


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Toy signs and a classifier that was trained on them."""
    folder = tmp_path_factory.mktemp("predict")
    write_toy(folder / "toy")
    words = ("train", "classifier", write_recipe(folder), "--data", folder / "toy", "--out", folder / "model")
    assert run_cli(*words) == 0
    return folder


@pytest.fixture
def films(place, tmp_path, monkeypatch):
    """Two videos in folders of signs, in which the first and last toy clip are seen, and a third without anybody."""
    toy = Store(place / "toy")
    clips = {80: toy.landmarks(0), 160: toy.landmarks(35), 240: np.full((9, 87, 3), np.nan, dtype=np.float32)}
    script(monkeypatch, {grey: (clip, "holistic87") for grey, clip in clips.items()})
    for (grey, clip), name in zip(clips.items(), ("one/a.mp4", "two/b.mp4", "two/c.mp4"), strict=True):
        write_video(tmp_path / "films" / name, len(clip), grey)
    return tmp_path / "films"


def printed(capfd):
    """JSON lines of stdout, lines of stderr that a person is to read."""
    found = capfd.readouterr()
    errors = [line for line in found.err.splitlines() if not line.startswith(("INFO", "WARNING"))]
    return [json.loads(line) for line in found.out.splitlines()], errors


def test_from_videos_to_signs(place, films, capfd):
    """The whole way on the command line; what is recognised is what the store's own clips are recognised as."""
    assert run_cli("predict", place / "toy", "--model", place / "model", "--json") == 0
    expected, _ = printed(capfd)
    assert run_cli("predict", films, "--model", place / "model", "--top", 3, "--json") == 1
    rows, errors = printed(capfd)
    assert [(row["id"], row["label"]) for row in rows] == [
        (str(films / "one" / "a.mp4"), "one"),
        (str(films / "two" / "b.mp4"), "two"),
    ]
    for row, clip in zip(rows, (expected[0], expected[35]), strict=True):
        assert [entry["class"] for entry in row["top"]] == [entry["class"] for entry in clip["top"]]
        for entry, other in zip(row["top"], clip["top"], strict=True):
            assert entry["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert row["seen"]["pose"] == 1
    assert errors == [
        f"handcraft: {films / 'two' / 'c.mp4'}: nobody was detected in any of its 9 frames; is a person in view?",
        "handcraft: 1 of 3 could not be recognised",
    ]


def test_the_time_line_of_a_video(place, films, capfd):
    video = films / "one" / "a.mp4"
    assert run_cli("predict", video, "--model", place / "model", "--window", 0.4, "--step", 0.2, "--json") == 0
    ((row,), errors) = printed(capfd)
    assert not errors
    assert row["windows"][0]["end"] == pytest.approx(0.4)
    seconds = len(Store(place / "toy").landmarks(0)) / 25
    assert row["timeline"][-1]["end"] == pytest.approx(seconds)
    assert run_cli("predict", video, "--model", place / "model", "--window", 0.4) == 0
    out = capfd.readouterr().out
    assert "a.mp4" in out.splitlines()[0]
    assert f"{seconds:.2f} s" in out
    assert row["timeline"][0]["sign"] in out


def test_the_time_line_of_a_folder_of_images(place, films, tmp_path, capfd):
    """Images do not say how fast they follow one another; with their rate they are the frames of the video."""
    video, folder = films / "one" / "a.mp4", tmp_path / "images"
    folder.mkdir()
    for number, (_, picture) in enumerate(read_frames(video)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    words = ("--model", place / "model", "--window", 0.4, "--json")
    assert run_cli("predict", folder, *words) == 2
    assert "its frame rate is unknown" in printed(capfd)[1][0]
    assert run_cli("predict", video, folder, *words, "--fps", 25) == 0
    (of_video, of_images), errors = printed(capfd)
    assert not errors
    assert of_images["timeline"] == of_video["timeline"]


def test_the_rest_is_recognised_where_some_cannot_be(place, films, tmp_path, capfd):
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 99)
    whole = films / "one" / "a.mp4"
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "nothing").mkdir()
    bad = (text, half, tmp_path / "nothing", tmp_path / "gone.pose")
    assert run_cli("predict", *bad[:2], whole, *bad[2:], "--model", place / "model", "--json") == 1
    rows, errors = printed(capfd)
    assert [row["id"] for row in rows] == [str(whole)]
    assert len(errors) == 5
    assert all(line.startswith(f"handcraft: {path}: ") for line, path in zip(errors, bad, strict=False))
    assert errors[-1] == "handcraft: 4 of 5 could not be recognised"
    assert run_cli("predict", *bad, "--model", place / "model") == 2
    assert capfd.readouterr().out == ""


def test_a_folder_without_permission_is_one_line(place, films, tmp_path, capfd, monkeypatch):
    locked, names = tmp_path / "locked", type(tmp_path).iterdir
    locked.mkdir()

    def refused(path):
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return names(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", refused)
    assert run_cli("predict", locked, films / "one", "--model", place / "model", "--json") == 1
    rows, errors = printed(capfd)
    assert len(rows) == 1
    assert errors[0] == f"handcraft: {locked}: not a folder that can be read (Permission denied)"


def test_what_is_not_installed_is_said_once(place, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    holistic._solution.cache_clear()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    assert run_cli("predict", tmp_path, "--model", place / "model") == 2
    _, errors = printed(capfd)
    assert len(errors) == 2
    assert "pip install" in errors[0]
    assert errors[1] == "handcraft: 2 of 2 could not be recognised"


def test_choices_that_make_no_sense(place, films, tmp_path, capfd):
    model = ("--model", place / "model")
    assert "give at least one" in one_line_error(capfd, "predict", *model)
    assert "--ids chooses clips of a store" in one_line_error(capfd, "predict", films, *model, "--ids", "x")
    both = (place / "toy", films)
    assert "--ids chooses clips of a store" in one_line_error(capfd, "predict", *both, *model, "--ids", "x")
    assert "window is -1" in one_line_error(capfd, "predict", films / "one", *model, "--window", -1)
    assert "backend tasks needs a model" in one_line_error(capfd, "predict", films, *model, "--backend", "tasks")
    clips = small_clips()
    generator = save(tmp_path / "generator", twin(clips, reverse=False))
    assert "is a generator" in one_line_error(capfd, "predict", films, "--model", generator)


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, capfd):
    clips = small_clips()
    save(tmp_path / "c", classifier(clips))
    with StoreWriter(
        tmp_path / "s",
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates="xy",
        preprocessing=signature(clips.preprocess),
    ) as writer:
        writer.add(clips.clip(0).numpy(), id="[red]3[/nonsense]", label="sign0")
    assert run_cli("predict", tmp_path / "s", "--model", tmp_path / "c") == 0
    assert "[red]3[/nonsense]" in capfd.readouterr().out
    assert run_cli("predict", tmp_path / "s", "--model", tmp_path / "c", "--json", "--top", 1) == 0
    ((row,), _) = printed(capfd)
    assert (row["id"], row["label"], len(row["top"])) == ("[red]3[/nonsense]", "sign0", 1)
