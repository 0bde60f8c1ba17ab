"""From the official download of a data set to the clips that are wanted of it: what INCLUDE, DiSPLaY and LSFB share.

Each data set has a module that lists its clips (`prepare_include`, `prepare_display`) or reads them (`prepare_lsfb`).
What is found is compared with what is known of the data set, in words that are printed: a download that broke off, or
another edition, shows before hours of extraction and not after.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from handcraft.errors import DataError
from handcraft.extract.landmarker import Settings
from handcraft.extract.run import extract
from handcraft.extract.summary import Summary
from handcraft.extract.worker import ClipSource
from handcraft.words import counted, some


class _Labelled(Protocol):
    label: str
    split: str


_Clip = TypeVar("_Clip", bound=_Labelled)


@dataclass(frozen=True)
class Listing:
    """The clips that a download holds, and what is to be said about them."""

    clips: list[ClipSource]
    notes: tuple[str, ...]
    fps: float | None = None
    """Frames a second of clips that are folders of images, where the download says so."""


@dataclass(frozen=True)
class Expected:
    """A figure that is known of a data set, and where from."""

    what: str
    count: int
    source: str

    def compared(self, found: int) -> str:
        """A line that says whether `found` is the figure."""
        if found == self.count:
            return f"{self.what}: {found:,}, as expected ({self.source})"
        less = "fewer than" if found < self.count else "more than"
        return f"{self.what}: {found:,}, {less} the {self.count:,} expected ({self.source})"


def at_least(clips: Sequence[_Clip], least: int) -> list[_Clip]:
    """The clips of the classes that have at least `least` clips to train with: those marked train, or any clips where
    none is marked."""
    marked = any(clip.split for clip in clips)
    counts = Counter(clip.label for clip in clips if clip.split == "train" or not marked)
    return [clip for clip in clips if counts[clip.label] >= least]


def rule_lines(before: Sequence[_Labelled], after: Sequence[_Labelled], least: int) -> Iterator[str]:
    """What is said about `at_least(before, least)`, which gave `after`."""
    dropped = sorted({clip.label for clip in before} - {clip.label for clip in after})
    if dropped:
        yield (
            f"left out: {counted(len(before) - len(after), 'clip')} of {counted(len(dropped), 'sign')} with fewer than "
            f"{least} clips to train with: {some(dropped)}"
        )


def prepare(
    listing: Listing,
    out: Path | str,
    settings: Settings,
    *,
    least: int,
    name: str,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Summary:
    """Extract the clips of a data set into the store `out`.

    least: fewest clips to train with that a sign needs (see `at_least`). name: of the data set, for the manifest. say:
    is told at once, line by line, what the listing has to say and what is left out. settings, options: see `extract`;
    folders of images have the listing's frames a second unless the settings name others.
    `DataError`: no sign has enough clips; and whatever `extract` raises.
    """
    clips = at_least(listing.clips, least)
    for line in (*listing.notes, *rule_lines(listing.clips, clips, least)):
        say(line)
    if not clips:
        raise DataError(f"{name}: no sign has {least} clips to train with; is the download whole? (--min-clips)")
    settings = replace(settings, image_fps=settings.image_fps or listing.fps)
    return extract(clips, out, settings, source={"dataset": name}, **options)
