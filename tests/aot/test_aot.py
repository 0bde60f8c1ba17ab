"""Compilation without a GPU: of one small kernel here, of all with `make test-aot`. And that its checks catch what they
are there to catch."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from aot import run
from aot.compiling import Compiled, assembler_report

from handcraft.files import write_json

TESTS = Path(__file__).parents[1]
FINE = Compiled("case", "kernel", "sm_90", 8, 128, 1024, 0, 4, 0, "own")


def python(code, **variables):
    """Run in a process of its own, where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**environment, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=TESTS.parent)


def test_one_case_compiles_without_spills():
    done = python(["-m", "aot.run", "--case", "fp16 T32", "--target", "sm_90", "--processes", "1", "--no-write"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "_embed_kernel | sm_90" in done.stdout
    assert "no spill but those accepted, shared memory fits" in done.stdout


def test_compiling_is_refused_where_triton_interprets():
    done = python(["-m", "aot.run"], TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr


COUNT = """
import torch
from aot.compiling import launches
from handcraft.kernels.dct_linear import kernel

def run():
    for batch in (1, 2, 15, 16, 1000, 1 << 20):
        for frames in (17, 24, 31, 32):
            x, weight = (torch.empty(shape, device="meta") for shape in ((batch, frames, 180), (80, 180)))
            (out,) = kernel.forward(x, weight, None, None, None, None, "first", "dct")
            kernel.backward((True,) * 5, out, x, weight, None, None, None, None, "first", "dct")

print([launch.kernel.__name__ for launch in launches(run)])
"""


def test_neither_batch_nor_length_is_compiled_in():
    """Of 24 shapes, each kernel is compiled once; the first one as the forward pass and as the gradient of x."""
    done = python(["-c", COUNT])
    kernels = ["_embed_kernel", "_embed_kernel", "_weight_gradient_kernel", "_row_sums_kernel"]
    assert done.stdout.strip() == str(kernels), done.stdout + done.stderr


COUNT_GENERATOR = """
import sys
import torch
from aot.compiling import launches
from handcraft.kernels import CMLPeParams
from handcraft.kernels.adaln_mlp import kernel_stack
from handcraft.kernels.cmlpe import kernel, kernel_generate
from handcraft.kernels.triton_support import meta

params = CMLPeParams(*(meta(*value.shape) for value in CMLPeParams.random(8, 180)))
dtype = getattr(torch, sys.argv[1])

def run():
    for batch in (1, 2, 3, 16, 1000, 1 << 22):
        x, e = meta(batch, 16, 180, dtype=dtype), meta(batch, 6, 32, dtype=dtype)
        index = [meta(batch, dtype=torch.int64) for _ in range(3)]
        kernel.forward(x, e, *params[:2], *params[3:])
        kernel.backward((True,) * 11, x, x, e, *params[:2], *params[3:])
        kernel_stack.forward(x.mT.contiguous(), e, *params[3:9])
        kernel_stack.backward((True,) * 8, x.mT.contiguous(), x.mT.contiguous(), e, *params[3:9])
        context = meta(max(batch // 4, 1), 32, 180, dtype=dtype)
        kernel_generate.cmlpe_generate(params, None, context, *index, 7, 0.1, None, None, x)

print(*(launch.kernel.__name__ for launch in launches(run)))
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_generators_kernels_are_compiled_once_for_batches_of_1_to_2_to_the_22(dtype):
    done = python(["-c", COUNT_GENERATOR, dtype])
    way = ("forward", "generate") if dtype == "bfloat16" else ("streamed", "generate_streamed")
    kernels = f"cmlpe_{way[0]} cmlpe_backward adaln_forward adaln_backward {way[1]}".split()
    assert done.stdout.split() == [f"{name}_kernel" for name in kernels], done.stdout + done.stderr


SPOIL = """
import sys
import torch
from aot.compiling import compile_launch, launches
from handcraft.kernels import triton_support
from handcraft.kernels.dct_linear import kernel
from handcraft.kernels.triton_support import AotCase, meta

dtype, options = torch.bfloat16, triton_support.compile_options
if sys.argv[1] == "registers":
    triton_support.compile_options = lambda *given: {**options(*given), "maxnreg": 64}
elif sys.argv[1] == "shared memory":
    kernel.STAGES = 8
elif sys.argv[1] == "matrix units":
    dtype, triton_support.product_precision = torch.float32, lambda dtype: "ieee"

def run():
    kernel.forward(meta(64, 32, 180, dtype=dtype), meta(80, 180), None, None, None, None, "first", "dct")

(launch,) = launches(run)
print(*compile_launch(AotCase("a case", run, {"_embed_kernel": "own"}), launch, "sm_90").faults())
"""


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        ("nothing", r"\s*"),
        ("registers", r"a case _embed_kernel sm_90: spills \d\d+ bytes, 0 are accepted\s*"),
        ("shared memory", r"a case _embed_kernel sm_90: needs \d+ bytes of shared memory, a block may use 232448\s*"),
        ("matrix units", r".*a case _embed_kernel sm_90: has no wgmma.mma_async\s*"),  # it spills as well
    ],
)
def test_a_kernel_that_was_spoiled_is_caught(spoiled, fault):
    """What the compiler and the assembler say of a kernel that really has the fault is understood."""
    done = python(["-c", SPOIL, spoiled])
    assert re.fullmatch(fault, done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"spilled": 8}, "spills 8 bytes, 0 are accepted"),
        ({"shared": 240_000}, "needs 240000 bytes of shared memory, a block may use 232448"),
        ({"matrix": 0, "other_matrix": 3}, "has no wgmma.mma_async"),
        ({"matrix": 0, "other_matrix": 3, "meant": "any"}, None),
        ({"matrix": 0, "meant": "any"}, "has no wgmma.mma_async"),
        ({"matrix": 0, "meant": ""}, None),
        ({"target": "sm_80", "shared": 170_000}, "a block may use 166912"),
    ],
)
def test_faults(change, fault):
    found = dataclasses.replace(FINE, **change).faults()
    if fault is None:
        assert found == []
    else:
        assert len(found) == 1
        assert fault in found[0]
        assert found[0].startswith("case kernel sm_")


def test_a_table_of_other_kernels_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    table = {"versions": run._versions(), "kernels": [FINE.row()]}
    write_json(tmp_path / "aot.json", table)
    assert run.outdated([FINE]) == []
    (found,) = run.outdated([FINE, dataclasses.replace(FINE, registers=129)])
    assert found.startswith("case kernel sm_90: benchmarks/results/aot.json does not have it so")
    write_json(tmp_path / "aot.json", {**table, "versions": {"triton": "3.6.0", "torch": "2.11.0"}})
    assert run.outdated([dataclasses.replace(FINE, registers=129)]) == []


def test_the_assembler_is_believed_only_if_it_says_everything():
    log = (
        "ptxas info    : Function properties for k\n"
        "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size\n"
    )
    assert assembler_report(log) == (40, 20)
    with pytest.raises(ValueError, match="no registers and spills of one kernel"):
        assembler_report("ptxas info    : Used 40 registers")
    with pytest.raises(ValueError, match="no registers and spills of one kernel"):
        assembler_report(log + log)
