"""A recipe that trains in seconds and toy stores to train on, for the tests of commands and of the main job."""

import logging
import sys

import numpy as np
import pytest

from handcraft import cli
from handcraft.data.toy import make_toy

YAML = """\
description: Tiny
preprocess: {coordinates: xy}
generator:
  model: {context: 8, blocks: 1, embedding: 4}
  window: {frames: 16}
  train: {steps: 8, batch: 8, lr: 0.003, validate_every: 4, checkpoint_every: 3}
transformer:
  model: {frames: 16, tokens: frames, width: 8, layers: 1, heads: 2, mlp: 8, head: 16}
  window: {frames: 16}
  train: {steps: 10, batch: 8, lr: 0.01, validate_every: 5, checkpoint_every: 3}
  augment: {rotation: 10, scale: 0.1, subwindow: 0.8}
mamba:
  model: {frames: 16, tokens: frames, width: 8, state: 4, head: 16}
  window: {frames: 16}
  train: {steps: 10, batch: 8, lr: 0.01, validate_every: 5, checkpoint_every: 3}
  augment: {rotation: 10, scale: 0.1, subwindow: 0.8}
synthetic_per_class: 6
pretrain: 0.2
"""
CLASSES, CLIPS, SIGNERS = 3, 12, 4


def write_recipe(folder, text=YAML, name="tiny"):
    """The recipe's file."""
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write_toy(folder, **options):
    """A toy store of 36 clips without marks."""
    make_toy(folder, **({"classes": CLASSES, "clips": CLIPS, "signers": SIGNERS} | options))
    return folder


def run_cli(*words) -> int:
    """Exit code of `handcraft WORDS`, in this process; what it sets for logging does not outlive the call."""
    loggers = [logging.getLogger(name) for name in ("handcraft", "handcraft.kernels")]
    levels = [logger.level for logger in loggers]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert isinstance(ended.value.code, int), ended.value.code
    return ended.value.code


def one_line_error(capfd, *words) -> str:
    """The message of a command that must fail with exit code 2, in one line, without a traceback."""
    capfd.readouterr()
    code = run_cli(*words)
    sys.stdout.flush()
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("handcraft: "), err
    return lines[0]


class TrainedPlace:
    """A toy store, the recipe, and what the commands make of them: generators, synthetic clips, a classifier."""

    def __init__(self, folder):
        self.folder, self.recipe, self.toy = folder, write_recipe(folder), folder / "toy"
        self.generator, self.synthetic, self.model = folder / "generator", folder / "synthetic", folder / "model"
        data = ("--data", self.toy)
        assert run_cli("data", "toy", self.toy, "--classes", CLASSES, "--clips", CLIPS, "--signers", SIGNERS) == 0
        assert run_cli("train", "generator", self.recipe, *data, "--out", self.generator) == 0
        made = ("--out", self.synthetic, "--per-class", 6)
        assert run_cli("generate", "--generator", self.generator, *data, *made) == 0
        words = ("--out", self.model, "--synthetic", self.synthetic, "--pretrain", 0.3, "--augment")
        assert run_cli("train", "classifier", self.recipe, *data, *words) == 0


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
