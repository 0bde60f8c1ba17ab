"""The commands of `handcraft data` that prepare the paper's datasets and merge stores; `cli` says how commands are
written."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli_data import Command, Folder


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
    stores: Positional[Annotated[tuple[Path, ...], arg(metavar="STORE...")]],
    out: Positional[Folder],
    mix: tuple[Literal["backend", "classes", "fps"], ...] = (),
) -> int:
    """Merge stores into one: the parts that the tasks of `handcraft extract --shard` wrote, or any that are alike.

    Args:
        stores: in the order that their clips shall have; parts of an extraction are put into theirs.
        out: folder of the new store.
        mix: what the stores may differ in: the detector, the list of classes, the frames a second.
    """
    from handcraft.data.merge import merge_stores

    print("\n".join(merge_stores(stores, out, mix=mix).lines()))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "prepare", "lsfb"): (data_prepare_lsfb, "LSFB as downloaded into a store", None),
    ("data", "merge"): (data_merge, "several stores into one", None),
}
