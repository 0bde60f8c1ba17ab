"""Synthetic clips by number: class, source, variation, generation and missing landmarks of any `clip_id`, in memory.

Clip number i of a seed is a function of the generators, the source clips, the seed and i alone: its class is i modulo
the number of classes, so that any number of clips is as balanced as can be; its source is drawn from the class's clips
by Philox stream 2; its noise comes from streams 0 and 1, the variation of its source from stream 4. What the clips are
made for, a store on disk (`handcraft.generate`) or the next training batch (`handcraft.online`), changes nothing.
"""

import copy
import functools
import hashlib
import json
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

import handcraft
from handcraft.checkpoint import Checkpoint
from handcraft.config import AugmentConfig, SequentialConfig
from handcraft.data.augment import draw_turns, sub_windows
from handcraft.data.clips import Clips
from handcraft.data.manifest import hex_digests, split_hash
from handcraft.data.split import validation_split
from handcraft.data.window import windows
from handcraft.errors import ConfigError, DataError
from handcraft.kernels import CMLPeParams, cmlpe_generate, dispatch, philox
from handcraft.match import require_data, require_twins
from handcraft.models.sequential import roll_both
from handcraft.partition import VALIDATION_SHARE

_READY_BYTES = 512 << 20  # windows of all sources are kept where they take no more: 18,000 of 32 x 60 x 3 numbers
_TOGETHER = 1024  # of them are made at a time


class Synthetic(NamedTuple):
    """B generated clips."""

    landmarks: Tensor
    """(B,W,J,C) float16, centred coordinates, NaN = missing; the first `length` frames of each are the clip."""
    length: Tensor
    """(B,) int64, frames of each clip: its source's where the generators' window repeats or pads, at most W; with
    resample always W."""
    label: Tensor
    """(B,) int64, class."""
    row: Tensor
    """(B,) int64, position of its source among the clips."""


class Synthesizer:
    """Twin generators with their source clips: makes any clip of a seed, on the device where the clips lie.

    Of a window of the source the forward generator continues the first half and the reversed one continues the second
    half backwards: both halves of a clip are generated. With sequential generators see `models.sequential.roll_both`.
    The bytes of clip i do not depend on what is made beside it.

    vary: read each source as the generators' training did, with their augmentation (rotated, scaled, a sub-window, a
    random crop of a longer clip); False: the whole clip, or the centred crop, as it is.
    missing: "source" marks a landmark missing in frame t of a clip where it is missing in frame t of the source window,
    so that a lost hand looks like one; "none" keeps what the generators put there.

    `CheckpointError`: the generators do not belong together or to these clips. `ConfigError`: `seed` or `missing` is
    none of the values named here. `DataError`: a class without clips, when the first clips are made.
    """

    def __init__(
        self,
        forward: Checkpoint,
        reversed: Checkpoint,
        clips: Clips,
        *,
        seed: int,
        missing: Literal["source", "none"] = "source",
        vary: bool = True,
    ):
        require_twins(forward, reversed)
        require_data(forward, clips)
        if not 0 <= seed < 1 << 64 or missing not in ("source", "none"):
            raise ConfigError(
                f"synthetic clips: seed is {seed}, missing {missing!r}; expected a seed in [0, 2^64), missing 'source' "
                "or 'none'"
            )
        self.forward, self.reversed, self.clips = forward, reversed, clips
        self.seed, self.missing, self.vary = seed, missing, vary
        self.window, self.noise = forward.window, forward.config.noise
        self._augment: AugmentConfig | None = forward.augment if vary else None
        device = clips.start.device
        statistics = forward.statistics.to(device)
        self._mean, self._std = statistics.mean.flatten(), statistics.std.flatten()
        self._twins = [copy.deepcopy(checkpoint.model).to(device).eval() for checkpoint in (forward, reversed)]
        self._params = [CMLPeParams(*(value.detach() for value in model.params())) for model in self._twins]
        self._ready = self._prepare()
        self._absent = None if self._ready is None else _isnan(self._ready)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the bytes of a clip beside its number, plain values for JSON: on another kind of device, by
        another backend or version, they differ in rounding."""
        config = self.forward.config
        op = "cmlpe" if isinstance(config, SequentialConfig) else "cmlpe_generate"
        return {
            "forward": self.forward.sha256,
            "reversed": self.reversed.sha256,
            "seed": self.seed,
            "noise": self.noise,
            "missing": self.missing,
            "vary": self.vary,
            "source_clips": split_hash(self.clips.digest),
            "device": self._mean.device.type,
            "backend": dispatch.select(op, "auto", self._mean, M=config.context, D=config.dim),
            "versions": {"handcraft": handcraft.__version__, "torch": torch.__version__},
        }

    def digests(self, made: "Synthetic", clip_id: Tensor) -> np.ndarray:
        """Hashes by which the clips `clip_id` (B,), as `make` made them, are known in any store, (B,) uint64.

        Not of their bytes, which would be read once more for that, but of what decides them: the first 8 bytes,
        little-endian, of SHA-256 over `settings` (JSON, fields in order, no blanks) and the clip's number as 8 bytes,
        little-endian. Where nothing is random the source's place takes that of the number.
        """
        number = made.row if self.noise == 0 and self._augment is None else clip_id
        head = hashlib.sha256(json.dumps(self.settings, sort_keys=True, separators=(",", ":")).encode())
        found = bytearray()
        for one in number.cpu().numpy().astype("<u8"):
            state = head.copy()  # cheaper than making one
            state.update(one)
            found += state.digest()[:8]
        return np.frombuffer(bytes(found), "<u8").astype(np.uint64)

    def over(self, clips: Clips) -> "Synthesizer":
        """One that makes the same clips from the same sources, `clips`, which lie elsewhere."""
        ways = {"seed": self.seed, "missing": self.missing, "vary": self.vary}
        return Synthesizer(self.forward, self.reversed, clips, **ways)

    @property
    def seen_clips(self) -> set[str]:
        """Digests of all real clips behind the synthetic ones: those that either generator or this object has seen."""
        return {*self.forward.seen_clips, *self.reversed.seen_clips, *hex_digests(self.clips.digest)}

    def frames(self, numbers: range) -> int:
        """Frames of the clips with these numbers, all together."""
        clip_id = torch.arange(numbers.start, numbers.stop, device=self.clips.start.device)
        return int(self._length(sources(self.clips, clip_id, self.seed)[1]).sum())

    @torch.no_grad()
    def make(self, clip_id: Tensor) -> Synthetic:
        """The clips with these numbers, clip_id (B,) int64."""
        clip_id = clip_id.to(self.clips.start.device)
        label, row = sources(self.clips, clip_id, self.seed)
        context, place = self._context(row, clip_id)
        made = torch.empty(len(row), *context.shape[1:], dtype=torch.float16, device=context.device)
        self._generate(context, place, label, clip_id, made.flatten(2))
        if self.missing == "source":
            _fill(made, _isnan(context) if self._ready is None else self._absent[row])
        return Synthetic(made, self._length(row), label, row)

    def _generate(self, context: Tensor, place: Tensor, label: Tensor, clip_id: Tensor, out: Tensor) -> None:
        """Clips (B,W,D) into `out` from the windows context[place] (B,W,J,C), of signs label (B,)."""
        if isinstance(self.forward.config, SequentialConfig):
            window = (context[place].flatten(2) - self._mean).div_(self._std).nan_to_num_(0.0)
            out.copy_(roll_both(self._twins, window, label, clip_id, self.seed) * self._std + self._mean)
            return
        cmlpe_generate(
            *self._params,
            context.flatten(2),
            place,
            label,
            clip_id,
            seed=self.seed,
            noise=self.noise,
            mean=self._mean,
            std=self._std,
            out=out,
        )

    def _context(self, row: Tensor, clip_id: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (n,W,J,C) float32, NaN = missing, and which of them clip i of the batch continues, (B,)."""
        if self._ready is not None:
            return self._ready, row
        return self._windows(row, clip_id), torch.arange(len(row), device=row.device)

    def _windows(self, row: Tensor, clip_id: Tensor) -> Tensor:
        """Windows of the sources `row (B,)`, (B,W,J,C) float32, varied by the random numbers of `clip_id`."""
        if self._augment is None:
            return windows(self.clips, row, self.window)[0]
        begin, span = sub_windows(self.clips.length[row], self._augment, self.window, self.seed, clip_id)
        turns = draw_turns(self._augment, self.seed, clip_id)
        return windows(self.clips, row, self.window, begin, span, turns=turns)[0]

    def _prepare(self) -> Tensor | None:
        """The window of every source, where all clips of a source read the same one and there is room for all."""
        if self._augment is not None:
            whole = self._augment.subwindow == 1 if self.window.mode == "resample" else self._fits()
            if self._augment.rotation or self._augment.scale or not whole:
                return None
        if len(self.clips) * self.window.frames * self._mean.numel() * 5 > _READY_BYTES:
            return None
        rows = torch.arange(len(self.clips), device=self.clips.start.device)
        return torch.cat([windows(self.clips, some, self.window)[0] for some in rows.split(_TOGETHER)])

    def _fits(self) -> bool:
        return bool((self.clips.length <= self.window.frames).all())

    def _length(self, row: Tensor) -> Tensor:
        if self.window.mode == "resample":
            return torch.full_like(row, self.window.frames)
        return self.clips.length[row].clamp(max=self.window.frames)


def sources(clips: Clips, clip_id: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Class (B,) and source clip (B,), a position in `clips`, of the generated clips `clip_id (B,)`, all int64.

    The class is clip_id modulo the number of classes; the source is uniform among that class's clips in their order,
    by word 0 of quad 0, block 0, Philox stream 2. `DataError` names a class without clips.
    """
    order, first, count = clips.by_class
    if not bool((count > 0).all()):
        empty = [clips.classes[i] for i in (count == 0).nonzero().flatten().tolist()]
        raise DataError(
            f"{len(empty)} of {len(clips.classes)} classes have no clip to generate from: {', '.join(empty[:10])}; "
            "give clips of every class"
        )
    label = clip_id % len(clips.classes)
    word = philox.words(seed, clip_id, philox.STREAM_SOURCE, 0, 1)[:, 0, 0]
    return label, order[first[label] + philox.integers(word, count[label])]


def seen_by(generator: Checkpoint, clips: Clips) -> Clips:
    """The clips a generator was trained on, its sources; those that validated it are left out where they are known.

    `DataError` if none of them is here.
    """
    seen = np.array([int(digest, 16) for digest in generator.seen_clips], dtype=np.uint64)
    known = np.isin(clips.digest, seen)
    if not known.any():
        raise DataError(
            f"none of the {len(clips)} clips is among those {generator.path} was trained on; give the store that the "
            "generators were trained with"
        )
    # The split is a function of clips and seed: made again, it is the one that the checkpoint's hash belongs to.
    train, _ = validation_split(np.flatnonzero(known), clips.label.numpy(), VALIDATION_SHARE, generator.seed)
    same = split_hash(clips.digest[train]) == generator.split_hashes.get("train")
    return clips.subset(train if same else known)


def _isnan(x: Tensor) -> Tensor:
    """Where `x` is NaN; numpy's test is vectorised and torch's on a CPU is not."""
    return torch.from_numpy(np.isnan(x.numpy())) if x.device.type == "cpu" else x.isnan()


def _fill(made: Tensor, absent: Tensor) -> None:
    """NaN into `made` where `absent`, of its shape; again numpy's way is 10 times as fast on a CPU."""
    if made.device.type == "cpu":
        np.copyto(made.numpy(), np.float16(np.nan), where=absent.numpy())
    else:
        made.masked_fill_(absent, torch.nan)
