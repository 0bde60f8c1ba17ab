"""The commands of `handcraft data` that write stores in the field's formats; `cli` says how commands are written."""

from tyro.conf import Positional

from handcraft.cli_data import Command, Folder, Store


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


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "export-pose"): (data_export_pose, "write clips as .pose files", None),
}
