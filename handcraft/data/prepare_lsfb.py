"""LSFB, isolated signs of French Belgian Sign Language: the download as it comes, and the clips that the paper took.

The download holds landmarks, so nothing is extracted: `lsfb` says how its files lie and reads them. Facts from
okason97/HandCraft (`doc/datasets.md`, `scripts/data/LSFB/setup_lsfb.py`): 120,739 clips of 4,657 signs; the paper takes
clips of 1 to 60 frames and signs with at least 20 training clips, which leaves 610.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handcraft.data.clip_files import ClipFile, FilesSummary
from handcraft.data.lsfb import import_lsfb
from handcraft.data.npy import read_header
from handcraft.data.prepare import Expected, at_least, rule_lines
from handcraft.data.untrusted import require_file
from handcraft.errors import DataError
from handcraft.words import counted

CLIPS, SIGNS = Expected("clips", 120739, "LSFB isol, version 2"), Expected("signs", 4657, "the same")
KEPT = Expected("signs kept", 610, "at least 20 training clips of 1 to 60 frames")
LEAST, LONGEST = 20, 60
"""Training clips of a sign and frames of a clip, as the paper has them."""
FPS = 50.0  # of LSFB's recordings


def prepare_lsfb(
    folder: Path | str,
    out: Path | str,
    *,
    least: int = LEAST,
    longest: int = LONGEST,
    keep: str = "holistic87",
    fps: float | None = FPS,
    progress: bool | None = None,
) -> FilesSummary:
    """Make the store `out` of LSFB's `folder` (instances.csv, metadata/, poses/).

    least: fewest training clips of a sign; longest: most frames of a clip. keep: landmarks, as in `import_lsfb`;
    `holistic87` has those the paper's models see. Clips without a landmark are left out and named. The summary's notes
    compare what was found with what is known of LSFB. `DataError` as from `import_lsfb`, or if no clip is left.
    """
    notes: list[str] = []

    def choose(clips: Sequence[ClipFile]) -> list[ClipFile]:
        notes.extend((CLIPS.compared(len(clips)), SIGNS.compared(len({clip.label for clip in clips}))))
        fitting = [clip for clip in clips if 1 <= _frames(clip) <= longest]
        if len(fitting) < len(clips):
            notes.append(f"left out: {counted(len(clips) - len(fitting), 'clip')} without frames or of over {longest}")
        kept = at_least(fitting, least)
        notes.extend(rule_lines(fitting, kept, least))
        if not kept:
            raise DataError(
                f"{folder}: no sign has {least} training clips of 1 to {longest} frames; is the download whole?"
            )
        if (least, longest) == (LEAST, LONGEST):
            notes.append(KEPT.compared(len({clip.label for clip in kept})))
        return kept

    summary = import_lsfb(folder, out, keep=keep, choose=choose, fps=fps, leave_out_missing=True, progress=progress)
    return replace(summary, notes=(*notes, *summary.notes))


def _frames(clip: ClipFile) -> int:
    """Frames of a clip, by the header of its pose's file: reading all of 120,000 files would take an hour."""
    path = clip.path / "pose" / f"{clip.id}.npy"
    require_file(path)
    try:
        with path.open("rb") as file:
            shape, _, _ = read_header(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npy file: {error}") from None
    return shape[0] if shape and 0 not in shape else 0
