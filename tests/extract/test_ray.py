"""Extraction on Ray, on this machine: the files that are kept are those of the local form, byte for byte."""

import os
import sys
from pathlib import Path

import pytest
from fake_landmarker import BLACK, BLUE, GREEN, RED, Dots, video

pytest.importorskip("ray.data", reason="needs the extra ray", exc_type=ImportError)

from handcraft.errors import ConfigError
from handcraft.extract import pool
from handcraft.extract.kept import Task
from handcraft.extract.landmarker import Settings
from handcraft.extract.ray import run_tasks
from handcraft.extract.worker import ClipSource

SETTINGS = Settings(keep="holistic75")


class Fatal(Dots):
    """Cannot run anywhere."""

    def __init__(self, settings):
        raise ConfigError("the models are gone")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One cluster of this machine for all tests here: starting one takes seconds."""
    import ray

    folders = [*map(str, (Path(__file__).parent, Path(__file__).parents[1])), os.environ.get("PYTHONPATH", "")]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(folders)}}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    yield
    ray.shutdown()


def tasks_of(folder, results, colours=(RED, BLACK, BLUE, GREEN, RED)):
    """Tasks of small videos, of 3, 4, ... frames, and one of a file that is no video."""
    results.mkdir()
    tasks = []
    for number, colour in enumerate(colours):
        path = folder / f"{number}.mp4"
        if not path.exists():
            video(path, frames=3 + number, colour=colour)
        tasks.append(Task(ClipSource(path, f"clip{number}", "sign", end=0.9), results / f"{number}.npz"))
    broken = folder / "broken.mp4"
    broken.write_text("no video")
    return [*tasks, Task(ClipSource(broken, "broken", "sign"), results / "broken.npz")]


def told(events, tasks):
    """What is said of each task at its end, without the folder of its results."""
    return {event.task: (event.kind, event.reason) for event in events if event.kind != "frames"}


def test_the_same_as_without(tmp_path):
    """The same bytes are kept, and the same is said of what failed, of a process that died, too."""
    local = tasks_of(tmp_path / "videos", tmp_path / "local")
    away = tasks_of(tmp_path / "videos", tmp_path / "away")
    events = list(run_tasks(away, SETTINGS, 1, detector=Dots))
    found = told(events, away)
    assert found == told(pool.run_tasks(local, SETTINGS, 1, tmp_path, detector=Dots), local)
    assert [found[number][0] for number in range(6)] == ["done", "done", "failed", "failed", "done", "failed"]
    assert "ended with code 7" in found[3][1]
    assert sum(event.frames for event in events if event.kind == "done") == 3 + 4 + 7
    for number in (0, 1, 4):
        assert local[number].file.read_bytes() == away[number].file.read_bytes()
    assert sorted(path.name for path in (tmp_path / "away").iterdir()) == ["0.npz", "1.npz", "4.npz"]


def test_a_detector_that_cannot_run(tmp_path):
    with pytest.raises(ConfigError, match="the models are gone"):
        list(run_tasks(tasks_of(tmp_path / "videos", tmp_path / "away", [RED]), SETTINGS, 1, detector=Fatal))


def test_machines_of_other_versions_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr("handcraft.extract.ray._identity", lambda settings, detector: "another")
    with pytest.raises(ConfigError, match=r'detects with \{"backend": "dots", .*\}, this one with another'):
        list(run_tasks(tasks_of(tmp_path / "videos", tmp_path / "away", [RED]), SETTINGS, 1, detector=Dots))
    assert not list((tmp_path / "away").iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'handcraft\[extract,ray\]'"):
        next(run_tasks([], SETTINGS, 1))
