"""WebDataset shards and Parquet: other tools read them without us, and nothing of the store is lost."""

import io
import json
import tarfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_recipe import one_line_error, run_cli

from handcraft.data import exports
from handcraft.data.exports import export_parquet, export_webdataset
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.layouts import LAYOUTS, layout

EXPORTS = pytest.mark.parametrize("export", [export_webdataset, export_parquet])


def write_store(path: Path, ids: list[str], *, name: str = "holistic75", dtype=np.float32, **columns: list) -> Store:
    """Clips of 3, 4, ... frames with missing hands; two parts. columns: groups, splits, provenance, where wanted."""
    stage = {"stage": "raw"} if dtype == np.float32 else {"stage": "centred", "preprocessing": "p"}
    with StoreWriter(path, layout=name, classes=["no", "yes"], fps=25, dtype=dtype, part_clips=4, **stage) as writer:
        for i, id in enumerate(ids):
            frames = np.random.default_rng(i).normal(size=(3 + i, LAYOUTS[name].landmarks, 3))
            frames[: i % 3, layout(name).slices["left_hand"]] = np.nan
            facts = {key.removesuffix("s"): values[i] for key, values in columns.items()}
            writer.add(frames, id=id, label=("yes", "no")[i % 2], **facts)
    return Store(path)


def small_store(path: Path, **options: object) -> Store:
    splits = ["train", "test", "train", "", "train", "test"]
    made_from = [{"source": f"r{i}"} if i else {} for i in range(6)]
    groups = [f"s{i % 2}" if i else "" for i in range(6)]
    columns = {"groups": groups, "splits": splits, "provenance": made_from}
    return write_store(path, [f"c{i}" for i in range(6)], **columns, **options)


def read_shards(folder: Path) -> dict[str, dict[str, bytes]]:
    """Files by key, as the WebDataset format is defined: the key ends at the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, field = entry.name.split(".", 1)
                assert field not in found.setdefault(key, {})
                found[key][field] = tar.extractfile(entry).read()
    return found


def landmarks(fields: dict[str, bytes], name: str) -> np.ndarray:
    arrays = [np.load(io.BytesIO(fields[f"pose.{part.name}.npy"])) for part in layout(name).parts]
    return np.concatenate(arrays, axis=1)


@pytest.mark.parametrize(("name", "dtype"), [("holistic87", np.float32), ("pose_hands48", np.float16)])
def test_shards_hold_the_store(tmp_path, name, dtype):
    store = small_store(tmp_path / "store", name=name, dtype=dtype)
    assert export_webdataset(store.path, tmp_path / "out", shard_clips=2) == [
        "000000.tar",
        "test-000000.tar",
        "train-000000.tar",
        "train-000001.tar",
    ]
    found = read_shards(tmp_path / "out")
    assert sorted(found) == store.ids.tolist()
    for clip, id in enumerate(store.ids.tolist()):
        fields, frames = found[id], landmarks(found[id], name)
        assert frames.dtype == dtype
        assert frames.tobytes() == store.landmarks(clip).tobytes()
        label = store.classes[store.labels[clip]]
        assert (fields["label.txt"].decode(), int(fields["label.idx"])) == (label, store.labels[clip])
        assert fields.get("signer.txt", b"").decode() == store.groups[clip]
        facts = json.loads(fields["json"])
        assert facts == {
            "id": id,
            "label": label,
            "group": store.groups[clip],
            "split": store.splits[clip],
            "frames": len(frames),
            "digest": f"{store.digests[clip]:016x}",
            "provenance": store.provenance_of(clip),
        }
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["parts"] == {part.name: list(part.indices) for part in layout(name).parts}
    assert (described["classes"], described["fps"]) == (["no", "yes"], 25)
    assert described["split_hashes"] == store.split_hashes()


def test_the_webdataset_package_reads_the_shards(tmp_path):
    """As LSFB's own loader does: decode, then `pose.PART.npy`, `label.idx`, `label.txt` and `signer.txt` by key."""
    webdataset = pytest.importorskip("webdataset", reason="the webdataset package is not installed")
    store = small_store(tmp_path / "store")
    shards = export_webdataset(store.path, tmp_path / "out")
    paths = [str(tmp_path / "out" / shard) for shard in shards]
    samples = {one["__key__"]: one for one in webdataset.WebDataset(paths, shardshuffle=False).decode()}
    assert sorted(samples) == store.ids.tolist()
    one = samples["c2"]
    assert np.array_equal(one["pose.left_hand.npy"], store.landmarks(2)[:, 33:54], equal_nan=True)
    assert (int(one["label.idx"]), one["label.txt"], one["signer.txt"]) == (1, "yes", "s0")
    assert one["json"]["provenance"] == {"source": "r2"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.text(st.sampled_from("a.%/2E é"), min_size=1, max_size=5), min_size=1, max_size=5, unique=True))
def test_any_id_makes_a_key_of_its_own(tmp_path_factory, ids):
    place = tmp_path_factory.mktemp("keys")
    write_store(place / "store", ids, splits=["train"] * len(ids))
    export_webdataset(place / "store", place / "out")
    found = read_shards(place / "out")
    assert {unquote(key) for key in found} == set(ids)
    assert not set("/\\") & set("".join(found))


def test_the_same_store_gives_the_same_bytes(tmp_path):
    store = small_store(tmp_path / "store")
    for out in ("one", "two"):
        export_webdataset(store.path, tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(("name", "dtype"), [("holistic87", np.float32), ("pose_hands48", np.float16)])
@pytest.mark.parametrize("group_frames", [1, 9, 1 << 14])
def test_pandas_reads_the_parquet_file(tmp_path, monkeypatch, name, dtype, group_frames):
    monkeypatch.setattr(exports, "GROUP_FRAMES", group_frames)
    store = small_store(tmp_path / "store", name=name, dtype=dtype)
    assert export_parquet(store.path, tmp_path / "clips.parquet") == 6
    table = pd.read_parquet(tmp_path / "clips.parquet")
    columns = ["id", "label", "group", "split", "frames", "digest", "provenance"]
    assert table.columns.tolist() == columns + [part.name for part in layout(name).parts]
    for column, expected in (("id", store.ids), ("group", store.groups), ("split", store.splits)):
        assert table[column].tolist() == expected.tolist()
    assert table["label"].tolist() == [store.classes[label] for label in store.labels]
    assert table["frames"].tolist() == store.frames.tolist()
    assert table["digest"].tolist() == store.digests.tolist()
    assert table["provenance"].tolist() == store.provenance
    for clip, row in table.iterrows():
        for part, place in layout(name).slices.items():
            found = row[part].reshape(row["frames"], -1, 3)
            assert found.dtype == np.float32
            assert found.tobytes() == store.landmarks(clip)[:, place].astype(np.float32).tobytes()
    schema = pq.read_schema(tmp_path / "clips.parquet")
    assert json.loads(schema.metadata[b"handcraft"])["classes"] == ["no", "yes"]
    groups = {1: 6, 9: 5, 1 << 14: 2}  # clips of 3 to 8 frames, in parts of four and two clips
    assert pq.ParquetFile(tmp_path / "clips.parquet").num_row_groups == groups[group_frames]


@EXPORTS
def test_an_export_replaces_nothing(tmp_path, export):
    store = small_store(tmp_path / "store")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        export(store.path, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@EXPORTS
def test_a_damaged_store_is_not_exported(tmp_path, export):
    store = small_store(tmp_path / "store")
    with (store.path / "part-00000" / "landmarks.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x01")
    with pytest.raises(DataError, match="SHA-256"):
        export(store.path, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_split_that_leaves_the_folder_is_refused(tmp_path):
    write_store(tmp_path / "store", ["a"], splits=["../../train"])
    with pytest.raises(DataError, match="cannot be the name of a file"):
        export_webdataset(tmp_path / "store", tmp_path / "out")
    with pytest.raises(DataError, match="shard_clips is 0"):
        export_webdataset(tmp_path / "store", tmp_path / "out", shard_clips=0)
    assert not (tmp_path / "out").exists()


def test_commands(tmp_path, capfd):
    store = small_store(tmp_path / "store").path
    assert run_cli("data", "export-webdataset", store, tmp_path / "out", "--shard-clips", 2) == 0
    assert "4 shards, 000000.tar to train-000001.tar" in capfd.readouterr().out
    assert run_cli("data", "export-parquet", store, tmp_path / "clips.parquet") == 0
    assert "6 clips" in capfd.readouterr().out
    assert "exists already" in one_line_error(capfd, "data", "export-parquet", store, tmp_path / "clips.parquet")
