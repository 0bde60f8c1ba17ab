"""`handcraft extract`: landmarks from videos. See `cli` for how commands are written."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli.data import Command
from handcraft.errors import ConfigError
from handcraft.extract.landmarker import Backend, Kept


def extract(
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="VIDEO|DIR|FILE.csv... OUT")]],
    labels: Path | None = None,
    backend: Backend = "holistic",
    model: Path | None = None,
    model_sha256: str | None = None,
    keep: Kept = "holistic553",
    workers: int = 1,
    on: Literal["processes", "ray"] = "processes",
    fps: float | None = None,
    image_fps: float | None = None,
    detection: float = 0.5,
    tracking: float = 0.5,
    shard: str | None = None,
    allow_mixed: bool = False,
    licence: str | None = None,
) -> int:
    """Detect landmarks in videos with MediaPipe, and write them as a raw store. The same call continues a stopped run;
    clips that a store lacks are added to it. Exit code 1 if some of the videos failed, 2 if there is no store.

    Args:
        paths: videos, folders of them (DIR/SIGN/FILE.mp4, or DIR/SIGN/CLIP/0001.jpg) and tables as for --labels; the
            last one is the folder of the store.
        labels: a table with the columns path and label, and signer, start, end, id and split where known. Paths begin
            in the one folder that is given; start and end are seconds.
        backend: `holistic` is mediapipe 0.10.21, which brings its models. `tasks` is mediapipe 0.10.35 or newer with a
            file of models that you give; these releases report usage to their maker over the network.
        model: file of models (.task), for tasks.
        model_sha256: SHA-256 that the file must have.
        keep: landmarks to keep; `holistic87` is body, hands and the face points that the paper uses, `holistic75` has
            no face.
        workers: processes, each with a video of its own; the result does not depend on how many.
        on: `ray` has the workers on the machines of a Ray cluster, that of the variable RAY_ADDRESS, and needs the
            extra `ray`; the result is the same.
        fps: take so many frames a second, the nearest to each time, instead of all.
        image_fps: frames a second of folders of images, where known.
        detection: least confidence at which a person counts as found.
        tracking: least confidence at which a person is followed instead of looked for again.
        shard: of a list that several machines share, the part to work on, such as 2/8; merge the stores afterwards.
        allow_mixed: add to a store whose landmarks another detector found.
        licence: licence of the data, where known.
    """
    from handcraft.extract.inputs import find_clips
    from handcraft.extract.landmarker import Settings
    from handcraft.extract.run import extract as run

    if len(paths) < (2 if labels is None else 1):
        raise ConfigError("give videos, a folder of them or a table first, and then the folder of the store")
    settings = Settings(
        backend=backend,
        keep=keep,
        model=None if model is None else str(model),
        model_sha256=model_sha256,
        fps=fps,
        image_fps=image_fps,
        detection=detection,
        tracking=tracking,
    )
    *inputs, out = paths
    found = find_clips(inputs, labels)
    for note in found.notes:  # now, and not after hours
        print(note, flush=True)
    summary = run(
        found.clips,
        out,
        settings,
        workers=workers,
        on=on,
        shard=shard,
        allow_mixed=allow_mixed,
        licence=licence,
        unreadable=found.unreadable,
    )
    print("\n".join(summary.lines()))
    return summary.exit_code


COMMANDS: dict[tuple[str, ...], Command] = {
    ("extract",): (extract, "landmarks from videos into a store", None),
}
