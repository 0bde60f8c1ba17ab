"""Every field of every file of settings takes any value that JSON or YAML can say: it is read, or refused by name."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fuzz import corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_recipe import YAML
from tiny_recipe import arrays as good_arrays

from handcraft.checkpoint import load
from handcraft.config import PreprocessConfig
from handcraft.data.arrays import import_arrays
from handcraft.data.preprocess import signature
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.predict import predict
from handcraft.recipe import load_recipe

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
NUMBERS = st.sampled_from([0, 1, -1, 2, 0.5, 2**31, 2**63, 2**64, 10**30, 1e300, -0.0])
TEXTS = st.sampled_from(
    ["", "raw", "xyz", "part-00000", "../..", "\x1b[2J", "\ud800", "x" * 300, "a" * 64, "é", "step-00000009"]
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The way to every value in a nested one, the whole included."""
    found = [path]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += places(value[key], (*path, key))
    return found


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy in which `new` stands at `path`."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: changed(entry, path[1:], new) if key == path[0] else entry for key, entry in value.items()}
    return [changed(entry, path[1:], new) if at == path[0] else entry for at, entry in enumerate(value)]


def printable(error: Exception) -> None:
    """An error is one line, and nothing that it quotes can steer a terminal."""
    assert str(error).isprintable(), str(error)


def settle(file: Path, draw: st.DataObject) -> None:
    """One value in a JSON file becomes another one; its checksum, if it has one, goes."""
    value = json.loads(file.read_text())
    value.pop("checksum", None)
    path = draw.draw(st.sampled_from(places(value)), "place")
    file.write_text(json.dumps(changed(value, path, draw.draw(VALUES, "value"))))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    corpus.make_store(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    corpus.make_checkpoint(folder)
    return folder


@SLOW
@given(draw=st.data())
def test_any_value_in_a_manifest(store, tmp_path, draw):
    shutil.copytree(store, tmp_path / "copy", dirs_exist_ok=True)
    settle(tmp_path / "copy" / "store" / "manifest.json", draw)
    try:
        corpus.read_store(tmp_path / "copy")
    except DataError as error:
        printable(error)


@SLOW
@given(draw=st.data())
def test_any_value_in_a_checkpoint(run, tmp_path, draw):
    shutil.copytree(run, tmp_path / "copy", dirs_exist_ok=True)
    folder = tmp_path / "copy" / "run"
    settle(draw.draw(st.sampled_from([folder / "best.json", folder / "step-00000005" / "config.json"]), "file"), draw)
    try:
        corpus.read_checkpoint(tmp_path / "copy", tmp_path)
    except CheckpointError as error:
        printable(error)


@SLOW
@given(draw=st.data())
def test_any_value_in_a_recipe(tmp_path, draw):
    value = yaml.safe_load(YAML)
    value = changed(value, draw.draw(st.sampled_from(places(value))), draw.draw(VALUES))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(value))
    try:
        load_recipe(file)
    except ConfigError as error:
        printable(error)


@SLOW
@given(st.text(alphabet="ab01-.: [],{}#&*!|>'\"?%@`\n\t\\", max_size=60))
def test_any_text_as_a_recipe(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError):  # no such text has the steps that a recipe must give
        load_recipe(tmp_path / "recipe.yaml")


ANY_ARRAY = arrays.arrays(
    st.sampled_from(["<f4", "<f8", "<f2", "<i8", "u1", "?", "<U3", "S2", "<M8[s]", "<c8", [("a", "<f4")]]),
    st.sampled_from([(), (0,), (1,), (3,), (12,), (12, 20), (12, 20, 33, 3), (2, 3, 21, 3), (0, 20, 33, 3)]),
)


@SLOW
@given(name=st.sampled_from([*good_arrays(), "split", "clip_id", "face", "face_indices"]), array=ANY_ARRAY)
def test_any_array_in_an_npz(tmp_path, name, array):
    np.savez(tmp_path / "a.npz", **(good_arrays() | {name: array}))
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    try:
        import_arrays(tmp_path / "a.npz", tmp_path / "s", group="session")
    except DataError:
        assert not (tmp_path / "s").exists()
        return
    Store(tmp_path / "s").verify()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Store:
    """Raw clips that the checkpoint's own preprocessing fits."""
    path = tmp_path_factory.mktemp("clips") / "raw"
    with StoreWriter(path, layout="holistic75", stage="raw", classes=["a"]) as writer:
        for clip in range(3):
            writer.add(corpus.frames(clip, 9 + clip, 75), id=f"{clip}", label="a")
    return Store(path)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_a_checkpoint_that_loads_predicts_or_says_why(run, clips, tmp_path, draw):
    """What passes the checks of its fields is fit for use: no size, window or preprocessing breaks later."""
    shutil.copytree(run, tmp_path / "copy", dirs_exist_ok=True)
    file = tmp_path / "copy" / "run" / "step-00000005" / "config.json"
    value = json.loads(file.read_text())
    value.pop("checksum")
    assert len(predict(load(tmp_path / "copy" / "run"), clips)) == 3
    places = [(part, name) for part in ("preprocess", "window", "model") for name in value[part]]
    value = changed(value, draw.draw(st.sampled_from(places)), draw.draw(LEAVES | st.integers(-3, 12)))
    with contextlib.suppress(TypeError, AttributeError):  # of a value that has no signature
        value["signature"] = signature(PreprocessConfig(**value["preprocess"]))
    file.write_text(json.dumps(value))
    try:
        assert len(predict(load(tmp_path / "copy" / "run"), clips)) == 3
    except (DataError, CheckpointError, ConfigError) as error:
        printable(error)
