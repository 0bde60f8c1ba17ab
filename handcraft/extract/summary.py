"""What an extraction did, in lines for people and in an exit code for programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handcraft.words import counted

SHOWN = 20  # failures that are listed one by one


@dataclass(frozen=True)
class Summary:
    """What `extract` did with the clips it was given."""

    path: str
    layout: str
    identity: Mapping[str, Any]
    """What detected, see `Detector.describe`."""
    clips: int
    """Clips that were written into the store now."""
    classes: int
    frames: int
    counts: Mapping[str, int]
    """Frames of these clips in which each part was found."""
    known: int
    """Clips that the store had already."""
    failed: tuple[str, ...]
    """A line for each clip that is not in the store, and each folder that could not be read."""
    notes: tuple[str, ...]
    speed: float | None
    """Frames a second, all processes together; None where nothing was left to detect."""
    workers: int

    @property
    def exit_code(self) -> int:
        """0: everything is in the store; 1: something failed; 2: there is no store, since everything did."""
        if not self.failed:
            return 0
        return 1 if self.clips or self.known else 2

    def lines(self) -> list[str]:
        """The summary as text, a fact a line; what failed comes last."""
        clips = f"{counted(self.clips, 'clip')} of {counted(self.classes, 'class', 'classes')}"
        found = [f"{self.path}: {clips}, {counted(self.frames, 'frame')}, layout {self.layout}"]
        if not self.clips:
            found = [f"{self.path}: nothing new" if self.known else f"{self.path}: no clip, so no store was written"]
        if self.known:
            found.append(f"already there: {counted(self.known, 'clip')}")
        if self.frames:
            parts = ", ".join(f"{name} {count / self.frames:.0%}" for name, count in self.counts.items())
            found.append(f"found in frames: {parts}")
        version = self.identity.get("mediapipe")
        found.append(f"detector: {self.identity.get('backend')}" + (f", mediapipe {version}" if version else ""))
        if self.identity.get("model_sha256"):
            found.append(f"models: SHA-256 {self.identity['model_sha256']}")
        if self.speed is not None:
            found.append(f"speed: {self.speed:.1f} frames/s with {counted(self.workers, 'worker')}")
        found += self.notes
        if self.failed:
            found.append(f"failed: {len(self.failed)}")
            found += [f"  {line}" for line in self.failed[:SHOWN]]
            if len(self.failed) > SHOWN:
                found.append(f"  and {len(self.failed) - SHOWN:,} more")
        return found
