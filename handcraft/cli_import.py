"""The commands of `handcraft data` that read the field's formats into stores; `cli` says how commands are written."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from handcraft.cli_data import Command, Folder


def data_import_arrays(
    file: Positional[Annotated[Path, arg(metavar="FILE.npz")]],
    out: Positional[Folder],
    group: str | None = None,
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
) -> int:
    """Turn arrays (pose, left_hand, right_hand, [face], lengths, y, class_names, [split]) into a store.

    Args:
        file: a .npz without pickles; NaN = missing.
        out: folder of the new store.
        group: name of the array that tells signers or sessions apart.
        fps: frames a second of the recordings, where known.
        licence: licence of the data, where known.
        aspect: width / height of the pictures, where known.
        leave_out_missing: leave out clips without a single landmark, and name them; otherwise they are an error.
    """
    from handcraft.data.arrays import import_arrays

    summary = import_arrays(
        file, out, group=group, fps=fps, licence=licence, aspect=aspect, leave_out_missing=leave_out_missing
    )
    print("\n".join(summary.lines()))
    return 0


def data_import_pose(
    source: Positional[Annotated[Path, arg(metavar="DIR|FILE.csv")]],
    out: Positional[Folder],
    licence: str | None = None,
    leave_out_missing: bool = False,
) -> int:
    """Turn .pose files of MediaPipe Holistic landmarks into a store. Needs `pip install "handcraft[pose]"`.

    Args:
        source: a folder with a folder of .pose files for each class, or with a table clips.csv; or such a table by
            another name: columns path, label [, id] [, group] [, split], paths relative to the table.
        out: folder of the new store.
        licence: licence of the data, where known.
        leave_out_missing: leave out clips without a single landmark, and name them; otherwise they are an error.
    """
    from handcraft.data.pose_folder import import_pose

    summary = import_pose(source, out, licence=licence, leave_out_missing=leave_out_missing)
    print("\n".join(summary.lines()))
    return 0


def data_import_mp_data(
    folder: Positional[Annotated[Path, arg(metavar="MP_DATA")]],
    out: Positional[Folder],
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
) -> int:
    """Turn a folder MP_Data/WORD/CLIP/FRAME.npy (1662 or 258 numbers a frame, zeros = missing part) into a store.

    Args:
        folder: the folder with a folder for each word.
        out: folder of the new store.
        fps: frames a second of the recordings, where known.
        licence: licence of the data, where known.
        aspect: width / height of the pictures, where known.
        leave_out_missing: leave out clips without a single landmark, and name them; otherwise they are an error.
    """
    from handcraft.data.mp_data import import_mp_data

    summary = import_mp_data(folder, out, fps=fps, licence=licence, aspect=aspect, leave_out_missing=leave_out_missing)
    print("\n".join(summary.lines()))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "import-arrays"): (data_import_arrays, "turn arrays in an .npz into a store", None),
    ("data", "import-pose"): (data_import_pose, "turn .pose files into a store", None),
    ("data", "import-mp-data"): (data_import_mp_data, "turn MP_Data/WORD/CLIP/FRAME.npy into a store", None),
}
