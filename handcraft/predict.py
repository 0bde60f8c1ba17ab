"""Recognise signs with a trained classifier, given nothing but its checkpoint and landmarks, or the video of them.

Preprocessing, window and statistics are the checkpoint's, wherever a clip comes from; a store's class list plays no
part. A long recording is cut into pieces before preprocessing, so that each is a clip like those of the training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from handcraft.checkpoint import Checkpoint, load
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import Clips, load_clips
from handcraft.data.preprocess import preprocess
from handcraft.data.selection import Selection
from handcraft.data.store import Store
from handcraft.doubts import doubts
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.extract.landmarker import Kept, Settings
from handcraft.layouts import Layout
from handcraft.layouts import layout as find_layout
from handcraft.match import classifier_folder, require_classifier
from handcraft.recording import DETECTOR, Recording, Source, as_recording, is_store, of_store, read, sources
from handcraft.timeline import merge, spans

BATCH = 256


def predict(
    checkpoint: Checkpoint | Path | str,
    source: Store | Source | Path | str | np.ndarray,
    ids: Iterable[str] | None = None,
    top: int = 5,
    *,
    window: float | None = None,
    step: float | None = None,
    layout: str | None = None,
    fps: float | None = None,
    aspect: float | None = None,
    detector: Settings = DETECTOR,
    batch: int = BATCH,
) -> list[dict]:
    """The `top` likeliest classes of every clip of `source`, or with `window` its time line.

    checkpoint: a trained classifier: its folder, its run, or one of its checkpoints.
    source: a video, a `.pose` file, or a folder of either; a store, raw or centred, of which `ids` chooses clips (None:
    all) and their order; or raw landmarks (T,J,C) as a detector gives them, floating, NaN = missing, of which `layout`
    (default: the one with J landmarks), `fps` and `aspect` (width / height of the picture) say what they are. fps: of a
    store, too, that does not say its own. detector: how landmarks of videos are detected; it should be how those of the
    training clips were. Of what it finds, what the model looks at is kept, whatever its `keep` says: an hour of video
    takes 0.1 GB.

    A row for each clip: `id` (of a file, its path), `label` (what store or folder says, None where they do not), `top`:
    [{"class", "probability"}, ...], likeliest first, at most as many as there are classes. Clips that are not whole
    ones of a store have `seen`, the share of frames in which each part of the model's layout was detected, and `notes`,
    sentences on what should make one doubt the result.

    window, step: seconds (default step: half a window). In place of `top` each row then has `windows`: [{"start",
    "end", "top"}, ...], with an empty `top` and a `reason` where a window cannot be recognised (nobody is in it, say),
    and `timeline`, see `timeline.merge`. Of a store, clips must be raw.

    Raw clips are preprocessed as the checkpoint says; centred ones must have been. `DataError` names what cannot be
    recognised and why (for files, the first of them): a damaged or empty one, one without a person, one whose layout
    lacks what the model needs; an unknown id. `CheckpointError`: a generator, or scores that are not finite.
    `ConfigError`: a `top` below 1, windows without a frame rate, or what `timeline.spans` refuses.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(classifier_folder(checkpoint))
    require_classifier(checkpoint)
    if top < 1:
        raise ConfigError(f"predict: top is {top}; expected at least 1")
    if step is not None and window is None:
        raise ConfigError(f"predict: step is {step}, but there is no window to move by it; give both")
    if isinstance(source, np.ndarray):
        recordings = [as_recording(source, layout, fps, aspect)]
    elif isinstance(source, Store) or (not isinstance(source, Source) and is_store(source)):
        store = source if isinstance(source, Store) else Store(source)
        places = np.arange(len(store)) if ids is None else store.find(ids)
        if window is None:
            return _of_store(checkpoint, store, places, top, batch)
        recordings = of_store(store, places, fps)
    elif ids is not None:
        raise ConfigError(f"{source}: is no store, and ids choose the clips of a store")
    else:
        files = [source] if isinstance(source, Source) else sources(source)
        detector = replace(detector, keep=_kept(find_layout(checkpoint.layout)))
        recordings = (read(file, detector) for file in files)
    return [recognise(checkpoint, recording, top, window=window, step=step, batch=batch) for recording in recordings]


def recognise(
    checkpoint: Checkpoint,
    recording: Recording,
    top: int = 5,
    *,
    window: float | None = None,
    step: float | None = None,
    batch: int = BATCH,
) -> dict[str, Any]:
    """The row that `predict` gives for one recording."""
    _require_input(checkpoint, recording)
    if window is not None and recording.fps is None:
        raise ConfigError(f"{recording.id}: its frame rate is unknown, so it has no seconds to cut it by; say its fps")
    row: dict[str, Any] = {"id": recording.id, "label": recording.label}
    seen = recording.seen()
    seen = {part.name: seen[part.name] for part in find_layout(checkpoint.layout).parts}
    about = {"seen": seen, "notes": doubts(checkpoint, recording, seen, window)}
    if window is None:
        try:
            prepared = _preprocess(checkpoint, recording, recording.landmarks)
        except DataError as error:
            raise DataError(f"{recording.id}: {error}") from None
        return row | {"top": _ranked(checkpoint, _clips(checkpoint, [prepared], recording.id), top, batch)[0]} | about
    found = []
    pieces = spans(len(recording.landmarks), recording.fps, window, step)
    for start in range(0, len(pieces), batch):
        found += _windows(checkpoint, recording, pieces[start : start + batch], top)
    return row | {"windows": found, "timeline": merge(found)} | about


def load_for(checkpoint: Checkpoint, store: Store | Path | str, places: np.ndarray | None = None) -> Clips:
    """The clips of a store (those at `places`, or all) as this checkpoint wants them preprocessed.

    The files they lie in are compared with their checksums first: a score or a prediction is of the clips that the
    store was written with, or it is an error (`DataError`).
    """
    store = store if isinstance(store, Store) else Store(store)
    _require_preprocess(checkpoint)
    store.verify(places)
    return load_clips(store if places is None else Selection(store, places), checkpoint.preprocess)


@torch.inference_mode()
def classify(checkpoint: Checkpoint, clips: Clips, batch: int = BATCH) -> Tensor:
    """Logits (N,classes) float32 of every clip, in order. `CheckpointError` where one of them is not finite."""
    require_classifier(checkpoint)
    model = checkpoint.model.eval()
    found = [
        model(part.x, part.valid.sum(1)).float()
        for part in evaluation_batches(clips, checkpoint.window, checkpoint.statistics, batch)
    ]
    logits = torch.cat(found) if found else torch.empty(0, len(checkpoint.classes))
    broken = ~logits.isfinite().all(1)
    if broken.any():
        first = clips.ids[int(broken.nonzero()[0])]
        raise CheckpointError(
            f"{checkpoint.path}: gives scores that are not finite for {int(broken.sum())} of {len(clips)} clips (the "
            f"first: {first}); look at the clip for extreme values, or use another checkpoint"
        )
    return logits


def _of_store(checkpoint: Checkpoint, store: Store, places: np.ndarray, top: int, batch: int) -> list[dict]:
    """Rows of whole clips of a store."""
    if not len(places):
        return []
    clips = load_for(checkpoint, store, places)
    ranked = _ranked(checkpoint, clips, top, batch)
    return [
        {"id": str(clips.ids[row]), "label": store.classes[int(clips.label[row])], "top": ranked[row]}
        for row in range(len(clips))
    ]


def _windows(
    checkpoint: Checkpoint, recording: Recording, pieces: Sequence[tuple[int, int]], top: int
) -> list[dict[str, Any]]:
    """Rows of some windows of a recording."""
    rows, prepared = [], []
    for first, end in pieces:
        row = {"start": first / recording.fps, "end": end / recording.fps, "top": []}
        try:
            prepared.append(_preprocess(checkpoint, recording, recording.landmarks[first:end]))
            rows.append(row)
        except DataError as error:
            rows.append(row | {"reason": str(error).split(",")[0]})
    ranked = iter(_ranked(checkpoint, _clips(checkpoint, prepared, recording.id), top, len(pieces)) if prepared else ())
    return [row if "reason" in row else row | {"top": next(ranked)} for row in rows]


def _ranked(checkpoint: Checkpoint, clips: Clips, top: int, batch: int) -> list[list[dict]]:
    """The likeliest classes of each clip."""
    probability, order = classify(checkpoint, clips, batch).softmax(1).topk(min(top, len(checkpoint.classes)), dim=1)
    return [
        [{"class": checkpoint.classes[k], "probability": p} for k, p in zip(classes, chances, strict=True)]
        for classes, chances in zip(order.tolist(), probability.tolist(), strict=True)
    ]


def _preprocess(checkpoint: Checkpoint, recording: Recording, landmarks: np.ndarray) -> np.ndarray:
    """Steps 1 to 4 of the checkpoint's preprocessing on (part of) a recording."""
    return preprocess(landmarks, find_layout(recording.layout), checkpoint.preprocess, recording.aspect)


def _clips(checkpoint: Checkpoint, prepared: Sequence[np.ndarray], name: str) -> Clips:
    """Preprocessed clips (T,J,C) in memory, all of one name; they have no label, so it is 0."""
    length = torch.tensor([len(frames) for frames in prepared])
    texts = np.full(len(prepared), "")
    return Clips(
        frames=torch.from_numpy(np.concatenate(prepared)),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.zeros_like(length),
        ids=np.full(len(prepared), name),
        group=texts,
        split=texts,
        digest=np.zeros(len(prepared), dtype=np.uint64),
        classes=checkpoint.classes,
        layout=checkpoint.layout,
        preprocess=checkpoint.preprocess,
    )


def _require_preprocess(checkpoint: Checkpoint) -> None:
    if checkpoint.preprocess is None:
        raise CheckpointError(
            f"{checkpoint.path}: does not say how its clips were preprocessed, so no store can be read for it; "
            "train on clips that were loaded from a store"
        )


def _require_input(checkpoint: Checkpoint, recording: Recording) -> None:
    """`DataError` unless the recording has what the model was trained with, and somebody is in it."""
    _require_preprocess(checkpoint)
    wanted, held = find_layout(checkpoint.layout), find_layout(recording.layout)
    absent = held.lacks(wanted)
    if absent:
        raise DataError(
            f"{recording.id}: its landmarks are {held.name}, {held.describe()}; the model needs {wanted.name} with its "
            f"{' and '.join(absent).replace('_', ' ')}: detect them again with these parts, or use another model"
        )
    points, coordinates = recording.landmarks, checkpoint.preprocess.coordinates
    if points.ndim != 3 or points.shape[1] != held.landmarks or points.shape[2] not in (2, 3):
        raise DataError(
            f"{recording.id}: landmarks of shape {points.shape}, expected (frames, {held.landmarks}, 2 or 3)"
        )
    if points.shape[2] < len(coordinates):
        raise DataError(f"{recording.id}: has x and y only, and the model was trained with z; use a model of x and y")
    if not len(points):
        raise DataError(f"{recording.id}: has no frames")
    if np.isinf(points).any():
        raise DataError(f"{recording.id}: holds infinite coordinates; mark missing landmarks with NaN")
    if not any(recording.seen().values()):
        raise DataError(f"{recording.id}: nobody was detected in any of its {len(points)} frames; is a person in view?")


def _kept(wanted: Layout) -> Kept:
    """The smallest set of landmarks to keep of a detection in which a model's are."""
    fitting = [name for name in get_args(Kept) if not find_layout(name).lacks(wanted)]
    return min(fitting, key=lambda name: find_layout(name).landmarks)
