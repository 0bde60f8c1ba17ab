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


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "import-arrays"): (data_import_arrays, "turn arrays in an .npz into a store", None),
}
