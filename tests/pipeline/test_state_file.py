"""The state of training: everything comes back, bit for bit and in its own type, and no pickle is ever read."""

import json
import math
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from handcraft.state_file import load_state, save_state

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers().filter(lambda n: n not in (0, 1)), inner)
    ),
)


@given(VALUES)
def test_plain_values_come_back_in_their_types(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "state"
    save_state(path, value)
    found = load_state(path)
    assert found == value
    assert repr(found) == repr(value)


def test_tensors_come_back_bit_for_bit(tmp_path):
    base = torch.randn(4, 6)
    state = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "m": base.T}, 1: {"m": base[::2]}},
            "betas": (0.9, 1),
        },
        "random": torch.get_rng_state(),
        "types": [torch.zeros(0, 3), torch.arange(3), torch.ones(2, dtype=torch.bfloat16), torch.tensor(True)],
        "worst": [math.inf, -math.inf, 5e-324, 0.1],
        "shared": [base, base],
    }
    save_state(tmp_path / "state", state)
    found = load_state(tmp_path / "state")
    assert found["optimizer"]["betas"] == (0.9, 1)
    assert found["optimizer"]["state"].keys() == {0, 1}
    assert torch.equal(found["optimizer"]["state"][0]["m"], base.T)
    assert torch.equal(found["optimizer"]["state"][1]["m"], base[::2])
    assert found["optimizer"]["state"][0]["step"].shape == ()
    assert torch.equal(found["random"], state["random"])
    assert [tensor.dtype for tensor in found["types"]] == [tensor.dtype for tensor in state["types"]]
    assert all(
        torch.equal(a, b)
        for a, b in zip(found["types"] + found["shared"], state["types"] + state["shared"], strict=True)
    )
    assert found["worst"] == state["worst"]


@pytest.mark.parametrize(
    "value",
    [{1.5: 0}, {True: 0}, {1, 2}, object(), [print], 1j, Path("x")],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_is_an_error(tmp_path, value):
    with pytest.raises(TypeError, match="expected"):
        save_state(tmp_path / "state", value)


def tree(value: object) -> dict:
    return {"values": json.dumps(value)}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"values": "{"},
        {"values": "[" * 100_000},
        tree({"tensor": "7"}),
        tree({"tensor": ["0"]}),
        tree({"tuple": 3}),
        tree({"dict": [["a"]]}),
        tree({"dict": [3]}),
        tree({"set": []}),
        tree({}),
        tree({"tensor": "0", "tuple": []}),
    ],
)
def test_other_files_are_refused(tmp_path, metadata):
    safetensors.torch.save_file({"0": torch.zeros(1)}, tmp_path / "state", metadata=metadata)
    with pytest.raises(ValueError, match=r"no saved state|Expecting"):
        load_state(tmp_path / "state")


class Malicious:
    def __reduce__(self):
        return open, ("opened.txt", "w")


def test_pickles_are_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(pickle.dumps(Malicious()))
    torch.save({"a": Malicious()}, tmp_path / "b")
    for name in "ab":
        with pytest.raises(ValueError, match="no saved state"):
            load_state(tmp_path / name)
    assert not (tmp_path / "opened.txt").exists()
