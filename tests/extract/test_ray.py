"""Extraction on Ray, on this machine: the files that are kept are those of the local form, byte for byte."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from downloads import write_video
from grey_detector import Deadly, Fatal, Grey

pytest.importorskip("ray.data", reason="ray is not installed")

from handcraft.errors import ConfigError
from handcraft.extract import pool
from handcraft.extract.kept import Task
from handcraft.extract.landmarker import Settings
from handcraft.extract.ray import run_tasks
from handcraft.extract.worker import ClipSource

SETTINGS = Settings(keep="holistic75")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One cluster of this machine for all tests here: starting one takes seconds."""
    import ray

    here = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {"env_vars": {"PYTHONPATH": here}}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    yield
    ray.shutdown()


def tasks_of(folder, results, greys=(40, 90, 0, 160)):
    """Tasks of tiny videos, and one of a file that is none."""
    folder.mkdir(exist_ok=True)
    results.mkdir()
    tasks = []
    for number, grey in enumerate(greys):
        path = folder / f"{number}.mov"
        if not path.exists():
            write_video(path, np.full((3 + number, 24, 32, 3), grey, np.uint8))
        tasks.append(Task(ClipSource(path, f"clip{number}", "sign", end=9.0), results / f"{number}.npz"))
    broken = folder / "broken.mov"
    broken.write_text("no video")
    return [*tasks, Task(ClipSource(broken, "broken", "sign"), results / "broken.npz")]


def told(events, tasks):
    """What is said of each task at its end, without the folder of its results."""
    return {event.task: (event.kind, event.reason) for event in events if event.kind != "frames"}


def test_the_same_bytes_as_without(tmp_path):
    local = tasks_of(tmp_path / "videos", tmp_path / "local")
    away = tasks_of(tmp_path / "videos", tmp_path / "away")
    events = list(run_tasks(away, SETTINGS, 1, detector=Grey))
    assert told(events, away) == told(pool.run_tasks(local, SETTINGS, 1, tmp_path, detector=Grey), local)
    assert sum(event.frames for event in events) == 3 + 4 + 5 + 6
    for one, other in zip(local[:-1], away[:-1], strict=True):
        assert one.file.read_bytes() == other.file.read_bytes()
    assert sorted(path.name for path in (tmp_path / "away").iterdir()) == ["0.npz", "1.npz", "2.npz", "3.npz"]


def test_a_detector_that_cannot_run(tmp_path):
    with pytest.raises(ConfigError, match="the models are gone"):
        list(run_tasks(tasks_of(tmp_path / "videos", tmp_path / "away"), SETTINGS, 1, detector=Fatal))


def test_a_process_that_dies_costs_its_clip(tmp_path):
    tasks = tasks_of(tmp_path / "videos", tmp_path / "away", greys=(40, 250))
    found = told(run_tasks(tasks, SETTINGS, 1, detector=Deadly), tasks)
    assert {number: kind for number, (kind, _) in found.items()} == {0: "done", 1: "failed", 2: "failed"}
    assert found[1][1] == "the process that worked on it ended with code 7"


def test_machines_of_other_versions_do_not_mix(tmp_path, monkeypatch):
    """This process says that it has version 2, the cluster that it has version 1."""
    monkeypatch.setattr("handcraft.extract.ray._identity", lambda settings, detector: "version 2")
    with pytest.raises(ConfigError, match=r'detects with \{"backend": "grey", "version": 1\}, this one with version 2'):
        list(run_tasks(tasks_of(tmp_path / "videos", tmp_path / "away"), SETTINGS, 1, detector=Grey))
    assert not list((tmp_path / "away").iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'handcraft\[extract,ray\]'"):
        next(run_tasks([], SETTINGS, 1))
