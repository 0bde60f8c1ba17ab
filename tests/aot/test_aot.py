"""Compilation without a GPU: of one small kernel here, of all with `make test-aot`. And that its checks catch what they
are there to catch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from aot.compiling import Compiled, assembler_report

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
