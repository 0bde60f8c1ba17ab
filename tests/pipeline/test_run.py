"""The main job: what it writes, that it goes on where it was killed, and what it refuses."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_recipe import write_recipe, write_toy

from handcraft.checkpoint import load
from handcraft.config import Recipe
from handcraft.data.clips import load_clips
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import ConfigError, DataError
from handcraft.linear import linear_baseline
from handcraft.partition import partition
from handcraft.recipe import from_plain, load_recipe, to_plain
from handcraft.run import ARMS, _require_own, run

MODELS = {"transformer": "transformer_sl", "mamba": "mamba_sl"}


class Place:
    def __init__(self, folder):
        self.file, self.toy = write_recipe(folder), write_toy(folder / "toy")
        self.recipe: Recipe = load_recipe(self.file)
        self.out = folder / "out"
        self.metrics = run(self.recipe, self.toy, self.out, seeds=2, clips_per_class=4).metrics


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("run"))


def contents(folder):
    """Every file of a run with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_metrics_json_has_the_form_that_is_promised(place):
    metrics = json.loads((place.out / "metrics.json").read_text())
    assert metrics == place.metrics
    assert metrics["recipe"] == to_plain(place.recipe)
    assert metrics["recipe"]["name"] == "tiny"
    assert metrics["versions"]["torch"] == torch.__version__
    assert metrics["machine"]["threads"] == torch.get_num_threads()
    assert metrics["clips_per_class"] == 4
    found = [(row["seed"], row["model"], row["pretraining"], row["augmentation"]) for row in metrics["rows"]]
    arms = [("none", False), ("none", True), ("synthetic", False), ("synthetic", True)]
    models = [("linear", "none", False), *((name, *arm) for name in MODELS.values() for arm in arms)]
    assert found == [(seed, *model) for seed in (0, 1) for model in models]
    for row in metrics["rows"]:
        assert row["split"] == "test"
        assert row["clips"] == metrics["splits"][str(row["seed"])]["test"]["clips"] == 9
        for name in ("top1", "top5", "top10", "top1_macro", "top5_macro", "top10_macro", "macro_f1"):
            assert 0 <= row[name] <= 1
            assert "clips:test" in row["signatures"][name]
        generators = metrics["generators"][row["seed"]]
        assert generators["seed"] == row["seed"]
        assert row["mpjpe"] == (generators["mpjpe"] if row["pretraining"] == "synthetic" else None)
        assert "confusion" not in row
    zero, one = (metrics["splits"][seed] for seed in ("0", "1"))
    assert zero["test"] == one["test"]
    assert zero["train"]["hash"] != one["train"]["hash"]
    assert zero["train"]["clips"] + zero["valid"]["clips"] == 12
    assert len(zero["test_groups"]) == 1


def test_report_and_matrices_lie_beside_the_metrics(place):
    report = (place.out / "report.md").read_text()
    assert "| Mamba-SL | real + augmentation + synthetic pretraining | " in report
    assert "| repeat last | " in report
    page = (place.out / "report.html").read_text()
    shown = [number for number in range(9) if f'<figure class="player" data-clip="{number}"' in page]
    assert shown == [0, 1, 2, 3, 4, 5], "of each of three classes a synthetic clip beside a real one"
    assert re.sub(r"\s+", " ", re.search(r'<p class="lead">(.+?)</p>', page).group(1)) in html.escape(report)
    for model in MODELS:
        for arm in ARMS:
            assert clips_in(place.out / "seed-1" / model / arm / "confusion.csv") == 9


def clips_in(confusion):
    """How many clips a written confusion matrix counts."""
    lines = confusion.read_text().splitlines()
    return sum(int(value) for line in lines[1:] for value in line.split(",")[1:])


def test_every_row_names_the_folder_of_its_matrix(place):
    folders = {row["folder"] for row in place.metrics["rows"]}
    assert len(folders) == len(place.metrics["rows"])
    assert {"seed-0/linear", "seed-1/mamba/synthetic-augmentation"} <= folders
    for row in place.metrics["rows"]:
        file = place.out / row["folder"] / "confusion.csv"
        assert clips_in(file) == row["clips"]
        hits = np.loadtxt(file, delimiter=",", skiprows=1, usecols=(1, 2, 3)).diagonal().sum()
        assert hits / row["clips"] == pytest.approx(row["top1"])


def test_rows_come_from_the_best_checkpoint_of_their_arm(place):
    for row in place.metrics["rows"]:
        if row["model"] != "linear":
            model = next(name for name, kind in MODELS.items() if kind == row["model"])
            arm = next(
                name for name, arm in ARMS.items() if arm == (row["pretraining"] == "synthetic", row["augmentation"])
            )
            found = load(place.out / f"seed-{row['seed']}" / model / arm)
            assert (row["weights"], found.seed) == (found.sha256, row["seed"])
            assert (found.augment.rotation > 0) == row["augmentation"]


def test_the_synthetic_arms_share_the_pretrained_weights(place):
    for seed in (0, 1):
        for model in MODELS:
            folder = place.out / f"seed-{seed}" / model
            pretrained = load(folder / "pretraining", "last")
            assert pretrained.step == 2  # a fifth of ten
            assert pretrained.augment.rotation == 0
            initial = {arm: load(folder / arm, "last").initial for arm in ARMS}
            assert initial["synthetic"] == initial["synthetic-augmentation"] == pretrained.sha256 != ""
            assert initial["real"] == initial["augmentation"] == ""


def test_generators_and_classifiers_see_the_drawn_clips_alone(place):
    clips = load_clips(place.toy, place.recipe.preprocess)
    for seed in (0, 1):
        part = partition(clips, seed=seed, clips_per_class=4)
        assert np.bincount(clips.label[np.concatenate([part.train, part.valid])]).tolist() == [4, 4, 4]
        drawn = sorted(f"{int(digest):016x}" for digest in clips.digest[np.concatenate([part.train, part.valid])])
        folder = place.out / f"seed-{seed}"
        for twin in ("forward", "reversed"):
            assert list(load(folder / "generator" / twin).seen_clips) == drawn
        assert list(load(folder / "mamba" / "real").seen_clips) == drawn
        assert list(load(folder / "mamba" / "synthetic").seen_clips) == drawn
        synthetic = Store(folder / "synthetic")
        assert list(synthetic.manifest.seen_clips) == drawn
        assert len(synthetic) == 18
        sources = {synthetic.provenance_of(i)["source"] for i in range(len(synthetic))}
        assert sources <= set(clips.ids[part.train].tolist())


def test_the_linear_row_is_fitted_on_the_same_clips(place):
    store, clips = Store(place.toy), load_clips(place.toy, place.recipe.preprocess)
    for seed in (0, 1):
        part = partition(clips, seed=seed, clips_per_class=4)
        expected = linear_baseline(store, np.sort(np.concatenate([part.train, part.valid])), part.test)
        row = next(row for row in place.metrics["rows"] if (row["model"], row["seed"]) == ("linear", seed))
        assert row["top1"] == expected["top1"]
        assert row["macro_f1"] == expected["macro_f1"]


def test_a_finished_run_stays_as_it_is(place):
    before = contents(place.out)
    changed = {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    again = run(place.recipe, place.toy, place.out, seeds=2, clips_per_class=4)
    assert again.metrics == place.metrics
    assert (again.report, again.page) == (place.out / "report.md", place.out / "report.html")
    assert contents(place.out) == before
    assert {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")} == changed


def test_a_lost_report_or_synthetic_store_is_made_again(place, tmp_path):
    out = shutil.copytree(place.out, tmp_path / "out")
    (out / "report.html").unlink()
    (out / "metrics.json").write_text("{")
    frames = out / "seed-0" / "synthetic" / "part-00000" / "landmarks.npy"
    content = bytearray(frames.read_bytes())
    content[-1] ^= 1
    frames.write_bytes(content)
    manifest = out / "seed-1" / "synthetic" / "manifest.json"  # whole, but of other generators
    manifest.write_text(manifest.read_text().replace(load(out / "seed-1/generator/forward").sha256, "0" * 64))
    metrics = run(place.recipe, place.toy, out, seeds=2, clips_per_class=4).metrics
    assert metrics["rows"] == place.metrics["rows"]
    now, before = contents(out), contents(place.out)
    assert now.keys() == before.keys()
    differ = {name for name in now if now[name] != before[name]}
    assert differ <= {"seconds.json", "metrics.json", "report.md", "report.html"}


def test_more_seeds_go_on_from_the_first(place, tmp_path):
    one = run(place.recipe, place.toy, tmp_path / "out", seeds=1, clips_per_class=4)
    assert one.metrics["rows"] == [row for row in place.metrics["rows"] if row["seed"] == 0]
    weights = tmp_path / "out" / "seed-0" / "mamba" / "real" / "step-00000010" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    two = run(place.recipe, place.toy, tmp_path / "out", seeds=2, clips_per_class=4)
    assert two.metrics["rows"] == place.metrics["rows"]
    assert two.metrics["seconds"] > one.metrics["seconds"]
    assert weights.stat().st_mtime_ns == written


@pytest.mark.parametrize("where", ["transformer/pretraining", "mamba/augmentation"])
def test_killed_in_the_middle_and_continued_gives_the_same(place, tmp_path, where):
    """SIGKILL once a stage has begun; what is on disk then is whatever the kernel had."""
    out = tmp_path / "out"
    code = (
        "import sys; from handcraft.run import run; from handcraft.recipe import load_recipe; "
        "run(load_recipe(sys.argv[1]), sys.argv[2], sys.argv[3], seeds=1, clips_per_class=4)"
    )
    threads = str(torch.get_num_threads())  # another number of them may round otherwise
    words = [sys.executable, "-c", code, str(place.file), str(place.toy), str(out)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": threads})
    log, deadline = out / "seed-0" / where / "log.jsonl", time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (out / "metrics.json").exists()
    assert not (out / "seed-0" / "mamba" / "synthetic-augmentation" / "best.json").exists()
    metrics = run(place.recipe, place.toy, out, seeds=1, clips_per_class=4).metrics
    assert metrics["rows"] == [row for row in place.metrics["rows"] if row["seed"] == 0]
    assert metrics["generators"] == place.metrics["generators"][:1]
    expected = {name: file for name, file in contents(place.out).items() if name.startswith("seed-0/")}
    found = {name: file for name, file in contents(out).items() if name.startswith("seed-0/")}
    assert found == expected


def test_another_setting_is_refused_by_name(place):
    before = contents(place.out)

    def refused(match, recipe=place.recipe, data=place.toy, **options):
        with pytest.raises(ConfigError, match=match):
            run(recipe, data, place.out, **({"seeds": 2, "clips_per_class": 4} | options))

    changed = to_plain(place.recipe)
    changed["mamba"]["train"]["lr"] = 0.02
    refused(r"another recipe\.mamba\.train\.lr \(was 0\.01, is 0\.02\)", from_plain(Recipe, changed, "test"))
    refused(r"another clips_per_class \(was 4, is 5\)", clips_per_class=5)
    refused(r"another clips_per_class \(was 4, is None\)", clips_per_class=None)
    other = write_toy(place.out.parent / "other", seed=1)
    refused(r"another data\.hash", data=other)
    assert contents(place.out) == before


def test_a_run_from_before_a_field_came_is_the_same_run(place, tmp_path):
    """What its mark lacks had the default then."""
    settings = json.loads((place.out / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(settings))
    for part in ("generator", "transformer", "mamba"):
        del settings["recipe"][part]["train"]["ema"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/run.json").write_text(json.dumps(settings))
    now = json.loads((tmp_path / "run.json").read_text())
    _require_own(tmp_path / "old", now)
    now["recipe"]["mamba"]["train"]["ema"] = 0.5
    with pytest.raises(ConfigError, match=r"another recipe\.mamba\.train\.ema \(was 0\.0, is 0\.5\)"):
        _require_own(tmp_path / "old", now)


def test_what_cannot_work_leaves_no_mark(place, tmp_path):
    """So that the same folder serves the corrected call."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="seeds is 0"):
        run(place.recipe, place.toy, out, seeds=0)
    with pytest.raises(ConfigError, match="clips per class is 0"):
        run(place.recipe, place.toy, out, clips_per_class=0)
    single = write_toy(tmp_path / "single", clips=1)
    with pytest.raises(DataError, match="recorded in one group only"):
        run(place.recipe, single, out)
    with pytest.raises(ConfigError, match=r"pretrain is 1\.5"):
        run(replace(place.recipe, pretrain=1.5), place.toy, out)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        run(place.recipe, place.toy, out)
    assert contents(out) == {"notes.txt": b"mine"}


def shortened(recipe):
    """The recipe with a step or two of everything, and without pretraining."""

    def short(part, steps):
        return replace(part, train=replace(part.train, steps=steps))

    return replace(
        recipe,
        pretrain=0.0,
        generator=short(recipe.generator, 1),
        transformer=short(recipe.transformer, 2),
        mamba=short(recipe.mamba, 2),
    )


def test_without_pretraining_there_are_no_synthetic_arms(place, tmp_path):
    metrics = run(shortened(place.recipe), place.toy, tmp_path / "out", seeds=1, clips_per_class=2).metrics
    assert [row["pretraining"] for row in metrics["rows"]] == ["none"] * 5
    assert metrics["splits"]["0"]["valid"]["clips"] == 0  # two clips a class leave nothing to select by


def test_the_datas_own_split_is_kept(place, tmp_path):
    store = Store(place.toy)
    marks = np.array(["train", "train", "test", "train", "unused"])[np.arange(len(store)) % 5]
    manifest = store.manifest
    with StoreWriter(
        tmp_path / "marked", layout=manifest.layout, stage="raw", classes=manifest.classes, aspect=manifest.aspect
    ) as writer:
        for i in range(len(store)):
            split = str(marks[i])
            label, group = int(store.labels[i]), str(store.groups[i])
            writer.add(store.landmarks(i), id=str(store.ids[i]), label=label, group=group, split=split)
    metrics = run(shortened(place.recipe), tmp_path / "marked", tmp_path / "out", seeds=1).metrics
    split = metrics["splits"]["0"]
    assert split["how"] == "the data's own split; 7 clips marked neither train nor test are left out"
    assert split["test"]["clips"] == int((marks == "test").sum())
    assert split["train"]["clips"] + split["valid"]["clips"] == int((marks == "train").sum())
    assert split["test_groups"] == []  # every signer is in train too
