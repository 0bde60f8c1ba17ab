"""A finished run as the reports see it, made without training: figures, logs, confusion matrices, synthetic clips."""

import json

import numpy as np
import torch
from small_clips import PREPROCESS, small_clips

from handcraft.config import Recipe, WindowConfig
from handcraft.data.preprocess import signature
from handcraft.data.store import StoreWriter
from handcraft.data.window import windows
from handcraft.metrics.accuracy import write_confusion
from handcraft.recipe import to_plain

SIZES = {"train": 20, "valid": 4, "test": 12}
ARMS = {
    "real": ("none", False),
    "augmentation": ("none", True),
    "synthetic": ("synthetic", False),
    "synthetic-augmentation": ("synthetic", True),
}
TOP1 = {"real": 0.5, "augmentation": 0.7, "synthetic": 0.6, "synthetic-augmentation": 0.8}
STEPS = 20


def row(model, seed, top1, folder, pretraining="none", augmentation=False):
    scores = {"top1": top1, "top5": 1.0, "top1_macro": top1 / 2, "signatures": {"top1": "top1|v1"}}
    arm = {"model": model, "pretraining": pretraining, "augmentation": augmentation}
    return arm | {"seed": seed, "folder": f"seed-{seed}/{folder}"} | scores


def generator(seed, mpjpe):
    margin = {"share": 0.5 + seed / 4, "median": 0.25, "worst": 1.0}
    baseline = {
        "mpjpe": 2 * mpjpe,
        "frame_error": 8.0,
        "forward": {"margin": margin},
        "reversed": {"margin": {**margin, "share": 0.75}},
    }
    return {
        "seed": seed,
        "mpjpe": mpjpe,
        "frame_error": 4.0,
        "baselines": {"repeat_last": baseline},
        "splice_jump": {"generated": 0.2, "real": 0.1},
        "signatures": {"mpjpe": "mpjpe|v1"},
    }


def figures(seeds=2, *, classes=("a", "b"), pretraining=True, **changes):
    """`metrics.json`: a linear model of top-1 0.5, and Mamba-SL in all arms, whose "real" gains 0.2 a seed."""
    split = {name: {"clips": size, "hash": "0123456789abcdef"} for name, size in SIZES.items()}
    rows = []
    for seed in range(seeds):
        rows.append(row("linear", seed, 0.5, "linear"))
        for name, arm in ARMS.items():
            if pretraining or arm[0] == "none":
                top1 = TOP1[name] + (0.2 * seed if name == "real" else 0)
                rows.append(row("mamba_sl", seed, top1, f"mamba/{name}", *arm))
    return {
        "rows": rows,
        "generators": [generator(seed, 1.0 + seed) for seed in range(seeds)],
        "recipe": to_plain(Recipe(name="tiny", description="Tiny")),
        "clips_per_class": None,
        "data": {"clips": 36, "hash": "fedcba9876543210", "classes": list(classes)},
        "data_source": {"path": "/home/me/signs", "source": {}, "licence": None},
        "seeds": seeds,
        "seconds": 12.3,
        "splits": {str(seed): {"how": "whole groups held out", "test_groups": ["x"], **split} for seed in range(seeds)},
        "machine": {
            "processor": "Abacus 9000",
            "cores": 2,
            "threads": 1,
            "memory_gb": 7.8,
            "gpus": [],
            "system": "Linux 6.1 x86_64",
        },
        "versions": {"torch": "9.9"},
    } | changes


def write_log(folder, validation="top1", every=5):
    """A training of `STEPS` steps with loss 1 / step, validated every 5 of them (0: never) at step / 100."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, STEPS + 1):
        record = {"step": step, "loss": 1 / step, "grad_norm": 1.0, "lr": 0.1}
        if every and step % every == 0:
            record["validation"] = {validation: step / 100}
        lines.append(json.dumps(record) + "\n")
    (folder / "log.jsonl").write_text("".join(lines))


def confusions(classes, seed, clips=10):
    """A matrix of `clips` test clips a class, of which up to three are taken for another class, as `seed` says."""
    draw, every = np.random.default_rng(seed), np.arange(classes)
    wrong = draw.integers(0, 4, classes)
    matrix = np.diag(clips - wrong)
    matrix[every, (every + draw.integers(1, classes, classes)) % classes] += wrong
    return torch.from_numpy(matrix)


def write_run(folder, seeds=2, *, classes=3, names=None, pretraining=True, every=5, mode="resample", **changes):
    """The folder of a run, and what its report is made of: its `metrics.json` and the clips in memory."""
    clips = small_clips(classes=classes, per_class=2)
    names = tuple(names or (f"sign{c:03d}" for c in range(classes)))
    object.__setattr__(clips, "classes", names)
    metrics = figures(seeds, classes=names, pretraining=pretraining, **changes)
    metrics["recipe"]["generator"]["window"]["mode"] = mode
    for number, entry in enumerate(metrics["rows"]):
        place = folder / entry["folder"]
        write_confusion(place / "confusion.csv", confusions(classes, number), names)
        if entry["model"] != "linear":
            write_log(place, every=every)
        if entry["pretraining"] == "synthetic":
            write_log(place.parent / "pretraining", every=0)
    for seed in range(seeds):
        for twin in ("forward", "reversed"):
            write_log(folder / f"seed-{seed}" / "generator" / twin, "mpjpe", every=every)
    write_synthetic(folder / "seed-0" / "synthetic", clips, WindowConfig(mode=mode))
    return metrics, clips


def write_synthetic(path, clips, window):
    """A store that says it was generated from `clips`: their windows moved a little, in another order."""
    options = {"layout": clips.layout, "stage": "centred", "coordinates": "xy", "dtype": np.float16}
    source = {"command": "generate", "seed": 0}
    with StoreWriter(
        path, classes=clips.classes, preprocessing=signature(PREPROCESS), source=source, **options
    ) as writer:
        for number, place in enumerate(reversed(range(len(clips)))):
            x, valid = windows(clips, torch.tensor([place]), window)
            writer.add(
                x[0][valid[0]].numpy() + 0.01,
                id=f"s0-{number:09d}",
                label=int(clips.label[place]),
                split="train",
                provenance={"source": str(clips.ids[place]), "clip_id": number},
            )
