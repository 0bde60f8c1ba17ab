"""What the command line cannot do it says in one line, with exit code 2, and leaves everything as it was."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_recipe import TrainedPlace, arrays, one_line_error, run_cli, write_npz, write_recipe, write_toy

from handcraft import cli
from handcraft.data.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return TrainedPlace(tmp_path_factory.mktemp("cli"))


def test_wrong_words_end_with_2(place, capfd):
    error = one_line_error(capfd, "run", "smal", "--data", place.toy, "--out", place.folder / "x")
    assert "unknown recipe 'smal'; known: demo" in error
    assert "give a recipe first" in one_line_error(capfd, "run", "--data", place.toy)
    for extra in (("--recipe.generator.train.stepz", 3), ("--recipe.generator.train.steps", "many"), ("--seeds", 1.5)):
        assert run_cli("run", place.recipe, "--data", place.toy, "--out", place.folder / "x", *extra) == 2
        found = capfd.readouterr().err
        assert str(extra[0]) in found
        assert "Traceback" not in found
    assert run_cli("train", "classifier", place.recipe, "--data", place.toy) == 2
    assert "--out" in capfd.readouterr().err
    wrong = ("--recipe.mamba.model.frames", 8)
    error = one_line_error(capfd, "run", place.recipe, "--data", place.toy, "--out", place.folder / "x", *wrong)
    assert "mamba.window.frames is 16; expected mamba.model.frames (8)" in error
    assert not (place.folder / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transformer: {train: {stepz: 3}}", "transformer: train: unknown field 'stepz'"),
        ("pretrain: often", "pretrain: found 'often', expected a number"),
        ("pretrain: [", "not readable as YAML"),
    ],
)
def test_wrong_recipe_files_end_with_2(place, tmp_path, capfd, text, message):
    file = write_recipe(tmp_path, text, "mine")
    error = one_line_error(capfd, "run", file, "--data", place.toy, "--out", tmp_path / "x")
    assert str(file) in error
    assert message in error


def test_missing_or_damaged_stores(place, tmp_path, capfd):
    for words in (
        ("data", "check", tmp_path / "none"),
        ("run", place.recipe, "--data", tmp_path / "none", "--out", tmp_path / "x"),
        ("train", "classifier", place.recipe, "--data", tmp_path / "none", "--out", tmp_path / "x"),
        ("predict", tmp_path / "none", "--model", place.model),
    ):
        assert "no such store" in one_line_error(capfd, *words)
    bad = shutil.copytree(place.toy, tmp_path / "bad")
    manifest = (bad / "manifest.json").read_text()
    (bad / "manifest.json").write_text(manifest[: len(manifest) // 2])
    words = ("predict", bad, "--model", place.model)
    assert "manifest.json: not readable as JSON" in one_line_error(capfd, *words)
    (bad / "manifest.json").write_text(manifest)
    table = bad / "part-00000" / "clips.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    assert "clips.parquet" in one_line_error(capfd, *words)
    shutil.copy(place.toy / "part-00000" / "clips.parquet", table)
    frames = bad / "part-00000" / "landmarks.npy"
    frames.write_bytes(frames.read_bytes()[:-100])
    assert "landmarks.npy" in one_line_error(capfd, *words)
    assert not (tmp_path / "x").exists()


def test_wrong_arrays(tmp_path, capfd):
    def error(file):
        return one_line_error(capfd, "data", "import-arrays", file, tmp_path / "s")

    assert "no such file" in error(tmp_path / "none.npz")
    good = write_npz(tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    assert "damaged or cut short" in error(tmp_path / "cut.npz")
    flipped = bytearray(good)
    flipped[3000] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    assert "flipped.npz" in error(tmp_path / "flipped.npz")
    file = write_npz(tmp_path / "points.npz", left_hand=arrays()["left_hand"][:, :, :20])
    assert "left_hand is float32 of shape (12, 20, 20, 3)" in error(file)
    file = write_npz(tmp_path / "empty.npz", class_names=np.array(["a", "b", "c", "nobody"]))
    assert "no clip of class nobody" in error(file)
    file = write_npz(tmp_path / "pickle.npz", y=np.array([{}] * 12, dtype=object))
    assert "pickle.npz" in error(file)
    assert not (tmp_path / "s").exists()


def test_damaged_foreign_and_pickled_checkpoints(place, tmp_path, capfd):
    def error(model):
        return one_line_error(capfd, "predict", place.toy, "--model", model)

    assert "no such folder" in error(tmp_path / "none")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({"weights": torch.zeros(3)}, pickled / "model.pt")
    assert "pickled" in error(pickled)
    assert "is a file" in error(pickled / "model.pt")
    bad = shutil.copytree(place.model / "classifier", tmp_path / "bad")
    weights = next(bad.glob("step-00000010/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 255
    weights.write_bytes(content)
    assert "the file is damaged or was exchanged" in error(weights.parent)
    torch.save({"weights": torch.zeros(3)}, weights)  # a pickle under the weights' name
    assert "model.safetensors" in error(weights.parent)
    (weights.parent / "config.json").write_text("{")
    assert "config.json: not readable as JSON" in error(weights.parent)
    assert "is a generator" in error(place.generator / "forward")


def test_classes_of_generator_and_data_must_agree(place, tmp_path, capfd):
    other = write_toy(tmp_path / "other", classes=4)
    words = ("generate", "--generator", place.generator, "--data", other, "--out", tmp_path / "s", "--total", 4)
    assert "was trained on 3 classes, the clips have 4" in one_line_error(capfd, *words)
    words = ("train", "classifier", place.recipe, "--data", other, "--synthetic", place.synthetic)
    assert "has 3 classes, the training data 4" in one_line_error(capfd, *words, "--out", tmp_path / "m")
    assert "4 (only in the second" in one_line_error(capfd, "evaluate", place.model, "--data", other)
    assert not (tmp_path / "s").exists()


def test_generators_of_other_clips_are_refused(place, tmp_path, capfd):
    other = write_toy(tmp_path / "other", seed=5)
    words = ("generate", "--generator", place.generator, "--data", other, "--out", tmp_path / "s")
    assert "none of the 36 clips is among those" in one_line_error(capfd, *words, "--total", 4)
    assert "give exactly one of them" in one_line_error(
        capfd, "generate", "--generator", place.generator, "--data", place.toy, "--out", tmp_path / "s"
    )


def test_a_generator_that_saw_test_clips_cannot_pretrain(place, tmp_path, capfd):
    """Half of the clips held out when the generators were trained, three quarters when the classifier is."""
    store = Store(place.toy)
    generators, synthetic = tmp_path / "g", tmp_path / "s"
    words = ("train", "generator", place.recipe, "--data", place.toy, "--out", generators)
    short = ("--recipe.generator.train.steps", 1, "--recipe.test-share", 0.5)
    assert run_cli(*words, *short) == 0
    assert run_cli("generate", "--generator", generators, "--data", place.toy, "--out", synthetic, "--total", 6) == 0
    seen = set(Store(synthetic).manifest.seen_clips)
    assert 0 < len(seen) < len(store)
    words = ("train", "classifier", place.recipe, "--data", place.toy, "--out", tmp_path / "m")
    share = ("--recipe.test-share", 0.75)
    error = one_line_error(capfd, *words, *share, "--synthetic", synthetic)
    assert "of the test clips" in error
    assert str(synthetic) in error
    assert not (tmp_path / "m").exists()
    # real clips in the place of synthetic ones would bring the test clips along
    assert "is no store of synthetic clips" in one_line_error(capfd, *words, "--synthetic", place.toy)


def test_pretrain_needs_synthetic_clips(place, tmp_path, capfd):
    words = ("train", "classifier", place.recipe, "--data", place.toy, "--out", tmp_path / "m", "--pretrain")
    assert "no --synthetic is given" in one_line_error(capfd, *words, 0.1)
    assert "pretrain is 1.0; expected a share" in one_line_error(capfd, *words, 1, "--synthetic", place.synthetic)
    assert not (tmp_path / "m").exists()


def test_predict_names_unknown_ids(place, capfd):
    words = ("predict", place.toy, "--model", place.model)
    error = one_line_error(capfd, *words, "--ids", "nobody")
    assert "has no clip 'nobody'" in error
    assert "top is 0" in one_line_error(capfd, *words, "--top", 0)


def test_an_unusable_output_folder(place, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    for words in (
        ("run", place.recipe, "--data", place.toy, "--out", tmp_path),
        ("run", place.recipe, "--data", place.toy, "--out", tmp_path / "file"),
        ("train", "generator", place.recipe, "--data", place.toy, "--out", tmp_path / "file"),
        ("data", "toy", tmp_path),
    ):
        assert str(tmp_path) in one_line_error(capfd, *words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_backend_that_cannot_run(place, capfd, monkeypatch):
    words = ("predict", place.toy, "--model", place.model)
    monkeypatch.setenv("HANDCRAFT_BACKEND", "fastest")
    assert "HANDCRAFT_BACKEND is 'fastest', expected one of auto" in one_line_error(capfd, *words)
    monkeypatch.setenv("HANDCRAFT_BACKEND", "mamba_ssm")
    assert "backend 'mamba_ssm'" in one_line_error(capfd, *words)


def test_an_error_that_is_no_ones_intention_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, ("doctor",), (lambda: {}["gone"], "", None))
    with pytest.raises(KeyError):
        cli.main(["doctor"])


def test_a_reader_that_has_had_enough(place):
    """`handcraft predict ... | head -1` leaves no complaint."""
    words = ["predict", str(place.toy), "--model", str(place.model), "--json"]
    code = "import sys; from handcraft.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *words]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.stdout.close()  # before it has printed anything
    assert started.stderr.read() == ""
    assert started.wait(timeout=60) == 0
