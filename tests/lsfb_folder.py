"""Folders and shards as LSFB publishes them, with random landmarks, for the tests of what reads them."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

PARTS = {"pose": 33, "left_hand": 21, "right_hand": 21}
SHARD_PARTS = {"upper_pose": 23, "left_hand": 21, "right_hand": 21, "lips": 40, "left_eye": 16, "right_eye": 16}


def lsfb_folder(
    path: Path, *, clips: int = 6, face: int | None = 478, splits: bool = True, dtype: str = "f8", seed: int = 0
) -> Path:
    """Version 2: clip i has id `CLSFBI0i_S00g_B_s_e`, sign `SIGN-(i % 2)`, signer `S00(i % 3)`, and 4 + i frames.

    As in the data set, `instances.csv` has a first column without a name, and the lists overlap (train, test, all).
    """
    rng = np.random.default_rng(seed)
    rows, parts = [], PARTS | ({"face": face} if face else {})
    for i in range(clips):
        id, start = f"CLSFBI{i:02d}_S00{i % 3}_B_{200 * i}_{200 * i + 183}", 200 * i
        rows.append([i, id, f"SIGN-{i % 2}", f"S00{i % 3}", start, start + 183])
        for part, points in parts.items():
            save(path / "poses" / part / f"{id}.npy", rng.uniform(0.1, 0.9, (4 + i, points, 3)).astype(dtype))
    write_csv(path / "instances.csv", [["", "id", "sign", "signer", "start", "end"], *rows])
    write_csv(path / "metadata" / "sign_to_index.csv", [["sign", "class"], ["SIGN-1", 0], ["SIGN-0", 1]])
    if splits:
        ids = [row[1] for row in rows]
        lists = {"train": ids[2:], "test": ids[:2], "all": ids, "mini_sample": ids[1:3]}
        for name, listed in lists.items():
            write_list(path, name, listed)
    return path


def ids_of(path: Path) -> list[str]:
    with (path / "instances.csv").open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def write_list(path: Path, name: str, ids: object) -> None:
    place = path / "metadata" / "splits" / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(ids))


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **options)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def lsfb_sample(i: int, *, seed: int = 0, coordinates: int = 3) -> dict[str, bytes]:
    """The files of one sample of version 3: sign `signe (i % 2)`, signer `S00(i % 3)`, 4 + i frames of float16."""
    rng = np.random.default_rng([seed, i])
    arrays = {part: rng.random((4 + i, points, coordinates)).astype("f2") for part, points in SHARD_PARTS.items()}
    fields = {f"pose.{part}.npy": npy(array) for part, array in arrays.items()}
    return fields | {
        "label.idx": b"%d" % (i % 2),
        "label.txt": b"signe %d\n" % (i % 2),
        "signer.txt": b"S00%d" % (i % 3),
    }


def write_shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """One .tar of samples by key, each a mapping of file endings to contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, fields in samples.items():
            for field, content in fields.items():
                entry = tarfile.TarInfo(f"{key}.{field}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def lsfb_shards(path: Path, *, shards: int = 4, clips: int = 2, **options: int) -> Path:
    """Shards `shard_000000.tar`, ... of `clips` samples each, numbered on across the shards: `CLSFBI00`, ..."""
    for number in range(shards):
        count = range(number * clips, (number + 1) * clips)
        write_shard(path / f"shard_{number:06d}.tar", {f"CLSFBI{i:02d}": lsfb_sample(i, **options) for i in count})
    return path
