"""What should make one doubt a prediction: parts that were not seen, and recordings unlike those of the training."""

from collections.abc import Iterator, Mapping

from handcraft.checkpoint import Checkpoint
from handcraft.data.recorded import IDENTITY, SAME_RATE, Recorded
from handcraft.recording import Recording

SAME_SHAPE = 0.02  # shapes of pictures (width / height) that differ by less, as a share, count as one


def doubts(checkpoint: Checkpoint, recording: Recording, seen: Mapping[str, float], window: float | None) -> list[str]:
    """Sentences on a recording that a classifier is to recognise, none where all is as in its training.

    seen: the share of frames in which each part of the model's layout was detected; window: seconds, None where the
    recording is one clip. Of checkpoints that do not say how their clips were recorded, what they would expect is said.
    """
    trained = checkpoint.recorded or Recorded()
    found = [f"{part.replace('_', ' ')} not detected in any frame" for part, share in seen.items() if not share]
    if recording.varies and window is not None:
        found.append("its frame rate varies, and times are by the average; sample it evenly (fps)")
    if checkpoint.recorded is not None:
        found += _of_shape(trained.aspect, recording.aspect, checkpoint.preprocess.centre == "shoulder")
    found += _of_detector(trained, recording)
    if checkpoint.window.mode != "resample":
        found += _of_frames(checkpoint.window.frames, trained.fps, recording, window)
    return found


def _of_shape(trained: float | None, its: float | None, evened: bool) -> Iterator[str]:
    """evened: whether preprocessing makes up for shapes that are both known."""
    if (evened and trained and its) or _alike(trained or 1.0, its or 1.0, SAME_SHAPE):
        return
    unknown = "of unknown shape" + (" (taken as square)" if evened else "")
    theirs, own = (f"{shape:.2f} times as wide as high" if shape else unknown for shape in (trained, its))
    yield (
        f"the pictures of the training clips are {theirs}, these are {own}: people here may look wider or narrower "
        "than those that the model knows"
    )


def _of_detector(trained: Recorded, recording: Recording) -> Iterator[str]:
    its = recording.detector
    if not its or not trained.detectors or dict(its) in trained.detectors:
        return
    theirs = trained.detectors[0]
    other = [
        f"{name} {str(its.get(name))[:12]} instead of {str(theirs.get(name))[:12]}"
        for name in IDENTITY
        if its.get(name) != theirs.get(name)
    ]
    yield f"its landmarks were detected otherwise than those of the training clips: {', '.join(other)}"


def _of_frames(width: int, trained: float | None, recording: Recording, window: float | None) -> Iterator[str]:
    """Of models that look at `width` frames as they are."""
    frames, its = len(recording.landmarks), recording.fps
    if not (trained and its and _alike(trained, its, SAME_RATE)):
        theirs, own = (f"{rate:g}" if rate else "an unknown number of" for rate in (trained, its))
        yield (
            f"the model looks at {width} frames as they are: its training clips have {theirs} frames a second, this "
            f"one has {own}; sample it at the same rate (fps)"
        )
    piece = frames if window is None else min(frames, round(window * its))
    if piece > width:
        what = "the clip" if window is None else "each window"
        yield f"of {piece} frames of {what} only the middle {width} are looked at"


def _alike(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * one
