"""Frames that do not lie where training happens: in host memory beside a GPU, or in files mapped from disk."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class HostFrames:
    """Rows of frames (rows,J,C) in numpy arrays, gathered on request and brought to `device` as tensors.

    Stands in for a tensor in `Clips.frames`: shape, dtype, device, `index_select(0, rows)`, `to(device)` and a slice.

    bounds: first row of each part, and after the last one the number of all rows. part: gives part i, (n,J,C) float32
    or float16; called for each use, so that it decides how many files are open at a time. mend: mark a landmark missing
    in all coordinates where it is so in one.
    """

    def __init__(
        self,
        bounds: np.ndarray,
        part: Callable[[int], np.ndarray],
        points: tuple[int, int],
        dtype: torch.dtype,
        *,
        mend: bool = False,
        device: torch.device | str = "cpu",
    ):
        self._bounds, self._part, self._mend = np.asarray(bounds, dtype=np.int64), part, mend
        self.shape, self.dtype = torch.Size((int(self._bounds[-1]), *points)), dtype
        self.device = torch.device(device)

    @classmethod
    def of(cls, frames: np.ndarray | Tensor, device: torch.device | str = "cpu") -> "HostFrames":
        """One array (rows,J,C), or a tensor on the CPU, as it is."""
        array = frames.numpy() if isinstance(frames, Tensor) else frames
        dtype = torch.float16 if array.dtype == np.float16 else torch.float32
        return cls(np.array([0, len(array)]), lambda _: array, array.shape[1:], dtype, device=device)

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device | str) -> "HostFrames":
        """The same frames, to be brought to `device`."""
        return HostFrames(
            self._bounds, self._part, tuple(self.shape[1:]), self.dtype, mend=self._mend, device=torch.device(device)
        )

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Frames at `rows` (K,) int64 in any order, (K,J,C) in the stored dtype on `device`. dim: 0, as for tensors."""
        assert dim == 0
        wanted = rows.cpu().numpy()
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        cuda = self.device.type == "cuda"
        found = torch.empty(len(wanted), *self.shape[1:], dtype=self.dtype, pin_memory=cuda)
        into = found.numpy()
        if len(self._bounds) == 2:
            np.take(self._part(0), wanted, axis=0, out=into, mode="clip")  # the other modes would make a copy first
        else:  # part after part, each from its first row to its last
            order = np.argsort(wanted, kind="stable")
            cuts = np.searchsorted(wanted[order], self._bounds)
            for number in np.flatnonzero(np.diff(cuts)):
                here = order[cuts[number] : cuts[number + 1]]
                into[here] = self._part(number)[wanted[here] - self._bounds[number]]
        if self._mend:
            into[np.isnan(into).any(2)] = np.nan
        return found.to(self.device, non_blocking=cuda)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.index_select(0, torch.arange(*rows.indices(len(self))))
