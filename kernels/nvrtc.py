"""CUDA kernels compiled at run time: compiled, kept on disk, loaded and launched here and nowhere else.

The sources in `csrc` are compiled by NVRTC for the GPU at hand, through the packages of the extra [cuda]: no CUDA
toolkit and no compiler is needed, no build has to match torch's, and a new GPU needs no new release. Compiling needs
no GPU. A kernel takes one struct by value, whose fields have 8 bytes each: pointers and 64-bit integers.
"""

import ctypes
import functools
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

CACHE_VARIABLE = "HANDCRAFT_CACHE"
"""Folder of compiled kernels; by default handcraft/kernels in $XDG_CACHE_HOME or ~/.cache."""
INSTALL = 'pip install "handcraft[cuda]"'
LEAST = (12, 8)
"""Versions of NVRTC from here on compile for sm_100."""

logger = logging.getLogger("handcraft.kernels")
_LOCK = threading.Lock()


class CompileError(RuntimeError):
    """NVRTC is not there or does not take a source; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A .cu file, with the values of its macros. Its headers lie beside it."""

    path: Path
    macros: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Limits:
    """Bytes of shared memory that a multiprocessor has, and that one block may have of them."""

    multiprocessor: int
    block: int


def version() -> tuple[int, int]:
    """Of the NVRTC that is used.

    Raises:
        CompileError: it is not installed, cannot be loaded, or is too old.
    """
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except ImportError as error:
        raise CompileError(f"not installed: {error}") from error
    except Exception as error:  # what finds the library raises classes of its own
        raise CompileError(f"NVRTC cannot be loaded: {type(error).__name__}: {error}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"NVRTC does not start: {status}")
    if (major, minor) < LEAST:
        raise CompileError(f"NVRTC is {major}.{minor}, expected {LEAST[0]}.{LEAST[1]} or later")
    return major, minor


def compile_source(source: Source, arch: str, report: TextIO | None = None) -> bytes:
    """Machine code of a source, from the disk if it was compiled before.

    Args:
        source: what to compile.
        arch: of the GPU, e.g. "sm_90".
        report: receives the assembler's lines on registers and spills; then it is compiled in any case.

    Raises:
        CompileError: NVRTC cannot be used, or refuses the source; the message holds its own.
    """
    if not source.path.is_file():
        raise CompileError(f"{source.path} is not there: install handcraft again")
    path = cache_folder() / f"{source.path.stem}-{arch}-{_digest(source, arch)}.cubin"
    code = _read(path) if report is None else None
    if code is None:
        started = time.perf_counter()
        code = _run_nvrtc(source, arch, report)
        logger.info("compiled %s for %s in %.1f s", source.path.name, arch, time.perf_counter() - started)
        _write(path, code)
    return code


def limits(device: torch.device) -> Limits:
    """Of a GPU that torch sees."""
    found = torch.cuda.get_device_properties(device)
    return Limits(found.shared_memory_per_multiprocessor, found.shared_memory_per_block_optin)


def launch(
    source: Source,
    kernel: str,
    grid: int,
    threads: int,
    shared: int,
    fields: Mapping[str, Tensor | int | None],
    device: torch.device,
) -> None:
    """Run a kernel on the GPU `device`, on torch's current stream.

    Args:
        source: where the kernel is.
        kernel: its name.
        grid: number of blocks.
        threads: of a block.
        shared: bytes of dynamic shared memory of a block.
        fields: of the struct, in its order: tensors on the device, integers, None for a null pointer.
        device: with an index.

    Raises:
        CompileError: the source cannot be compiled.
        RuntimeError: the driver refuses the kernel or the launch.
    """
    from cuda.bindings import driver

    arguments = pack(fields)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    with torch.cuda.device(device):
        function = _function(source, kernel, device.index)
        stream = torch.cuda.current_stream(device).cuda_stream
        (status,) = driver.cuLaunchKernel(
            function, grid, 1, 1, threads, 1, 1, shared, stream, ctypes.addressof(pointers), 0
        )
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"launch of {kernel} ({grid} blocks of {threads} threads, {shared} bytes): {status}")


def pack(fields: Mapping[str, Tensor | int | None]) -> ctypes.Array:
    """The struct of a kernel's arguments, in memory."""
    values = (0 if x is None else x.data_ptr() if isinstance(x, Tensor) else x for x in fields.values())
    return (ctypes.c_int64 * len(fields))(*values)


@functools.cache
def _function(source: Source, kernel: str, index: int) -> Any:
    """A kernel in torch's context on the GPU of this index, which must be current; it may use all shared memory."""
    from cuda.bindings import driver

    with _LOCK:
        status, function = driver.cuKernelGetFunction(int(_module(source, index).get_kernel(kernel).handle))
        if status == driver.CUresult.CUDA_SUCCESS:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            block = limits(torch.device("cuda", index)).block
            (status,) = driver.cuFuncSetAttribute(function, attribute, block)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{kernel} of {source.path} cannot be loaded on cuda:{index}: {status}")
    return function


@functools.cache
def _module(source: Source, index: int) -> Any:
    from cuda.core import ObjectCode

    major, minor = torch.cuda.get_device_capability(index)
    return ObjectCode.from_cubin(compile_source(source, f"sm_{major}{minor}"), name=source.path.name)


def _run_nvrtc(source: Source, arch: str, report: TextIO | None) -> bytes:
    version()
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        name=source.path.name,
        arch=arch,
        std="c++17",
        include_path=str(source.path.parent),
        define_macro=list(source.macros),
        ptxas_options=["-v"] if report is not None else None,
    )
    try:
        compiled = Program(source.path.read_text(encoding="utf-8"), "c++", options).compile("cubin", logs=report)
    except Exception as error:  # of NVRTC, with its messages
        macros = " ".join(f"-D{name}={value}" for name, value in source.macros)
        raise CompileError(f"{source.path} for {arch} with {macros}: {error}") from error
    return bytes(compiled.code)


def _digest(source: Source, arch: str) -> str:
    """Of everything that the machine code depends on."""
    digest = hashlib.sha256(repr((source.macros, arch, version())).encode())
    for path in sorted([source.path, *source.path.parent.glob("*.h")]):
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)} ".encode() + text)
    return digest.hexdigest()[:32]


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handcraft" / "kernels"


def _read(path: Path) -> bytes | None:
    """What `_write` wrote; None if there is nothing, or something else."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, code = stored[:32], stored[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Keep the code after its digest, whole or not at all; where that fails the next process compiles again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError as error:
        logger.warning("compiled kernels cannot be kept in %s: %s", path.parent, error)
