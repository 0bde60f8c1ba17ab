"""LSFB's layout, version 2: an export gives the same store again, and LSFB's own loaders what they expect."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lsfb_folder import lsfb_folder
from tiny_recipe import one_line_error, run_cli

from handcraft.data.lsfb import export_lsfb, import_lsfb
from handcraft.data.store import Store, StoreWriter
from handcraft.data.untrusted import file_name
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import LAYOUTS

REAL = Path(__file__).parents[3] / "shared" / "data" / "asl33.npz"
text = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)


def names_a_file(value: str) -> bool:
    try:
        return bool(file_name(value, "id"))
    except DataError:
        return False


def unlike(values: list[str]) -> bool:
    """Whether the names differ on any file system."""
    return len({value.casefold() for value in values}) == len(values)


def random_store(path: Path, data: st.DataObject) -> Store:
    """A store of any layout, stage, dtype and text that can be exported; one class has no clip."""
    stage = data.draw(st.sampled_from(["raw", "centred"]))
    name, coordinates = data.draw(st.sampled_from(sorted(LAYOUTS))), data.draw(st.sampled_from(["xyz", "xy"]))
    dtype = data.draw(st.sampled_from([np.float32, np.float16])) if stage == "centred" else np.float32
    classes = data.draw(st.lists(text.filter(bool), min_size=2, max_size=4, unique=True))
    splits = data.draw(st.lists(text.filter(names_a_file), min_size=1, max_size=3).filter(unlike))
    splits = [split for split in splits if split.casefold() != "all"] + [""]
    ids = data.draw(st.lists(text.filter(names_a_file), min_size=1, max_size=5).filter(unlike))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    options = {"preprocessing": "p", "statistics": {"mean": [0.5]}} if stage == "centred" else {"aspect": 1.5}
    with StoreWriter(
        path,
        layout=name,
        stage=stage,
        classes=classes,
        coordinates=coordinates,
        dtype=dtype,
        fps=data.draw(st.sampled_from([None, 25.0])),
        licence=data.draw(st.none() | text),
        seen_clips=["0123456789abcdef"],
        source={"command": "test", "seed": 3},
        **options,
    ) as writer:
        for id in ids:
            frames = rng.normal(size=(int(rng.integers(1, 5)), LAYOUTS[name].landmarks, len(coordinates)))
            frames[rng.random(frames.shape) < 0.2] = np.nan
            frames[rng.random(len(frames)) < 0.3] = 0  # zeros are values here
            writer.add(
                frames,
                id=id,
                label=data.draw(st.sampled_from(classes[:-1])),
                group=data.draw(text),
                split=data.draw(st.sampled_from(splits)),
                provenance=data.draw(st.text(st.sampled_from('a,"é\r\n\0'), max_size=6)),
                digest=data.draw(st.none() | st.integers(0, 2**64 - 1)),
            )
    return Store(path)


def assert_equal(first: Store, second: Store) -> None:
    """The same clips bit for bit, and the same manifest but for the division into parts."""
    for name in ("ids", "labels", "groups", "splits", "frames", "digests", "provenance"):
        assert list(getattr(first, name)) == list(getattr(second, name)), name
    assert first.dtype == second.dtype
    assert first.rows(first.dtype).tobytes() == second.rows(first.dtype).tobytes()
    assert dataclasses.replace(first.manifest, parts=()) == dataclasses.replace(second.manifest, parts=())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_store_comes_back_from_its_export(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("export")
    store = random_store(place / "store", data)
    assert export_lsfb(store.path, place / "lsfb") == len(store)
    summary = import_lsfb(place / "lsfb", place / "again")
    assert_equal(store, Store(place / "again"))
    assert summary.imported == len(store)


def small_store(path: Path, fps: float | None = 25.0, **clip: str) -> Store:
    with StoreWriter(path, layout="holistic75", stage="raw", classes=["no", "yes"], fps=fps) as writer:
        for i, frames in enumerate((5, 7, 4)):
            array = np.random.default_rng(i).normal(size=(frames, 75, 3))
            column = {"id": f"c{i}", "label": ("yes", "no")[i % 2], "group": f"s{i}", "split": ("train", "test")[i % 2]}
            writer.add(array, **(column | (clip if i == 2 else {})))
    return Store(path)


def test_the_times_of_a_foreign_folder_come_back(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None, splits=False)
    import_lsfb(folder, tmp_path / "store", fps=50)
    export_lsfb(tmp_path / "store", tmp_path / "again")
    columns = ["id", "sign", "signer", "start", "end"]
    tables = [pd.read_csv(place / "instances.csv")[columns] for place in (folder, tmp_path / "again")]
    pd.testing.assert_frame_equal(*tables)
    import_lsfb(tmp_path / "again", tmp_path / "third")
    assert_equal(Store(tmp_path / "store"), Store(tmp_path / "third"))


@pytest.mark.parametrize("provenance", ["", "no JSON", "[1]", '{"start": "5"}', '{"start": 5, "end": 9}', "[" * 9999])
def test_a_provenance_without_times_gives_the_duration(tmp_path, provenance):
    store = small_store(tmp_path / "store", provenance=provenance)
    export_lsfb(store.path, tmp_path / "lsfb")
    table = pd.read_csv(tmp_path / "lsfb" / "instances.csv")
    assert (table["start"].tolist(), table["end"].tolist()) == ([0, 0, 0], [200, 280, 160])
    import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    assert_equal(store, Store(tmp_path / "again"))


def test_an_export_is_what_lsfb_loaders_expect(tmp_path):
    """Read as lsfb-dataset does: pandas for the tables, json for the lists, numpy for the landmarks."""
    store = small_store(tmp_path / "store")
    export_lsfb(store.path, tmp_path / "lsfb")
    table = pd.read_csv(tmp_path / "lsfb" / "instances.csv")
    assert table.columns.tolist() == ["id", "sign", "signer", "start", "end"]
    assert table["id"].tolist() == ["c0", "c1", "c2"]
    assert table["sign"].tolist() == ["yes", "no", "yes"]
    assert table["signer"].tolist() == ["s0", "s1", "s2"]
    assert table["start"].tolist() == [0, 0, 0]
    assert table["end"].tolist() == [200, 280, 160]
    signs = pd.read_csv(tmp_path / "lsfb" / "metadata" / "sign_to_index.csv")
    assert dict(signs.to_records(index=False).tolist()) == {"no": 0, "yes": 1}
    lists = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "lsfb/metadata/splits").iterdir()}
    assert lists == {"train": ["c0", "c2"], "test": ["c1"], "all": ["c0", "c1", "c2"]}
    for clip, id in enumerate(table["id"]):
        paths = [tmp_path / "lsfb" / "poses" / part / f"{id}.npy" for part in ("pose", "left_hand", "right_hand")]
        found = np.concatenate([np.load(path) for path in paths], axis=1)
        assert found.dtype == np.float32
        assert np.array_equal(found, store.landmarks(clip))


def test_the_end_is_in_frames_where_fps_is_unknown(tmp_path):
    small_store(tmp_path / "store", fps=None)
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    assert pd.read_csv(tmp_path / "lsfb" / "instances.csv")["end"].tolist() == [5, 7, 4]


@pytest.mark.parametrize(
    ("clip", "match"),
    [
        ({"id": "../c2"}, "cannot be the name of a file"),
        ({"id": "a/b"}, "cannot be the name of a file"),
        ({"split": "../../x"}, "cannot be the name of a file"),
        ({"split": "all"}, "'all'"),
    ],
)
def test_a_store_that_has_no_place_in_the_layout_is_refused(tmp_path, clip, match):
    small_store(tmp_path / "store", **clip)
    with pytest.raises(DataError, match=match):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_export_replaces_nothing(tmp_path):
    small_store(tmp_path / "store")
    (tmp_path / "lsfb").mkdir()
    with pytest.raises(DataError, match="exists already"):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")


def test_a_damaged_store_is_not_exported(tmp_path):
    small_store(tmp_path / "store")
    with (tmp_path / "store" / "part-00000" / "landmarks.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x01")
    with pytest.raises(DataError, match="SHA-256"):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")


@pytest.mark.parametrize(
    "name",
    [
        "instances.csv",
        "metadata/handcraft.csv",
        "metadata/handcraft.json",
        "metadata/splits/train.json",
        "poses/left_hand/c1.npy",
    ],
)
def test_an_export_that_was_changed_is_refused(tmp_path, name):
    small_store(tmp_path / "store")
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    path = tmp_path / "lsfb" / name
    content = path.read_bytes()
    changed = {"instances.csv": (b"s1", b"s2"), "metadata/handcraft.json": (b"25.0", b"26.0")}
    old, new = changed.get(name, (content[-9:], content[-8:] + content[-9:-8]))
    path.write_bytes(content.replace(old, new))
    assert path.read_bytes() != content
    with pytest.raises(DataError, match=path.name if path.suffix != ".npy" else "'c1'"):
        import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_export_is_imported_whole_or_as_any_other_folder(tmp_path):
    store = small_store(tmp_path / "store")
    export_lsfb(store.path, tmp_path / "lsfb")
    with pytest.raises(ConfigError, match=r"delete metadata/handcraft\.json"):
        import_lsfb(tmp_path / "lsfb", tmp_path / "again", keep="holistic75")
    import_lsfb(tmp_path / "lsfb", tmp_path / "licensed", licence="MIT")
    assert Store(tmp_path / "licensed").manifest == dataclasses.replace(store.manifest, licence="MIT")
    (tmp_path / "lsfb" / "metadata" / "handcraft.json").unlink()
    import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    again = Store(tmp_path / "again")
    assert again.manifest.fps is None
    assert np.array_equal(again.digests, store.digests)
    assert again.splits.tolist() == store.splits.tolist()
    assert np.array_equal(again.rows(), store.rows())


def test_commands(tmp_path, capfd):
    folder = lsfb_folder(tmp_path / "lsfb")
    words = ("data", "import-lsfb", folder, tmp_path / "store", "--keep", "holistic87", "--splits", "train", "test")
    assert run_cli(*words, "--fps", 50) == 0
    assert "6 clips of 2 classes, layout holistic87" in capfd.readouterr().out
    assert run_cli("data", "export-lsfb", tmp_path / "store", tmp_path / "export") == 0
    assert "6 clips" in capfd.readouterr().out
    assert run_cli("data", "import-lsfb", tmp_path / "export", tmp_path / "again") == 0
    assert_equal(Store(tmp_path / "store"), Store(tmp_path / "again"))
    assert "exists already" in one_line_error(capfd, "data", "export-lsfb", tmp_path / "store", tmp_path / "export")


@pytest.mark.skipif(not REAL.exists(), reason="the real data (../shared/data) is not here")
def test_real_clips_come_back(tmp_path):
    from handcraft.data.arrays import import_arrays

    import_arrays(REAL, tmp_path / "store", group="session")
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    assert_equal(Store(tmp_path / "store"), Store(tmp_path / "again"))
