"""The one training loop. What is trained is a task object (`handcraft.tasks`); the loop owns order, files and resuming.

A run's folder holds `log.jsonl` (one line a step), its best and last checkpoint and `best.json`. Everything random is
either a function of (seed, step) or drawn from torch's generator, whose state every checkpoint carries; so a run that
was killed at any moment and resumed equals the uninterrupted one bit for bit, log included (docs/method.md), on the
same machine with the same number of threads and processes.
"""

import contextlib
import math
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from handcraft import checkpoint as checkpoints
from handcraft import distributed, tracking
from handcraft import resume as resuming
from handcraft.checkpoint import Checkpoint
from handcraft.config import TrainConfig
from handcraft.data.batches import Batch
from handcraft.distributed import Share
from handcraft.errors import CheckpointError, Stopped, TrainingError
from handcraft.files import TEMPORARY
from handcraft.gradients import Gradients, compile_errors
from handcraft.machine import keep_memory
from handcraft.optim import build_optimizer, build_schedule, clip_gradients
from handcraft.tracking import Track, Tracker
from handcraft.words import some


class Task(Protocol):
    """What the loop asks of the thing it trains."""

    name: str
    """For the progress bar and messages."""
    model: nn.Module
    network: Callable[..., torch.Tensor]
    """What the task calls to compute with the model; the loop sets it, to the model compiled or shared, say."""
    config: TrainConfig
    seed: int
    steps: int
    """Length of the run."""

    def batch(self, step: int, share: Share) -> Batch:
        """This share of batch `step`, which is a function of (seed, step)."""

    def weights(self, batch: Batch) -> torch.Tensor:
        """What the loss of these samples is divided by; that of a batch is the sum of its parts'."""

    def batch_loss(self, batch: Batch, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Training loss of a batch, a scalar; of a part of one, whose `weights` are given, the part's share in it."""

    def blame(self, step: int | None) -> list[str]:
        """Ids of the clips that made the loss of batch `step`, or the validation (None), non-finite."""

    def validate(self) -> dict[str, float] | None:
        """Metrics on all validation clips (each process scores its share), unaugmented, without noise or gradients;
        None if there is none."""

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


def train(
    task: Task,
    out: Path | str,
    *,
    resume: bool = False,
    progress: bool | None = None,
    track: Track | None = None,
) -> Trained:
    """Train `task` for `task.steps` steps into the folder `out`.

    resume: continue from the last checkpoint in `out` that is whole (from the start if there is none yet; a finished
    run returns at once). Without it, `out` must not hold a run. progress: show a bar with the time left; by default
    where stderr is a terminal. track: "tensorboard" also writes event files to `out/tensorboard`. Torch's global random
    state is the same before and after.

    In a process group (`handcraft.distributed`) all processes call this with the same arguments, each trains on its
    share of every batch, and the first one alone writes.

    `TrainingError`: the loss or a gradient is not finite (naming clips; earlier checkpoints stay), another process
    trains in `out`, `out` holds a run or cannot be written to, another process of the group is gone, or the run to be
    resumed was started with other settings or data or has lost lines of its log. `CheckpointError`: no checkpoint to
    resume from is whole. `Stopped`: SIGTERM came; the state after the step it came in is saved.
    """
    out, config = Path(out), task.config
    _check(config)
    keep_memory()
    tracking.require(track)
    device = next(task.model.parameters()).device
    with contextlib.ExitStack() as held:
        held.enter_context(distributed.lost_peers())
        if config.compile:
            held.enter_context(compile_errors(task.name))
        distributed.on_first(lambda: _lock(held, out))
        held.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        asked = held.enter_context(_asked_to_stop())
        return _Run(task, out, resume, progress).go(track, asked)


class _Run:
    """One call of `train`: the task, its optimiser, and where it is."""

    def __init__(self, task: Task, out: Path, resume: bool, progress: bool | None):
        self.task, self.out = task, out
        self.device = next(task.model.parameters()).device
        self.progress = (sys.stderr.isatty() if progress is None else progress) and distributed.is_first()
        start = distributed.on_first(lambda: _start(out, resume))
        self.step = self.best_step = 0
        self.metrics: dict[str, float] | None = None  # of this step, if it was validated
        self.best_metrics: dict[str, float] | None = None
        self.kept: set[int] = set()  # checkpoints that the last one may be replaced by
        self.average: AveragedModel | None = None
        if task.config.ema:
            self.average = AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(task.config.ema)).eval()
        self.optimizer = build_optimizer(task.model, task.config)
        self.schedule = build_schedule(self.optimizer, task.config, task.steps)
        self._seed()
        if start is not None:
            self._restore(checkpoints.step_folder(out, start))

    def go(self, track: Track | None, asked: Callable[[], bool]) -> Trained:
        task, config = self.task, self.task.config
        if self.step < task.steps:
            gradients = Gradients(task)
            bar = tqdm(total=task.steps, initial=self.step, desc=task.name, unit="step", disable=not self.progress)
            with bar, self._trackers(track) as trackers, _through(task, gradients.network):
                task.model.train()
                while self.step < task.steps:
                    loss = gradients(self.step)
                    norm = clip_gradients(gradients.parameters, config.clip_norm)
                    loss, stop = distributed.total(torch.stack([loss, loss.new_tensor(float(asked()))]))
                    value, size, stop = torch.stack([loss, norm, stop]).tolist()
                    if not (math.isfinite(value) and math.isfinite(size)):
                        self._refuse(f"loss {value}, gradient norm {size}", self.step)
                    record = {
                        "step": self.step + 1,
                        "loss": value,
                        "grad_norm": size,
                        "lr": self.schedule.get_last_lr()[0],
                    }
                    self.optimizer.step()
                    gradients.clear()
                    self.schedule.step()
                    if self.average is not None:
                        self.average.update_parameters(task.model)
                    self.step += 1
                    self._finish_step(record, trackers, bool(stop))
                    bar.update()
                    if self.progress and self.step % 10 == 0:
                        bar.set_postfix(loss=f"{value:.4g}", refresh=False)
        folder = checkpoints.step_folder
        return Trained(
            folder(self.out, self.best_step), folder(self.out, self.step), self.step, self.best_metrics, self.metrics
        )

    def _finish_step(self, record: dict[str, Any], trackers: list[Tracker], stop: bool) -> None:
        """Validate, log and save, each where it is due; `Stopped` where the run was asked to stop before its end."""
        task, config = self.task, self.task.config
        finished = self.step == task.steps
        improved, self.metrics = False, None
        if finished or self.step % config.validate_every == 0:
            improved = self._validate()
        if self.metrics is not None:
            record["validation"] = self.metrics
        with _writing(self.out):
            for tracker in trackers:
                tracker.record(record)
        if finished or improved or stop or self.step % config.checkpoint_every == 0:
            random = self._random()
            distributed.on_first(lambda: self._save(trackers, random))
        if stop and not finished:
            raise Stopped(
                f"{task.name}: stopped by SIGTERM after {self.step} of {task.steps} steps, all saved in {self.out}; "
                "the same command continues (`handcraft train` with --resume)"
            )

    @contextlib.contextmanager
    def _trackers(self, track: Track | None) -> Iterator[list[Tracker]]:
        """The first process's trackers; the others have none."""
        if not distributed.is_first():
            yield []
            return
        with contextlib.ExitStack() as opened:
            with _writing(self.out):
                trackers = opened.enter_context(tracking.opened(self.out, self.step, track))
            yield trackers

    @property
    def _shown(self) -> nn.Module:
        """The model as it is validated and saved."""
        return self.task.model if self.average is None else self.average.module

    def _validate(self) -> bool:
        """Validate; True if this step is the best so far."""
        with _through(self.task, self._shown):
            self.task.model.eval()
            self.metrics = self.task.validate()
            self.task.model.train()
        if self.metrics is None:
            return False
        if not all(math.isfinite(value) for value in self.metrics.values()):
            self._refuse(f"validation {self.metrics}", None)
        rank = self.task.rank
        if self.best_metrics is not None and rank(self.metrics) >= rank(self.best_metrics):
            return False
        self.best_step, self.best_metrics = self.step, self.metrics
        return True

    def _save(self, trackers: list[Tracker], random: list[dict]) -> None:
        if self.best_metrics is None:  # nothing to choose by (yet): the last is the best
            self.best_step = self.step
        state = {
            "fingerprint": self.task.fingerprint(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random,
            "weights": None if self.average is None else self.task.model.state_dict(),
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            "metrics": self.metrics,
        }
        saved = replace(self.task.checkpoint(), model=self._shown, step=self.step, metrics=self.metrics)
        with _writing(self.out):
            for tracker in trackers:
                tracker.flush()  # a checkpoint never lies ahead of the log
            checkpoints.save(self.out, saved, state)
            self._settle()

    def _settle(self) -> None:
        """Bring `best.json` and the older checkpoints in line with the newest one, which alone decides. Until the end
        the one before stays, with what was the best then: a run can go on from there should the newest be damaged."""
        checkpoints.write_best(self.out, self.best_step, self.best_metrics)
        newest = {self.best_step, self.step}
        checkpoints.prune(self.out, newest if self.step == self.task.steps else newest | self.kept)
        self.kept = newest

    def _restore(self, folder: Path) -> None:
        state, saved = resuming.read(folder), checkpoints.load(folder)
        resuming.require_same(self.out, state["fingerprint"], self.task.fingerprint())
        try:
            weights = saved.model.state_dict()
            if self.average is not None:
                self.average.module.load_state_dict(weights)
                self.average.n_averaged.fill_(saved.step)
                weights = state["weights"]
            self.task.model.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.best_step = saved.step, state["best_step"]
            self._seed(state["random"])
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: its state does not fit the training ({error!r}); {resuming.REMEDY}"
            ) from None
        self.metrics, self.best_metrics = state["metrics"], state["best_metrics"]
        self.kept = set(checkpoints.list_steps(self.out))
        if distributed.is_first():
            with _writing(self.out):
                self._settle()

    def _seed(self, states: list[dict] | None = None) -> None:
        """Set torch's generators, which dropout draws from, to this process's of `states`; where those are of another
        number of processes, or none, to one that belongs to (seed, process, step)."""
        if states is not None and len(states) == distributed.world():
            mine = states[distributed.rank()]
            torch.set_rng_state(mine["cpu"])
            if self.device.type == "cuda" and mine["cuda"] is not None:
                torch.cuda.set_rng_state(mine["cuda"], self.device)
            return
        seed = self.task.seed + distributed.rank() * 0x9E3779B97F4A7C15 + self.step * 0xBF58476D1CE4E5B9
        torch.manual_seed(seed % (1 << 63))

    def _random(self) -> list[dict]:
        """The states of torch's generators in all processes."""
        cpu, cuda = distributed.gather(torch.get_rng_state()), None
        if self.device.type == "cuda":
            cuda = distributed.gather(torch.cuda.get_rng_state(self.device))
        return [{"cpu": state, "cuda": cuda[i] if cuda else None} for i, state in enumerate(cpu)]

    def _refuse(self, found: str, step: int | None) -> NoReturn:
        """Raise the `TrainingError` for what was found in batch `step`, or in the validation (None)."""
        with _through(self.task, self.task.model if step is not None else self._shown):
            raise distributed.on_first(lambda: self._not_finite(found, self.task.blame(step)))

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
    if not 0 <= config.ema < 1:
        raise TrainingError(f"train.ema is {config.ema}; expected 0 (off) or a share below 1, such as 0.999")


def _lock(held: contextlib.ExitStack, out: Path) -> None:
    with _writing(out):
        held.enter_context(resuming.locked(out))


def _start(out: Path, resume: bool) -> int | None:
    """Step of the checkpoint to start from; None for the beginning."""
    steps = checkpoints.list_steps(out)
    if steps and not resume:
        raise TrainingError(f"{out}: holds a run already (up to step {steps[-1]}); resume it, or choose another folder")
    for leftover in out.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()
    return resuming.newest_whole(out)


@contextlib.contextmanager
def _through(task: Task, network: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let the task call `network` in its model's place."""
    before, task.network = task.network, network
    try:
        yield
    finally:
        task.network = before


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn a full disk, and whatever else keeps files from being written, into a `TrainingError` of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        kept = checkpoints.list_steps(out)
        raise TrainingError(
            f"{out}: cannot be written to ({reason}); make room, or choose another folder. "
            + (f"The checkpoints of steps {kept} are whole" if kept else "No checkpoint was written yet")
        ) from None


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Says whether SIGTERM has come since; in a thread, which cannot listen to signals, it never has.

    One that came too late to stop anything here is handed on to the caller's handler: there may be more to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if came:  # and no exception has told of it
        signal.raise_signal(signal.SIGTERM)
