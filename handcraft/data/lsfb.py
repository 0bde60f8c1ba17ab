"""LSFB's layout of isolated signs, version 2, both ways: a small file for each clip and body part.

    DIR/instances.csv                  id, sign, signer, start, end: a row a clip
    DIR/metadata/sign_to_index.csv     sign, class
    DIR/metadata/splits/NAME.json      a list of ids (train, test, all, ...)
    DIR/poses/PART/ID.npy              (T,points,3): pose 33, left_hand and right_hand 21, face 468 or 478 landmarks

Facts from LSFB-Team/lsfb-dataset 2.0.1 (its loaders and their tests) and okason97/HandCraft (`doc/datasets.md`), whose
scripts prepare INCLUDE and DiSPLaY so. A part that was not detected is NaN in the one, and all zeros in the other.

An export adds what the layout has no place for, and an import of it gives the same store again, bit for bit:

    DIR/metadata/handcraft.json        the store's manifest, the dtype of its landmarks, the SHA-256 of its tables
    DIR/metadata/handcraft.csv         id, digest, content, provenance: a row a clip, in the store's order
"""

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.clip_files import ClipFile, FilesSummary, write_store
from handcraft.data.exports import new_path, progress_bar
from handcraft.data.manifest import Manifest, clip_digest
from handcraft.data.store import Store, StoreWriter
from handcraft.data.untrusted import csv_rows, file_name, path_inside, read_npy, require_file
from handcraft.errors import ConfigError, DataError
from handcraft.files import read_json, sha256_file, verified, with_checksum, write_json
from handcraft.layouts import Layout, layout

INSTANCES, INDEX = "instances.csv", "metadata/sign_to_index.csv"
EXPORTED, EXPORTED_CLIPS = "metadata/handcraft.json", "metadata/handcraft.csv"
SPLITS = ("train", "test")
BY_FACE = {12: "holistic87", 468: "holistic543", 478: "holistic553"}  # layout by the points of its face
RAW_LAYOUTS = ("holistic75", *BY_FACE.values())
TIMES = ("start", "end")
"""Columns of instances.csv: where in LSFB's continuous recordings a clip was cut out, in milliseconds."""
_DIGEST = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class _Row:
    """What instances.csv says of a clip."""

    sign: str
    signer: str
    times: str
    """Its start and end as JSON, "" where they are not given."""


def import_lsfb(
    folder: Path | str,
    out: Path | str,
    *,
    keep: str | None = None,
    poses: Path | str | None = None,
    splits: Sequence[str] | None = None,
    choose: Callable[[Sequence[ClipFile]], Sequence[ClipFile]] | None = None,
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
    progress: bool | None = None,
) -> FilesSummary:
    """Read a folder in LSFB's layout, version 2, into the new raw store `out`, a clip at a time.

    keep: layout of the store, one of `RAW_LAYOUTS`; by default everything the folder has (with a face of 478 points
    that is seven times the data of `holistic75`). poses: folder that holds the parts' folders, default
    `folder`/poses, which LSFB itself filled and smoothed; its `poses_raw` is as detected. splits: names of the lists
    in metadata/splits that mark clips, default train and test if there are such; a clip in none of them is left out
    and counted. choose: given the others (path: the folder of the parts' folders), returns those to import. The store's
    classes are the sorted signs, its groups the signers; start and end, the place of a sign in LSFB's continuous
    recordings, are each clip's provenance. float64 is rounded to float32, and frames in which all of a part is exactly
    0 count as missing. leave_out_missing, progress, fps, licence, aspect: see `write_store`.

    A folder that `export_lsfb` wrote gives the store it was made from: keep, poses and splits then have no place, and
    fps, licence and aspect are the store's own unless given.

    `DataError`, and no store, for whatever does not fit: a clip without its files, arrays of another shape, a clip in
    two lists, an id used twice or that cannot name a file, links, an export that has been changed.
    """
    folder = Path(folder)
    manifest = {"fps": fps, "licence": licence, "aspect": aspect}
    if (folder / EXPORTED).exists():
        if keep or poses or splits:
            raise ConfigError(
                f"{folder}: is a store's export ({EXPORTED}), imported whole and as it was: keep, poses and splits do "
                f"not apply; delete {EXPORTED} to import it as any other folder"
            )
        return _import_exported(folder, out, manifest, progress)
    if keep is not None and keep not in RAW_LAYOUTS:
        raise ConfigError(f"keep is {keep!r}, expected one of {', '.join(RAW_LAYOUTS)}")
    if splits is None:
        splits = [name for name in SPLITS if (folder / _list_of(name)).exists()]

    rows = _instances(folder)
    marks, unknown = _marks(folder, splits, rows)
    used = [id for id in rows if id in marks or not splits]
    if not used:
        raise DataError(f"{folder}: {' and '.join(splits)} list no clip of {INSTANCES}; nothing to import")
    parts = path_inside(folder, "poses", folder) if poses is None else Path(poses)
    held = _layout_of(parts, used, keep)
    _require_clips(parts, held, used)
    clips = [ClipFile(parts, id, rows[id].sign, rows[id].signer, marks.get(id, ""), rows[id].times) for id in used]
    clips = choose(clips) if choose else clips
    zeros: Counter[str] = Counter()
    summary = write_store(
        clips,
        _reader(parts, held, layout(keep or held.name), zeros),
        out,
        layout=keep or held.name,
        source={"command": "import-lsfb", "folder": folder.resolve().name, "sha256": sha256_file(folder / INSTANCES)},
        leave_out_missing=leave_out_missing,
        progress=progress,
        **manifest,
    )
    notes = [f"not in {INSTANCES}, so passed over: {count} ids of {name}.json" for name, count in unknown.items()]
    if zeros:
        notes.append(
            "frames of nothing but zeros, taken as missing: " + ", ".join(f"{n} {p}" for p, n in zeros.items())
        )
    return replace(
        summary,
        unused=len(rows) - len(used),
        dropped_classes=tuple(sorted({row.sign for row in rows.values()} - {rows[id].sign for id in used})),
        notes=tuple(notes),
    )


def export_lsfb(store: Path | str, folder: Path | str, *, progress: bool | None = None) -> int:
    """Write a store into the new folder `folder` in LSFB's layout, version 2, with what it takes to get it back.

    Returns the number of clips. Every landmark keeps its value and dtype; a missing one is NaN. Signers are the groups,
    signs the class names, with their class index. start and end are those of the clip's provenance, where an import
    put them; otherwise 0 and the clip's duration in milliseconds, or its frames where the store knows no fps. Each
    split has its list, and `all` lists every clip. A store of model inputs (stage centred) has fewer points, or two
    coordinates, in each file. progress: show a bar, by default on a terminal.

    `DataError`: a damaged store; a folder that exists; an id or a split that cannot name a file (see `file_name`), or a
    split of the name `all`.
    """
    opened = Store(store)
    opened.verify()
    manifest, ids = opened.manifest, [file_name(id, f"{store}: id") for id in opened.ids.tolist()]
    splits = {name: opened.ids[opened.splits == name].tolist() for name in sorted(manifest.split_hashes)}
    for name in splits:
        file_name(name, f"{store}: split")
    if "all" in splits:
        raise DataError(f"{store}: a split is named 'all', which in LSFB's layout is the list of all clips; rename it")
    places = layout(manifest.layout).slices
    with new_path(folder) as temporary:
        for part in places:
            (temporary / "poses" / part).mkdir(parents=True)
        contents = []
        with progress_bar(len(opened), progress) as bar:
            for id, frames in zip(ids, opened, strict=True):
                contents.append(clip_digest(frames))
                for part, place in places.items():
                    _save(temporary / "poses" / part / f"{id}.npy", frames[:, place])
                bar.update()
        _write_tables(temporary, opened, splits | {"all": ids}, contents)
    return len(ids)


def _import_exported(folder: Path, out: Path | str, given: Mapping[str, Any], progress: bool | None) -> FilesSummary:
    """The store that `export_lsfb` was given, after comparing every clip and split with what the export recorded."""
    path = path_inside(folder, EXPORTED, folder)
    recorded = verified(read_json(path), path)
    try:
        manifest = Manifest.from_dict(recorded)
    except DataError as error:
        raise DataError(f"{path}: {error}; export the store again") from None
    remedy = f"export the store again, or delete {EXPORTED} to import the folder as any other"
    hashes, dtype = recorded.get("sha256"), recorded.get("dtype")
    if not isinstance(hashes, dict) or dtype not in ("float16", "float32"):
        raise DataError(f"{path}: has no dtype or no SHA-256 of the tables; {remedy}")
    for name in _tables(manifest):
        table = path_inside(folder, name, folder)
        require_file(table)
        if hashes.get(name) != sha256_file(table):
            raise DataError(f"{table}: has changed since it was exported; {remedy}")
    rows = _instances(folder)
    marks, _ = _marks(folder, manifest.split_hashes, rows)
    held = layout(manifest.layout)
    parts = path_inside(folder, "poses", folder)
    _require_clips(parts, held, rows)
    kept = {name: getattr(manifest, name) if value is None else value for name, value in given.items()}
    writer = StoreWriter(
        out,
        layout=manifest.layout,
        stage=manifest.stage,
        classes=manifest.classes,
        coordinates=manifest.coordinates,
        preprocessing=manifest.preprocessing,
        statistics=manifest.statistics,
        seen_clips=manifest.seen_clips,
        source=manifest.source,
        dtype=dtype,
        **kept,
    )
    listed = csv_rows(folder / EXPORTED_CLIPS, ["id", "digest", "content", "provenance"])
    with writer, progress_bar(len(rows), progress) as bar:
        for id, row in rows.items():
            clip = next(listed, {})
            frames = _clip(parts, held, id, len(manifest.coordinates))
            if (
                clip.get("id") != id
                or clip["content"] != _hex(clip_digest(frames))
                or not _DIGEST.fullmatch(clip["digest"])
            ):
                raise DataError(f"{parts}: the landmarks of clip {id!r} are not those that were exported; {remedy}")
            writer.add(
                frames,
                id=id,
                label=row.sign,
                group=row.signer,
                split=marks.get(id, ""),
                provenance=clip["provenance"],
                digest=int(clip["digest"], 16),
            )
            bar.update()
    return FilesSummary(
        path=str(out),
        layout=manifest.layout,
        imported=len(rows),
        classes=manifest.classes,
        by_split=dict(sorted(Counter(marks.get(id, "") for id in rows).items())),
        unused=0,
        missing=(),
        dropped_classes=(),
    )


def _write_tables(folder: Path, store: Store, lists: Mapping[str, list[str]], contents: Sequence[int]) -> None:
    """Everything but the landmarks: LSFB's tables, and what `_import_exported` needs."""
    manifest, signs = store.manifest, [store.classes[label] for label in store.labels]
    ends = store.frames if manifest.fps is None else np.rint(store.frames * 1000 / manifest.fps).astype(np.int64)
    times = dict(zip(TIMES, zip(*map(_times, store.provenance, ends.tolist()), strict=True), strict=True))
    _write_csv(folder / INSTANCES, {"id": store.ids, "sign": signs, "signer": store.groups, **times})
    for name, listed in lists.items():
        write_json(folder / _list_of(name), listed)
    _write_csv(folder / INDEX, {"sign": store.classes, "class": range(len(store.classes))})
    digests = {"digest": map(_hex, store.digests), "content": map(_hex, contents)}
    columns = {"id": store.ids, **digests, "provenance": store.provenance}
    _write_csv(folder / EXPORTED_CLIPS, columns, csv.QUOTE_ALL)  # a provenance may hold any character
    hashes = {name: sha256_file(folder / name) for name in _tables(manifest)}
    exported = manifest.to_dict() | {"dtype": store.dtype.name, "sha256": hashes}
    write_json(folder / EXPORTED, with_checksum(exported))


def _times(provenance: str, end: int) -> tuple[str, str]:
    """Start and end of a clip: those of its provenance, if it has both, else 0 and `end`."""
    try:
        known = json.loads(provenance) if provenance else {}
    except (ValueError, RecursionError):  # a store may hold any text; it is exported as it is
        known = {}
    times = tuple(known.get(name) for name in TIMES) if isinstance(known, dict) else ()
    return times if times and all(isinstance(time, str) for time in times) else ("0", str(end))


def _tables(manifest: Manifest) -> list[str]:
    """The files of an export that say what its clips are, and that must be as they were written."""
    return [INSTANCES, EXPORTED_CLIPS, *(_list_of(split) for split in sorted(manifest.split_hashes))]


def _list_of(split: str) -> str:
    return f"metadata/splits/{file_name(split, 'splits')}.json"


def _instances(folder: Path) -> dict[str, _Row]:
    """The rows of instances.csv by id, in its order; the signer is "" where there is no such column."""
    if not (folder / INSTANCES).exists() and any(folder.glob("*.tar")):
        raise DataError(f"{folder}: holds shards and no {INSTANCES}; shards of LSFB are read by import-lsfb-shards")
    rows = {}
    for row in csv_rows(folder / INSTANCES, ["id", "sign"]):
        id = file_name(row["id"], f"{folder / INSTANCES}: id")
        if id in rows:
            raise DataError(f"{folder / INSTANCES}: gives the id {id!r} twice; ids must differ")
        times = {name: row[name] for name in TIMES if row.get(name)}
        rows[id] = _Row(sys.intern(row["sign"]), sys.intern(row.get("signer", "")), json.dumps(times) if times else "")
    if not rows:
        raise DataError(f"{folder / INSTANCES}: lists no clip; expected a row for each")
    return rows


def _marks(folder: Path, names: Iterable[str], known: Mapping[str, Any]) -> tuple[dict[str, str], Counter[str]]:
    """Id -> the list in metadata/splits that names it; and how many ids of each list are not among the known ones."""
    marks, unknown = {}, Counter()
    for name in names:
        path = path_inside(folder, _list_of(name), "splits")
        ids = read_json(path)
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise DataError(f"{path}: expected a list of clip ids, each a text")
        for id in ids:
            if id not in known:
                unknown[name] += 1
            elif marks.setdefault(id, name) != name:
                raise DataError(
                    f"{path}: clip {id!r} is in {marks[id]}.json, too; a clip is in one split: name lists that do not "
                    "overlap (splits)"
                )
    return marks, unknown


def _layout_of(parts: Path, ids: Sequence[str], keep: str | None) -> Layout:
    """The layout that the files hold, told by the number of face points; without the face where it is not asked for."""
    if keep == "holistic75" or not (parts / "face").is_dir():
        if keep not in (None, "holistic75"):
            raise ConfigError(f"keep is {keep}, but {parts} has no folder face; expected holistic75")
        return layout("holistic75")
    face = path_inside(parts, "face", parts)
    shapes = (read_npy(face / f"{id}.npy").shape for id in ids)
    shape = next((shape for shape in shapes if 0 not in shape), ())
    if len(shape) != 3 or shape[1] not in BY_FACE:
        raise DataError(f"{face}: an array of shape {shape}, expected (frames, {' or '.join(map(str, BY_FACE))}, 3)")
    return layout(BY_FACE[shape[1]])


def _require_clips(parts: Path, held: Layout, ids: Iterable[str]) -> None:
    """`DataError` before anything is read if a clip lacks the file of a part: downloads break off."""
    for part in held.parts:
        folder = path_inside(parts, part.name, parts)
        try:
            names = set(os.listdir(folder))
        except OSError as error:
            raise DataError(f"{folder}: not a folder that can be read ({error.strerror})") from None
        absent = [id for id in ids if f"{id}.npy" not in names]
        if absent:
            raise DataError(f"{folder}: has no {absent[0]}.npy; {len(absent)} clips of {INSTANCES} lack their file")


def _reader(parts: Path, held: Layout, kept: Layout, zeros: Counter[str]) -> Callable[[ClipFile], np.ndarray]:
    """Reads a clip (T,J,3) of layout `kept` from files of layout `held`; counts the frames of zeros by part."""
    take = held.take(kept)

    def read(clip: ClipFile) -> np.ndarray:
        frames = _clip(parts, held, clip.id, 3)
        for name, place in held.slices.items():
            gone = (frames[:, place] == 0).all(axis=(1, 2))
            if gone.any():
                frames[gone, place] = np.nan
                zeros[name] += int(gone.sum())
        return frames[:, take]

    return read


def _clip(parts: Path, held: Layout, id: str, coordinates: int) -> np.ndarray:
    """The arrays of one clip joined to (T,J,C), in their dtype. A clip of no frames may have arrays of any shape."""
    arrays = {}
    for part in held.parts:
        path = parts / part.name / f"{id}.npy"
        array = read_npy(path)
        wanted = (len(part.indices), coordinates)
        if array.dtype.kind != "f" or (array.size and (array.ndim != 3 or array.shape[1:] != wanted)):
            raise DataError(
                f"{path}: {array.dtype} of shape {array.shape}, expected floating point (frames, {len(part.indices)}, "
                f"{coordinates})"
            )
        arrays[part.name] = array if array.size else np.empty((0, *wanted), array.dtype)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise DataError(f"{parts}: clip {id!r} has {found} frames; expected as many of each part")
    return np.concatenate(list(arrays.values()), axis=1)


def _save(path: Path, array: np.ndarray) -> None:
    """Write one array to a file that is not there yet: some file systems take different ids for the same name."""
    try:
        with open(path, "xb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    except FileExistsError:
        raise DataError(
            f"{path.name}: two clips need this file, since this file system does not tell their ids apart; rename one"
        ) from None


def _write_csv(path: Path, columns: Mapping[str, Iterable[Any]], quoting: int = csv.QUOTE_MINIMAL) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _hex(digest: int) -> str:
    return f"{int(digest):016x}"
