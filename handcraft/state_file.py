"""Nested plain values with tensors among them, in one safetensors file: the state from which training continues.

The tensors are the file's tensors, named by number; the values around them are JSON in the file's metadata, in which a
list stands for itself, and everything that JSON has no word for is an object with one field:

    {"tensor": 3}    {"tuple": [...]}    {"dict": [[key, value], ...]}

torch's own format is a pickle. Its restricted reader (`weights_only=True`) runs no code, but a few bytes of pickle may
still ask it for a terabyte.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

_TREE = "values"
_KEYS = (str, int)


def save_state(path: Path | str, value: Any) -> None:
    """Write dicts (keys: text or whole numbers), lists, tuples, numbers, text, booleans, None and tensors to `path`.

    `TypeError` for anything else. Tensors come back on the CPU; those that share memory come back apart.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _plain(value, tensors)
    safetensors.torch.save_file(tensors, path, metadata={_TREE: json.dumps(tree)})


def load_state(path: Path | str) -> Any:
    """What `save_state` wrote; `ValueError` for any other file."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tree = json.loads((file.metadata() or {})[_TREE])
            return _value(tree, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 not a dict
    except (SafetensorError, KeyError, TypeError, RecursionError, RuntimeError) as error:
        raise ValueError(f"no saved state: {error}") from None


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        if not all(type(key) in _KEYS for key in value):
            raise TypeError(f"keys {list(value)[:5]} of a state; expected text and whole numbers")
        return {"dict": [[key, _plain(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(entry, tensors) for entry in value]}
    if isinstance(value, list):
        return [_plain(entry, tensors) for entry in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a {type(value).__name__} in a state; expected plain values and tensors")


def _value(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_value(entry, tensors) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items() if len(tree) == 1 else [("", None)]
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple" and isinstance(content, list):
        return tuple(_value(entry, tensors) for entry in content)
    if kind == "dict" and isinstance(content, list) and all(isinstance(p, list) and len(p) == 2 for p in content):
        return {key: _value(entry, tensors) for key, entry in content if type(key) in _KEYS}
    raise KeyError(f"an object with the fields {sorted(tree)[:5]}")
