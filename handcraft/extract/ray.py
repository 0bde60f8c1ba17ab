"""Clips extracted by a Ray cluster: what `pool` does on one machine, mapped by Ray Data over all of them.

Needs the extra `ray`. Where `RAY_ADDRESS` names a cluster, that one is used; otherwise one is started on this machine
for as long as it takes. Videos must lie under the same paths on every machine. Results come back through Ray and are
kept here, where the store is written: the same bytes as without Ray, whichever machine did what.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from handcraft.errors import ConfigError, HandcraftError
from handcraft.extract.kept import Task
from handcraft.extract.landmarker import Detector, Settings, detector_of
from handcraft.extract.pool import Event
from handcraft.extract.pool import run_tasks as run_here
from handcraft.extract.worker import ClipSource
from handcraft.files import atomic_path

CHUNKS, LARGEST_CHUNK = 64, 16
"""How many runs of clips the list is divided into at least, so that no machine waits long for the last, and the most
clips of one: starting a detector's process takes as long as a clip."""


def run_tasks(
    tasks: Sequence[Task], settings: Settings, workers: int, detector: Detector | None = None
) -> Iterator[Event]:
    """Work on the tasks with at most so many of the cluster's cores at a time; events as in `pool`.

    `ConfigError`: Ray is not installed, there is no cluster at RAY_ADDRESS, or one of its machines cannot run the
    detector, or only another version of it.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of ours
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        size = min(LARGEST_CHUNK, -(-len(tasks) // CHUNKS))
        rows = [
            {
                "chunk": json.dumps(
                    [(number, _plain(tasks[number].source)) for number in range(len(tasks))[first : first + size]]
                )
            }
            for first in range(0, len(tasks), size)
        ]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
            _chunk,
            fn_kwargs={"settings": settings, "detector": detector},
            compute=ray.data.TaskPoolStrategy(size=workers),
            num_cpus=1,
        )
        own = _identity(settings, detector)
        for row in done.iter_rows():
            if row["kind"] == "fatal":
                raise ConfigError(f"machine {row['machine']}: {row['reason']}")
            if row["identity"] != own:
                raise ConfigError(
                    f"machine {row['machine']} detects with {row['identity']}, this one with {own}; a store holds the "
                    "landmarks of one detector: install the same on all machines"
                )
            if row["kind"] == "done":
                with atomic_path(tasks[row["task"]].file) as temporary:
                    temporary.write_bytes(row["content"])
            yield Event(row["kind"], row["task"], frames=row["frames"], reason=row["reason"])
    finally:
        if started:
            ray.shutdown()


def _chunk(row: Mapping[str, Any], settings: Settings, detector: Detector | None) -> list[dict[str, Any]]:
    """Some clips, on whichever machine: what became of each, and the bytes that are to be kept."""
    numbered = json.loads(row["chunk"])
    machine = os.uname().nodename
    made = {"machine": machine, "task": -1, "frames": 0, "content": b"", "identity": "", "reason": ""}
    try:
        made["identity"] = _identity(settings, detector)
        with tempfile.TemporaryDirectory() as folder:
            tasks = [
                Task(ClipSource(**plain | {"path": Path(plain["path"])}), Path(folder, f"{number}.npz"))
                for number, plain in numbered
            ]
            frames, rows = [0] * len(tasks), []
            for event in run_here(tasks, settings, 1, Path(folder), detector):
                frames[event.task] += event.frames
                if event.kind != "frames":
                    ended = {"kind": event.kind, "reason": event.reason, "task": numbered[event.task][0]}
                    content = tasks[event.task].file.read_bytes() if event.kind == "done" else b""
                    rows.append({**made, **ended, "frames": frames[event.task], "content": content})
            return rows
    except HandcraftError as error:
        return [{**made, "kind": "fatal", "reason": str(error)}]


@cache
def _identity(settings: Settings, detector: Detector | None) -> str:
    """What detects here, in words to be compared."""
    return json.dumps(dict((detector or detector_of(settings)).describe(settings)), sort_keys=True)


def _plain(source: ClipSource) -> dict[str, Any]:
    return asdict(source) | {"path": os.path.abspath(source.path)}


def _ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers; 1 lets it
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"extraction on Ray needs its package: pip install 'handcraft[extract,ray]' ({error})"
        ) from None
    return ray


def _connect(ray) -> None:
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **({} if address else {"include_dashboard": False}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at RAY_ADDRESS={address or ''}: {error}") from None
