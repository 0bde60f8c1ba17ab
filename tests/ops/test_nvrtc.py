"""Kernels compiled at run time: for every GPU without having one, kept on disk, and given the right arguments."""

import contextlib
import ctypes
import io
import itertools
import os
import re
import shutil
import subprocess
import types

import pytest
import torch

from handcraft.kernels import env, nvrtc
from handcraft.kernels.selective_scan import cuda

found = env.probe("nvrtc")
needs_nvrtc = pytest.mark.skipif(not found.available, reason=f"no NVRTC: {found.reason}")
ARCHS = ("sm_80", "sm_90", "sm_100")
SCAN = cuda.Form(torch.bfloat16, 16, gated=True, fixed_B=False, fixed_C=False)
KERNEL = re.compile(
    r"Function properties for (\w+)\s+(?:ptxas\s+\.\s+)?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers"
)


def resources(report):
    """The assembler's report as kernel -> (stack frame, spill stores, spill loads, registers)."""
    return {name: tuple(map(int, numbers)) for name, *numbers in KERNEL.findall(report)}


def check(report, form, warps, where, note):
    kernels = resources(report)
    assert kernels.keys() == {"scan_forward", "scan_backward", "scan_finish"}, report
    for name, (*memory, registers) in kernels.items():
        spills = sum(memory[1:])
        note("note", f"{where} {form} {warps} warps {name}: {registers} registers, {spills} bytes of spills")
    for name, (*memory, _) in kernels.items():
        assert memory == [0, 0, 0], f"{name} keeps {memory} bytes in local memory: {where} {form}"
    # a multiprocessor has 65,536 registers, given to warps in pieces of 256
    for name, most in (("scan_forward", form.forward_warps), ("scan_backward", form.backward_warps)):
        assert -(-kernels[name][3] * 32 // 256) * 256 * most(warps) <= 65_536


def source_for(tmp_path, text='extern "C" __global__ void fill(float* x) { x[threadIdx.x] = VALUE; }'):
    path = tmp_path / "fill.cu"
    path.write_text(text)
    return nvrtc.Source(path, (("VALUE", "1"),))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(folder))
    return folder


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_the_scan_compiles_without_spills(arch, cache, record_property):
    report = io.StringIO()
    assert nvrtc.compile_source(SCAN.source(4), arch, report)[:4] == b"\x7fELF"
    check(report.getvalue(), SCAN, 4, f"NVRTC {found.version} {arch}", record_property)


@pytest.mark.skipif(not os.environ.get("HANDCRAFT_EVERY_FORM"), reason="takes minutes: HANDCRAFT_EVERY_FORM=1 runs it")
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_every_form_of_the_scan_compiles_without_spills(arch, cache, record_property):
    for dtype, state in itertools.product((torch.float32, torch.bfloat16), (4, 8, 16, 32, 128)):
        for gated, fixed_B, fixed_C in itertools.product((False, True), repeat=3):
            form = cuda.Form(dtype, state, gated, fixed_B, fixed_C)
            for warps in (1, 4):
                report = io.StringIO()
                nvrtc.compile_source(form.source(warps), arch, report)
                check(report.getvalue(), form, warps, f"NVRTC {found.version} {arch}", record_property)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_the_scan_compiles_with_nvcc(tmp_path, record_property):
    source = SCAN.source(4)
    macros = [f"-D{name}={value}" for name, value in source.macros]
    command = ["nvcc", "-arch=sm_90", "-std=c++17", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings", *macros]
    command += [str(source.path), "-o", str(tmp_path / "scan.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    check(done.stderr, SCAN, 4, "nvcc sm_90", record_property)


@needs_nvrtc
def test_compiled_once(cache, tmp_path, monkeypatch):
    calls, run = [], nvrtc._run_nvrtc
    monkeypatch.setattr(nvrtc, "_run_nvrtc", lambda *given: calls.append(given) or run(*given))
    source = source_for(tmp_path)
    code = nvrtc.compile_source(source, "sm_90")
    assert nvrtc.compile_source(source, "sm_90") == code
    assert len(calls) == 1
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])  # a damaged file is compiled anew
    assert nvrtc.compile_source(source, "sm_90") == code
    assert len(calls) == 2
    assert nvrtc.compile_source(source, "sm_90") == code
    assert len(calls) == 2
    assert nvrtc.compile_source(source, "sm_80") != code
    assert nvrtc.compile_source(nvrtc.Source(source.path, (("VALUE", "2"),)), "sm_90") != code
    (tmp_path / "other.h").write_text("// a header beside it changed")
    nvrtc.compile_source(source, "sm_90")
    assert len(calls) == 5


@needs_nvrtc
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    assert nvrtc.compile_source(source_for(tmp_path), "sm_90")
    assert "compiled kernels cannot be kept" in caplog.text


@needs_nvrtc
def test_messages_of_the_compiler_are_in_the_error(tmp_path, cache):
    with pytest.raises(nvrtc.CompileError, match=r'(?s)fill\.cu for sm_90 with -DVALUE=1: .*"nothing" is undefined'):
        nvrtc.compile_source(source_for(tmp_path, "__global__ void fill(float* x) { x[0] = nothing; }"), "sm_90")
    assert not cache.exists() or not list(cache.iterdir())


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(nvrtc.CompileError, match=r"gone\.cu is not there: install handcraft again"):
        nvrtc.compile_source(nvrtc.Source(tmp_path / "gone.cu", ()), "sm_90")


def test_what_is_missing_is_named(monkeypatch):
    env._cached.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cuda.core", None)
    with pytest.raises(nvrtc.CompileError, match="not installed"):
        nvrtc.version()
    assert env.probe("nvrtc").install == 'pip install "handcraft[cuda]"'
    env._cached.cache_clear()


@needs_nvrtc
def test_an_old_nvrtc_is_refused(monkeypatch):
    from cuda.bindings import nvrtc as library

    monkeypatch.setattr(library, "nvrtcVersion", lambda: (library.nvrtcResult.NVRTC_SUCCESS, 11, 8))
    with pytest.raises(nvrtc.CompileError, match=r"NVRTC is 11\.8, expected 12\.8 or later"):
        nvrtc.version()


@needs_nvrtc
def test_launch_hands_over_one_struct(monkeypatch):
    from cuda.bindings import driver

    taken = []

    def launch(function, *given):
        *sizes, shared, stream, parameters, extra = given
        first = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        taken.append((function, sizes, shared, stream, list((ctypes.c_int64 * 3).from_address(first)), extra))
        return (status,)

    monkeypatch.setattr(driver, "cuLaunchKernel", launch)
    monkeypatch.setattr(nvrtc, "_function", lambda source, kernel, index: (kernel, index))
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=77))
    x, status = torch.zeros(4), driver.CUresult.CUDA_SUCCESS
    call = ("fill", 5, 64, 1024, {"x": x, "nothing": None, "count": -4}, torch.device("cuda", 1))
    nvrtc.launch(SCAN.source(4), *call)
    assert taken == [(("fill", 1), [5, 1, 1, 64, 1, 1], 1024, 77, [x.data_ptr(), 0, -4], 0)]
    status = driver.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(RuntimeError, match=r"launch of fill \(5 blocks of 64 threads, 1024 bytes\): .*INVALID_VALUE"):
        nvrtc.launch(SCAN.source(4), *call)
