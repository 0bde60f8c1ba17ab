"""Small copies of the layouts in which INCLUDE and DiSPLaY are downloaded, for the tests of what prepares them."""

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from fake_landmarker import video

INCLUDE_CLIPS = (
    "Adjectives/1. loud/MVI_5177.MOV",
    "Adjectives/1. loud/MVI_5178.MOV",
    "Adjectives/79. short/extra/MVI_5177.MOV",
    "Adjectives/79. short/MVI_5177.MOV",
    "Animals/4. Bird/MVI_5177.MOV",
    "Animals/4. Bird/Extra/MVI_3042.MP4",
    "Days_and_Time/Second (Number)/MVI_0001.MOV",
)
"""With one file name in four folders, folders deeper down, and a folder without a number, as in the data set."""


def include_folder(path: Path, clips: Iterable[str] = INCLUDE_CLIPS, *, frames: int = 0) -> Path:
    """The videos of INCLUDE in `path`: empty files, or small videos of so many frames, each one more than the last."""
    for number, clip in enumerate(clips):
        place = path / clip
        place.parent.mkdir(parents=True, exist_ok=True)
        if frames:
            video(place, frames=frames + number)
        else:
            place.touch()
    return path


def include_lists(path: Path, *, train: Iterable[str], val: Iterable[str] = (), test: Iterable[str] = ()) -> Path:
    """The official lists, as text."""
    path.mkdir(parents=True, exist_ok=True)
    for name, clips in {"train": train, "val": val, "test": test}.items():
        (path / f"include_{name}.txt").write_text("\n".join(clips) + "\n")
    return path


def include_tables(path: Path, *, train: Iterable[str], val: Iterable[str] = (), test: Iterable[str] = ()) -> Path:
    """The same lists as tables."""
    path.mkdir(parents=True, exist_ok=True)
    for name, clips in {"train": train, "val": val, "test": test}.items():
        with (path / f"include_{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["Word", "FilePath"], *(["word", clip] for clip in clips)])
    return path


def display_folder(path: Path, *, signs: int = 2, performers: int = 2, frames: int = 12, times: bool = True) -> Path:
    """DiSPLaY's performances: sign s, performer p, twice each, of `frames` pictures from 1.jpg on, so that their
    names sort otherwise than their numbers; picture k of clip c has brightness 10 + 15 * k + 4 * c."""
    from PIL import Image

    shown = itertools.product(range(1, signs + 1), range(1, performers + 1), (1, 2))
    for c, (sign, performer, take) in enumerate(shown):
        clip = path / "Signs(1-5)" / f"Sign_{sign:02d}_Performer_{performer:02d}_{take}"
        for inner in ("01 Times", "02 Color Frames", "04 Depth Frames"):
            (clip / inner).mkdir(parents=True)
        for k in range(frames):
            picture = np.full((24, 32, 3), 10 + 15 * k + 4 * c, np.uint8)
            Image.fromarray(picture).save(clip / "02 Color Frames" / f"{k + 1}.jpg", quality=95)
        if times:  # 25 frames a second, and more lines than frames, as in the data set
            moments = [divmod(900 + 40 * k, 1000) for k in range(frames + 2)]
            lines = [f"0 days, 0 hours, 0 minutes, {s} seconds, {ms} miliseconds" for s, ms in moments]
            (clip / "01 Times" / "Times.csv").write_text("\n".join(lines) + "\n\n")
    return path
