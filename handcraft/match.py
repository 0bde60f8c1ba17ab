"""Do these belong together? Checks between checkpoints and clips, made before anything is computed with them.

A class index, a landmark's place or a standardised unit means something only beside the lists it was made with, so a
mismatch is an error that names both sides, never a warning.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from handcraft.checkpoint import Checkpoint, load
from handcraft.data.clips import Clips
from handcraft.data.preprocess import signature
from handcraft.data.store import require_disjoint
from handcraft.errors import CheckpointError

GENERATORS = ("cmlpe", "sequential")


def as_checkpoint(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    """`checkpoint` itself, or the one (of a run: the best) that lies at this path."""
    return checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)


def classifier_folder(model: Path | str) -> Path:
    """`model`, or the run in it where it is the folder that `handcraft train classifier` was given."""
    inside = Path(model) / "classifier"
    return inside if inside.is_dir() else Path(model)


def require_data(checkpoint: Checkpoint, clips: Clips) -> None:
    """`CheckpointError` unless the clips have the classes, landmarks and preprocessing that the model was made for."""
    _require_classes(checkpoint, clips.classes, "the clips have")
    found = {
        "landmark layout": (checkpoint.layout, clips.layout),
        "preprocessing": (checkpoint.signature, None if clips.preprocess is None else signature(clips.preprocess)),
        "numbers a landmark": (checkpoint.statistics.mean.shape[1], clips.frames.shape[2]),
    }
    for name, (trained, given) in found.items():
        if trained != given:
            raise CheckpointError(
                f"{checkpoint.path}: its {name} is {trained!r}, the clips have {given!r}; load the clips with the "
                "checkpoint's preprocessing, or use a checkpoint that was trained on such clips"
            )


def require_classifier(checkpoint: Checkpoint) -> None:
    """`CheckpointError` for a generator."""
    if checkpoint.kind in GENERATORS:
        raise CheckpointError(f"{checkpoint.path}: holds a {checkpoint.kind}, which is a generator; give a classifier")


def require_twins(forward: Checkpoint, reversed: Checkpoint) -> None:
    """One forward and one reversed generator of one kind, trained on the same classes with the same input.

    `CheckpointError` names what differs: model config, classes, layout, preprocessing, window, augmentation or
    statistics.
    """
    for checkpoint, reverse in ((forward, False), (reversed, True)):
        wanted = "reversed" if reverse else "forward"
        if checkpoint.kind not in GENERATORS:
            raise CheckpointError(f"{checkpoint.path}: holds a {checkpoint.kind}; give the {wanted} generator")
        if checkpoint.reverse != reverse:
            found = "reversed" if checkpoint.reverse else "forward"
            raise CheckpointError(f"{checkpoint.path}: is the {found} generator, expected the {wanted} one")
    _require_classes(forward, reversed.classes, f"the reversed twin {reversed.path} has")
    for name, attribute in (
        ("landmark layout", "layout"),
        ("preprocessing", "signature"),
        ("window", "window"),
        ("model", "config"),
        ("augmentation", "augment"),
    ):
        one, other = getattr(forward, attribute), getattr(reversed, attribute)
        if one != other:
            raise CheckpointError(
                f"{forward.path}: its {name} is {one!r}, that of the reversed twin {reversed.path} is {other!r}; "
                "train both with the same recipe"
            )
    same = torch.equal(forward.statistics.mean, reversed.statistics.mean)
    if not (same and torch.equal(forward.statistics.std, reversed.statistics.std)):
        raise CheckpointError(
            f"{forward.path}: its statistics differ from those of the reversed twin {reversed.path}; train both on the "
            "same training clips"
        )


def require_unseen(seen_clips: Iterable[str], clips: Clips, what: str) -> None:
    """Refuse to judge `what` with clips that it, or what it was pretrained on, was trained on (docs/method.md).

    seen_clips: digests of a checkpoint or of a synthetic store's manifest; clips: those to be tested with. `DataError`
    counts the shared clips.
    """
    require_disjoint(seen_clips, clips.digest, what)


def _require_classes(checkpoint: Checkpoint, classes: tuple[str, ...], who: str) -> None:
    if checkpoint.classes == tuple(classes):
        return
    ours, theirs = set(checkpoint.classes), set(classes)
    parts = [
        f"only in {where}: {', '.join(sorted(names)[:5])}{' ...' if len(names) > 5 else ''}"
        for where, names in (("the first", ours - theirs), ("the second", theirs - ours))
        if names
    ]
    raise CheckpointError(
        f"{checkpoint.path}: was trained on {len(checkpoint.classes)} classes, {who} {len(classes)} "
        f"({'; '.join(parts) or 'the same in another order'}); a class index would mean another sign"
    )
