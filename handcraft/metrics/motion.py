"""Generation metrics: how far predicted frames lie from the recorded ones, and how much a generated clip jumps where
its halves meet. Beside the generator stand two predictors that learn nothing: repeat the last frame, and keep the last
frame's velocity.

One rule of comparison for all predictors (`comparable`): a landmark of a clip takes part only if both of the last two
context frames show it, since a baseline has nothing to continue otherwise; of its target frames, only those count that
are valid (no padding) and in which the landmark was seen. Errors are summed in float64 and never averaged over batches
of unequal weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

VERSION = "v1"
RULE = "mask:valid frames, seen landmarks, both last context frames seen"


def repeat_last(context: Tensor, frames: int) -> Tensor:
    """The last frame of `context (B,M,J,C)`, `frames` times: (B,frames,J,C)."""
    return context[:, -1:].expand(-1, frames, -1, -1)


def constant_velocity(context: Tensor, frames: int) -> Tensor:
    """Continue `context (B,M,J,C)`, M >= 2, with its last frame-to-frame difference: (B,frames,J,C)."""
    steps = torch.arange(1, frames + 1, dtype=context.dtype, device=context.device)[:, None, None]
    return context[:, -1:] + steps * (context[:, -1:] - context[:, -2:-1])


def comparable(present: Tensor, valid: Tensor, context: int) -> Tensor:
    """Which target points are compared: (B,W-M,J) bool from `present (B,W,J)`, `valid (B,W)` and M context frames."""
    seen = present & valid[..., None]
    return seen[:, context:] & seen[:, context - 2 : context].all(1, keepdim=True)


@dataclass
class PointError:
    """Mean over points of the Euclidean error, in the unit of the coordinates; running sums per landmark."""

    total: Tensor
    count: Tensor

    @classmethod
    def empty(cls, landmarks: int) -> "PointError":
        return cls(torch.zeros(landmarks, dtype=torch.float64), torch.zeros(landmarks, dtype=torch.int64))

    def update(self, predicted: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add `predicted`, `target (B,T,J,C)` where `mask (B,T,J)`; what the others hold, NaN included, is ignored."""
        error = torch.linalg.vector_norm(predicted.double() - target.double(), dim=-1)
        self.total += error.where(mask, torch.zeros_like(error)).sum((0, 1)).cpu()
        self.count += mask.sum((0, 1)).cpu()

    @property
    def value(self) -> float | None:
        """MPJPE over all points; None when no point was counted."""
        return float(self.total.sum() / self.count.sum()) if self.count.any() else None

    @property
    def per_landmark(self) -> list[float | None]:
        return [float(t / c) if c else None for t, c in zip(self.total, self.count, strict=True)]

    def margin(self, other: "PointError") -> dict:
        """How clearly this predictor beats `other`, landmark by landmark, over landmarks counted at all:
        `share` of landmarks with the smaller error, and the `median` and `worst` ratio of the errors (below 1: beats).
        """
        counted = (self.count > 0) & (other.count > 0)
        mine, theirs = (self.total / self.count)[counted], (other.total / other.count)[counted]
        if not len(mine):
            return {"share": None, "median": None, "worst": None}
        ratio = mine / theirs.clamp(min=1e-12)
        return {
            "share": float((mine < theirs).double().mean()),
            "median": float(ratio.median()),
            "worst": float(ratio.max()),
        }


@dataclass
class FrameError:
    """The paper's figure: mean over frames of the norm over all of D, in the standardised units of the model."""

    total: float = 0.0
    count: int = 0

    def update(self, predicted: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add standardised `predicted`, `target (B,T,J,C)`; points outside `mask (B,T,J)` add nothing to a frame's norm
        and a frame without any point is no frame."""
        square = (predicted.double() - target.double()).square().sum(-1)
        norm = square.where(mask, torch.zeros_like(square)).sum(-1).sqrt()
        frames = mask.any(-1)
        self.total += float(norm[frames].sum())
        self.count += int(frames.sum())

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def mpjpe(predicted: Tensor, target: Tensor, mask: Tensor) -> float | None:
    """Mean per-landmark position error of `predicted`, `target (B,T,J,C)` over the points of `mask (B,T,J)`."""
    error = PointError.empty(target.shape[2])
    error.update(predicted, target, mask)
    return error.value


def frame_error(predicted: Tensor, target: Tensor, mask: Tensor) -> float | None:
    """`FrameError` of one batch: standardised `predicted`, `target (B,T,J,C)`, `mask (B,T,J)`."""
    error = FrameError()
    error.update(predicted, target, mask)
    return error.value


def splice_jump(clips: Tensor, mask: Tensor, context: int, into: PointError | None = None) -> float | None:
    """Mean displacement per landmark from frame M-1 to frame M of `clips (B,W,J,C)`, M = `context`.

    A landmark counts where `mask (B,W,J)` holds on both sides. `into` collects over batches.
    """
    error = PointError.empty(clips.shape[2]) if into is None else into
    both = mask[:, context - 1 : context] & mask[:, context : context + 1]
    error.update(clips[:, context : context + 1], clips[:, context - 1 : context], both)
    return error.value


def signatures(layout: str, unit: str, frames: int, context: int, split: str) -> dict[str, str]:
    """What each figure means, one line a metric. `unit` is the centred unit, `frames` W, `context` M."""
    common = f"{RULE}|clips:{split}|{VERSION}"
    half = f"frames:{frames - context} of {frames}"
    return {
        "mpjpe": f"mpjpe|points:{layout}|unit:{unit}|{half}|{common}",
        "frame_error": f"frame_error|norm over D of {layout}|unit:standardised|{half}|{common}",
        "splice_jump": f"splice_jump|points:{layout}|unit:{unit}|frames:{context - 1} to {context}|"
        f"mask:landmarks seen in both frames of the source clip|clips:{split}|{VERSION}",
    }
