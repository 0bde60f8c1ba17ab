"""Valid inputs of every reader, made on the fly, and what reading them gives: what the fuzzer damages and compares.

A reader is one `Case`. `whole`: all it reads is behind checksums, so that damage may not go unnoticed. The cases named
`... resigned` mend the checksums after the damage, as somebody would who means harm: there the result may differ, but
what stands behind the checksums must cope with it.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from downloads import INCLUDE_CLIPS, display_folder, include_folder, include_lists
from lsfb_folder import lsfb_folder, lsfb_shards
from small_clips import small_task
from tiny_recipe import YAML, write_npz, write_recipe

from handcraft import checkpoint
from handcraft.data.arrays import import_arrays
from handcraft.data.lsfb import export_lsfb, import_lsfb
from handcraft.data.lsfb_shards import import_shards
from handcraft.data.merge import merge_stores
from handcraft.data.mp_data import import_mp_data
from handcraft.data.prepare import Listing
from handcraft.data.prepare_display import list_display
from handcraft.data.prepare_include import list_include
from handcraft.data.store import Store, StoreWriter
from handcraft.data.untrusted import csv_rows, read_npy
from handcraft.extract.inputs import read_table
from handcraft.files import sha256_file
from handcraft.recipe import load_recipe, to_plain


@dataclass(frozen=True)
class Case:
    """One kind of input: `make` writes a valid one into a new folder, `read` reads it and says what it found.

    read(folder, new): `new` is a path that an importer may write to. repair(folder): runs after the damage.
    """

    make: Callable[[Path], object]
    read: Callable[[Path, Path], Any]
    whole: bool
    repair: Callable[[Path], None] | None = None


def fingerprint(*found: Any) -> str:
    """Hash of plain values, arrays and tensors: equal for equal values, all NaNs alike."""
    state = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if hasattr(value, "detach"):
            value = value.detach().numpy()
        if isinstance(value, np.ndarray):
            state.update(f"{value.dtype.str}{value.shape}".encode())
            if value.dtype.kind == "f":
                value = np.where(np.isnan(value), value.dtype.type(np.nan), value)
            state.update(np.ascontiguousarray(value).tobytes() if value.dtype.kind != "O" else repr(value).encode())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                state.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            state.update(f"{len(value)}(".encode())
            for entry in value:
                add(entry)
        else:
            state.update(repr(value).encode() + b";")

    add(found)
    return state.hexdigest()


def frames(seed: int, steps: int, points: int, axes: int = 3, dtype: type = np.float32) -> np.ndarray:
    """Random landmarks with a hole."""
    found = np.random.default_rng(seed).uniform(0.1, 0.9, (steps, points, axes)).astype(dtype)
    found[: steps // 2, -5:] = np.nan
    return found


def make_store(folder: Path, *, centred: bool = False) -> None:
    options = {"stage": "centred", "preprocessing": "p", "dtype": np.float16} if centred else {"stage": "raw"}
    options |= {"classes": ["no", "yes"], "fps": 25.0, "licence": "MIT", "seen_clips": ["0123456789abcdef"]}
    with StoreWriter(folder / "store", layout="pose_hands48", part_clips=2, **options) as writer:
        for clip in range(4):
            writer.add(
                frames(clip, 3 + clip, 48),
                id=f"clip {clip}",
                label="yes" if clip % 2 else "no",
                group=f"signer {clip}",
                split="test" if clip == 3 else "train",
                provenance={"source": f"clip {clip}", "seed": clip},
                visibility=None if centred else frames(clip, 3 + clip, 33)[..., 0],
            )


def read_store(folder: Path, _: Path | None = None, name: str = "store") -> str:
    """Everything in a store, its files verified."""
    store = Store(folder / name)
    store.verify()
    return fingerprint(
        store.manifest.to_dict(),
        [getattr(store, column) for column in ("ids", "groups", "splits", "labels", "frames", "first", "digests")],
        [store.provenance_of(clip) for clip in range(len(store))],
        list(store),
        [seen for seen in map(store.visibility, range(len(store))) if seen is not None],
    )


def imported(new: Path) -> str:
    """What an importer made of its input; the hash of its source does not count."""
    store = Store(new)
    store.verify()
    manifest = replace(store.manifest, parts=(), source={})
    columns = [getattr(store, column) for column in ("ids", "groups", "splits", "labels", "frames")]
    return fingerprint(manifest.to_dict(), columns, store.provenance, list(store))


def _edit(file: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON object where it still is one; its checksum is taken out."""
    if not file.is_file():
        return
    try:
        value = json.loads(file.read_bytes())
        value.pop("checksum", None)
        change(value)
        file.write_text(json.dumps(value))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # damaged so far that there is nothing to sign


def _sums(folder: Path, sums: dict, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            sums[name] = sha256_file(path)


def resign_store(folder: Path) -> None:
    def change(manifest: dict) -> None:
        for part in manifest["parts"]:
            _sums(folder / "store" / part["name"], part["sha256"], ("clips.parquet", "landmarks.npy"))

    _edit(folder / "store" / "manifest.json", change)


def make_checkpoint(folder: Path) -> None:
    task = small_task("mamba_sl")
    for step in (5, 9):
        found = replace(task.checkpoint(), step=step, metrics={"top1": 0.5, "loss": float(step)})
        state = {
            "optimizer": {"state": {0: {"step": step, "m": task.model.state_dict()["norm.weight"]}}, "lr": (0.1, 1)}
        }
        checkpoint.save(folder / "run", found, state)
    checkpoint.write_best(folder / "run", 5, {"top1": 0.5})


def read_checkpoint(folder: Path, _: Path) -> str:
    """The best checkpoint of a run, with its resume state."""
    found = checkpoint.load(folder / "run")
    values = {name: value for name, value in vars(found).items() if name not in ("model", "path", "statistics")}
    configs = {name: asdict(values.pop(name)) for name in ("config", "preprocess", "window", "train", "augment")}
    state = checkpoint.load_resume(found.path)
    return fingerprint(values, configs, found.statistics.to_dict(), found.model.state_dict(), state)


def resign_checkpoint(folder: Path) -> None:
    names = ("model.safetensors", "resume.safetensors")
    for step in (folder / "run").glob("step-*"):
        _edit(step / "config.json", lambda value, step=step: _sums(step, value["sha256"], names))


def make_mp_data(folder: Path) -> None:
    for word in ("hello", "thanks"):
        for clip in range(2):
            place = folder / "MP_Data" / word / str(clip)
            place.mkdir(parents=True)
            for frame in range(2):
                np.save(place / f"{frame}.npy", np.random.default_rng([clip, frame]).uniform(0.1, 0.9, 258))


def make_pose(folder: Path) -> None:
    from handcraft.data.pose_file import write_pose

    for label in ("no", "yes"):
        for clip in range(2):
            place = folder / "pose" / label
            place.mkdir(parents=True, exist_ok=True)
            write_pose(place / f"{clip}.pose", frames(clip, 2 + clip, 75), "holistic75", fps=25, aspect=16 / 9)


def read_pose(folder: Path, new: Path) -> str:
    from handcraft.data.pose_folder import import_pose

    import_pose(folder / "pose", new, leave_out_missing=True)
    return imported(new)


def make_labels(folder: Path) -> None:
    rows = ["path,label,signer,start,end,split,id", "a/b.mp4,yes,anna,0.5,1.25,train,", "a/b.mp4,no,,2,,,second"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _listed(folder: Path) -> list[Any]:
    """The clips of a table, with paths relative to the folder, which has another name each time."""
    return [replace(clip, path=clip.path.relative_to(folder)) for clip in read_table(folder / "labels.csv")]


def make_include(folder: Path) -> None:
    include_lists(
        include_folder(folder / "include") / "train_test_paths", train=INCLUDE_CLIPS[:4], test=INCLUDE_CLIPS[4:]
    )


def _listing(listing: Listing, folder: Path) -> str:
    """What is listed, whatever the folder is called."""
    clips = [replace(clip, path=clip.path.relative_to(folder)) for clip in listing.clips]
    return fingerprint(list(map(repr, clips)), listing.notes, listing.fps)


def make_two_stores(folder: Path) -> None:
    for name in ("store", "other"):
        place = folder / name
        with StoreWriter(place, layout="pose_hands48", stage="raw", classes=["yes"], source={"shard": "1/2"}) as writer:
            writer.add(frames(len(name), 3, 48), id=name, label="yes", split="train")
    _edit(folder / "other" / "manifest.json", lambda manifest: manifest["source"].update(shard="2/2"))


def _merged(folder: Path, new: Path) -> str:
    merge_stores([folder / "store", folder / "other"], new)
    return imported(new)


def make_table(folder: Path) -> None:
    (folder / "t.csv").write_text('path,label,group\na.pose,yes,"one, two"\nb.pose,élève,\n', encoding="utf-8")


def make_exported(folder: Path) -> None:
    make_store(folder)
    export_lsfb(folder / "store", folder / "lsfb")
    shutil.rmtree(folder / "store")


def _importer(function: Callable, name: str) -> Callable[[Path, Path], str]:
    def read(folder: Path, new: Path) -> str:
        function(folder / name, new, leave_out_missing=True)
        return imported(new)

    return read


def _recipe(folder: Path, _: Path) -> str:
    return fingerprint(to_plain(load_recipe(folder / "tiny.yaml")))


read_lsfb, read_npz = _importer(import_lsfb, "lsfb"), _importer(import_arrays, "a.npz")
CASES: dict[str, Case] = {
    "store": Case(make_store, read_store, whole=True),
    "store resigned": Case(make_store, read_store, whole=False, repair=resign_store),
    "centred store resigned": Case(
        lambda folder: make_store(folder, centred=True), read_store, whole=False, repair=resign_store
    ),
    "checkpoint": Case(make_checkpoint, read_checkpoint, whole=True),
    "checkpoint resigned": Case(make_checkpoint, read_checkpoint, whole=False, repair=resign_checkpoint),
    "npz": Case(lambda folder: write_npz(folder / "a.npz"), read_npz, whole=True),
    "npy": Case(
        lambda folder: np.save(folder / "a.npy", frames(0, 2, 3)),
        lambda folder, _: fingerprint(read_npy(folder / "a.npy")),
        whole=False,
    ),
    "csv": Case(
        make_table, lambda folder, _: fingerprint(list(csv_rows(folder / "t.csv", ["path", "label"]))), whole=False
    ),
    "table of clips to extract": Case(
        make_labels, lambda folder, _: fingerprint([repr(clip) for clip in _listed(folder)]), whole=False
    ),
    "INCLUDE folder": Case(
        make_include, lambda folder, _: _listing(list_include(folder / "include"), folder), whole=False
    ),
    "DiSPLaY folder": Case(
        lambda folder: display_folder(folder / "display", performers=1, frames=1),
        lambda folder, _: _listing(list_display(folder / "display"), folder),
        whole=False,
    ),
    "merged stores": Case(make_two_stores, _merged, whole=False),
    "recipe": Case(lambda folder: write_recipe(folder, YAML), _recipe, whole=False),
    "LSFB folder": Case(lambda folder: lsfb_folder(folder / "lsfb", clips=4, face=None), read_lsfb, whole=False),
    "LSFB export": Case(make_exported, read_lsfb, whole=True),
    "LSFB shards": Case(lambda folder: lsfb_shards(folder / "shards"), _importer(import_shards, "shards"), whole=False),
    "MP_Data folder": Case(make_mp_data, _importer(import_mp_data, "MP_Data"), whole=False),
}
"""By name; `.pose` files are among them where pose-format is installed."""
if importlib.util.find_spec("pose_format"):
    CASES[".pose folder"] = Case(make_pose, read_pose, whole=False)
