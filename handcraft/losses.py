"""The generator's training loss (docs/method.md) on windows that may have missing landmarks and padded frames."""

import torch

from handcraft.kernels import motion_norms


def motion_counts(present: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """What `motion_loss` divides by, (2,) int64: the frames that count, and the frame-to-frame differences.

    present (B,M,J), valid (B,M) bool as there. The counts of a batch are the sums of its parts' counts.
    """
    return _counts(present & valid[..., None])


def _counts(seen: torch.Tensor) -> torch.Tensor:
    """`motion_counts` of the landmarks (B,M,J) that are seen in a frame that is no padding."""
    both = seen[:, 1:] & seen[:, :-1]
    return torch.stack([mask.sum(-1).count_nonzero() for mask in (seen, both)])  # `any` takes five times as long


def motion_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    present: torch.Tensor,
    valid: torch.Tensor,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over frames of ||y_hat - y||_2 over D, plus the same on frame-to-frame differences.

    prediction, target (B,M,D) standardised, D = J*C; present (B,M,J) bool, False where the target's landmark is
    missing; valid (B,M) bool, False on padding. Returns a scalar of the prediction's dtype.

    Missing landmarks add nothing to a frame's norm, and frames that are padding or show no landmark at all are left
    out of the mean. Differences are taken inside the predicted M frames, of which there are M-1 (the step from the
    last context frame is left out, as the position loss of the first frame already measures it), and count where
    both frames are valid and the landmark is seen in both. With nothing to compare the loss is 0 with zero gradients.

    counts: `motion_counts` of the whole batch, where these samples are a part of one: the losses of the parts then add
    up to the loss of the batch.
    """
    batch, frames, _ = present.shape
    if prediction.shape != target.shape or prediction.shape[:2] != (batch, frames) or valid.shape != (batch, frames):
        raise ValueError(
            f"motion_loss: prediction {tuple(prediction.shape)}, target {tuple(target.shape)}, present "
            f"{tuple(present.shape)}, valid {tuple(valid.shape)}; expected (B,M,D) twice, (B,M,J) and (B,M)"
        )
    seen = present & valid[..., None]  # (B,M,J)
    norms = motion_norms(prediction, target, seen)  # (B,2,M)
    counts = _counts(seen) if counts is None else counts
    return (norms.sum((0, 2)) / counts.clamp(min=1)).sum()
