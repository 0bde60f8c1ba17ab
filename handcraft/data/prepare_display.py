"""DiSPLaY, 55 medical signs of Iranian Sign Language: its folders of frames, one a performance.

    DIR/Signs(1-5)/Sign_01_Performer_01_1/02 Color Frames/0001.jpg    the archives of IEEE DataPort, unpacked in one
                                                                     folder or each in its own
    DIR/Signs(1-5)/Sign_01_Performer_01_1/01 Times/Times.csv          "0 days, 0 hours, 0 minutes, 1 seconds, 33
                                                                     miliseconds", a line a frame; often some more

The other folders (infrared, depth, skeletons) are not read. Facts from doi.org/10.21227/5gsb-fb69, from SignCol, which
recorded them with a Kinect, and from okason97/HandCraft (`doc/datasets.md`): 16 performers show each sign twice; 54
signs and 1,728 performances are there. File systems list the frames in any order, and the authors' first script read
them so: here they are read in the order of their numbers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from handcraft.data.clip_files import distinct, entries
from handcraft.data.prepare import Expected, Listing
from handcraft.data.untrusted import path_inside, require_file
from handcraft.errors import DataError
from handcraft.extract.worker import ClipSource

CLIPS, SIGNS = Expected("performances", 1728, "okason97/HandCraft"), Expected("signs", 54, "the same")
PERFORMERS = Expected("performers", 16, "doi.org/10.21227/5gsb-fb69")
FRAMES, TIMES = "02 Color Frames", "01 Times/Times.csv"
_CLIP = re.compile(r"Sign_(\d{1,4})_Performer_(\d{1,4})_\d{1,4}")
_DEPTH = 4  # folders above a performance's: an archive, one of its name that it was unpacked into, and some
_TIME = re.compile(r"(\d+) days?, *(\d+) hours?, *(\d+) minutes?, *(\d+) seconds?, *(\d+) mil+iseconds?")
_UNITS = np.array([86_400_000, 3_600_000, 60_000, 1000, 1])
_LARGEST = 16 << 20  # bytes of a file of times: hours of frames


def list_display(folder: Path | str) -> Listing:
    """The performances of DiSPLaY as downloaded into `folder`, in the order of their ids, with their frames a second.

    A clip's path is its folder of colour frames, its id the performance's folder, its label `Sign_01`, its group
    `Performer_01`: whole performers can be held out. No clip is marked: the paper's split was random, and is lost.
    fps: the median over the performances that say when their frames were taken, to a tenth, None where none does.
    `DataError`: no performance, one without a folder of colour frames, two of one name, links.
    """
    folder = Path(folder)
    clips, rates = [], []
    for path, sign, performer in _performances(folder, _DEPTH):
        frames = path_inside(path, FRAMES, path)
        if not frames.is_dir():
            raise DataError(f"{path}: has no folder {FRAMES!r}; unpack its archive again, or move it elsewhere")
        name = frames.relative_to(folder).as_posix()
        clips.append(ClipSource(frames, path.name, f"Sign_{sign}", f"Performer_{performer}", name=name))
        rates.append(_rate(path_inside(path, TIMES, path)))
    if not clips:
        raise DataError(
            f"{folder}: holds no folder like Signs(1-5)/Sign_01_Performer_01_1, expected DiSPLaY's archives"
        )
    notes = [
        CLIPS.compared(len(clips)),
        SIGNS.compared(len({clip.label for clip in clips})),
        PERFORMERS.compared(len({clip.signer for clip in clips})),
    ]
    known = [rate for rate in rates if rate]
    fps = round(float(np.median(known)), 1) if known else None
    notes.append(f"frames a second: {fps} by {TIMES} of {len(known)} performances" if known else f"no {TIMES} to read")
    return Listing(distinct(sorted(clips, key=lambda clip: clip.id), folder), tuple(notes), fps)


def _performances(folder: Path, depth: int) -> Iterator[tuple[Path, str, str]]:
    """Folders of performances below `folder`, each with the numbers of its sign and performer."""
    for inner in entries(folder, ""):
        named = _CLIP.fullmatch(inner.name)
        if named:
            yield inner, named[1], named[2]
        elif depth:
            yield from _performances(inner, depth - 1)


def _rate(path: Path) -> float | None:
    """Frames a second by a file of times; None where there is none that says so."""
    if not path.exists():
        return None
    require_file(path, _LARGEST)
    found = map(_TIME.search, path.read_text(encoding="utf-8", errors="replace").splitlines())
    times = np.array([[int(number[:12]) for number in time.groups()] for time in found if time])
    if len(times) < 2:
        return None
    milliseconds = times @ _UNITS
    took = int(milliseconds[-1] - milliseconds[0])
    return (len(times) - 1) * 1000 / took if took > 0 else None
