"""Every call that the contract's cases make of the CPU library, made again by a torch-free program that is built with
AddressSanitizer and UndefinedBehaviorSanitizer: csrc/tests/replay.cpp. Buffers there are exactly as long as needed.

Building takes more than a minute of CPU time, so this runs where HANDCRAFT_SANITIZERS is set: make test-native.
"""

import os
import platform
import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backends
import numpy as np
import pytest
import torch
from cases import CASES, MIXING_FORMS, make_mamba, make_scan, make_scan_form
from generated import setting
from windowed import setting as windows_setting

from handcraft import kernels
from handcraft.kernels import MambaParams, env, native, philox
from handcraft.kernels.cmlpe.cpu_generate import OUT_TYPES
from handcraft.optim import OPTIMIZERS, clip_gradients

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++") or shutil.which("clang++")
# Nearly all of the time is the compiler's: it does not optimise, and calls what checks an access instead of writing it
# out (as GCC spells it).
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0", "-g1"]
if COMPILER and "clang" not in COMPILER:
    CHECKS += ["--param", "asan-instrumentation-with-call-threshold=0"]
FLAGS = [
    "-std=c++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Icsrc",
    "-DHANDCRAFT_ISA=baseline",
]
WIDEST = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

pytestmark = [
    pytest.mark.skipif("HANDCRAFT_SANITIZERS" not in os.environ, reason="HANDCRAFT_SANITIZERS is not set"),
    pytest.mark.skipif(not env.backend("cpu").available, reason=f"no CPU library: {env.backend('cpu').reason}"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


def build(folder: Path, flags: list[str]) -> Path:
    """The program, with all ops in one instruction set."""
    ops = re.search(r"HANDCRAFT_OPS\(X\) (.+)", (ROOT / "csrc/cpu/ops.h").read_text())[1]
    names = re.findall(r"X\((\w+)\)", ops)
    sources = ["csrc/tests/replay.cpp", "csrc/cpu/entry.cpp", *(f"csrc/cpu/{name}.cpp" for name in names)]
    objects = [str(folder / f"{Path(source).stem}.o") for source in sources]

    def compile_(pair: tuple[str, str]) -> None:
        source, made = pair
        command = [COMPILER, *CHECKS, *FLAGS, *flags, "-c", source, "-o", made]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_, zip(sources, objects, strict=True)))
    subprocess.run([COMPILER, *CHECKS, *objects, "-o", str(folder / "replay")], check=True)
    return folder / "replay"


def span(tensor: torch.Tensor) -> np.ndarray:
    """The bytes from a tensor's first element to its last."""
    if not tensor.numel():
        return np.empty(0, np.uint8)
    count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((count,), (1,))
    return flat.view(torch.uint8).numpy().copy()


class Recorder:
    """Stands in for `native.call`: calls it, and keeps what went in and what came out."""

    def __init__(self) -> None:
        self.calls = bytearray()
        self.results: list[tuple[str, torch.Tensor, tuple[int, ...], int]] = []
        """Name, values after the call, strides, and bytes from the first value to the last."""
        self.names: set[str] = set()
        self.call = native.call

    def __call__(self, entry: str, dtype: torch.dtype, **given) -> None:
        name = f"{entry}_{native.SUFFIX[dtype]}"
        fields = native.library().entries[name].fields
        self.names.add(name)
        self.calls += bytes([len(name)]) + name.encode()
        for field in fields:
            value = given[field.name]
            if field.kind in "ir":
                self.calls += struct.pack("q" if field.kind == "i" else "d", value)
            elif value is None:
                self.calls += struct.pack("q", -1)
            elif field.kind == "l":
                self.calls += struct.pack("q", len(value.tensors))
                for tensor in value.tensors:
                    data = span(tensor)
                    self.calls += struct.pack("q", len(data)) + data.tobytes()
            else:
                data = span(value)
                self.calls += struct.pack("q", len(data)) + data.tobytes()
        self.call(entry, dtype, **given)
        for field in fields:
            if field.kind not in "ir" and given[field.name] is not None:
                value = given[field.name]
                if field.name == "out" and "out_type" in given:  # handed over as bytes
                    value = value.view(OUT_TYPES[given["out_type"]])
                for one in value.tensors if field.kind == "l" else [value]:
                    self.results.append((f"{name} {field.name}", one.detach().clone(), one.stride(), len(span(one))))


def run_all() -> None:
    """Forward and backward of every op on the CPU library: every dtype, odd sizes, every form of the scan."""
    for op, case in CASES.items():
        if "cpu" not in backends.backends(op):
            continue
        for dtype in DTYPES:
            for batch in (1, 5):
                gradients(
                    case.cast(case.make(batch), dtype), lambda tensors, case=case: case.run(tensors, backend="cpu")
                )
    for op, name in (("cmlpe", "x"), ("motion_norms", "target")):  # half of each window, read where it lies
        case = CASES[op]
        tensors = case.cast(case.make(3), torch.float32)
        tensors[name] = tensors[name].repeat(1, 2, 1)[:, tensors[name].shape[1] :]
        gradients(tensors, lambda tensors, case=case: case.run(tensors, backend="cpu"))
    for length, dim, state in ((1, 1, 1), (2, 3, 4), (17, 33, 9), (33, 70, 16)):
        for form in MIXING_FORMS[:1] if dim % 3 else MIXING_FORMS:
            for dtype in DTYPES:
                tensors = (
                    make_scan_form(form, form, 2, dim, length, state)
                    if form != "batch"
                    else make_scan(2, dim, length, state)
                )
                gradients(CASES["selective_scan"].cast(tensors, dtype), scan)
    for dtype in DTYPES[:2]:  # 2 * 5 channels and 5 fill no register
        gradients(CASES["mamba_block"].cast(make_mamba(2, width=5), dtype), block)
    for batch, width, length, state, rank in ((2, 6, 1, 1, 1), (3, 5, 9, 5, 2), (5, 35, 33, 16, 5)):
        params = MambaParams.random(width, state=state, rank=rank, seed=1)
        at = torch.arange(batch) * (length - 1) // batch
        for dtype in DTYPES[:2]:
            tensors = dict(zip(("x", *params._fields), (torch.randn(batch, length, width), *params), strict=True))
            tensors = {name: value.to(dtype) for name, value in tensors.items()}
            gradients(tensors, lambda tensors, at=at: row(tensors, at))
            tensors = tensors | {"norm": 1 + torch.randn(width, dtype=dtype)}
            gradients(tensors, lambda tensors, at=at: row(tensors, at))
    for dim in (21, 48):
        for dtype in DTYPES:
            given = setting(7, dtype, dim)
            for out_type in OUT_TYPES:
                out = torch.empty(7, given["context"].shape[1], dim, dtype=out_type)
                kernels.cmlpe_generate(**given, seed=5, out=out, backend="cpu")
            alone = given | {"reverse_params": None, "mean": None, "std": None}
            kernels.cmlpe_generate(**alone, seed=5, noise=0.0, backend="cpu")
    for points in ((1, 2), (7, 3), (60, 3)):
        for dtype in DTYPES:
            given = windows_setting(points=points, dtype=dtype)
            present = torch.empty(5, 7, points[0], dtype=torch.bool)
            kernels.clip_windows(**given, present=present, backend="cpu")
            given["first"][1:3] = -1
            kernels.clip_windows(given["frames"], given["first"], turns=given["turns"], backend="cpu")
            kernels.clip_windows(given["frames"], given["first"], present=present, backend="cpu")
    for size in (1, 67, 300):
        philox.keep(3, torch.arange(3), size, 0.3)
        philox.words(3, torch.arange(2), 1, 2, size)
    for name in OPTIMIZERS:
        for dtype in DTYPES[:2]:
            values = [torch.nn.Parameter(torch.randn(size, dtype=dtype)) for size in (1, 37, 0, 5000)]
            taken = OPTIMIZERS[name](values, lr=0.1, weight_decay=0.1)
            for _ in range(7):
                for value in values:
                    value.grad = torch.randn_like(value)
                clip_gradients(values, 1.0)
                taken.step()
    turned = {name: value.mT.contiguous().mT if value.dim() > 1 else value for name, value in make_scan(2).items()}
    gradients(turned, scan)


def scan(tensors):
    y, last = kernels.selective_scan(**tensors, delta_softplus=True, return_last_state=True, backend="cpu")
    return y.double().sum() + last.double().sum()


def row(tensors, at):
    x, *params = (value for name, value in tensors.items() if name != "norm")
    return kernels.mamba_block(x, MambaParams(*params), at=at, norm=tensors.get("norm"), backend="cpu")


def block(tensors):
    return CASES["mamba_block"].run(tensors, backend="cpu")


def gradients(tensors, run) -> None:
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    run(leaves).double().sum().backward()


@pytest.fixture(scope="module")
def recorded():
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "call", recorder)
        run_all()
    return recorder


@pytest.mark.parametrize("isa", ["baseline", "avx512"])
def test_recorded_calls_under_sanitizers(isa, recorded, tmp_path):
    if isa == "avx512" and (platform.machine() != "x86_64" or native.library().isa != "avx512"):
        pytest.skip("AVX-512 does not run on this processor")
    program = build(tmp_path, WIDEST if isa == "avx512" else [])
    (tmp_path / "calls").write_bytes(recorded.calls)
    command = [program, "baseline", tmp_path / "calls", tmp_path / "results"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    found = np.fromfile(tmp_path / "results", np.uint8)
    assert len(found) == sum(size for *_, size in recorded.results)
    at = 0
    for name, expected, strides, size in recorded.results:
        if not size:
            continue
        data = torch.from_numpy(found[at : at + size].copy()).view(expected.dtype)
        at += size
        if " partial" in name:
            continue  # a kernel's own notes, which lie as its instruction set likes
        one, other = data.as_strided(expected.shape, strides).double(), expected.double()
        narrow = re.search("_b?f16 ", name) or expected.dtype in (torch.bfloat16, torch.float16)  # in or out
        tolerance = 3e-2 if narrow else 1e-3
        scale = other.nan_to_num(0).abs().max().item() if other.numel() else 1
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale, equal_nan=True, msg=name)


def test_every_entry_is_recorded(recorded):
    """A new entry must be called by a case above; those of the vector functions and conversions have tests alone."""
    alone = re.compile("vecmath|round_trip|philox_normal")
    missing = {name for name in native.library().entries if not alone.match(name)} - recorded.names
    assert not missing
