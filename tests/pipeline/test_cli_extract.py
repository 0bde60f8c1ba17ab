"""`handcraft extract` as it is called: the exit code, what is printed, what is asked of the run."""

import pytest
from fake_landmarker import BLACK, Dots, video

from handcraft.cli import main
from handcraft.data.store import Store
from handcraft.extract import landmarker

pytest.importorskip("av", reason="reading videos needs the extra video")


@pytest.fixture
def dots(monkeypatch):
    monkeypatch.setitem(landmarker._BACKENDS, "holistic", "fake_landmarker:Dots")
    assert landmarker.detector_of(landmarker.Settings()) is Dots


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main(["extract", *map(str, words)])
    return ended.value.code


def test_from_a_table_to_a_store(tmp_path, dots, capsys):
    video(tmp_path / "videos/long.mp4", frames=20)
    video(tmp_path / "videos/other.mp4")
    (tmp_path / "labels.csv").write_text(
        "path,label,signer,start,end\nlong.mp4,hi,anna,0.2,0.4\nlong.mp4,bye,anna,0.4,\n"
    )
    options = ["--labels", tmp_path / "labels.csv", "--workers", "1", "--keep", "holistic87", "--licence", "CC0"]
    assert call(tmp_path / "videos", tmp_path / "s", *options) == 0
    store = Store(tmp_path / "s")
    assert store.ids.tolist() == ["long", "long-2"]
    assert store.groups.tolist() == ["anna", "anna"]
    assert store.frames.tolist() == [5, 10]
    assert (store.manifest.layout, store.manifest.licence) == ("holistic87", "CC0")
    said = capsys.readouterr().out
    assert said.startswith("left out: 1 clip that labels.csv does not list: other.mp4\n")
    assert "2 clips of 2 classes, 15 frames, layout holistic87" in said
    assert "found in frames: pose 100%" in said


@pytest.mark.parametrize(("files", "code"), [(("good",), 0), (("good", "text"), 1), (("text", "nobody"), 2)])
def test_the_exit_code_says_how_it_went(tmp_path, dots, capsys, files, code):
    for name in files:
        video(tmp_path / f"v/a/{name}.mp4", colour=BLACK) if name == "nobody" else video(tmp_path / f"v/a/{name}.mp4")
        if name == "text":
            (tmp_path / "v/a/text.mp4").write_text("hello")
    assert call(tmp_path / "v", tmp_path / "s") == code
    lines = capsys.readouterr().out.splitlines()
    assert (f"failed: {len(files) - (code < 2)}" in lines) == (code > 0)
    assert (tmp_path / "s").exists() == (code < 2)


def test_what_cannot_be_done_is_one_line(tmp_path, capsys):
    video(tmp_path / "a.mp4")
    for words, said in (
        ([tmp_path / "a.mp4"], "and then the folder of the store"),
        ([tmp_path / "absent", tmp_path / "s"], "absent: no such video, folder or table"),
        ([tmp_path / "a.mp4", tmp_path / "s", "--backend", "tasks"], "needs a model"),
        ([tmp_path / "a.mp4", tmp_path / "s", "--fps", "0"], "fps is 0"),
    ):
        assert call(*words) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_mediapipe_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    from handcraft.extract import holistic

    monkeypatch.setitem(__import__("sys").modules, "mediapipe.python.solutions.holistic", None)
    holistic._solution.cache_clear()
    assert call(video(tmp_path / "a.mp4"), tmp_path / "s") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "make extract-env" in said
