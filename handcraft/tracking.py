"""Where a training says how it goes: always a file of JSON lines, on request TensorBoard's event files beside it."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from handcraft.errors import ConfigError, TrainingError
from handcraft.files import atomic_path

LOG = "log.jsonl"
EVENTS = "tensorboard"

Track = Literal["tensorboard"]


class Tracker(Protocol):
    """Takes the record of each step: `step`, `loss`, `grad_norm`, `lr`, and where it was validated `validation`."""

    def record(self, record: dict) -> None: ...

    def flush(self) -> None:
        """Come back when all records are on the disk."""

    def close(self) -> None: ...


class JsonLines:
    """A line a step in `path`, continued behind the record of `step`: a killed run may have logged steps after its last
    checkpoint, which are cut off. `TrainingError` if a step up to there is missing."""

    def __init__(self, path: Path, step: int):
        lines = path.read_bytes().splitlines(keepends=True)[:step] if path.exists() else []
        for number in range(1, step + 1):
            if number > len(lines) or _logged_step(lines[number - 1]) != number:
                raise TrainingError(
                    f"{path}: line {number} is not the record of step {number}; restore the folder of this training "
                    "from a copy, or delete it to train anew"
                )
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(lines))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 closed by `close`; no buffer: nothing is left to fail there

    def record(self, record: dict) -> None:
        rest = (json.dumps(record, allow_nan=False) + "\n").encode()
        while rest:  # a full disk takes a part, and says so the next time
            rest = rest[self.file.write(rest) :]

    def flush(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """The numbers of each step as scalars for TensorBoard; what an earlier call wrote behind `step` is not shown."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder, purge_step=step + 1 if step else None)

    def record(self, record: dict) -> None:
        for name, value in record.items():
            scalars = (
                {f"{name}/{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
            )
            for tag, scalar in scalars.items():
                if tag != "step":
                    self.writer.add_scalar(tag, scalar, record["step"])

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def require(track: Track | None) -> None:
    """`ConfigError` for a tracker that is not known or not installed."""
    if track not in (None, "tensorboard"):
        raise ConfigError(f"track is {track!r}; expected tensorboard")
    if track and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--track tensorboard needs a package that is not installed: pip install 'handcraft[tensorboard]'"
        )


@contextlib.contextmanager
def opened(out: Path, step: int, track: Track | None) -> Iterator[list[Tracker]]:
    """The trackers of a training in the folder `out` that has done `step` steps, until the block ends."""
    with contextlib.ExitStack() as open_ones:
        trackers: list[Tracker] = [JsonLines(out / LOG, step)]
        open_ones.callback(trackers[0].close)
        if track:
            trackers.append(TensorBoard(out / EVENTS, step))
            open_ones.callback(trackers[1].close)
        yield trackers


def _logged_step(line: bytes) -> int | None:
    """The step that a line of the log records; None for anything else."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
