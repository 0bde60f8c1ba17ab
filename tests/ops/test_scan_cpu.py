"""selective_scan and mamba_block on the CPU library: sizes that fill no register, how work is cut, threads, layouts,
dtypes, torch.compile, instruction sets."""

import os
import subprocess
import sys

import pytest
import tolerances
import torch
from backends import backends
from cases import CASES, MIXING_FORMS, draw, make_mamba, make_scan, make_scan_form

from handcraft.kernels import MambaParams, mamba_block, native, selective_scan
from handcraft.kernels.mamba_block import op as mamba_op
from handcraft.kernels.selective_scan import cpu
from handcraft.kernels.selective_scan import op as scan_op

pytestmark = pytest.mark.skipif("cpu" not in backends("selective_scan"), reason="the CPU library does not run here")

SIZES = [(1, 1, 1, 1), (2, 3, 2, 1), (3, 15, 4, 3), (1, 150, 7, 5), (2, 33, 18, 17), (33, 16, 5, 4), (2, 64, 129, 16)]


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)


def both(tensors, backend):
    """y, the last state, and the gradient of every tensor through both of them, by name."""
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    y, last = selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend=backend)
    dy, dlast = draw(tuple(y.shape), tuple(last.shape), seed=13)
    grads = torch.autograd.grad((y, last), list(leaves.values()), (dy.to(y.dtype), dlast.to(last.dtype)))
    return {"y": y.detach(), "last": last.detach(), **dict(zip(leaves, grads, strict=True))}


def check(tensors, bound):
    expected = both(tensors, "reference")
    for name, value in both(tensors, "cpu").items():
        assert value.dtype == expected[name].dtype, name
        assert tolerances.error(value, expected[name]) < bound, name


@pytest.mark.parametrize(("batch", "dim", "length", "state"), SIZES)
def test_sizes_that_fill_no_register(batch, dim, length, state):
    tensors = make_scan(batch, dim, length, state)
    check(tensors, 1e-12)
    check(CASES["selective_scan"].cast(tensors, torch.float32), 1e-5)


@pytest.mark.parametrize("form", MIXING_FORMS)
def test_many_tiles_and_tasks(form, monkeypatch):
    """Several panels of tiles in a task, several tasks in a group, several sequences in a chunk."""
    monkeypatch.setattr(cpu, "CHUNKS", 2)
    monkeypatch.setattr(cpu, "SEGMENT", 80)
    check(make_scan_form(form, form, batch=5, dim=3 * 210, length=6, state=6), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_steps_or_channels_side_by_side_in_memory_give_the_same(dtype):
    """(B,D,L) and (B,L,D): the tile is transposed on the way in and out, or not; numbers are the same bit for bit."""
    tensors = CASES["selective_scan"].cast(make_scan(2, dim=35, length=18, state=5), dtype)
    first = both(tensors, "cpu")
    turned = {name: value.mT.contiguous().mT if value.dim() > 1 else value for name, value in tensors.items()}
    second = both(turned, "cpu")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_thread_and_two_give_the_same_bits():
    tensors = CASES["selective_scan"].cast(make_scan(37, dim=100, length=19, state=16), torch.float32)
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = both(tensors, "cpu")
        torch.set_num_threads(2)
        two = both(tensors, "cpu")
    finally:
        torch.set_num_threads(kept)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_not_a_number_and_infinity_stay_where_they_are():
    """A missing number spoils its own channel, from its step on; a decay of infinite rate forgets at once."""
    tensors = CASES["selective_scan"].cast(make_scan(2, dim=20, length=8, state=4), torch.float32)
    tensors["u"][1, 3, 5] = torch.nan
    y = selective_scan(**tensors, delta_softplus=True, backend="cpu")
    assert torch.isnan(y[1, 3, 5:]).all()
    assert torch.isnan(y).sum() == 3
    tensors["u"][1, 3, 5] = 0
    tensors["A"][:] = -torch.inf
    known = {name: value for name, value in tensors.items() if name != "A"}
    found = selective_scan(A=tensors["A"], **known, delta_softplus=True, backend="cpu")
    expected = selective_scan(A=torch.full_like(tensors["A"], -1e30), **known, delta_softplus=True, backend="reference")
    assert tolerances.error(found, expected) < 1e-6


def test_only_the_gradients_that_are_asked_for_are_returned():
    tensors = make_scan(2)
    tensors["C"].requires_grad_()
    y = selective_scan(**tensors, backend="cpu")
    assert torch.autograd.grad(y.sum(), tensors["C"])[0].shape == tensors["C"].shape


@pytest.mark.parametrize("taps", [1, 3, 7])
@pytest.mark.parametrize(("width", "length"), [(6, 1), (10, 5), (37, 9)])
def test_mamba_block_sizes(taps, width, length):
    """Fewer steps than taps, channels that fill no register."""
    params = MambaParams(*(value.double() for value in MambaParams.random(width, state=5, conv=taps, seed=taps)))
    leaves = [value.requires_grad_() for value in (*draw((3, length, width), seed=1), *params)]
    found = {}
    for backend in ("reference", "cpu"):
        out = mamba_block(leaves[0], MambaParams(*leaves[1:]), backend=backend)
        (cotangent,) = draw(tuple(out.shape), seed=2)
        found[backend] = (out, *torch.autograd.grad(out, leaves, cotangent))
    for name, one, other in zip(("out", "x", *MambaParams._fields), found["cpu"], found["reference"], strict=True):
        assert tolerances.error(one, other) < 1e-12, name


@pytest.mark.parametrize("op", ["selective_scan", "mamba_block"])
def test_compiled_with_any_batch(op):
    torch.compiler.reset()
    case = CASES[op]

    def run(tensors):
        return case.run(tensors, backend="cpu").sin().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 5):
        tensors = case.cast(case.make(batch), torch.float32)
        grads = []
        for function in (run, compiled):
            leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
            grads.append(torch.autograd.grad(function(leaves), list(leaves.values())))
        for name, one, other in zip(tensors, *grads, strict=True):
            assert tolerances.error(one, other) < 1e-6, name


def test_registered_operations_pass_opcheck():
    tensors = CASES["selective_scan"].cast(make_scan(2), torch.float32)
    given = [tensors[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    y, last = selective_scan(*given, True, True, backend="cpu")
    leaves = [value.clone().requires_grad_() for value in given]
    torch.library.opcheck(scan_op.FUSED.registered_forward, ("cpu", *leaves, True, True))
    torch.library.opcheck(scan_op.FUSED.registered_forward, ("cpu", *given[:5], None, None, None, False, False))
    for dlast in (last, None):
        torch.library.opcheck(scan_op.FUSED.registered_backward, ("cpu", [True] * 8, y, dlast, *given, True, True))
    block = list(CASES["mamba_block"].cast(make_mamba(2), torch.float32).values())
    torch.library.opcheck(mamba_op.FUSED.registered_forward, ("cpu", *(x.requires_grad_() for x in block)))


def test_gradients_of_the_block_in_fp64():
    case = CASES["mamba_block"]
    tensors = {name: value.requires_grad_() for name, value in case.make(2).items()}

    def run(*values):
        return case.run(dict(zip(tensors, values, strict=True)), backend="cpu")

    assert torch.autograd.gradcheck(run, list(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """Some of the tests above in a process that uses another instruction set; they are skipped where it cannot."""
    chosen = "sizes or many_tiles or side_by_side or infinity"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    environment = {**os.environ, native.ISA_VARIABLE: isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    if " passed" not in done.stdout:
        pytest.skip(f"{isa} does not run on this processor")
