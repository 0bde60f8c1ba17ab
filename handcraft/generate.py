"""Synthetic clips from the twin generators: real windows in, a store of generated clips out.

What clip number i (`clip_id`) of a store is made of, `handcraft.synthesis` says. Batches are made side by side by a few
threads and written in their order by the caller's, part after part; what is written depends on neither their size nor
the number of threads, not by one byte. A call that was stopped is continued by the same call, and the parts of one
store can be made on many machines: see `handcraft.data.resumable`.
"""

import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from handcraft.checkpoint import Checkpoint
from handcraft.data.clips import Clips
from handcraft.data.preprocess import signature
from handcraft.data.resumable import ResumableWriter
from handcraft.data.store import Store
from handcraft.data.writer import PART_CLIPS
from handcraft.errors import ConfigError, DataError
from handcraft.gates import Gate, Tally, kept
from handcraft.machine import keep_memory
from handcraft.match import as_checkpoint
from handcraft.synthesis import Synthesizer

GATE_BATCH = 256
"""Clips that gates look at together, whatever the batch: a classifier's scores differ in their last bits with the
number of clips, so a clip at the threshold would be kept in one batch and rejected in another."""
LARGEST_PART = 1 << 20  # clips: the table of a part is held in memory until the part is whole


def generate(
    forward: Checkpoint | Path | str,
    reversed: Checkpoint | Path | str,
    clips: Clips,
    out: Path | str,
    *,
    per_class: int | None = None,
    total: int | None = None,
    seed: int = 0,
    batch: int = 2048,
    missing: Literal["source", "none"] = "source",
    vary: bool = True,
    gates: Sequence[Gate] = (),
    shards: int | None = None,
    shard: int | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> Store | None:
    """Write a store of `per_class` clips a class, or of `total` clips, generated from `clips`, and open it.

    `clips` are the training clips, loaded with the generators' preprocessing. Of a window of the source the forward
    generator continues the first half and the reversed one continues the second half backwards: both halves of a clip
    are generated. The store is `centred`, float16, all of it split "train"; a clip's group is its source's.

    vary: read each source as training did, with the augmentation that the generators were trained with (rotated,
    scaled, a sub-window, a random crop of a longer clip); False: the whole clip, or the centred crop, as it is.
    missing: "source" marks a landmark missing in frame t of a clip where it is missing in frame t of the source window,
    so that a lost hand looks like one; "none" keeps what the generators put there. Where the window repeats or pads
    (wrap, zero) a clip has as many frames as its source, at most the window's; with resample all of the window's.

    gates: which clips to keep (`handcraft.gates`). A clip that does not pass is replaced by the next number of its
    class that no other clip of this store can have; how many were made and rejected, the manifest's source says.
    shards: parts of the store, of nearly the same size; default: parts of 4,096 clips. shard: make this one part alone,
    counted from 0, and return None: so that machines which share a folder, or whose parts are copied into one, make a
    store together, which a call without `shard` then finishes.
    workers: batches made side by side; default: torch's number of threads, which they share, or 2 on a GPU.

    Each clip's provenance names source clip, its digest and frames, both generators' weights, seed and clip_id. The
    manifest's `seen_clips` are all clips that either generator or this call has seen, so that training on the store
    can be refused where they meet the test clips.

    Parts that are whole outlast an interruption; the same call then makes the others.

    `CheckpointError`: the generators do not belong together or to these clips. `DataError`: a class without clips, or
    one of which the gates keep next to nothing; a store at `out`, or an unfinished one of other settings; no space.
    `ConfigError`: not exactly one of `per_class` and `total`, or a number out of range.
    """
    forward, reversed = as_checkpoint(forward), as_checkpoint(reversed)
    synthesizer = Synthesizer(forward, reversed, clips, seed=seed, missing=missing, vary=vary)
    if clips.preprocess is None:
        raise DataError(
            "generate: it is not known how the clips were preprocessed, so no store can say it; load a store"
        )
    count = _count(per_class, total, len(clips.classes))
    parts = _parts(count, shards, shard)
    if batch < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"generate: batch is {batch}, workers {workers}; expected at least 1")
    keep_memory()
    on_cpu = clips.start.device.type == "cpu"
    workers = workers or (torch.get_num_threads() if on_cpu else 2)
    writer = ResumableWriter(
        out,
        parts=len(parts),
        only=shard,
        conclude=lambda notes: Tally.rates(notes, gates, clips.classes),
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates=clips.preprocess.coordinates,
        preprocessing=signature(clips.preprocess),
        seen_clips=synthesizer.seen_clips.union(*(gate.seen_clips for gate in gates)),
        source=_source(synthesizer, count, gates),
        dtype=np.float16,
    )
    maker = _Maker(synthesizer, gates, count)
    size = GATE_BATCH if gates else batch
    with contextlib.ExitStack() as stack:
        stack.enter_context(writer)
        # Matrix products differ in their last bits with the number of threads, too, so gates are given one.
        stack.enter_context(_threads(1 if gates else max(1, torch.get_num_threads() // workers)))
        pool = ThreadPoolExecutor(workers, "generate")
        stack.callback(pool.shutdown, cancel_futures=True)
        todo = [(number, parts[number]) for number in writer.missing]
        wanted = count if shard is None else len(parts[shard])
        bar = tqdm(
            total=wanted,
            initial=wanted - sum(len(part) for _, part in todo),
            desc="generate",
            unit="clip",
            disable=not (sys.stderr.isatty() if progress is None else progress),
        )
        stack.enter_context(bar)
        cuts = [(number, part[at : at + size]) for number, part in todo for at in range(0, len(part), size)]
        made = _in_order(pool, maker.make, (cut for _, cut in cuts), ahead=workers + 2)
        for number, part in todo:
            # Which clips the gates will keep is not known; all generated ones are as long where windows are resampled.
            rows = 0 if gates and synthesizer.window.mode != "resample" else synthesizer.frames(part)
            with writer.part(number, rows) as notes:
                tally = Tally.empty(gates, len(clips.classes))
                for _ in range(0, len(part), size):
                    columns, counted = next(made)
                    writer.add_batch(**columns)
                    tally.add(counted)
                    bar.update(len(columns["ids"]))
                notes.update(tally.notes())
    return Store(out) if shard is None else None


class _Maker:
    """Batches of clips, ready to be written: everything that can be done beside the writing is done here."""

    def __init__(self, synthesizer: Synthesizer, gates: Sequence[Gate], count: int):
        self.synthesizer, self.gates, self.count = synthesizer, gates, count
        self._origin = pa.array(_provenance(synthesizer))
        self._group = pa.array(synthesizer.clips.group.tolist(), pa.string())

    def make(self, places: range) -> tuple[dict[str, Any], Tally]:
        """The arguments of `StoreWriter.add_batch` for the clips at these places of the store; and what it took."""
        made, clip_id, tally = kept(self.synthesizer, self.gates, places, self.count)
        number = pa.array(clip_id.cpu().numpy())
        row = pa.array(made.row.cpu().numpy())
        frames, lengths = made.landmarks.cpu().numpy(), made.length.cpu().numpy()
        text = pc.cast(number, pa.string())
        padded = pc.utf8_lpad(text, 9, "0")
        columns = {
            "landmarks": frames,
            "ids": pc.binary_join_element_wise(f"s{self.synthesizer.seed}", padded, "-"),
            "labels": made.label.cpu().numpy(),
            "groups": self._group.take(row),
            "splits": pa.repeat("train", len(frames)),
            "provenance": pc.binary_join_element_wise(self._origin.take(row), text, "}", ""),
            "digests": self.synthesizer.digests(made, clip_id),
            "lengths": lengths,
        }
        return columns, tally


def _parts(count: int, shards: int | None, shard: int | None) -> list[range]:
    """Which clips of the store each part holds."""
    if shards is None:
        if shard is not None:
            raise ConfigError(f"generate: shard is {shard}, but shards is not given; say of how many")
        return [range(at, min(at + PART_CLIPS, count)) for at in range(0, count, PART_CLIPS)]
    if not -(-count // LARGEST_PART) <= shards <= count:
        raise ConfigError(
            f"generate: shards is {shards} for {count} clips; expected {-(-count // LARGEST_PART)} to {count}, parts "
            f"of 1 to {LARGEST_PART} clips"
        )
    if shard is not None and not 0 <= shard < shards:
        raise ConfigError(f"generate: shard is {shard}; expected 0 to {shards - 1}")
    return [range(count * part // shards, count * (part + 1) // shards) for part in range(shards)]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch's threads of every thread that starts in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """`function` of each item, in their order, with at most `ahead` results begun or waiting."""
    begun = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) == ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _count(per_class: int | None, total: int | None, classes: int) -> int:
    if (per_class is None) == (total is None):
        raise ConfigError(f"generate: per_class is {per_class} and total {total}; give exactly one of them")
    count = total if per_class is None else per_class * classes
    if count < 1:
        raise ConfigError(f"generate: asked for {count} clips; expected at least 1")
    return count


def _source(synthesizer: Synthesizer, count: int, gates: Sequence[Gate]) -> dict[str, Any]:
    """What the manifest says about the making of the store. With gates the number of clips decides which ones."""
    return {
        "command": "generate",
        "clips": count,
        **synthesizer.settings,
        **({"gates": [{"gate": gate.text, **gate.describe()} for gate in gates]} if gates else {}),
    }


def _provenance(synthesizer: Synthesizer) -> list[str]:
    """JSON text of each source clip's provenance, left open for the clip_id: put together once, not once a clip."""
    clips = synthesizer.clips
    rest = {
        "forward": synthesizer.forward.sha256,
        "reversed": synthesizer.reversed.sha256,
        "seed": synthesizer.seed,
        "clip_id": 0,
    }
    columns = zip(clips.ids.tolist(), clips.digest.tolist(), clips.length.tolist(), strict=True)
    return [
        json.dumps({"source": name, "source_digest": f"{digest:016x}", "source_frames": frames, **rest})[:-2]
        for name, digest, frames in columns
    ]
