"""The compiled CPU library: found, loaded and called here and nowhere else.

`_cpu` is built from `csrc/cpu` by setup.py. It is plain C++ that knows neither Python nor torch: each entry takes one
struct of pointers and numbers, whose fields the library describes itself, and torch's threads are handed to it when it
is loaded. So one build serves every torch (>= 2.10) and Python, and `call` can refuse a tensor that does not fit
before a pointer is followed.
"""

import ctypes
import functools
import importlib.machinery
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ISA_VARIABLE = "HANDCRAFT_CPU_ISA"
"""Forces an instruction set: baseline, avx2 or avx512 (for tests and comparisons)."""
LIBRARY_VARIABLE = "HANDCRAFT_CPU_LIBRARY"
"""Another build of the library, for instance one with sanitizers."""

SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}
_CTYPES = {"float": torch.float32, "double": torch.float64, "int64_t": torch.int64, "uint8_t": torch.uint8}
_LOCK = threading.Lock()


class NativeError(RuntimeError):
    """The library is not there or cannot be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class _Field:
    name: str
    kind: str
    """p: contiguous tensor, o: the same or None, s: tensor of any strides or None, l: `Pointers`, i: int, r: float."""
    dtype: torch.dtype | None


class Pointers:
    """The addresses of a list of contiguous CPU tensors of one dtype, for more than one call if they stay where they
    are. `of` makes it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self.addresses = [tensor.data_ptr() for tensor in tensors]
        self.array = (ctypes.c_void_p * len(self.addresses))(*self.addresses)

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None]) -> "Pointers | None":
        """None where there is no tensor, or one that does not fit (or None) among them."""
        dtype = tensors[0].dtype if tensors and tensors[0] is not None else None
        for tensor in tensors:
            if tensor is None or tensor.dtype != dtype or not tensor.is_cpu or tensor.layout is not torch.strided:
                return None
            if not tensor.is_contiguous():
                return None
        return cls(tensors) if tensors else None

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype


@dataclass(frozen=True)
class _Entry:
    run: Callable[[int], None]
    arguments: type[ctypes.Structure]
    fields: tuple[_Field, ...]


@dataclass(frozen=True)
class Library:
    path: Path
    isa: str
    bf16_instructions: bool
    entries: dict[str, _Entry]


class _CEntry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("fields", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("run", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


class _CEntries(ctypes.Structure):
    _fields_ = (("first", ctypes.POINTER(_CEntry)), ("count", ctypes.c_int))


def library() -> Library:
    """The loaded library.

    Raises:
        NativeError: it was not built, or cannot be loaded here.
    """
    with _LOCK:
        return _load(os.environ.get(LIBRARY_VARIABLE), os.environ.get(ISA_VARIABLE))


def call(entry: str, dtype: torch.dtype, **arguments: Tensor | Pointers | int | float | None) -> None:
    """Run an entry on CPU tensors; it fills the output tensors among its arguments.

    Args:
        entry: its name without the dtype, e.g. "adaln_mlp_forward".
        dtype: of the activations.
        arguments: a value for every field of the entry's struct.

    Raises:
        NativeError: the library cannot be used, or has no such entry for this dtype.
        TypeError, ValueError: an argument that does not fit its field: a defect of the launcher, not of its caller.
    """
    found = library().entries.get(f"{entry}_{SUFFIX[dtype]}")
    if found is None:
        raise NativeError(f"the CPU library has no {entry} for {dtype}; rebuild it: pip install -e .")
    if len(arguments) != len(found.fields):
        names = {field.name for field in found.fields}
        raise TypeError(f"{entry}: got {sorted(arguments)}, expected {sorted(names)}")
    struct = found.arguments(*[_value(entry, field, arguments[field.name]) for field in found.fields])
    found.run(ctypes.addressof(struct))


def strided(name: str, x: Tensor) -> dict[str, Tensor | int]:
    """The fields `name` and `name`_b of a batch whose samples are contiguous, wherever they lie: half of each window,
    for instance. Copied where they are not."""
    whole = x if x.numel() and x[0].is_contiguous() else x.contiguous()
    return {name: whole, f"{name}_b": whole.stride(0)}


def supports(entry: str, dtype: torch.dtype) -> bool:
    """Whether the loaded library has an entry for activations of `dtype`."""
    return f"{entry}_{SUFFIX[dtype]}" in library().entries


def _value(entry: str, field: _Field, given: Tensor | Pointers | int | float | None) -> int | float | None:
    if field.kind in "ir":
        return given
    if given is None:
        if field.kind in "pl":
            raise TypeError(f"{entry}: {field.name} is None, expected a tensor")
        return None
    if field.kind == "l":
        if given.dtype != field.dtype:
            raise TypeError(f"{entry}: {field.name} are {given.dtype}, expected {field.dtype}")
        return ctypes.addressof(given.array)
    if given.dtype != field.dtype or given.device.type != "cpu":
        raise TypeError(f"{entry}: {field.name} is {given.dtype} on {given.device}, expected {field.dtype} on cpu")
    if field.kind != "s" and not given.is_contiguous():
        raise ValueError(f"{entry}: {field.name} has strides {given.stride()}, expected a contiguous tensor")
    return given.data_ptr()


def _path() -> Path:
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_cpu{suffix}"
        if path.is_file():
            return path
    raise NativeError("the CPU library was not built; install a C++ compiler and run: pip install -e .")


@functools.cache
def _load(override: str | None, isa: str | None) -> Library:
    path = Path(override) if override else _path()
    try:
        loaded = ctypes.CDLL(str(path))
        choose, entries_of = loaded.handcraft_choose, loaded.handcraft_entries
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path} cannot be loaded ({error}); rebuild it: pip install -e .") from error
    choose.restype, choose.argtypes = ctypes.c_char_p, (ctypes.c_char_p,)
    entries_of.restype, entries_of.argtypes = ctypes.POINTER(_CEntries), (ctypes.c_int,)
    chosen = choose(isa.encode() if isa else None)
    if chosen is None:
        raise NativeError(f"{ISA_VARIABLE} is {isa!r}, expected baseline, avx2 or avx512, and one this processor has")
    loaded.handcraft_set_threads.argtypes = (ctypes.c_void_p,)
    loaded.handcraft_set_threads(_torch_parallel_for())
    loaded.handcraft_has_bf16_instructions.restype = ctypes.c_bool
    entries, op = {}, 0
    while table := entries_of(op):
        for i in range(table.contents.count):
            row = table.contents.first[i]
            entries[row.name.decode()] = _entry(path, row)
        op += 1
    return Library(path, chosen.decode(), loaded.handcraft_has_bf16_instructions(), entries)


def _entry(path: Path, row: _CEntry) -> _Entry:
    name = row.name.decode()
    activation = next(dtype for dtype, suffix in SUFFIX.items() if name.endswith(f"_{suffix}"))
    compute = torch.float64 if activation == torch.float64 else torch.float32
    dtypes = {**_CTYPES, "T": activation, "Compute<T>": compute}
    fields, members = [], []
    for line in row.fields.decode().split(";")[:-1]:
        kind, *type_, field = line.split()  # "p const T x", and a list "p const T* const x"
        of = [word for word in type_ if word != "const"]
        dtype = dtypes[of[0].rstrip("*")] if of else None
        fields.append(_Field(field, "l" if of and of[0].endswith("*") else kind, dtype))
        members.append((field, {"i": ctypes.c_int64, "r": ctypes.c_double}.get(kind, ctypes.c_void_p)))
    struct = type("Arguments", (ctypes.Structure,), {"_fields_": members})
    if ctypes.sizeof(struct) != row.size:
        raise NativeError(f"{path}: {name} takes {row.size} bytes, expected {ctypes.sizeof(struct)}; rebuild it")
    # Called with the address of a struct; ctypes lets go of the interpreter's lock meanwhile.
    return _Entry(
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.cast(row.run, ctypes.c_void_p).value), struct, tuple(fields)
    )


def _torch_parallel_for() -> int | None:
    """Address of torch's own `at::parallel_for`, as its C interface exports it; None leaves kernels on one thread."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).is_file():
            function = getattr(ctypes.CDLL(str(folder / name)), "torch_parallel_for", None)
            return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
    return None
