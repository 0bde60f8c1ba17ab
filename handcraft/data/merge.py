"""Several stores into one: what a cluster's tasks extracted, or recordings of several days.

The clips keep their ids, marks, digests and provenance, and stand store after store. Stores that the tasks of one
extraction wrote (`handcraft extract --shard 2/8`) are put into the order of their numbers and must all be there, unless
it is said that one gave no clip: they give the very store, byte for byte, that the extraction in one piece gives.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handcraft.data.exports import progress_bar
from handcraft.data.recorded import detectors
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.words import counted, some

Mix = Literal["backend", "classes", "fps"]
"""What stores may be told to differ in: the detector, the list of classes, the frames a second."""

SAME = ("stage", "layout", "coordinates", "aspect", "preprocessing", "statistics")
"""Fields of the manifest in which merged stores never differ: their numbers would mean different things."""
_SHARD = re.compile("([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class MergeSummary:
    """What `merge_stores` wrote."""

    path: str
    clips: int
    classes: int
    stores: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary as text, a fact a line."""
        classes = counted(self.classes, "class", "classes")
        first = f"{self.path}: {counted(self.clips, 'clip')} of {classes} from {counted(self.stores, 'store')}"
        return [first, *self.notes]


def merge_stores(
    stores: Sequence[Path | str],
    out: Path | str,
    *,
    mix: Collection[Mix] = (),
    without: Collection[int] = (),
    progress: bool | None = None,
) -> MergeSummary:
    """Write the clips of `stores`, in this order, into the new store `out`.

    mix: what they may differ in. With "classes" the new store has all classes of all of them; with "fps" it names no
    frame rate where they differ; with "backend" it holds landmarks of several detectors, which a model can tell apart.
    Licences that differ are all named. without: numbers of parts of an extraction that there is no store of, since none
    of their videos gave a clip; the new store says so. progress: show a bar, by default on a terminal.
    `DataError`, and no store: fewer than one store, a damaged one, one that differs from the first in a field of `SAME`
    or in something that `mix` does not name, an id in two of them, tasks of an extraction without the other tasks'.
    """
    opened = _in_order([Store(path) for path in stores], without)
    parts = _shard_of(opened[0]) is not None
    # A task knows the frame rates of its own clips alone, and it lists the classes of those that could not be read.
    _require_alike(opened, {*mix, "fps"} if parts else mix)
    _require_distinct(opened)
    manifests = [store.manifest for store in opened]
    first = manifests[0]
    classes = {name for store in opened for name in (_used(store) if parts else store.classes)}
    writer = StoreWriter(
        out,
        layout=first.layout,
        stage=first.stage,
        classes=classes,
        coordinates=first.coordinates,
        fps=_common([manifest.fps for manifest in manifests]),
        licence="; ".join(dict.fromkeys(manifest.licence for manifest in manifests if manifest.licence)) or None,
        aspect=first.aspect,
        preprocessing=first.preprocessing,
        statistics=first.statistics,
        seen_clips={digest for manifest in manifests for digest in manifest.seen_clips},
        source=_source(opened, without),
        dtype=opened[0].dtype,
    )
    total = sum(map(len, opened))
    with writer, progress_bar(total, progress) as bar:
        for store in opened:
            store.verify()  # a new checksum must not cover damage
            provenance = store.provenance
            for clip, landmarks in enumerate(store):
                writer.add(
                    landmarks,
                    id=str(store.ids[clip]),
                    label=store.classes[store.labels[clip]],
                    group=str(store.groups[clip]),
                    split=str(store.splits[clip]),
                    provenance=provenance[clip],
                    digest=int(store.digests[clip]),
                    visibility=store.visibility(clip),
                )
                bar.update()
    return MergeSummary(str(out), total, len(classes), len(opened), tuple(_notes(opened, without)))


def parse_shard(text: str, where: str) -> tuple[int, int]:
    """(number, count) of `2/8`, 1 to count; `DataError` names `where` if it is something else."""
    found = _SHARD.fullmatch(text) if isinstance(text, str) else None
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise DataError(f"{where} is {text!a:.40}; expected NUMBER/COUNT, from 1/8 to 8/8 for eight tasks")
    return number, count


def _shard_of(store: Store) -> Any:
    return store.manifest.source.get("shard")


def _used(store: Store) -> set[str]:
    """The classes that a store has clips of."""
    return {store.classes[label] for label in np.unique(store.labels)}


def _in_order(stores: list[Store], without: Collection[int]) -> list[Store]:
    """The stores of an extraction's tasks in the order of their numbers, other stores in that given."""
    if not stores:
        raise DataError("no store to merge; name at least one")
    shards = {}
    for store in stores:
        text = _shard_of(store)
        if text is not None:
            place = parse_shard(text, f"{store.path}: shard in the manifest's source")
            if place in shards:
                raise DataError(f"{shards[place].path} and {store.path} are both part {text}; name each part once")
            shards[place] = store
    if not shards:
        if without:
            raise DataError(f"without is {some(sorted(without))}: numbers of parts, and {stores[0].path} is none")
        return stores
    counts = {count for _, count in shards}
    if len(shards) < len(stores) or len(counts) > 1:
        told = [f"{store.path} (part {_shard_of(store) or 'of none'})" for store in stores]
        raise DataError(
            f"not the parts of one extraction: {some(told)}; merge those of each extraction first, then the results"
        )
    count = counts.pop()
    wrong = [number for number in without if (number, count) in shards or not 1 <= number <= count]
    if wrong:
        raise DataError(f"without is {some(wrong)}: expected numbers of the {count} parts that there is no store of")
    absent = [number for number in range(1, count + 1) if (number, count) not in shards and number not in without]
    if absent:
        raise DataError(
            f"{stores[0].path}: is one of {count} parts, of which {some(absent)} {'is' if len(absent) == 1 else 'are'} "
            "not given; run the tasks that failed again, name their stores, or leave out those none of whose videos "
            f"gave a clip: --without {' '.join(map(str, absent))}"
        )
    return [shards[number, count] for number in range(1, count + 1) if (number, count) in shards]


def _require_alike(stores: list[Store], mix: Collection[Mix]) -> None:
    """`DataError` names the first field in which two stores differ, unless it may."""
    first = stores[0]
    for store in stores[1:]:
        for name in SAME:
            _require_same(name, getattr(first.manifest, name), getattr(store.manifest, name), first, store)
        _require_same("dtype", first.dtype.name, store.dtype.name, first, store)
        for name, read in _MIXABLE.items():
            if name not in mix:
                remedy = f"--mix {name} merges them all the same"
                _require_same(name, read(first), read(store), first, store, remedy)


def _require_same(name: str, wanted: Any, found: Any, first: Store, store: Store, remedy: str = "") -> None:
    if found != wanted:
        raise DataError(
            f"{store.path}: its {name} is {_shown(found)}, that of {first.path} is {_shown(wanted)}; "
            + (remedy or "make both with the same choices")
        )


def _backend(store: Store) -> Any:
    return detectors(store.manifest.source)


_MIXABLE = {"backend": _backend, "classes": lambda store: store.classes, "fps": lambda store: store.manifest.fps}


def _require_distinct(stores: list[Store]) -> None:
    """`DataError` names an id that two stores have."""
    seen: dict[str, Store] = {}
    for store in stores:
        for id in store.ids.tolist():
            if seen.setdefault(id, store) is not store:
                raise DataError(
                    f"{store.path}: clip {id!r} is in {seen[id].path}, too; ids must differ within a store: was the "
                    "same store named twice?"
                )


def _common(values: list[Any]) -> Any:
    """The value that all have, else None."""
    return values[0] if all(value == values[0] for value in values) else None


def _source(stores: list[Store], without: Collection[int]) -> dict[str, Any]:
    """What the new store says about its making: the parts' own words where they agree, else those of each."""
    sources = [_without_shard(store.manifest.source) for store in stores]
    common, left_out = _common(sources), {"without": sorted(without)} if without else {}
    if common is not None:
        return common | left_out
    named = [{"name": store.path.name, **source} for store, source in zip(stores, sources, strict=True)]
    return {"command": "merge", "stores": named, **left_out}


def _without_shard(source: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name != "shard"}


def _notes(stores: list[Store], without: Collection[int]) -> Iterator[str]:
    if without:
        yield f"without the parts {some(sorted(without))}, which gave no clip"
    licences = {store.manifest.licence for store in stores}
    if len(licences) > 1:
        yield f"licences differ: {some(sorted(str(licence) for licence in licences))}"
    if len({store.manifest.fps for store in stores}) > 1:
        yield "frames a second differ, and the store names none"


def _shown(value: Any) -> str:
    text = some(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
