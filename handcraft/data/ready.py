"""Training windows that need only be copied.

Without rotation and scaling, all that is random about a training window is which rows of its clip it shows. Masks and
standardising go row by row, so they are done once for all rows instead of in every batch; and with each clip laid out
at least a window long (repeated or padded as its window would be), every window is one run of rows, copied as a whole.
The batches are those of `handcraft.data.batches.training_batch`, bit for bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data.augment import sub_windows
from handcraft.data.batches import Batch, evaluation_batches, sample_batch
from handcraft.data.clips import Clips
from handcraft.data.distort import distorts
from handcraft.data.statistics import Statistics
from handcraft.distributed import WHOLE, Share

_CHUNK = 1 << 10  # clips laid out at a time, so that nothing but the result is large
# Random numbers are drawn for so many samples at once, of several steps if need be: a Philox call is a hundred small
# operations, which for one small batch take longer than the batch itself.
_DRAWN_AT_ONCE = 1 << 12


class ReadyWindows:
    """Gives training batches out of the rows of `clips`, standardised with `statistics`, on the clips' device."""

    def __init__(self, clips: Clips, window: WindowConfig, statistics: Statistics, *, batch: int, seed: int):
        self.clips, self.window, width = clips, window, window.frames
        self.batch, self.seed = batch, seed
        length = _lengths(clips, window)
        self._first = length.cumsum(0) - length  # (N,), each clip's first row
        rows, (_, landmarks, coordinates) = int(length.sum()), clips.frames.shape
        x = torch.empty(rows, landmarks * coordinates, device=length.device)
        present, valid = (torch.empty(rows, n, dtype=torch.bool, device=length.device) for n in (landmarks, 1))
        at = 0
        for pieces in _laid_out(clips, window, statistics):
            here = slice(at, at := at + len(pieces[0]))
            for rows_of, piece in zip((x, present, valid), pieces, strict=True):
                rows_of[here] = piece
        self._drawn: tuple[tuple[int, Share], tuple[Tensor, Tensor, Tensor]] | None = None
        # Row i of these views is the run of W rows from row i on.
        self._x, self._present, self._valid = (
            tensor.as_strided((rows - width + 1, width * tensor.shape[1]), (tensor.shape[1], 1))
            for tensor in (x, present, valid)
        )

    @staticmethod
    def serves(augment: AugmentConfig, window: WindowConfig) -> bool:
        """Whether a training window is a run of rows: nothing turned, scaled, distorted or resampled anew each time."""
        changed = augment.rotation or augment.scale or distorts(augment)
        return not changed and (window.mode != "resample" or augment.subwindow == 1)

    @staticmethod
    def bytes_needed(clips: Clips, window: WindowConfig) -> int:
        """Memory that the rows of `clips` take."""
        _, landmarks, coordinates = clips.frames.shape
        return int(_lengths(clips, window).sum()) * (4 * landmarks * coordinates + landmarks + 1)

    def __call__(self, step: int, share: Share = WHOLE) -> Batch:
        """What `batches.training_batch` gives for this step, or for a share of it."""
        steps = max(1, _DRAWN_AT_ONCE // max(self.batch, 1))
        index, sample_id, row = (drawn[step % steps] for drawn in self._draw(step // steps, steps, share))
        x, present, valid = (
            runs.index_select(0, row).view(len(row), self.window.frames, -1)
            for runs in (self._x, self._present, self._valid)
        )
        return Batch(x, present, valid.squeeze(2), self.clips.label[index], index, sample_id)

    def _draw(self, number: int, steps: int, share: Share) -> tuple[Tensor, Tensor, Tensor]:
        """Clip, sample id and first row of each sample of the steps from number * steps on, (steps,B) each."""
        if self._drawn is None or self._drawn[0] != (number, share):
            every = sample_batch(number, steps * self.batch, self.seed, self.clips)
            index, sample_id = (drawn.view(steps, self.batch)[:, share.of(self.batch)] for drawn in every)
            row = self._first[index]
            if self.window.mode != "resample":
                length = self.clips.length[index].flatten()
                begin, _ = sub_windows(length, AugmentConfig(), self.window, self.seed, sample_id.flatten())
                row = row + begin.long().view(row.shape)
            self._drawn = (number, share), (index, sample_id, row)
        return self._drawn[1]


def _lengths(clips: Clips, window: WindowConfig) -> Tensor:
    """Rows that each clip is laid out in, (N,)."""
    if window.mode == "resample":
        return torch.full_like(clips.length, window.frames)
    return clips.length.clamp(min=window.frames)


def _laid_out(clips: Clips, window: WindowConfig, statistics: Statistics) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of some clips after others: x (rows,D) float32, present (rows,J) bool, valid (rows,1) bool."""
    if window.mode == "resample":
        for batch in evaluation_batches(clips, window, statistics, _CHUNK):
            yield batch.x.flatten(0, 1), batch.present.flatten(0, 1), batch.valid.reshape(-1, 1)
        return
    for part in torch.arange(len(clips), device=clips.start.device).split(_CHUNK):
        some = clips.subset(part)
        rows = _lengths(some, window)
        first = (rows.cumsum(0) - rows).repeat_interleave(rows)
        frame = torch.arange(len(first), device=first.device) - first  # within its clip, beyond its end where short
        length = some.length.repeat_interleave(rows)
        x = clips.read(some.start.repeat_interleave(rows) + frame % length)  # (rows,J,C)
        valid = (
            (frame < length)[:, None] if window.mode == "zero" else torch.ones_like(length, dtype=torch.bool)[:, None]
        )
        x.masked_fill_(~valid[..., None], torch.nan)
        yield statistics.standardise(x).flatten(1), ~x[..., 0].isnan(), valid
