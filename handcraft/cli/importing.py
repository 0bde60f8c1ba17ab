"""The commands of `handcraft data` that read the field's formats into stores; `cli` says how commands are written."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli.data import Command, Folder


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


def data_import_lsfb(
    folder: Positional[Annotated[Path, arg(metavar="LSFB")]],
    out: Positional[Folder],
    keep: Literal["holistic75", "holistic87", "holistic543", "holistic553"] | None = None,
    poses: Path | None = None,
    splits: tuple[str, ...] | None = None,
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
) -> int:
    """Turn a folder in LSFB's layout (instances.csv, metadata/, poses/PART/ID.npy) into a store.

    A folder written by `handcraft data export-lsfb` gives the very store it was made from.

    Args:
        folder: the folder with instances.csv.
        out: folder of the new store.
        keep: landmarks to keep; by default all that the folder has. `holistic87` is body, hands and the face points
            that the paper uses, a sixth of the data with the whole face.
        poses: folder of the parts' folders; by default LSFB/poses. LSFB/poses_raw has the landmarks as detected.
        splits: lists in LSFB/metadata/splits that mark the clips; by default train and test, where there are such.
        fps: frames a second of the recordings, where known.
        licence: licence of the data, where known.
        aspect: width / height of the pictures, where known.
        leave_out_missing: leave out clips without a single landmark, and name them; otherwise they are an error.
    """
    from handcraft.data.lsfb import import_lsfb

    what = {"keep": keep, "poses": poses, "splits": splits, "fps": fps, "licence": licence, "aspect": aspect}
    summary = import_lsfb(folder, out, **what, leave_out_missing=leave_out_missing)
    print("\n".join(summary.lines()))
    return 0


def data_import_lsfb_shards(
    folder: Positional[Annotated[Path, arg(metavar="SHARDS")]],
    out: Positional[Folder],
    test_shards: tuple[int, ...] = (0,),
    validation_shards: tuple[int, ...] = (1, 2),
    fps: float = 50.0,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
) -> int:
    """Turn the shards (.tar) of LSFB's third version into a store.

    Args:
        folder: the folder with the shards of one vocabulary, such as shards/500.
        out: folder of the new store.
        test_shards: numbers of the shards to test with.
        validation_shards: numbers of the shards to set aside; clips of the others are for training.
        fps: frames a second of the recordings.
        licence: licence of the data, where known.
        aspect: width / height of the pictures, where known.
        leave_out_missing: leave out clips without a single landmark, and name them; otherwise they are an error.
    """
    from handcraft.data.lsfb_shards import import_shards

    what = {"test_shards": test_shards, "validation_shards": validation_shards, "leave_out_missing": leave_out_missing}
    summary = import_shards(folder, out, **what, fps=fps, licence=licence, aspect=aspect)
    print("\n".join(summary.lines()))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "import-arrays"): (data_import_arrays, "turn arrays in an .npz into a store", None),
    ("data", "import-lsfb"): (data_import_lsfb, "turn a folder in LSFB's layout into a store", None),
    ("data", "import-lsfb-shards"): (data_import_lsfb_shards, "turn LSFB's WebDataset shards into a store", None),
    ("data", "import-pose"): (data_import_pose, "turn .pose files into a store", None),
    ("data", "import-mp-data"): (data_import_mp_data, "turn MP_Data/WORD/CLIP/FRAME.npy into a store", None),
}
