"""The one training loop. What is trained is a task object (`handcraft.tasks`); the loop owns order, files and resuming.

A run's folder holds `log.jsonl` (one line a step), its best and last checkpoint and `best.json`. Everything random is
either a function of (seed, step) or drawn from torch's generator, whose state every checkpoint carries; so a run that
was killed at any moment and resumed equals the uninterrupted one bit for bit, log included (DESIGN 4.4.9), on the
same machine with the same number of threads.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from handcraft import checkpoint as checkpoints
from handcraft.checkpoint import Checkpoint
from handcraft.config import TrainConfig
from handcraft.errors import CheckpointError, TrainingError
from handcraft.files import TEMPORARY, atomic_path
from handcraft.optim import build_optimizer, build_schedule
from handcraft.words import some

LOG = "log.jsonl"
LOCK = ".lock"
_REMEDY = "restore the folder of this training from a copy, or delete it to train anew"
_STATE = {
    "fingerprint": dict,
    "optimizer": dict,
    "schedule": dict,
    "random": torch.Tensor,
    "best_step": int,
    "best_metrics": dict | None,
    "metrics": dict | None,
}
"""What a checkpoint's resume state holds, see `_Run._save`."""


class Task(Protocol):
    """What the loop asks of the thing it trains."""

    name: str
    """For the progress bar and messages."""
    model: nn.Module
    config: TrainConfig
    seed: int
    steps: int
    """Length of the run."""

    def loss(self, step: int) -> torch.Tensor:
        """Training loss of batch `step`, a scalar; the batch is a function of (seed, step)."""

    def blame(self, step: int | None) -> list[str]:
        """Ids of the clips that made the loss of batch `step`, or the validation (None), non-finite."""

    def validate(self) -> dict[str, float] | None:
        """Metrics on the validation clips, unaugmented, without noise or gradients; None if there is none."""

    def rank(self, metrics: dict[str, float]) -> tuple[float, ...]:
        """Sort key of validation metrics; the smallest is the best."""

    def checkpoint(self) -> Checkpoint:
        """The model with all that describes it; step and metrics are filled in by the loop."""

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that a resumed run must share with the run it continues."""


@dataclass(frozen=True)
class Trained:
    """A finished run: its checkpoints' folders, its length, and the validation metrics of both, if validated."""

    best: Path
    last: Path
    steps: int
    best_metrics: dict[str, float] | None
    last_metrics: dict[str, float] | None


def train(task: Task, out: Path | str, *, resume: bool = False, progress: bool | None = None) -> Trained:
    """Train `task` for `task.steps` steps into the folder `out`.

    resume: continue from the last checkpoint in `out` (from the start if there is none yet; a finished run returns at
    once). Without it, `out` must not hold a run. progress: show a bar with the time left; by default where stderr is
    a terminal. Torch's global random state is the same before and after.

    `TrainingError`: the loss or a gradient is not finite (naming clips; earlier checkpoints stay), another process
    trains in `out`, `out` holds a run, or the run to be resumed was started with other settings or data or has lost
    lines of its log. `CheckpointError`: the checkpoint to resume from is damaged.
    """
    out = Path(out)
    _check(task.config)
    with _locked(out), torch.random.fork_rng(devices=[]):
        return _Run(task, out, resume, progress).go()


class _Run:
    """State of the loop between two steps: exactly what `save` writes and `_restore` reads."""

    def __init__(self, task: Task, out: Path, resume: bool, progress: bool | None):
        self.task, self.out = task, out
        self.progress = sys.stderr.isatty() if progress is None else progress
        steps = checkpoints.list_steps(out)
        if not resume and (steps or (out / LOG).exists()):
            raise TrainingError(f"{out}: holds a run already; resume it (--resume) or choose another folder")
        self.step, self.best_step = 0, -1
        self.metrics: dict[str, float] | None = None
        self.best_metrics: dict[str, float] | None = None
        for leftover in out.glob(f"{TEMPORARY}*"):  # of a killed process: the lock says nobody writes here
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self.optimizer = build_optimizer(task.model, task.config)
        self.schedule = build_schedule(self.optimizer, task.config, task.steps)
        torch.default_generator.manual_seed(task.seed)  # dropout
        if steps:
            self._restore(checkpoints.step_folder(out, steps[-1]))

    def go(self) -> Trained:
        task, config = self.task, self.task.config
        parameters = list(task.model.parameters())
        bar = tqdm(total=task.steps, initial=self.step, desc=task.name, unit="step", disable=not self.progress)
        with bar, _open_log(self.out / LOG, self.step) as log:
            task.model.train()
            while self.step < task.steps:
                loss = task.batch_loss(task.batch(self.step))
                loss.backward()
                norm = clip_grad_norm_(parameters, config.clip_norm or math.inf, foreach=True)
                value, size = torch.stack([loss.detach(), norm]).tolist()
                if not (math.isfinite(value) and math.isfinite(size)):
                    raise self._not_finite(f"loss {value}, gradient norm {size}", task.blame(self.step))
                record = {"step": self.step + 1, "loss": value, "grad_norm": size, "lr": self.schedule.get_last_lr()[0]}
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.schedule.step()
                self.step += 1
                finished = self.step == task.steps
                improved, self.metrics = False, None
                if finished or self.step % config.validate_every == 0:
                    improved = self._validate()
                if self.metrics is not None:
                    record["validation"] = self.metrics
                log.write(json.dumps(record, allow_nan=False) + "\n")
                if finished or improved or self.step % config.checkpoint_every == 0:
                    log.flush()
                    os.fsync(log.fileno())  # a checkpoint never lies ahead of the log
                    self._save()
                bar.update()
                if self.progress and self.step % 10 == 0:
                    bar.set_postfix(loss=f"{value:.4g}", refresh=False)
        folder = checkpoints.step_folder
        return Trained(
            folder(self.out, self.best_step), folder(self.out, self.step), self.step, self.best_metrics, self.metrics
        )

    def _validate(self) -> bool:
        """Validate; True if this step is the best so far."""
        self.task.model.eval()
        self.metrics = self.task.validate()
        self.task.model.train()
        if self.metrics is None:
            return False
        if not all(math.isfinite(value) for value in self.metrics.values()):
            raise self._not_finite(f"validation {self.metrics}", self.task.blame(None))
        rank = self.task.rank
        if self.best_metrics is not None and rank(self.metrics) >= rank(self.best_metrics):
            return False
        self.best_step, self.best_metrics = self.step, self.metrics
        return True

    def _save(self) -> None:
        if self.best_metrics is None:  # nothing to choose by (yet): the last is the best
            self.best_step = self.step
        resume = {
            "fingerprint": self.task.fingerprint(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            "metrics": self.metrics,
        }
        checkpoints.save(self.out, replace(self.task.checkpoint(), step=self.step, metrics=self.metrics), resume)
        self._settle()

    def _settle(self) -> None:
        """Bring `best.json` and the older checkpoints in line with the newest one, which alone decides."""
        checkpoints.write_best(self.out, self.best_step, self.best_metrics)
        checkpoints.prune(self.out, {self.best_step, self.step})

    def _restore(self, folder: Path) -> None:
        state = checkpoints.load_resume(folder)
        saved = checkpoints.load(folder)
        for name, kinds in _STATE.items():
            if not isinstance(state.get(name), kinds):
                raise CheckpointError(f"{folder}: the state to resume from has no usable {name!r}; {_REMEDY}")
        if state["best_step"] not in checkpoints.list_steps(self.out):
            raise CheckpointError(f"{folder}: the best checkpoint, step {state['best_step']}, is not there; {_REMEDY}")
        _compare(self.out, state["fingerprint"], self.task.fingerprint())
        try:
            self.task.model.load_state_dict(saved.model.state_dict())
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: its state does not fit the training ({error!r}); {_REMEDY}") from None
        self.step, self.best_step = saved.step, state["best_step"]
        self.metrics, self.best_metrics = state["metrics"], state["best_metrics"]
        self._settle()

    def _not_finite(self, found: str, clips: list[str]) -> TrainingError:
        kept = checkpoints.list_steps(self.out)
        return TrainingError(
            f"{self.task.name}, after {self.step} steps: {found}, expected finite values; clips concerned: "
            f"{some(clips, 8)}. Look at these clips for extreme values, or lower the learning rate (lr, clip_norm). "
            + (f"Checkpoints of steps {kept} are kept in {self.out}" if kept else "No checkpoint was written yet")
        )


def _check(config: TrainConfig) -> None:
    for name in ("batch", "validate_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise TrainingError(f"train.{name} is {getattr(config, name)}; expected at least 1")


def _compare(out: Path, saved: dict, now: dict, prefix: str = "") -> None:
    """Raise `TrainingError` naming the first field in which a resumed run differs from the one it continues."""
    for name in {**now, **saved}:
        then, current = saved.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(current, dict):
            _compare(out, then, current, f"{prefix}{name}.")
        elif then != current:
            raise TrainingError(
                f"{out}: cannot resume: {prefix}{name} was {then!r} when the run was started and is {current!r} now; "
                "resume with the same settings and data, or train in another folder"
            )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock. The kernel drops it when the process ends in whatever way, SIGKILL included."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{out}: another process is training in this folder; choose another one") from None
        yield


@contextlib.contextmanager
def _open_log(path: Path, step: int) -> Iterator[Any]:
    """The log, cut behind `step` (a killed run may have logged steps after its last checkpoint), for appending.

    `TrainingError` if it lacks one of the steps up to there: each was on the disk before its checkpoint.
    """
    lines = path.read_bytes().splitlines(keepends=True)[:step] if path.exists() else []
    for number in range(1, step + 1):
        if number > len(lines) or _logged_step(lines[number - 1]) != number:
            raise TrainingError(f"{path}: line {number} is not the record of step {number}; {_REMEDY}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(lines))
    with open(path, "a", encoding="utf-8") as file:
        yield file


def _logged_step(line: bytes) -> int | None:
    """The step that a line of the log records; None for anything else."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
