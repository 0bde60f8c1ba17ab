"""The stand-in for LSFB: its sizes, its store, and how a whole training is extrapolated."""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_clips import small_recipe, small_task

from handcraft.data.store import Store
from handcraft.engine import train

_FILE = Path(__file__).parents[2] / "benchmarks" / "stand_in.py"
_SPEC = importlib.util.spec_from_file_location("stand_in", _FILE)
stand_in = sys.modules["stand_in"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stand_in)


def test_sizes_are_those_of_lsfb():
    sizes = stand_in.class_sizes(65_000, 610, 1514)
    assert (len(sizes), sizes.sum(), sizes[0], sizes[-1]) == (610, 65_000, 1514, 1)
    assert (sizes >= 1).all()
    assert (sizes <= 1514).all()
    assert np.median(sizes) < sizes.mean() / 2, "long-tailed"
    with pytest.raises(ValueError, match="no 10 classes of 1 to 5 clips have 1000"):
        stand_in.class_sizes(1000, 10, 5)


def test_the_store_has_these_clips_and_is_the_same_for_a_seed(tmp_path):
    sizes = np.array([9, 4, 1])
    for name in ("a", "b"):
        stand_in.write_store(tmp_path / name, sizes)
    store = Store(tmp_path / "a")
    assert np.bincount(store.labels).tolist() == [9, 4, 1]
    assert store.frames.min() >= stand_in.SHORTEST
    assert store.frames.max() <= stand_in.LONGEST
    assert {store.splits[i] for i in np.flatnonzero(store.labels == 2)} == {"train"}
    assert sum(store.splits == "test") == 3
    assert store.manifest.layout == "holistic87"
    assert (Store(tmp_path / "b").digests == store.digests).all()
    assert len(set(store.digests.tolist())) == 14, "no clip is a copy of another"


def test_a_whole_training_is_set_up_and_steps_and_validations(tmp_path, monkeypatch):
    stages, recipe = stand_in.Stages(), small_recipe("cmlpe", steps=4, validate_every=4)
    task = small_task("cmlpe", recipe=recipe)
    stages.training("training", recipe, 4, 400, 2, lambda: train(task, tmp_path / "run"))
    (stage,) = stages.found
    assert stage.full == "2 x 400 steps"
    assert 2 * 400 * stage.step_seconds <= stage.full_seconds
    assert stage.full_seconds <= 2 * (stage.seconds + 400 * stage.step_seconds + 100 * stage.seconds)
    stages("nothing", "1 clip", lambda: time.sleep(0.01), times=3)
    assert stages.found[1].full_seconds == 3 * stages.found[1].seconds >= 0.03
    assert stand_in.markdown(stages.found).count("\n") == 4
