"""The commands of `handcraft data` that write stores in the field's formats; `cli` says how commands are written."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from handcraft.cli.data import Command, Folder, Store


def data_export_pose(store: Positional[Store], out: Positional[Folder], ids: tuple[str, ...] = ()) -> int:
    """Write clips as .pose files, for the field's viewers and tools. Needs `pip install "handcraft[pose]"`.

    Args:
        store: recorded or synthetic clips.
        out: new folder for a file for each clip, and clips.csv with its label, group and split.
        ids: the clips; all if none is named.
    """
    from handcraft.data.pose_folder import export_pose

    print("\n".join(export_pose(store, out, ids=ids)))
    return 0


def data_export_lsfb(store: Positional[Store], out: Positional[Folder]) -> int:
    """Write a store in LSFB's layout: instances.csv, metadata/, poses/PART/ID.npy. `data import-lsfb` gives it back.

    Args:
        store: recorded or synthetic clips.
        out: new folder.
    """
    from handcraft.data.lsfb import export_lsfb

    print(f"{out}: {export_lsfb(store, out)} clips in LSFB's layout")
    return 0


def data_export_webdataset(store: Positional[Store], out: Positional[Folder], shard_clips: int = 4096) -> int:
    """Write a store as WebDataset shards, which the webdataset package and LSFB's loader read.

    Args:
        store: recorded or synthetic clips.
        out: new folder for the shards, and dataset.json that says what they hold.
        shard_clips: clips of a shard.
    """
    from handcraft.data.exports import export_webdataset

    shards = export_webdataset(store, out, shard_clips=shard_clips)
    print(f"{out}: {len(shards)} shards, {shards[0]} to {shards[-1]}")
    return 0


def data_export_parquet(store: Positional[Store], out: Positional[Annotated[Path, arg(metavar="FILE.parquet")]]) -> int:
    """Write a store as one Parquet file, a row a clip, for pandas and its like.

    Args:
        store: recorded or synthetic clips.
        out: new file.
    """
    from handcraft.data.exports import export_parquet

    print(f"{out}: {export_parquet(store, out)} clips, a row each")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "export-lsfb"): (data_export_lsfb, "write a store in LSFB's layout", None),
    ("data", "export-webdataset"): (data_export_webdataset, "write a store as WebDataset shards", None),
    ("data", "export-parquet"): (data_export_parquet, "write a store as one Parquet file", None),
    ("data", "export-pose"): (data_export_pose, "write clips as .pose files", None),
}
