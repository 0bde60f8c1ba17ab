"""The compiled CPU library: its loader, its vector functions and conversions on every instruction set here."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from handcraft.kernels import env, native

pytestmark = pytest.mark.skipif(not env.backend("cpu").available, reason=f"no CPU library: {env.backend('cpu').reason}")

FUNCTIONS = {
    "exp": (0, np.exp, (-103.9, 88.7), (-745, 709.7)),
    "log": (1, np.log, (1e-30, 1e30), (1e-300, 1e300)),
    "sigmoid": (2, lambda x: np.exp(-np.logaddexp(0, -x)), (-80, 80), (-700, 700)),
    "silu": (3, lambda x: x * np.exp(-np.logaddexp(0, -x)), (-80, 80), (-700, 700)),
    "softplus": (4, lambda x: np.logaddexp(0, x), (-80, 80), (-700, 700)),
    "sin(2 pi x)": (5, lambda x: np.sin(2 * np.pi * x), (0, 1), (0, 1)),
    "cos(2 pi x)": (6, lambda x: np.cos(2 * np.pi * x), (0, 1), (0, 1)),
    "exp2": (7, np.exp2, (-125.9, 127.9), (-1073, 1023.9)),
}


def vecmath(number: int, x: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(x, torch.nan)
    native.call("vecmath", x.dtype, x=x, out=out, function=number, count=x.numel())
    return out


def points(low: float, high: float, dtype: torch.dtype) -> torch.Tensor:
    even = torch.linspace(low, high, 200_003, dtype=torch.float64)
    near = torch.logspace(-12, 0, 5_001, dtype=torch.float64)
    extra = torch.cat((1 - near, 1 + near)) if low > 0 else torch.cat((near, -near))
    both = torch.cat((even, extra[(extra >= low) & (extra <= high)]))
    if low > 0:
        both = torch.cat((both, torch.logspace(np.log10(low), np.log10(high), 50_001, dtype=torch.float64)))
    return both.to(dtype).clamp(min=low, max=high)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vector_functions_in_float(name):
    number, exact, bounds, _ = FUNCTIONS[name]
    x = points(*bounds, torch.float32)
    truth = exact(x.double().numpy())
    # an ulp of the result; of 1 for sine and cosine, which are used as factors; never below the smallest normal number
    size = np.abs(truth) if "2 pi" not in name else np.ones_like(truth)
    ulp = np.spacing(np.maximum(size, 2.0**-126).astype(np.float32)).astype(np.float64)
    worst = np.max(np.abs(vecmath(number, x).double().numpy() - truth) / ulp)
    assert worst <= 3, f"{name}: {worst:.2f} units in the last place"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vector_functions_in_double(name):
    number, exact, _, bounds = FUNCTIONS[name]
    x = points(*bounds, torch.float64)
    truth = exact(x.numpy().astype(np.longdouble))
    size = np.abs(truth) if "2 pi" not in name else np.ones_like(truth)
    ulp = np.spacing(np.maximum(size, 2.0**-1022).astype(np.float64))
    worst = float(np.max(np.abs(vecmath(number, x).numpy() - truth) / ulp))
    assert worst <= 4, f"{name}: {worst:.2f} units in the last place"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_at_its_ends(dtype):
    x = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0, -0.0, 1e4, -1e4], dtype=dtype)
    for number, exact in ((0, torch.exp), (4, torch.nn.functional.softplus), (7, torch.exp2)):
        assert torch.equal(vecmath(number, x).nan_to_num(nan=-7), exact(x).nan_to_num(nan=-7)), number


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conversions_round_as_torch_does(dtype):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype).float()
    step = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))
    scaled = step * torch.logspace(-9, 6, 1 << 18)
    halfway = torch.nextafter(every, torch.tensor(torch.inf)), (every[:-1] + every[1:]) / 2
    x = torch.cat((every, *halfway, scaled, torch.tensor([65519.9, 65520.0, -65520.0, 3.5e38])))
    narrow, out = torch.empty_like(x, dtype=dtype), torch.empty_like(x)
    native.call("round_trip", dtype, x=x, narrow=narrow, out=out, count=x.numel())
    expected = x.to(dtype)
    number = ~torch.isnan(expected)
    assert torch.equal(narrow[number].view(torch.int16), expected[number].view(torch.int16))
    assert torch.isnan(narrow[~number]).all()
    assert torch.equal(out[number], expected[number].float())


def test_call_refuses_what_does_not_fit():
    x = torch.zeros(8)
    good = {"x": x, "out": torch.empty(8), "function": 0, "count": 8}
    call = functools.partial(native.call, "vecmath", torch.float32)
    with pytest.raises(TypeError, match=r"x is torch.float64 on cpu, expected torch.float32"):
        call(**{**good, "x": x.double()})
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        call(**{**good, "x": torch.zeros(8, 2)[:, 0]})
    with pytest.raises(TypeError, match="out is None"):
        call(**{**good, "out": None})
    with pytest.raises(TypeError, match="expected"):
        call(x=x, out=x)
    with pytest.raises(native.NativeError, match="no vecmath for"):
        native.call("vecmath", torch.float16, **good)
    assert native.supports("vecmath", torch.float32)
    assert not native.supports("vecmath", torch.float16)


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_a_library_that_cannot_be_loaded_is_a_reason(tmp_path):
    broken = tmp_path / "_cpu.so"
    broken.write_text("no library")
    code = "from handcraft.kernels import env; print(env.backend('cpu').available, env.backend('cpu').reason)"
    done = run(code, **{native.LIBRARY_VARIABLE: str(broken)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False")
    assert "rebuild it: pip install -e ." in done.stdout
    done = run(code, **{native.ISA_VARIABLE: "mmx"})
    assert "HANDCRAFT_CPU_ISA is 'mmx', expected baseline, avx2 or avx512" in done.stdout


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_passes(isa):
    """The tests above again, in a process that uses another instruction set."""
    probe = run("from handcraft.kernels import native; print(native.library().isa)", **{native.ISA_VARIABLE: isa})
    if probe.returncode:
        pytest.skip(f"{isa} does not run on this processor")
    assert probe.stdout.strip() == isa
    here = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "vector_functions or ends or conversions"]
    environment = {**os.environ, native.ISA_VARIABLE: isa}
    done = subprocess.run(here, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
