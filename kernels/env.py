"""What this machine can run, and why not.

Every probe is lazy, cached, and catches whatever a broken install raises: it becomes a reason to print, never an
import error.
"""

import functools
import importlib
import importlib.metadata
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch

from handcraft.kernels import native, nvrtc

TRITON_RANGE = ((3, 6), (3, 10))
"""Versions of triton that the kernels are tested with: at least the first, below the second. Older ones lack what the
kernels need; newer ones are used with a warning."""

logger = logging.getLogger("handcraft.kernels")


@dataclass(frozen=True)
class Probe:
    """One thing looked for. `reason` says what was found, or why it cannot be used; `install` is a command or ''."""

    name: str
    available: bool
    reason: str
    version: str = ""
    install: str = ""


def probe(name: str) -> Probe:
    """Look for one of `PROBES`, by its name there. Cached; never raises for what it finds.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PROBES:
        raise ValueError(f"probe: name is {name!r}, expected one of {', '.join(PROBES)}")
    return _cached(name)


def report() -> list[Probe]:
    """Every probe, in a fixed order, for `handcraft doctor`."""
    return [probe(name) for name in PROBES]


def backend(name: str) -> Probe:
    """Whether a backend of `dispatch.BACKENDS` (but "auto") can run on this machine, and why not.

    Raises:
        ValueError: an unknown name.
    """
    if name == "reference":
        return Probe(name, True, "plain PyTorch, runs wherever torch does", version=probe("torch").version)
    if name == "cpu":
        return probe("cpu_library")
    if name == "cuda":
        return _first_missing(name, ("cuda", "nvrtc"))
    if name == "triton":
        return _first_missing(name, ("triton",) if interpreting() else ("triton", "cuda"))
    if name == "mamba_ssm":
        return _first_missing(name, ("cuda", "mamba_ssm"))
    raise ValueError(f"backend: name is {name!r}, expected reference, cpu, triton, cuda or mamba_ssm")


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors; as Triton reads the variable, at import."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def _first_missing(name: str, needs: tuple[str, ...]) -> Probe:
    """The backend `name` as available if everything it needs is, else with the reason of the first that is not."""
    for need in needs:
        found = probe(need)
        if not found.available:
            return Probe(name, False, f"{need}: {found.reason}", install=found.install)
    return Probe(name, True, ", ".join(f"{need} {probe(need).version}".strip() for need in needs))


@functools.cache
def _cached(name: str) -> Probe:
    try:
        return PROBES[name]()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a broken install may raise anything, SystemExit included
        return Probe(name, False, f"probing failed: {_short(error)}", install=_INSTALL.get(name, ""))


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _torch() -> Probe:
    return Probe("torch", True, f"{torch.get_num_threads()} threads", version=torch.__version__)


def _cuda() -> Probe:
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is built without CUDA"
        return Probe("cuda", False, reason, install="pip install --force-reinstall torch")
    if not torch.cuda.is_available():
        return Probe("cuda", False, f"torch is built for CUDA {torch.version.cuda}, but no usable GPU is visible")
    names = []
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        names.append(f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})")
    return Probe("cuda", True, ", ".join(names), version=torch.version.cuda)


def _package(name: str, module: str, symbol: str) -> Probe:
    """Import `module` and look up `symbol` in it."""
    try:
        found = importlib.import_module(module)
        getattr(found, symbol)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == name:
            return Probe(name, False, "not installed", install=_INSTALL[name])
        return Probe(name, False, f"installed, but its import failed: {_short(error)}", install=_INSTALL[name])
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # e.g. an extension built against another torch, or sys.exit at import
        return Probe(name, False, f"installed, but its import failed: {_short(error)}", install=_INSTALL[name])
    return Probe(name, True, "imports", version=_version(name))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _triton() -> Probe:
    found = _package("triton", "triton.language", "dot")
    if not found.available:
        return found
    digits = tuple(int(part) for part in re.findall(r"\d+", found.version)[:2])
    least, below = (".".join(map(str, version)) for version in TRITON_RANGE)
    if digits < TRITON_RANGE[0]:
        reason = f"version {found.version}, expected at least {least}"
        return Probe("triton", False, reason, found.version, f'pip install "triton>={least},<{below}"')
    if digits >= TRITON_RANGE[1]:
        reason = f"imports; version {found.version} is newer than those tested, {least} to below {below}"
        logger.warning("triton: %s; if results look wrong, run `handcraft doctor`", reason)
        return Probe("triton", True, reason, found.version)
    return found


def _compiler() -> Probe:
    """The C++ compiler that torch.compile and extensions call: $CXX, g++ or clang++."""
    tried = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    for name in tried:
        path = shutil.which(name)
        if path is not None:
            return Probe("compiler", True, path)
    return Probe("compiler", False, f"none of {', '.join(tried)} is on PATH", install="apt-get install g++")


def _cpu_library() -> Probe:
    try:
        found = native.library()
    except native.NativeError as error:
        return Probe("cpu_library", False, str(error), install="pip install -e .")
    extra = ", AVX512-BF16" if found.bf16_instructions else ""
    return Probe("cpu_library", True, f"{found.isa}{extra}, {found.path.name}")


def _nvrtc() -> Probe:
    """NVRTC, which compiles the kernels of the `cuda` backend when they are first used."""
    try:
        found = ".".join(map(str, nvrtc.version()))
    except nvrtc.CompileError as error:
        return Probe("nvrtc", False, str(error), install=nvrtc.INSTALL)
    return Probe("nvrtc", True, f"compiled kernels are kept in {nvrtc.cache_folder()}", version=found)


_INSTALL = {
    "triton": 'pip install "handcraft[gpu]"',
    "mamba_ssm": 'pip install --no-build-isolation "handcraft[mamba]"',
    "causal_conv1d": 'pip install --no-build-isolation "handcraft[mamba]"',
}

PROBES: dict[str, Callable[[], Probe]] = {
    "torch": _torch,
    "cuda": _cuda,
    "triton": _triton,
    "mamba_ssm": lambda: _package("mamba_ssm", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
    "causal_conv1d": lambda: _package("causal_conv1d", "causal_conv1d", "causal_conv1d_fn"),
    "nvrtc": _nvrtc,
    "compiler": _compiler,
    "cpu_library": _cpu_library,
}
