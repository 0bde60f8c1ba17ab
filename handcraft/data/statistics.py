"""Mean and standard deviation per part and coordinate: computed on the training clips, stored with the model, used
unchanged ever after (step 6 of preprocessing)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handcraft.data.clips import Clips
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout as find_layout

# Mean and deviation of x, y, z that the authors of the paper standardise each part with, in fractions of the picture
# after `paper` centring (as published beside arXiv 2508.14345). The published error figures are in these units.
_AUTHORS = {
    "pose": ((0.0011, 0.1365, 0.0693), (0.0184, 0.1365, 0.0692)),
    "right_hand": ((-0.0325, 0.1191, 0.0), (0.0111, 0.0222, 42.0)),
    "left_hand": ((0.0251, 0.1365, 0.0), (0.0105, 0.0198, 42.0)),
    "face": ((-0.0024, -0.0086, 0.1384), (0.0046, 0.0086, 0.0040)),
}

_CONSTANT = 1e-6  # a smaller deviation is a constant coordinate (z set to 0): it is divided by 1 instead
_CHUNK = 1 << 16  # frames read at a time, so that the float64 copies stay small


@dataclass(frozen=True, eq=False)
class Statistics:
    """`mean` and `std`, each (J,C) float32: equal for all landmarks of a part."""

    mean: Tensor
    std: Tensor

    def standardise(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(x - mean) / std with missing values (NaN) as 0. x (...,J,C) -> `out`, or a new tensor of that shape."""
        return torch.sub(x, self.mean, out=out).div_(self.std).nan_to_num_(0.0)

    def unstandardise(self, x: Tensor) -> Tensor:
        """x * std + mean, the inverse where nothing was missing. x (...,J,C) -> a new tensor of that shape."""
        return torch.mul(x, self.std).add_(self.mean)

    def to(self, device: torch.device | str) -> "Statistics":
        """The same numbers on `device`."""
        return Statistics(self.mean.to(device), self.std.to(device))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, ready for JSON; `from_dict` gives back the same float32 values."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Statistics":
        """Read what `to_dict` gave; `DataError` if it is damaged."""
        try:
            mean, std = (torch.tensor(values[name], dtype=torch.float32) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"statistics are damaged ({error}); expected 'mean' and 'std', each landmarks x coordinates"
            ) from None
        if mean.ndim != 2 or mean.shape != std.shape or not (mean.isfinite().all() and (std > 0).all()):
            raise DataError(
                f"statistics are damaged: mean has shape {tuple(mean.shape)}, std {tuple(std.shape)}; expected the "
                "same (landmarks, coordinates) for both, finite, std above 0"
            )
        return Statistics(mean, std)


def authors(layout: str, coordinates: int) -> Statistics:
    """The constants of the paper's authors for a layout, for the first `coordinates` (2 or 3) of x, y, z.

    They fit clips centred by `centre: paper` and no others. Frame errors are comparable with the published 14.1, 8.0
    and 7.3 only under them (docs/method.md).
    """
    if coordinates not in (2, 3):
        raise ConfigError(f"coordinates is {coordinates}; expected 2 (x, y) or 3 (x, y, z)")
    found = find_layout(layout)
    mean, std = torch.zeros(found.landmarks, coordinates), torch.ones(found.landmarks, coordinates)
    for part, rows in found.slices.items():
        mean[rows], std[rows] = (torch.tensor(values[:coordinates]) for values in _AUTHORS[part])
    return Statistics(mean, std)


def compute(clips: Clips) -> Statistics:
    """Statistics of these clips: give the training clips, and no other.

    One mean and one population deviation per part and coordinate, over all the part's landmarks, frames and clips,
    missing values left out. A deviation below 1e-6 becomes 1; a part never seen gets mean 0 and deviation 1.
    """
    if not len(clips):
        raise DataError("statistics need at least one training clip, there is none")
    parts = list(find_layout(clips.layout).slices.values())
    rows = clips.rows()
    _, landmarks, coordinates = clips.frames.shape
    mean = torch.zeros(landmarks, coordinates, dtype=torch.float64, device=rows.device)
    std = torch.ones_like(mean)
    total, count, square = (
        torch.zeros(len(parts), coordinates, dtype=torch.float64, device=rows.device) for _ in range(3)
    )
    for chunk in rows.split(_CHUNK):
        values = clips.read(chunk).double()
        for i, part in enumerate(parts):
            total[i] += values[:, part].nansum((0, 1))
            count[i] += values[:, part].isnan().logical_not_().sum((0, 1))
    for i, part in enumerate(parts):
        mean[part] = total[i] / count[i].clamp(min=1)
    # The second pass sums squares around the mean: differences of large sums would lose a small deviation.
    for chunk in rows.split(_CHUNK):
        values = clips.read(chunk).double() - mean
        for i, part in enumerate(parts):
            square[i] += values[:, part].square().nansum((0, 1))
    for i, part in enumerate(parts):
        deviation = (square[i] / count[i].clamp(min=1)).sqrt()
        std[part] = torch.where(deviation < _CONSTANT, 1.0, deviation)
    return Statistics(mean.float(), std.float())
