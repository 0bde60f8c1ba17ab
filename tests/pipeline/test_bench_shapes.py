"""Benchmarks: the work that shapes.py counts is the work that is done, where PyTorch can count it too; rows.py."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from handcraft.kernels import (
    CMLPeParams,
    MambaParams,
    adaln_mlp_stack,
    cmlpe,
    cmlpe_generate,
    dct_linear,
    mamba_block,
)

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    """benchmarks/shapes.py and rows.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("shapes"), importlib.import_module("rows")
    del sys.modules["shapes"], sys.modules["rows"]


@pytest.fixture
def shapes(modules):
    return modules[0]


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def both(out: torch.Tensor, leaves) -> None:
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def grads(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.requires_grad_() for tensor in tensors]


def test_dct_linear(shapes):
    shape = shapes.DCTLinear(3, 8, 12, 10)
    x, weight = grads(torch.randn(3, 8, 12), torch.randn(10, 12))
    # the reference transforms the D = 12 columns of x, where H = 10 columns would do
    dearer = 2 * 3 * 8 * 8 * (12 - 10)
    assert flops(lambda: dct_linear(x, weight, backend="reference")) == shape.work("forward").matrix_flops + dearer


@pytest.mark.parametrize("name", ["Stack", "Cmlpe"])
def test_generator(shapes, name):
    shape = getattr(shapes, name)(3, 8, 12, 2, 5)
    params = CMLPeParams.random(4, 12, 8, 2, 5)
    e = torch.randn(3, 2, 5)
    op, first = (adaln_mlp_stack, torch.randn(3, 12, 8)) if name == "Stack" else (cmlpe, torch.randn(3, 8, 12))
    call = lambda: op(first, e, params, backend="reference")  # noqa: E731
    assert flops(call) == shape.work("forward").matrix_flops
    used = [value for field, value in params._asdict().items() if field != "class_embedding"]
    if name == "Stack":
        used = [value for field, value in params._asdict().items() if field.startswith(("mod", "norm", "fc"))]
    leaves = grads(first, e, *used)
    # the transform's matrix is constant: its products have one gradient, counted as two
    constant = 0 if name == "Stack" else 2 * 2 * 3 * 8 * 12 * 8
    assert flops(lambda: both(call(), leaves)) == shape.work("training").matrix_flops - constant


def test_one_block_has_no_modulation_of_its_own(shapes):
    whole, block = shapes.Stack(3, 8, 12, 1, 5), shapes.Stack(3, 8, 12, 1, 0)
    assert block.work("forward").matrix_flops == 2 * 3 * 12 * 8 * 8
    assert whole.work("forward").matrix_flops == 2 * 3 * 12 * 8 * 8 + 2 * 3 * 24 * 5


def test_generate(shapes):
    shape = shapes.Generate(64, 8, 12, 2, 5, clips=4)
    twins = [CMLPeParams.random(4, 12, 8, 2, 5, seed=seed) for seed in (0, 1)]
    index = torch.arange(64) % 4
    context = torch.randn(4, 16, 12)
    call = lambda: cmlpe_generate(*twins, context, index, index, index, seed=0, backend="reference")  # noqa: E731
    assert flops(call) == shape.work("forward").matrix_flops


def test_mamba_block(shapes):
    shape = shapes.Mamba(3, 16, 9, 4)
    params = MambaParams.random(16, 4)
    x = torch.randn(3, 9, 16)
    # the reference also contracts the state by a matrix product; that is vector work, and counted there
    contraction = 2 * 3 * 9 * 4 * 32
    found = flops(lambda: mamba_block(x, params, backend="reference"))
    assert found == shape.work("forward").matrix_flops + contraction


def test_the_figure_of_the_design(shapes):
    """10.7 thousand windows a second are 30 GFLOP/s."""
    work = shapes.Cmlpe(1024).work("forward")
    assert work.matrix_flops / 1024 * 10.7e3 == pytest.approx(30e9, rel=0.02)


def test_scan_counts_states_and_channels(shapes):
    work = shapes.Scan(2, 3, 5, 4).work("forward")
    states, channels, rows = 2 * 3 * 5 * 4, 2 * 3 * 5, 2 * 4 * 5
    assert (work.fmas, work.exps) == (4 * states, states + 3 * channels)
    assert work.bytes == 4 * (4 * channels + 2 * rows) + 4 * 3 * (4 + 2)
    half = shapes.Scan(2, 3, 5, 4, "bfloat16").work("forward")
    assert half.bytes == 2 * (4 * channels + 2 * rows) + 4 * 3 * (4 + 2)


def test_work_adds_and_multiplies(shapes):
    assert shapes.Work(1, 2, 3, 4) * 2 + shapes.Work(1) == shapes.Work(3, 4, 6, 8)


def test_tables(modules):
    _, rows = modules
    assert set(rows.CPU) == set(rows.CUDA)
    for table in (rows.CPU, rows.CUDA):
        for name, table_rows in table.items():
            mode = name.split()[1]
            labels = [(row.shape.label(), row.shape.dtype) for row in table_rows]
            assert len(set(labels)) == len(labels)
            for row in table_rows:
                forward, work = row.shape.work("forward"), row.shape.work(mode)
                assert work.bytes > 0
                assert mode == "forward" or work.bytes > forward.bytes
    compiled = [row for table_rows in rows.CPU.values() for row in table_rows if row.compiled and not row.full]
    assert len(compiled) <= 7  # more would not fit into ten minutes on two cores
