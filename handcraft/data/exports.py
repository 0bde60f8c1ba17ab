"""Stores in formats that other tools read without handcraft: WebDataset shards and one Parquet file.

    DIR/SPLIT-000000.tar   WebDataset: for each clip KEY.pose.PART.npy (T,points,C), KEY.label.idx, KEY.label.txt,
                           KEY.signer.txt where it has a group, KEY.json (id, label, group, split, frames, digest,
                           provenance). The field's LSFB loader (sign-language-data-loading) takes them as they are.
    DIR/dataset.json       the store's manifest, and the landmarks of each part

    FILE.parquet           a row a clip: the columns of a store's table, and one a part with the clip's values one after
                           another: `frame.pose[i].reshape(frame.frames[i], 33, 3)` in pandas. The schema's metadata
                           holds dataset.json under the key `handcraft`.

Both hold every value of the store: float16 becomes float32 in Parquet, which some readers know no half of.
"""

import contextlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from handcraft.data.manifest import Manifest
from handcraft.data.store import Store
from handcraft.data.untrusted import file_name
from handcraft.errors import DataError
from handcraft.files import atomic_path, write_json
from handcraft.layouts import layout

SHARD_CLIPS = 4096
GROUP_FRAMES = 1 << 14  # frames of a Parquet row group: 15 MB of 75 landmarks, 109 MB of 553


def export_webdataset(
    store: Path | str, folder: Path | str, *, shard_clips: int = SHARD_CLIPS, progress: bool | None = None
) -> list[str]:
    """Write a store as WebDataset shards into the new folder `folder`; the names of the shards, in order.

    Each split has shards of its own (`train-000000.tar`, ...; `000000.tar` where clips are not marked), each but the
    last of `shard_clips` clips. A clip's key is its id with every character but letters, digits, `_`, `-` and `~`
    written as %XX: a dot in it would be taken for the end of the key. The same store gives the same bytes. progress:
    show a bar, by default on a terminal. `DataError`: a damaged store, a folder that exists, a split that cannot name
    a file.
    """
    if shard_clips < 1:
        raise DataError(f"{folder}: shard_clips is {shard_clips}, expected at least 1")
    opened = _whole(store)
    splits = sorted(set(opened.splits.tolist()))
    for split in filter(None, splits):
        file_name(split, f"{store}: split")
    shards = []
    with new_path(folder) as temporary, progress_bar(len(opened), progress) as bar:
        temporary.mkdir()
        for split in splits:
            places = np.flatnonzero(opened.splits == split)
            for number, start in enumerate(range(0, len(places), shard_clips)):
                shards.append(f"{split}-{number:06d}.tar" if split else f"{number:06d}.tar")
                with tarfile.open(temporary / shards[-1], "x") as tar:
                    for clip in places[start : start + shard_clips].tolist():
                        for name, content in _members(opened, clip):
                            entry = tarfile.TarInfo(name)  # its time is 0 and its owner root, whoever runs this
                            entry.size = len(content)
                            tar.addfile(entry, io.BytesIO(content))
                        bar.update()
        write_json(temporary / "dataset.json", description(opened.manifest))
    return shards


def export_parquet(store: Path | str, file: Path | str, *, progress: bool | None = None) -> int:
    """Write a store as one Parquet file (see the top of this module); the number of clips.

    Memory is that of some thousand frames, or of the longest clip. progress: show a bar, by default on a terminal.
    `DataError`: a damaged store, a file that exists.
    """
    opened = _whole(store)
    places = layout(opened.manifest.layout).slices
    schema = pa.schema(
        [("id", pa.string()), ("label", pa.string()), ("group", pa.string()), ("split", pa.string())]
        + [("frames", pa.int64()), ("digest", pa.uint64()), ("provenance", pa.string())]
        + [(part, pa.large_list(pa.float32())) for part in places],
        metadata={"handcraft": json.dumps(description(opened.manifest))},
    )
    with (
        new_path(file) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        progress_bar(len(opened), progress) as bar,
    ):
        for clips, rows in _row_groups(opened):
            ends = np.append(0, np.cumsum(opened.frames[clips]))
            columns = {
                "id": opened.ids[clips],
                "label": np.array(opened.classes)[opened.labels[clips]],
                "group": opened.groups[clips],
                "split": opened.splits[clips],
                "frames": opened.frames[clips],
                "digest": opened.digests[clips],
                "provenance": opened.provenance[clips],
            }
            for part, place in places.items():
                values = rows[:, place].astype(np.float32)
                columns[part] = pa.LargeListArray.from_arrays(ends * values[0].size, values.ravel())
            writer.write_table(pa.table(columns, schema=schema))
            bar.update(len(ends) - 1)
    return len(opened)


def description(manifest: Manifest) -> dict[str, Any]:
    """What a reader needs to know about exported landmarks: the manifest without its files, and the parts.

    `parts` gives for each part the MediaPipe indices of its landmarks, in the order of the arrays.
    """
    fields = manifest.to_dict() | {"parts": {part.name: part.indices for part in layout(manifest.layout).parts}}
    return {name: value for name, value in fields.items() if name != "format_version"}


@contextlib.contextmanager
def new_path(path: Path | str) -> Iterator[Path]:
    """`atomic_path` for what must not exist yet: `DataError` where it does, before anything is written."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise DataError(f"{path}: exists already; choose another place for the export, or delete it first")
    with atomic_path(path) as temporary:
        yield temporary


def progress_bar(clips: int, progress: bool | None) -> tqdm:
    """A bar that counts exported clips, shown on a terminal unless `progress` says otherwise."""
    show = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=clips, desc="export", unit="clip", disable=not show)


def _whole(store: Path | str) -> Store:
    """The store, every byte of it compared with its checksums: an export has none of its own."""
    opened = Store(store)
    opened.verify()
    return opened


def _members(store: Store, clip: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of one clip."""
    id, label, group = str(store.ids[clip]), int(store.labels[clip]), str(store.groups[clip])
    key = quote(id, safe="").replace(".", "%2E")
    frames = store.landmarks(clip)
    for part, place in layout(store.manifest.layout).slices.items():
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(frames[:, place]), allow_pickle=False)
        yield f"{key}.pose.{part}.npy", content.getvalue()
    yield f"{key}.label.idx", str(label).encode()
    yield f"{key}.label.txt", store.classes[label].encode()
    if group:
        yield f"{key}.signer.txt", group.encode()
    facts = {
        "id": id,
        "label": store.classes[label],
        "group": group,
        "split": str(store.splits[clip]),
        "frames": len(frames),
        "digest": f"{int(store.digests[clip]):016x}",
        "provenance": store.provenance_of(clip),
    }
    yield f"{key}.json", json.dumps(facts).encode()


def _row_groups(store: Store) -> Iterator[tuple[slice, np.ndarray]]:
    """The clips in runs of about `GROUP_FRAMES` frames, and the frames (rows,J,C) of each run."""
    for clips, rows in store.parts():
        ends = np.cumsum(store.frames[clips])
        first = done = 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, done + GROUP_FRAMES, side="right")))
            yield slice(clips.start + first, clips.start + last), rows[done : ends[last - 1]]
            first, done = last, int(ends[last - 1])
