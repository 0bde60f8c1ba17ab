"""The commands of `handcraft data` that prepare the paper's datasets and merge stores; `cli` says how commands are
written."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from handcraft.cli.data import Command, Folder
from handcraft.errors import ConfigError
from handcraft.extract.landmarker import Settings

_PAPER = Settings(keep="holistic87")
"""The landmarks that the recipes `include` and `display` use, a sixth of all."""


def data_prepare_include(
    folder: Positional[Annotated[Path, arg(metavar="INCLUDE")]],
    out: Positional[Folder],
    lists: Path | None = None,
    min_clips: int = 5,
    workers: int = 1,
    on: Literal["processes", "ray"] = "processes",
    shard: str | None = None,
    licence: str | None = None,
    detection: OmitArgPrefixes[Settings] = _PAPER,
) -> int:
    """Make a store of INCLUDE's videos as downloaded, marked train and test by its official lists. The same call
    continues a stopped run. Needs mediapipe, as `handcraft extract` does.

    Args:
        folder: the folder that the archives were unpacked in: CATEGORY/NUMBER. SIGN/VIDEO.MOV.
        out: folder of the store.
        lists: folder of the official lists include_train.txt, include_val.txt and include_test.txt (or .csv); by
            default INCLUDE/train_test_paths, where that exists. Clips in none of them are left out.
        min_clips: leave out signs with fewer clips to train with.
        workers: processes, each with a video of its own.
        on: `ray` has the workers on the machines of a Ray cluster, as for `handcraft extract`.
        shard: the part of the clips to work on, such as 2/8; `handcraft data merge` joins the parts.
        licence: licence of the data, where known.
        detection: how landmarks are detected.
    """
    from handcraft.data.prepare import prepare
    from handcraft.data.prepare_include import list_include

    options = {"workers": workers, "on": on, "shard": shard, "licence": licence}
    summary = prepare(list_include(folder, lists), out, detection, least=min_clips, name="INCLUDE", **options)
    print("\n".join(summary.lines()))
    return summary.exit_code


def data_prepare_display(
    folder: Positional[Annotated[Path, arg(metavar="DISPLAY")]],
    out: Positional[Folder],
    min_clips: int = 1,
    workers: int = 1,
    on: Literal["processes", "ray"] = "processes",
    shard: str | None = None,
    licence: str | None = None,
    detection: OmitArgPrefixes[Settings] = _PAPER,
) -> int:
    """Make a store of DiSPLaY's frames as downloaded; performers become groups. The same call continues a stopped run.
    Needs mediapipe, as `handcraft extract` does.

    Args:
        folder: the folder that the archives were unpacked in: Signs(1-5)/Sign_01_Performer_01_1/02 Color Frames.
        out: folder of the store.
        min_clips: leave out signs with fewer performances.
        workers: processes, each with a performance of its own.
        on: `ray` has the workers on the machines of a Ray cluster, as for `handcraft extract`.
        shard: the part of the clips to work on, such as 2/8; `handcraft data merge` joins the parts.
        licence: licence of the data, where known.
        detection: how landmarks are detected.
    """
    from handcraft.data.prepare import prepare
    from handcraft.data.prepare_display import list_display

    options = {"workers": workers, "on": on, "shard": shard, "licence": licence}
    summary = prepare(list_display(folder), out, detection, least=min_clips, name="DiSPLaY", **options)
    print("\n".join(summary.lines()))
    return summary.exit_code


def data_prepare_lsfb(
    folder: Positional[Annotated[Path, arg(metavar="LSFB")]],
    out: Positional[Folder],
    min_clips: int = 20,
    max_frames: int = 60,
    keep: Literal["holistic75", "holistic87", "holistic543", "holistic553"] = "holistic87",
    fps: float | None = 50.0,
) -> int:
    """Make a store of LSFB's isolated signs as downloaded, with the clips and signs that the paper took.

    Args:
        folder: the folder with instances.csv.
        out: folder of the new store.
        min_clips: leave out signs with fewer training clips.
        max_frames: leave out longer clips.
        keep: landmarks to keep; `holistic87` has those that the recipe `lsfb` uses.
        fps: frames a second of the recordings.
    """
    from handcraft.data.prepare_lsfb import prepare_lsfb

    summary = prepare_lsfb(folder, out, least=min_clips, longest=max_frames, keep=keep, fps=fps)
    print("\n".join(summary.lines()))
    return 0


def data_merge(
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="STORE... OUT")]],
    mix: tuple[Literal["backend", "classes", "fps"], ...] = (),
    without: tuple[int, ...] = (),
) -> int:
    """Merge stores into one: the parts that the tasks of `handcraft extract --shard` wrote, or any that are alike.

    Args:
        paths: stores in the order that their clips shall have (parts of an extraction are put into theirs), then the
            folder of the new store.
        mix: what the stores may differ in: the detector, the list of classes, the frames a second.
        without: numbers of the parts of an extraction that have no store, since none of their videos gave a clip.
    """
    from handcraft.data.merge import merge_stores

    if len(paths) < 2:
        raise ConfigError("give the stores first, and then the folder of the new one")
    *stores, out = paths
    print("\n".join(merge_stores(stores, out, mix=mix, without=without).lines()))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "prepare", "include"): (data_prepare_include, "INCLUDE's videos as downloaded into a store", None),
    ("data", "prepare", "display"): (data_prepare_display, "DiSPLaY's frames as downloaded into a store", None),
    ("data", "prepare", "lsfb"): (data_prepare_lsfb, "LSFB's landmarks as downloaded into a store", None),
    ("data", "merge"): (data_merge, "several stores into one", None),
}
