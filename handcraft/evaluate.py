"""Score what was trained on clips it never saw: classifiers by accuracy, generators by how well they continue a sign.

A model that was trained on any of the clips it is to be tested with is refused (docs/method.md), and every clip is
scored once, in the last batch too.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handcraft.checkpoint import Checkpoint
from handcraft.config import SequentialConfig
from handcraft.data.batches import Batch, evaluation_batches
from handcraft.data.clips import Clips
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.kernels import cmlpe_generate
from handcraft.match import as_checkpoint, require_classifier, require_data, require_twins, require_unseen
from handcraft.metrics.accuracy import accuracy, write_confusion
from handcraft.metrics.motion import (
    FrameError,
    PointError,
    comparable,
    constant_velocity,
    repeat_last,
    signatures,
    splice_jump,
)
from handcraft.models.cmlpe import twin_view
from handcraft.models.sequential import roll_both
from handcraft.predict import classify, load_for

UNITS = {"shoulder": "shoulder widths", "paper": "picture sizes"}
"""The unit of centred coordinates, by `PreprocessConfig.centre`."""
BASELINES = {"repeat_last": repeat_last, "constant_velocity": constant_velocity}


def evaluate_classifier(
    checkpoint: Checkpoint | Path | str,
    data: Clips | Store | Path | str,
    split: str = "test",
    *,
    batch: int = 256,
    confusion: Path | str | None = None,
) -> dict:
    """`accuracy`'s row of a classifier, with `model`, `split`, `seed` and `weights` (SHA-256) added.

    data: a store, of which the clips marked `split` are scored, or clips, which are all scored and only called
    `split`. confusion: where to write the confusion matrix as CSV. `CheckpointError`: other classes, landmarks or
    preprocessing than the checkpoint's. `DataError`: no such clips, or, for the split "test", clips that the model (or
    the generator of its synthetic clips) was trained on.
    """
    checkpoint = as_checkpoint(checkpoint)
    require_classifier(checkpoint)
    clips = _clips(checkpoint, data, split)
    require_data(checkpoint, clips)
    if split == "test":
        require_unseen(checkpoint.seen_clips, clips, f"{checkpoint.path}")
    row = accuracy(classify(checkpoint, clips, batch), clips.label, clips.classes, split=split)
    if confusion is not None:
        write_confusion(confusion, row["confusion"], clips.classes)
    return {
        "model": checkpoint.kind,
        "split": split,
        "seed": checkpoint.seed,
        "weights": checkpoint.sha256,
        **row,
    }


@torch.inference_mode()
def evaluate_generator(
    forward: Checkpoint | Path | str,
    reversed: Checkpoint | Path | str,
    data: Clips | Store | Path | str,
    split: str = "test",
    *,
    seed: int = 0,
    batch: int = 256,
) -> dict:
    """How well both twins continue held-out clips, without noise, beside the two predictors that learn nothing.

    Returns plain values, ready for JSON: `mpjpe` and `frame_error` over both twins' frames; under `forward` and
    `reversed` the same for each, with the mpjpe `per_landmark` in the layout's order and `per_frame` ahead; under
    `baselines` the same figures of each baseline on the same points, and for each twin the `margin` of the generator
    over it (share of landmarks on which the generator is nearer, median and worst ratio of the errors); `splice_jump`
    of clips generated from these windows with `seed` and the training noise, beside that of the `real` windows;
    `clips`, `split`, `signatures`. A figure is None where nothing could be compared. Raises as `evaluate_classifier`
    does.
    """
    forward, reversed = as_checkpoint(forward), as_checkpoint(reversed)
    require_twins(forward, reversed)
    clips = _clips(forward, data, split)
    require_data(forward, clips)
    if split == "test":
        for checkpoint in (forward, reversed):
            require_unseen(checkpoint.seen_clips, clips, f"{checkpoint.path}")
    scores = {twin: {name: _Scores(clips) for name in ("generator", *BASELINES)} for twin in ("forward", "reversed")}
    jumps = {name: PointError.empty(clips.frames.shape[1]) for name in ("generated", "real")}
    for part in evaluation_batches(clips, forward.window, forward.statistics, batch):
        for twin, checkpoint in (("forward", forward), ("reversed", reversed)):
            _score_twin(checkpoint, part, scores[twin])
        _score_splice(forward, reversed, part, seed, jumps)
    return _report(scores, jumps, clips, forward, split)


class _Scores:
    """Running errors of one predictor of one twin."""

    def __init__(self, clips: Clips) -> None:
        self.points, self.frames = PointError.empty(clips.frames.shape[1]), FrameError()
        self.steps: PointError | None = None  # a sum for each frame ahead

    def figures(self) -> dict:
        return {
            "mpjpe": self.points.value,
            "frame_error": self.frames.value,
            "per_landmark": self.points.per_landmark,
            "per_frame": self.steps.per_landmark if self.steps else [],
        }

    def update(self, predicted: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add centred `predicted`, `target (B,T,J,C)` where `mask (B,T,J)`."""
        self.points.update(predicted, target, mask)
        self.steps = self.steps or PointError.empty(target.shape[1])
        self.steps.update(predicted.transpose(1, 2), target.transpose(1, 2), mask.transpose(1, 2))


def _score_twin(checkpoint: Checkpoint, part: Batch, scores: dict[str, _Scores]) -> None:
    """Add one batch: the generator and the baselines see the same context and are compared on the same points."""
    statistics = checkpoint.statistics
    shape = tuple(statistics.mean.shape)
    context, target = twin_view(part.x, reverse=checkpoint.reverse)
    present, valid = (mask.flip(1) if checkpoint.reverse else mask for mask in (part.present, part.valid))
    frames = context.shape[1]
    mask = comparable(present, valid, frames)
    target = target.unflatten(-1, shape)
    predicted = {"generator": checkpoint.model.eval()(context, part.label).unflatten(-1, shape)}
    for name, baseline in BASELINES.items():
        predicted[name] = baseline(context.unflatten(-1, shape), frames)
    for name, standardised in predicted.items():
        scores[name].frames.update(standardised, target, mask)
        scores[name].update(statistics.unstandardise(standardised), statistics.unstandardise(target), mask)


def _score_splice(
    forward: Checkpoint, reversed: Checkpoint, part: Batch, seed: int, jumps: dict[str, PointError]
) -> None:
    """Generate from the windows of one batch and add the displacement at the splice, beside that of the windows."""
    statistics = forward.statistics
    if isinstance(forward.config, SequentialConfig):
        made = roll_both((forward.model, reversed.model), part.x, part.label, part.sample_id, seed)
    else:
        made = cmlpe_generate(
            forward.model.params(),
            reversed.model.params(),
            part.x,
            torch.arange(len(part)),
            part.label,
            part.sample_id,
            seed=seed,
            noise=forward.config.noise,
        )
    seen = part.present & part.valid[..., None]
    for name, x in (("generated", made), ("real", part.x)):
        x = statistics.unstandardise(x.unflatten(-1, tuple(statistics.mean.shape)))
        splice_jump(x, seen, forward.config.context, jumps[name])


def _report(
    scores: dict[str, dict[str, _Scores]], jumps: dict[str, PointError], clips: Clips, forward: Checkpoint, split: str
) -> dict:
    both = {name: _joined(scores["forward"][name], scores["reversed"][name]) for name in ("generator", *BASELINES)}
    unit = "unknown" if clips.preprocess is None else UNITS[clips.preprocess.centre]
    report = {"clips": len(clips), "split": split, **both["generator"]}
    for twin, found in scores.items():
        report[twin] = found["generator"].figures()
    report["baselines"] = {
        name: {
            **both[name],
            **{
                twin: found[name].figures() | {"margin": found["generator"].points.margin(found[name].points)}
                for twin, found in scores.items()
            },
        }
        for name in BASELINES
    }
    report["splice_jump"] = {name: jump.value for name, jump in jumps.items()}
    report["signatures"] = signatures(clips.layout, unit, forward.window.frames, forward.config.context, split)
    return report


def _joined(one: _Scores, other: _Scores) -> dict:
    """Figures over the points and frames of both twins."""
    points = PointError(one.points.total + other.points.total, one.points.count + other.points.count)
    frames = FrameError(one.frames.total + other.frames.total, one.frames.count + other.frames.count)
    return {"mpjpe": points.value, "frame_error": frames.value}


def _clips(checkpoint: Checkpoint, data: Clips | Store | Path | str, split: str) -> Clips:
    if isinstance(data, Clips):
        return data
    store = data if isinstance(data, Store) else Store(data)
    places = np.flatnonzero(store.splits == split)
    if not len(places):
        found = ", ".join(repr(str(name)) for name in np.unique(store.splits))
        raise DataError(f"{store.path}: no clip is marked {split!r} (found: {found}); split the data first")
    return load_for(checkpoint, store, places)
