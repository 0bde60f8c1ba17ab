"""INCLUDE, 263 signs of Indian Sign Language (AI4Bharat): its class folders of videos and its official split lists.

    DIR/CATEGORY/NUMBER. SIGN/[Extra/]VIDEO.MOV    the archives of Zenodo record 4010759, unpacked in one folder or each
                                                   in its own; numbers are missing in places
    LISTS/include_{train,val,test}.txt             CATEGORY/NUMBER. SIGN/.../VIDEO.MOV, a line a clip: the folder
                                                   train_test_paths of github.com/AI4Bharat/INCLUDE
    LISTS/include_{train,val,test}.csv             or tables with a column FilePath, as OpenHands has them

Facts from the record, the lists and okason97/HandCraft (`scripts/data/INCLUDE/README.md`): the lists name 4,292 videos
of 263 signs; the record holds 4,284 of 262, without the 8 of Days_and_Time/Second (Number). 508 file names occur in
several folders. No signer is named. The lists' val clips are for training here, as in the paper: every run sets a tenth
of the training clips aside itself. The paper counted 253 signs with at least 5 training clips in a random split of its
own, which cannot be made again; by the official lists there are 260 of the record's signs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from handcraft.data.clip_files import distinct, entries
from handcraft.data.prepare import Expected, Listing
from handcraft.data.untrusted import csv_rows, file_name, relative_path, require_file
from handcraft.errors import DataError
from handcraft.extract.worker import ClipSource
from handcraft.words import counted, some

CATEGORIES = (
    "Adjectives",
    "Animals",
    "Clothes",
    "Colours",
    "Days_and_Time",
    "Electronics",
    "Greetings",
    "Home",
    "Jobs",
    "Means_of_Transportation",
    "People",
    "Places",
    "Pronouns",
    "Seasons",
    "Society",
)
LISTS = {"train": "train", "val": "train", "test": "test"}
"""The official lists, and what their clips are marked here."""
VIDEOS, SIGNS = Expected("videos", 4284, "Zenodo record 4010759"), Expected("signs", 262, "the same")
LISTED = Expected("clips in the official lists", 4292, "github.com/AI4Bharat/INCLUDE")
OFFICIAL = "train_test_paths"
Key = tuple[str, ...]
"""Where a clip lies: category, folder of the sign, names below that without the ending."""
_ENDINGS = (".mov", ".mp4")
_NUMBER = re.compile(r"\d+\.\s*")
_LARGEST_LIST = 16 << 20  # bytes; the largest official list has 130,000


def list_include(folder: Path | str, lists: Path | str | None = None) -> Listing:
    """The clips of INCLUDE as downloaded into `folder`, in the order of their ids.

    A clip's id is CATEGORY-SIGN-VIDEO, with -Extra- before the last for a video that lies a folder deeper, so that
    equal file names stay apart; its label is the sign, without the folder's number. lists: folder of the official
    lists, default `folder`/train_test_paths where it exists. With lists a clip is marked train or test, and those in
    none are left out and counted; without lists no clip is marked.
    `DataError`: no video in a folder of a category, two videos of one id, two folders of one sign, links, a list that
    is missing, cannot be read or names a clip twice.
    """
    folder = Path(folder)
    found: dict[Key, Path] = {}
    for path, key in _videos(folder, None):
        if found.setdefault(key, path) is not path:
            raise DataError(f"{found[key]} and {path} are the same clip; move one of them elsewhere")
    if not found:
        raise DataError(
            f"{folder}: holds no video in a folder of a category ({some(CATEGORIES)}), expected "
            f"CATEGORY/NUMBER. SIGN/VIDEO.MOV as in the archives of {VIDEOS.source}"
        )
    signs = _signs(found)
    notes = [VIDEOS.compared(len(found)), SIGNS.compared(len(signs))]
    if lists is None and (folder / OFFICIAL).is_dir():
        lists = folder / OFFICIAL
    if lists is None:
        marks = dict.fromkeys(found, "")
        notes.append(
            f"no official lists (--lists), so no clip is marked train or test; they are in {LISTED.source}, {OFFICIAL}"
        )
    else:
        marks = _marks(Path(lists))
        notes += _list_lines(marks, found)
    clips = [
        ClipSource(path, _id(key, path), signs[key[:2]], split=marks[key], name=path.relative_to(folder).as_posix())
        for key, path in found.items()
        if key in marks
    ]
    if not clips:
        raise DataError(f"{lists}: names none of the {len(found)} videos in {folder}; are they lists of INCLUDE?")
    return Listing(distinct(sorted(clips, key=lambda clip: clip.id), folder), tuple(notes))


def _videos(folder: Path, parts: Key | None) -> Iterator[tuple[Path, Key]]:
    """The videos below `folder`, each with its place: category, folder of the sign, and what lies below that.

    parts: place of `folder` itself, None above the categories.
    """
    if parts and len(parts) > 1:
        yield from ((path, (*parts, path.stem)) for path in entries(folder, _ENDINGS))
    for inner in entries(folder, ""):
        below = (*parts, inner.name) if parts else (inner.name,) if inner.name in CATEGORIES else None
        yield from _videos(inner, below)


def _signs(keys: Iterable[Key]) -> dict[Key, str]:
    """(category, folder of the sign) -> sign; `DataError` if two folders are of one sign."""
    signs: dict[Key, str] = {}
    first: dict[str, Key] = {}
    for place in sorted({key[:2] for key in keys}):
        signs[place] = _NUMBER.sub("", place[1], count=1).strip()
        other = first.setdefault(signs[place].casefold(), place)
        if other is not place or not signs[place]:
            raise DataError(f"{'/'.join(other)} and {'/'.join(place)} are folders of one sign; rename one of them")
    return signs


def _id(key: Key, path: Path) -> str:
    category, sign, *below = key
    return file_name("-".join([category, _NUMBER.sub("", sign, count=1).strip(), *below]), path)


def _marks(lists: Path) -> dict[Key, str]:
    """Place of a clip -> train or test, of all the official lists."""
    marks: dict[Key, str] = {}
    for name, split in LISTS.items():
        for line, where in _lines(lists, f"include_{name}"):
            key = relative_path(line, where).with_suffix("").parts
            if len(key) < 3 or key in marks:
                what = "twice" if key in marks else f"as {line!a:.80}, expected CATEGORY/NUMBER. SIGN/VIDEO"
                raise DataError(f"{where}: names the clip {key[-1]} {what}; take the official lists as they are")
            marks[key] = split
    return marks


def _lines(lists: Path, stem: str) -> Iterator[tuple[str, Path]]:
    """The paths that one list names, in either of its forms, each with the list's file."""
    table, text = lists / f"{stem}.csv", lists / f"{stem}.txt"
    if table.exists():
        yield from ((row["FilePath"].strip(), table) for row in csv_rows(table, ["FilePath"]))
        return
    require_file(text, _LARGEST_LIST)
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text}: not readable as text ({error}); take the official list as it is") from None
    yield from ((line.strip(), text) for line in lines if line.strip())


def _list_lines(marks: Mapping[Key, str], found: Mapping[Key, Path]) -> Iterator[str]:
    """What is said about the lists beside the videos."""
    yield LISTED.compared(len(marks))
    absent = sorted("/".join(key) for key in marks if key not in found)
    if absent:
        yield f"named by the lists, but not here: {counted(len(absent), 'video')}: {some(absent)}"
    extra = sorted("/".join(key) for key in found if key not in marks)
    if extra:
        yield f"left out, since no list names them: {counted(len(extra), 'video')}: {some(extra)}"
