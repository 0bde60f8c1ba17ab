"""The command line: every command end to end on a tiny store, its exit codes, and its errors in one line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_recipe import one_line_error, run_cli, write_recipe, write_toy

from handcraft import cli
from handcraft.checkpoint import load
from handcraft.data.store import Store


class Place:
    """What the commands of this file share: a toy store, a recipe, and what was trained on them."""

    def __init__(self, folder):
        self.folder, self.recipe, self.toy = folder, write_recipe(folder), folder / "toy"
        self.generator, self.synthetic, self.model = folder / "generator", folder / "synthetic", folder / "model"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = Place(tmp_path_factory.mktemp("cli"))
    assert run_cli("data", "toy", found.toy, "--classes", 3, "--clips", 12, "--signers", 4) == 0
    data = ("--data", found.toy)
    assert run_cli("train", "generator", found.recipe, *data, "--out", found.generator) == 0
    made = ("--out", found.synthetic, "--per-class", 6)
    assert run_cli("generate", "--generator", found.generator, *data, *made) == 0
    pretraining = ("--synthetic", found.synthetic, "--pretrain", 0.3)
    assert run_cli("train", "classifier", found.recipe, *data, "--out", found.model, *pretraining, "--augment") == 0
    return found


def arrays(clips=12, classes=3, frames=20):
    """Arrays as `handcraft data import-arrays` takes them, a session in each four clips."""
    generator = np.random.default_rng(0)
    parts = {"pose": 33, "left_hand": 21, "right_hand": 21}
    found = {name: generator.uniform(0.2, 0.8, (clips, frames, n, 3)).astype("f4") for name, n in parts.items()}
    label = np.arange(clips) % classes
    return found | {
        "lengths": np.full(clips, frames),
        "y": label,
        "class_names": np.array([f"sign{c}" for c in range(classes)]),
        "session": np.array([f"day{i // 4}" for i in range(clips)]),
    }


def write_npz(path, **changes):
    np.savez(path, **{name: value for name, value in (arrays() | changes).items() if value is not None})
    return path


# What the commands make.


def test_data_toy_makes_the_store_it_was_asked_for(place, capfd):
    store = Store(place.toy)
    assert (len(store), len(store.classes), len(set(store.groups.tolist()))) == (36, 3, 4)
    assert "already holds a store" in one_line_error(capfd, "data", "toy", place.toy)
    assert "classes is 0" in one_line_error(capfd, "data", "toy", place.folder / "none", "--classes", 0)
    assert not (place.folder / "none").exists()


def test_data_check_tells_good_from_bad(place, tmp_path, capfd):
    assert run_cli("data", "check", place.toy) == 0
    assert "no problems" in capfd.readouterr().out
    bad = shutil.copytree(place.toy, tmp_path / "bad")
    with open(bad / "part-00000" / "landmarks.npy", "r+b") as file:
        file.seek(5000)
        file.write(b"\x01\x02\x03")
    assert run_cli("data", "check", bad) == 1
    assert "problem: " in capfd.readouterr().out
    # and no training starts on it
    words = ("train", "generator", place.recipe, "--data", bad, "--out", tmp_path / "out")
    assert "SHA-256" in one_line_error(capfd, *words)
    assert "SHA-256" in one_line_error(capfd, "run", place.recipe, "--data", bad, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_import_arrays_keeps_splits_and_groups(tmp_path, capfd):
    split = np.array(["train"] * 6 + ["test"] * 3 + ["unused"] * 3)
    file = write_npz(tmp_path / "a.npz", split=split)
    words = (file, tmp_path / "store", "--group", "session", "--fps", 30, "--licence", "CC0", "--aspect", 1.5)
    assert run_cli("data", "import-arrays", *words) == 0
    out = capfd.readouterr().out
    assert "9 clips of 3 classes" in out
    assert "left out: 3 clips marked neither train nor test" in out
    store = Store(tmp_path / "store")
    assert store.splits.tolist() == ["train"] * 6 + ["test"] * 3
    assert store.groups.tolist() == ["day0"] * 4 + ["day1"] * 4 + ["day2"]
    assert (store.manifest.fps, store.manifest.licence, store.manifest.aspect) == (30, "CC0", 1.5)
    assert run_cli("data", "check", tmp_path / "store") == 1  # day1 is in train and in test
    assert "split leak" in capfd.readouterr().out


def test_import_arrays_leaves_out_clips_without_landmarks_if_asked(tmp_path, capfd):
    found = arrays()
    for name in ("pose", "left_hand", "right_hand"):
        found[name][5] = np.nan
    file = write_npz(tmp_path / "a.npz", **found)
    error = one_line_error(capfd, "data", "import-arrays", file, tmp_path / "s")
    assert "a-00005" in error
    assert "leave_out_missing" in error
    assert not (tmp_path / "s").exists()
    assert run_cli("data", "import-arrays", file, tmp_path / "s", "--leave-out-missing") == 0
    assert "left out: 1 clips without a single landmark: a-00005" in capfd.readouterr().out
    assert len(Store(tmp_path / "s")) == 11


def test_both_twins_and_their_synthetic_store(place):
    twins = [load(place.generator / name) for name in ("forward", "reversed")]
    assert [twin.reverse for twin in twins] == [False, True]
    assert torch.equal(twins[0].statistics.mean, twins[1].statistics.mean)
    store = Store(place.synthetic)
    assert len(store) == 18
    assert np.bincount(store.labels).tolist() == [6, 6, 6]
    assert store.manifest.source["forward"] == twins[0].sha256
    origin = store.provenance_of(0)
    assert origin["reversed"] == twins[1].sha256
    assert origin["source"] in Store(place.toy).ids.tolist()


def test_classifier_starts_from_the_pretrained_weights(place):
    first, last = load(place.model / "pretraining", "last"), load(place.model / "classifier")
    assert first.step == 3  # 0.3 of the recipe's 10 steps
    assert (last.initial, last.augment.rotation, first.augment.rotation) == (first.sha256, 10.0, 0.0)


def test_train_takes_overrides_one_twin_and_a_draw(place, tmp_path, capfd):
    words = ("train", "generator", place.recipe, "--data", place.toy, "--out", tmp_path, "--twin", "reversed")
    override = ("--recipe.generator.train.steps", 2, "--seed", 3, "--clips-per-class", 2)
    assert run_cli(*words, *override) == 0
    assert "reversed: 2 steps" in capfd.readouterr().out
    found = load(tmp_path / "reversed")
    assert (found.train.steps, found.seed, len(found.seen_clips)) == (2, 3, 6)
    assert not (tmp_path / "forward").exists()


def test_train_mamba_without_pretraining_and_resume(place, tmp_path, capfd):
    words = ("train", "classifier", place.recipe, "--data", place.toy, "--out", tmp_path, "--model", "mamba")
    assert run_cli(*words) == 0
    assert load(tmp_path / "classifier").kind == "mamba_sl"
    assert not (tmp_path / "pretraining").exists()
    assert "resume it (--resume) or choose another folder" in one_line_error(capfd, *words)
    assert run_cli(*words, "--resume") == 0
    assert "train.lr was 0.01" in one_line_error(capfd, *words, "--resume", "--recipe.mamba.train.lr", 0.02)


def test_evaluate_scores_the_clips_that_training_held_out(place, tmp_path, capfd):
    files = ("--json", tmp_path / "e.json", "--confusion", tmp_path / "c.csv")
    assert run_cli("evaluate", place.model, "--data", place.toy, *files) == 0
    assert "'top1'" in capfd.readouterr().out
    figures = json.loads((tmp_path / "e.json").read_text())
    assert (figures["model"], figures["split"], figures["clips"]) == ("transformer_sl", "test", 9)
    assert figures["top1"] == pytest.approx(np.trace(figures["confusion"]) / 9)
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 4
    assert run_cli("evaluate", place.model / "classifier", "--data", place.toy, "--split", "all") == 0
    assert "'clips': 36" in capfd.readouterr().out


def test_evaluate_generators(place, tmp_path, capfd):
    assert run_cli("evaluate", place.generator, "--data", place.toy, "--json", tmp_path / "e.json") == 0
    out = capfd.readouterr().out
    assert "'repeat_last'" in out
    assert "per_landmark" not in out
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["clips"] == 9
    assert len(figures["forward"]["per_landmark"]) == 48
    one = ("evaluate", place.generator / "forward", "--data", place.toy)
    assert "give the folder that holds forward/ and reversed/" in one_line_error(capfd, *one)


def test_predict_prints_a_table_or_json_lines(place, capfd):
    ids = Store(place.toy).ids.tolist()
    assert run_cli("predict", place.toy, "--model", place.model, "--ids", ids[4], ids[1], "--top", 2, "--json") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [ids[4], ids[1]]
    assert all(len(row["top"]) == 2 for row in rows)
    assert rows[0]["top"][0]["probability"] >= rows[0]["top"][1]["probability"]
    assert run_cli("predict", place.toy, "--model", place.model / "classifier") == 0
    out = capfd.readouterr().out
    assert all(name in out for name in ids)
    assert "recognised as" in out


def test_run_ends_with_the_table_and_the_report(place, tmp_path, capfd, caplog):
    words = ("run", place.recipe, "--data", place.toy, "--out", tmp_path / "o", "--seeds", 1, "--clips-per-class", 3)
    short = [("--recipe.generator.train.steps", 1)]
    short += [(f"--recipe.{model}.train.steps", 2) for model in ("transformer", "mamba")]
    assert run_cli(*words, *(word for pair in short for word in pair)) == 0
    found = capfd.readouterr()
    assert "tiny: test split" in found.out
    assert "transformer_sl" in found.out
    assert found.out.splitlines()[-1] == f"report: {tmp_path / 'o' / 'report.md'}"
    assert "seed 0: linear, real: top-1" in caplog.text
    error = one_line_error(capfd, *words)
    assert "holds a run with another recipe.generator.train.steps (was 1, is 8)" in error


# Help and words that are no command.


def test_no_arguments_and_version_and_groups(capfd):
    assert run_cli() == 0
    overview = capfd.readouterr().out
    for words in cli.COMMANDS:
        assert f"handcraft {' '.join(words)}" in overview
    assert "recipes: demo" in overview
    assert run_cli("--help") == 0
    assert capfd.readouterr().out == overview
    assert run_cli("data", "--help") == 0
    part = capfd.readouterr().out
    assert "handcraft data check" in part
    assert "handcraft run" not in part
    assert run_cli("--version") == 0
    assert capfd.readouterr().out.startswith("handcraft 0.")
    assert "unknown command 'fly away'; known: run, data toy" in one_line_error(capfd, "fly", "away")
    assert "unknown command 'data'" in one_line_error(capfd, "data")


@pytest.mark.parametrize("words", cli.COMMANDS, ids=" ".join)
def test_every_command_has_help(words, capfd):
    assert run_cli(*words, "--help") == 0
    assert f"usage: handcraft {' '.join(words)}" in capfd.readouterr().out


def test_help_of_a_recipe_shows_its_values(place, capfd):
    assert run_cli("run", place.recipe, "--help") == 0
    out = capfd.readouterr().out
    assert "--recipe.synthetic-per-class" in out
    assert "(default: 6)" in out
    assert "Peak learning rate" in out


# What cannot be done is said in one line.


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
    assert "no --synthetic STORE is given" in one_line_error(capfd, *words, 0.1)
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
