"""Is this store fit to train on? Damage, duplicates and leaks are problems; missing rates and balance are notes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from handcraft.data.store import Store
from handcraft.layouts import layout
from handcraft.words import counted, some

CHUNK = 1 << 15  # frames looked at together: 32 MB of holistic87
SHOWN_CLASSES = 40


@dataclass(frozen=True)
class PartRate:
    """How often one detector part is missing."""

    name: str
    points: int
    frames: float
    """Fraction of frames in which the whole part is missing."""
    landmarks: float
    """Fraction of its landmarks that are missing, over all frames."""


@dataclass(frozen=True)
class Report:
    """What `check_store` found. Printed by rich: `Console().print(report)`."""

    path: str
    stage: str
    layout: str
    clips: int
    frames: tuple[int, int, int]
    """Smallest, median and largest number of frames of a clip."""
    parts: tuple[PartRate, ...]
    classes: dict[str, dict[str, int]]
    """Clips by class, then by split ("" where a clip has none)."""
    groups: dict[str, tuple[str, ...]]
    """The groups (signers, sessions) of each split."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._head():
            yield Text(line)  # as it is: a bracket in a name is no markup
        parts = Table("part", "landmarks", "missing in frames", "missing landmarks", title="Missing")
        for part in self.parts:
            parts.add_row(part.name, str(part.points), f"{part.frames:.1%}", f"{part.landmarks:.1%}")
        yield parts
        yield self._class_table()
        for line in self._tail():
            yield Text(line)

    def _head(self) -> Iterator[str]:
        low, middle, high = self.frames
        held = f"{counted(self.clips, 'clip')}, {counted(len(self.classes), 'class', 'classes')}"
        yield f"{self.path}: {held}, stage {self.stage}, layout {self.layout}"
        yield f"frames a clip: {low} to {high}, median {middle}"

    def _tail(self) -> Iterator[str]:
        if len(self.classes) > SHOWN_CLASSES:
            yield f"shown: the {SHOWN_CLASSES // 2} smallest and the {SHOWN_CLASSES // 2} largest classes"
        for split, names in self.groups.items():
            yield f"{counted(len(names), 'group')} in {split or 'no split'}: {', '.join(names)}"
        for note in self.notes:
            yield f"note: {note}"
        for problem in self.problems:
            yield f"problem: {problem}"
        yield "no problems" if self.ok else counted(len(self.problems), "problem")

    def _class_table(self) -> Table:
        """Clips by class and split; of many classes only the smallest and the largest."""
        splits = sorted({split for counts in self.classes.values() for split in counts})
        ordered = list(self.classes.items())
        if len(ordered) > SHOWN_CLASSES:
            ordered.sort(key=lambda entry: sum(entry[1].values()))
            half = SHOWN_CLASSES // 2
            ordered = ordered[:half] + ordered[-half:]
        table = Table("class", title="Clips a class")
        for split in splits:
            table.add_column(Text(split or "no split"))
        for name, counts in ordered:
            table.add_row(Text(name), *(str(counts.get(split, 0)) for split in splits))
        return table


def check_store(path: Path | str) -> Report:
    """Read the whole store at `path` and report on it.

    Problems: a file that differs from its checksum; a clip without any landmark, or with infinite or half-missing
    coordinates; an id used twice; the same content twice; the same content, or the same group, in train and in test;
    a class without clips, or without clips in a split that others have. `DataError` if it cannot be opened at all.
    Memory is bounded by a chunk of frames and a few numbers a frame and clip.
    """
    store = Store(path)
    rates, row_present, odd_rows = _scan(store)
    classes = _class_counts(store)
    problems = [
        *store.damage(),
        *_clip_problems(store, row_present, odd_rows),
        *_duplicates(store),
        *_leaks(store),
        *_class_problems(classes),
    ]
    splits = sorted(set(store.splits.tolist()))
    groups = {split: tuple(sorted(set(store.groups[store.splits == split].tolist()) - {""})) for split in splits}
    return Report(
        path=str(store.path),
        stage=store.manifest.stage,
        layout=store.manifest.layout,
        clips=len(store),
        frames=(int(store.frames.min()), int(np.median(store.frames)), int(store.frames.max())),
        parts=rates,
        classes=classes,
        groups={split: names for split, names in groups.items() if names},
        problems=tuple(problems),
        notes=tuple(_notes(store, classes, rates)),
    )


def _scan(store: Store) -> tuple[tuple[PartRate, ...], np.ndarray, np.ndarray]:
    """One pass over all frames: missing rates, which frames hold a landmark, which hold senseless coordinates."""
    layout_ = layout(store.manifest.layout)
    total = int(store.frames.sum())
    present, odd = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    empty_frames, lost = Counter(), Counter()
    for start, frames in _chunks(store):
        nan = np.isnan(frames)
        missing = nan.any(axis=2)  # (rows, J): a landmark is there with all of its coordinates or not at all
        rows = slice(start, start + len(frames))
        present[rows] = ~missing.all(axis=1)
        odd[rows] = (missing != nan.all(axis=2)).any(axis=1) | np.isinf(frames).any(axis=(1, 2))
        for name, where in layout_.slices.items():
            empty_frames[name] += int(missing[:, where].all(axis=1).sum())
            lost[name] += int(missing[:, where].sum())
    rates = tuple(
        PartRate(
            part.name, len(part.indices), empty_frames[part.name] / total, lost[part.name] / total / len(part.indices)
        )
        for part in layout_.parts
    )
    return rates, present, odd


def _chunks(store: Store) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of at most `CHUNK` frames, each with the row of the store that it starts at."""
    start = 0
    for _, frames in store.parts():
        for offset in range(0, len(frames), CHUNK):
            yield start + offset, frames[offset : offset + CHUNK]
        start += len(frames)


def _clip_problems(store: Store, row_present: np.ndarray, odd_rows: np.ndarray) -> Iterator[str]:
    empty = np.flatnonzero(~np.logical_or.reduceat(row_present, store.first))
    if empty.size:
        yield f"{len(empty)} clips have no landmark in any frame: {some(store.ids[empty])}"
    odd = np.flatnonzero(np.logical_or.reduceat(odd_rows, store.first))
    if odd.size:
        yield f"{len(odd)} clips have infinite coordinates or landmarks missing by half: {some(store.ids[odd])}"


def _duplicates(store: Store) -> Iterator[str]:
    names, uses = np.unique(store.ids, return_counts=True)
    if (uses > 1).any():
        yield f"{int((uses > 1).sum())} ids name more than one clip: {some(names[uses > 1])}"
    _, where, uses = np.unique(store.digests, return_inverse=True, return_counts=True)
    twice = np.flatnonzero(uses[where] > 1)
    if twice.size:
        pair = twice[where[twice] == where[twice[0]]]
        yield (
            f"{len(twice)} clips have the same content as another clip of the store, such as {some(store.ids[pair])}; "
            "keep one of each"
        )


def _leaks(store: Store) -> Iterator[str]:
    train, test = store.splits == "train", store.splits == "test"
    shared = np.intersect1d(store.digests[train], store.digests[test])
    if shared.size:
        clips = np.flatnonzero(np.isin(store.digests, shared))
        yield f"split leak: {len(shared)} contents occur in train and in test: clips {some(store.ids[clips])}"
    groups = np.setdiff1d(np.intersect1d(store.groups[train], store.groups[test]), [""])
    if groups.size:
        yield f"split leak: {len(groups)} groups occur in train and in test: {some(groups)}; hold whole groups out"


def _class_counts(store: Store) -> dict[str, dict[str, int]]:
    found = Counter(zip(store.labels.tolist(), store.splits.tolist(), strict=True))
    splits = sorted(set(store.splits.tolist()))
    return {name: {split: found[at, split] for split in splits} for at, name in enumerate(store.classes)}


def _class_problems(classes: dict[str, dict[str, int]]) -> Iterator[str]:
    empty = [name for name, counts in classes.items() if not sum(counts.values())]
    if empty:
        yield f"{len(empty)} classes have no clip: {some(empty)}"
    for split in ("train", "test"):
        absent = [name for name, counts in classes.items() if counts.get(split) == 0 and name not in empty]
        if absent:
            yield f"{len(absent)} classes have no clip in {split}: {some(absent)}"


def _notes(store: Store, classes: dict[str, dict[str, int]], rates: tuple[PartRate, ...]) -> Iterator[str]:
    sizes = [sum(counts.values()) for counts in classes.values()]
    yield f"class balance: {min(sizes)} to {max(sizes)} clips a class, median {int(np.median(sizes))}"
    for rate in rates:
        if rate.frames > 0.5:
            yield f"{rate.name} is missing in {rate.frames:.0%} of the frames"
    unsplit = int((store.splits == "").sum())
    if unsplit:
        yield f"{unsplit} clips belong to no split"
    if (store.groups == "").all():
        yield "no clip names its group (signer or session), so a split cannot be checked for leaks between groups"
