"""The command line: every command end to end on a tiny store, and its help."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from tiny_recipe import TrainedPlace, arrays, one_line_error, run_cli, write_npz

from handcraft import cli
from handcraft.checkpoint import load
from handcraft.data.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return TrainedPlace(tmp_path_factory.mktemp("cli"))


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
    assert "left out: 1 clip without a single landmark: a-00005" in capfd.readouterr().out
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


def test_pretraining_on_clips_of_generators_and_frames_from_files(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDCRAFT_CLIP_CACHE", str(tmp_path / "cache"))
    words = ("train", "classifier", place.recipe, "--data", place.toy, "--synthetic", f"online:{place.generator}")
    for residence in ("auto", "mapped"):
        assert run_cli(*words, "--out", tmp_path / residence, "--residence", residence) == 0
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    twins = tuple(load(place.generator / name).sha256 for name in ("forward", "reversed"))
    for name in ("pretraining", "classifier"):
        near, far = (load(tmp_path / residence / name, "last") for residence in ("auto", "mapped"))
        assert near.generators == far.generators == twins
        assert near.sha256 == far.sha256
    assert run_cli(*words, "--out", tmp_path / "auto", "--resume") == 0


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
    assert "resume it, or choose another folder" in one_line_error(capfd, *words)
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
    assert "Transformer-SL" in found.out
    assert found.out.splitlines()[-1] == f"report: {tmp_path / 'o' / 'report.html'} (and report.md beside it)"
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
    assert run_cli("data", "prepare", "--help") == 0
    part = capfd.readouterr().out
    assert "handcraft data prepare include" in part
    assert "handcraft data check" not in part
    assert "unknown command 'fly away'; known: run, extract, data toy" in one_line_error(capfd, "fly", "away")
    assert "unknown command 'data fly'; known: data toy, data check" in one_line_error(capfd, "data", "fly", "--help")
    assert "known: train generator, train classifier" in one_line_error(capfd, "train")
    assert "unknown command '--bogus'" in one_line_error(capfd, "--bogus")


# An option, what it takes, and at once its default: {a,b}, {None}|INT, DIR, [STR [STR ...]].
UNSAID = re.compile(
    r"--[\w.-]*\w(?:, --[\w.-]+)?(?: (?:\{[^}]*\}(?:\|[A-Z]+)?|[A-Z][A-Z|:]*|\[[^(]*\]))? \((?:default|required)[^)]*\)"
)


@pytest.mark.parametrize("words", cli.COMMANDS, ids=" ".join)
def test_every_command_has_help(words, capfd):
    assert run_cli(*words, "--help") == 0
    out = capfd.readouterr().out
    assert f"usage: handcraft {' '.join(words)}" in out
    plain = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    assert not UNSAID.findall(plain), "options without a word on what they do"


def test_help_of_a_recipe_shows_its_values(place, capfd):
    assert run_cli("run", place.recipe, "--help") == 0
    out = capfd.readouterr().out
    assert "--recipe.synthetic-per-class" in out
    assert "(default: 6)" in out
    assert "Peak learning rate" in out
