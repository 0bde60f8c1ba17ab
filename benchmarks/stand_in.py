"""An LSFB-sized stand-in through every stage of the recipe `lsfb`: what each takes, and what a whole run would take.

    python benchmarks/stand_in.py
    python benchmarks/stand_in.py --clips 2000 --classes 40 --largest 150 --steps 2 --json stand-in.json

LSFB itself cannot be shared. The stand-in has its size: 65,000 clips of at most 60 frames, 610 classes of 1 to 1,514
clips, the landmarks of `holistic87`. Its signs are those of the toy data. Loading, statistics, generation, the linear
model and evaluation are done in full; trainings take a few steps of the recipe's batch, and a whole one is
extrapolated: set-up + steps x median step + validations x (validation and checkpoint), for every arm of a seed.
"""

import argparse
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handcraft.clip_task import ClipTask, planned_steps
from handcraft.config import GeneratorRecipe, MambaRecipe, Recipe, TransformerRecipe
from handcraft.data.residence import open_clips
from handcraft.data.store import Store, StoreWriter
from handcraft.data.toy import ASPECT, FPS, LAYOUT, toy_clips
from handcraft.data.toy_signs import LIMIT
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.files import write_json
from handcraft.generate import generate
from handcraft.linear import linear_baseline
from handcraft.machine import machine, versions
from handcraft.markdown import table
from handcraft.partition import partition
from handcraft.recipe import load_recipe
from handcraft.run import ARMS
from handcraft.training import CLASSIFIERS, TWINS, Data, pretrain_classifier, train_classifier, train_generator

LONGEST = 60  # frames
MEDIAN_LENGTH, SPREAD = 20, 0.5  # of the logarithm; shorter than 5 frames is no sign
SHORTEST = 5
TEST_EVERY = 4
BATCH = 512  # clips made at a time
SIGNERS = 100
Part = GeneratorRecipe | TransformerRecipe | MambaRecipe


def class_sizes(clips: int, classes: int, largest: int) -> np.ndarray:
    """Clips of each class (classes,) int64, descending from `largest` to 1, `clips` together: largest^(1 - u^p) at
    evenly spaced u, with the p that gives the sum. `ValueError` where there is none."""
    place = np.linspace(0, 1, classes)
    low, high = 1e-3, 1e3  # a larger p gives larger classes
    for _ in range(200):
        p = (low * high) ** 0.5
        sizes = np.maximum(1, np.round(largest ** (1 - place**p))).astype(np.int64)
        low, high = (p, high) if sizes.sum() < clips else (low, p)
    rest = clips - int(sizes.sum())
    if classes < 3 or abs(rest) > classes - 2:
        raise ValueError(f"no {classes} classes of 1 to {largest} clips have {clips} clips together")
    middle = np.argsort(-sizes[1:-1], kind="stable")[: abs(rest)] + 1  # neither the largest class nor the smallest
    sizes[middle] += np.sign(rest)
    return sizes


def write_store(path: Path, sizes: np.ndarray, seed: int = 0) -> None:
    """Stream the stand-in into a raw store: a class is one toy clip, of which each clip is played at another speed, in
    another place, with noise of its own; hands that the toy clip lacks are missing. Every fourth clip is test."""
    names = [f"sign{number:03d}" for number in range(len(sizes))]
    source = {"command": "stand_in", "classes": len(sizes), "clips": int(sizes.sum()), "seed": seed}
    with StoreWriter(
        path, layout=LAYOUT.name, stage="raw", classes=names, fps=FPS, licence="MIT", aspect=ASPECT, source=source
    ) as writer:
        signs = toy_clips(min(len(sizes), LIMIT), -(-len(sizes) // LIMIT), seed=seed)
        for number, (sign, _, _) in enumerate(itertools.islice(signs, len(sizes))):
            rng = np.random.default_rng((seed, number))
            for first in range(0, int(sizes[number]), BATCH):
                count = min(BATCH, int(sizes[number]) - first)
                _write_clips(writer, rng, sign, names[number], first, count)


def _write_clips(
    writer: StoreWriter, rng: np.random.Generator, sign: np.ndarray, name: str, first: int, count: int
) -> None:
    lengths = np.exp(rng.normal(np.log(MEDIAN_LENGTH), SPREAD, count)).round().clip(SHORTEST, LONGEST).astype(np.int64)
    at = np.arange(LONGEST) / (lengths[:, None] - 1)
    frames = sign[(at.clip(0, 1) * (len(sign) - 1)).round().astype(np.int64)]  # (count, LONGEST, J, 3)
    frames = frames * np.exp(rng.normal(0, 0.05, (count, 1, 1, 1)).astype(np.float32))
    frames[..., :2] += rng.normal(0, 0.02, (count, 1, 1, 2)).astype(np.float32)
    frames += 0.004 * rng.standard_normal(frames.shape, dtype=np.float32)
    numbers = range(first, first + count)
    writer.add_batch(
        frames,
        ids=[f"{name}-{i:04d}" for i in numbers],
        labels=[name] * count,
        groups=[f"signer{i % SIGNERS:02d}" for i in numbers],
        splits=["test" if i % TEST_EVERY == TEST_EVERY - 1 else "train" for i in numbers],
        lengths=lengths,
    )


@dataclass
class Stage:
    """What one stage took, and what all stages of its kind take in one seed of the recipe."""

    name: str
    done: str
    """In words: how much of it was done."""
    seconds: float
    cpu_seconds: float
    peak_mb: float | None
    """Largest resident memory of the process during the stage; None where the system does not say."""
    full: str = ""
    full_seconds: float = 0.0
    full_cpu_seconds: float = 0.0
    step_seconds: float | None = None
    step_cpu_seconds: float | None = None


class Stages:
    """Runs stages one after the other and keeps what each took."""

    def __init__(self) -> None:
        self.found: list[Stage] = []

    def __call__(self, name: str, done: str, function: Callable[[], Any], times: int = 1) -> Any:
        """`function()`, a stage that is done in full here and `times` times in a seed."""
        result, stage = self._measure(name, done, function)
        stage.full = f"{times} x"
        stage.full_seconds, stage.full_cpu_seconds = times * stage.seconds, times * stage.cpu_seconds
        self._add(stage)
        return result

    def training(self, name: str, part: Part, steps: int, full: int, times: int, function: Callable[[], Any]) -> Any:
        """A training of `steps` steps here and of `full` steps, `times` times, in a seed."""
        with _watched() as (starts, checks):
            result, stage = self._measure(name, f"{steps} steps of {part.train.batch}", function)
        here = np.array([stage.seconds, stage.cpu_seconds])
        step, check = np.median(np.diff(starts, axis=0), axis=0), np.sum(checks, axis=0)
        set_up = np.maximum(0, here - check - steps * step)
        whole = set_up + full * step + full // min(part.train.validate_every, full) * check
        stage.full = f"{times} x {full:,} steps"
        stage.full_seconds, stage.full_cpu_seconds = (times * whole).tolist()
        stage.step_seconds, stage.step_cpu_seconds = step.tolist()
        self._add(stage)
        return result

    def _measure(self, name: str, done: str, function: Callable[[], Any]) -> tuple[Any, Stage]:
        _reset_peak()
        before = _clock()
        result = function()
        return result, Stage(name, done, *(_clock() - before).tolist(), _peak_mb())

    def _add(self, stage: Stage) -> None:
        self.found.append(stage)
        print(f"{stage.name}: {stage.seconds:.1f} s ({stage.cpu_seconds:.1f} s of CPU)", file=sys.stderr, flush=True)


@contextmanager
def _watched() -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """The `_clock` at which each batch of a training was asked for; what each of its validations took."""
    starts: list[np.ndarray] = []
    checks: list[np.ndarray] = []
    batch, validate = ClipTask.batch, ClipTask.validate

    @functools.wraps(batch)
    def timed_batch(*args: Any) -> Any:
        starts.append(_clock())
        return batch(*args)

    @functools.wraps(validate)
    def timed_validate(*args: Any) -> Any:
        before = _clock()
        try:
            return validate(*args)
        finally:
            checks.append(_clock() - before)

    ClipTask.batch, ClipTask.validate = timed_batch, timed_validate
    try:
        yield starts, checks
    finally:
        ClipTask.batch, ClipTask.validate = batch, validate


def _clock() -> np.ndarray:
    """(2,) seconds: of the wall, and of the CPU over all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def _reset_peak() -> None:
    """Linux begins to count the peak of resident memory anew."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _peak_mb() -> float | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def _shortened(part: Part, steps: int) -> Part:
    return replace(part, train=replace(part.train, steps=steps, epochs=0.0, validate_every=steps))


def run(folder: Path, sizes: np.ndarray, steps: int, recipe: Recipe) -> list[Stage]:
    """All stages of one seed of `recipe` on the stand-in, in `folder`, which is empty."""
    stages, place = Stages(), folder / "store"
    clips_made = f"{int(sizes.sum()):,} clips"
    stages("write the stand-in", clips_made, lambda: write_store(place, sizes), times=0)
    store = Store(place)
    stages("verify", clips_made, store.verify)
    clips = stages("load and preprocess", clips_made, lambda: open_clips(store, recipe.preprocess))
    data = Data(clips, partition(clips, seed=0, test_share=recipe.test_share))
    training, test = clips.subset(data.part.train), clips.subset(data.part.test)
    # The recipe standardises with the authors' constants; others compute theirs.
    stages(
        "statistics", f"{len(training):,} clips", lambda: data.statistics(replace(recipe.generator, statistics="train"))
    )
    part, short = recipe.generator, replace(recipe, generator=_shortened(recipe.generator, steps))
    full = planned_steps(part.train, training)
    twins = {}
    for twin in TWINS:
        call = functools.partial(train_generator, data, short, folder / twin, reverse=twin == "reversed", seed=0)
        twins[twin] = stages.training(f"train generator, {twin}", part, steps, full, 1, call).best
    stages("evaluate generators", f"{len(test):,} clips", lambda: evaluate_generator(*twins.values(), test))
    made = recipe.synthetic_per_class * len(sizes)
    out = folder / "synthetic"
    write = functools.partial(generate, *twins.values(), training, out, per_class=recipe.synthetic_per_class)
    synthetic = stages("generate", f"{made:,} clips", write)
    fitted = np.concatenate([data.part.train, data.part.valid])
    fit = functools.partial(linear_baseline, store, np.sort(fitted), data.part.test)
    stages("linear model", f"{len(fitted):,} clips", fit)
    for model in CLASSIFIERS:
        part = getattr(recipe, model)
        full = planned_steps(part.train, training)
        pretrained = max(1, round(recipe.pretrain * full))
        ten = _shortened(part, 10 * steps)  # of which a tenth is pretraining
        pretrain = functools.partial(
            pretrain_classifier, data, ten, 0.1, synthetic, folder / model / "pretraining", seed=0
        )
        start = stages.training(f"pretrain {model}", part, steps, pretrained, 1, pretrain).last
        train = functools.partial(
            train_classifier,
            data,
            _shortened(part, steps),
            folder / model / "arm",
            augment=True,
            seed=0,
            init_from=start,
        )
        trained = stages.training(f"train {model}", part, steps, full, len(ARMS), train).best
        score = functools.partial(evaluate_classifier, trained, test)
        stages(f"evaluate {model}", f"{len(test):,} clips", score, times=len(ARMS))
    return stages.found


def markdown(stages: list[Stage]) -> str:
    """The stages as a table, one row each, and their sum."""
    rows = [
        [
            stage.name,
            stage.done,
            f"{stage.seconds:,.1f}",
            f"{stage.cpu_seconds:,.1f}",
            "" if stage.peak_mb is None else f"{stage.peak_mb:,.0f}",
            "" if stage.step_seconds is None else f"{stage.step_seconds:.3g}",
            stage.full,
            f"{stage.full_seconds / 3600:,.2f}",
            f"{stage.full_cpu_seconds / 3600:,.2f}",
        ]
        for stage in stages
    ]
    total = {
        name: sum(getattr(stage, name) for stage in stages)
        for name in ("seconds", "cpu_seconds", "full_seconds", "full_cpu_seconds")
    }
    peak = max((stage.peak_mb or 0 for stage in stages), default=0)
    here = [f"{total['seconds']:,.1f}", f"{total['cpu_seconds']:,.1f}", f"{peak:,.0f}"]
    hours = [f"{total[name] / 3600:,.2f}" for name in ("full_seconds", "full_cpu_seconds")]
    rows.append(["all", "", *here, "", "one seed", *hours])
    head = ["stage", "done", "s", "CPU s", "peak MB", "s/step", "in a whole run", "hours", "CPU hours"]
    return "\n".join(table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=65_000)
    parser.add_argument("--classes", type=int, default=610)
    parser.add_argument("--largest", type=int, default=1514, help="clips of the largest class; the smallest has 1")
    parser.add_argument("--steps", type=int, default=6, help="steps of each training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where to work; 4 GB, deleted at the end")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/lsfb-stand-in.json"))
    parser.add_argument("--note", default="", help="what else the machine did, kept in the JSON")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps must be at least 2: the time between two steps is what is measured")
    torch.set_num_threads(args.threads)
    try:
        sizes = class_sizes(args.clips, args.classes, args.largest)
    except ValueError as error:
        parser.error(str(error))
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="stand-in-") as folder:
        stages = run(Path(folder), sizes, args.steps, load_recipe("lsfb"))
    write_json(
        args.json,
        {
            "clips": args.clips,
            "classes": args.classes,
            "largest": args.largest,
            "steps": args.steps,
            "note": args.note,
            "stages": [asdict(stage) for stage in stages],
            "machine": machine(),
            "versions": versions(),
        },
    )
    print(markdown(stages))


if __name__ == "__main__":
    main()
