"""The CMLPe ops on the CPU library: sizes that fill no register, threads, neighbours in the batch, instruction sets."""

import functools
import os
import subprocess
import sys

import pytest
import tolerances
import torch
from backends import backends
from cases import CASES, draw, make_adaln_mlp, make_cmlpe, make_stack

from handcraft.kernels import CMLPeParams, cmlpe, native
from handcraft.kernels.adaln_mlp import op as adaln_op
from handcraft.kernels.cmlpe import op as cmlpe_op

pytestmark = pytest.mark.skipif("cpu" not in backends("cmlpe"), reason="the CPU library does not run here")

MAKE = {"adaln_mlp": make_adaln_mlp, "adaln_mlp_stack": make_stack, "cmlpe": make_cmlpe}
FUSED = {"adaln_mlp": adaln_op.FUSED, "adaln_mlp_stack": adaln_op.FUSED_STACK, "cmlpe": cmlpe_op.FUSED}
SIZES = [(1, 2, 8), (3, 13, 8), (5, 45, 16), (2, 180, 16), (3, 35, 32), (1, 97, 64), (2, 512, 8)]
OPS = sorted(MAKE)


def tensors_of(op, batch, dim, frames, dtype=torch.float32):
    return CASES[op].cast(MAKE[op](batch, dim, frames), dtype)


def differentiated(op, tensors, run=None):
    """Output, then the gradient of every tensor that the op reads, by name; `run` instead of the CPU library."""
    case = CASES[op]
    inputs = {name: value.detach().clone().requires_grad_() for name, value in tensors.items()}
    out = (run or functools.partial(case.run, backend="cpu"))(inputs)
    (cotangent,) = draw(tuple(out.shape), seed=8)
    names = case.differentiable()
    grads = torch.autograd.grad(out, [inputs[name] for name in names], cotangent.to(out.dtype))
    return dict(zip(("output", *names), (out.detach(), *grads), strict=True))


def check_all(op, tensors, dtype):
    """Everything is as near the fp64 reference as plain PyTorch in the same dtype, nearly."""
    case = CASES[op]
    exact = {name: value.double() for name, value in tensors.items()}
    truth = differentiated(op, exact, functools.partial(case.run, backend="reference"))
    plain = differentiated(op, tensors, case.run_plain)
    for name, value in differentiated(op, tensors).items():
        if truth[name].abs().max() > 1e-9:  # some gradients vanish
            tolerances.check(f"{op}: {name}", value, truth[name], plain[name], dtype)


@pytest.mark.parametrize(("batch", "dim", "frames"), SIZES)
@pytest.mark.parametrize("op", OPS)
def test_sizes_that_fill_no_register(op, batch, dim, frames):
    """The last tile of the batch, of D and of M, in both precisions; outputs come from poisoned memory."""
    torch.use_deterministic_algorithms(True)
    try:
        for dtype in (torch.float64, torch.float32):
            check_all(op, tensors_of(op, batch, dim, frames, dtype), dtype)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("op", OPS)
def test_one_thread_and_two_give_the_same_bits(op):
    tensors = tensors_of(op, 37, 29, 16)
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = differentiated(op, tensors)
        torch.set_num_threads(2)
        two = differentiated(op, tensors)
    finally:
        torch.set_num_threads(kept)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_a_clip_is_the_same_whatever_its_neighbours(op, dtype):
    tensors = tensors_of(op, 5, 29, 16, dtype)
    activations = CASES[op].activations
    whole = CASES[op].run(tensors, backend="cpu")
    alone = [
        CASES[op].run({n: v[i : i + 1] if n in activations else v for n, v in tensors.items()}, backend="cpu")
        for i in range(5)
    ]
    assert torch.equal(whole, torch.cat(alone))
    broken = {**tensors, activations[0]: tensors[activations[0]].clone()}
    broken[activations[0]][2] = torch.nan
    kept = CASES[op].run(broken, backend="cpu")[[0, 1, 3, 4]]
    assert torch.equal(kept, whole[[0, 1, 3, 4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_of_each_window_gives_what_a_copy_gives(dtype):
    """The context of a training batch, which is a view, is read where it lies."""
    tensors = tensors_of("cmlpe", 5, 13, 16, dtype)
    (windows,) = draw((5, 32, 13), seed=4)
    for half in windows.to(dtype).chunk(2, dim=1):
        found = []
        for x in (half, half.contiguous()):
            inputs = {**tensors, "x": x.detach().requires_grad_()}
            weight = inputs["params.in_weight"] = tensors["params.in_weight"].clone().requires_grad_()
            out = CASES["cmlpe"].run(inputs, backend="cpu")
            found.append((out, *torch.autograd.grad(out.sum(), [inputs["x"], weight])))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_read_where_it_lies():
    windows = torch.zeros(3, 8, 5)
    half = windows[:, 4:]
    fields = native.strided("x", half)
    assert fields["x"] is half
    assert fields["x_b"] == 40
    for other in (windows[:, ::2], windows.mT, windows[:0]):
        copied = native.strided("x", other)
        assert copied["x"].is_contiguous()
        assert copied["x_b"] == copied["x"].stride(0)


def test_gradients_of_a_batch_of_several_chunks():
    """Chunks are summed in order; the last one is short."""
    check_all("cmlpe", tensors_of("cmlpe", 323, 13, 8), torch.float32)


def test_without_the_gradient_of_x():
    tensors = tensors_of("cmlpe", 3, 13, 8)
    names = [name for name in CASES["cmlpe"].differentiable() if name != "x"]
    inputs = {name: value.clone().requires_grad_(name in names) for name, value in tensors.items()}
    out = CASES["cmlpe"].run(inputs, backend="cpu")
    found = torch.autograd.grad(out.sum(), [inputs[name] for name in names])
    inputs["x"].requires_grad_()
    whole = torch.autograd.grad(CASES["cmlpe"].run(inputs, backend="cpu").sum(), [inputs[name] for name in names])
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


@pytest.mark.skipif(
    "cpu" not in backends("cmlpe") or not native.library().bf16_instructions, reason="no AVX512-BF16 here"
)
@pytest.mark.parametrize("dim", [13, 180])
def test_bf16_products_are_as_near_as_rounded_operands_allow(dim):
    params = CMLPeParams.random(3, dim)
    x, e = torch.randn(6, 16, dim).bfloat16(), torch.randn(6, 6, 32)
    truth = cmlpe(x.double(), e.double(), params, backend="reference")
    error = tolerances.error(cmlpe(x, e, params, backend="cpu"), truth)
    assert 2.0**-10 < error < 2.0**-6
    assert torch.equal(cmlpe(x, e, params, backend="cpu"), cmlpe(x, e, params, backend="cpu"))


@pytest.mark.parametrize("op", OPS)
def test_registered_operations_pass_opcheck(op):
    fused, tensors = FUSED[op], tensors_of(op, 3, 13, 8)
    given = [value for name, value in tensors.items() if name in CASES[op].differentiable()]
    torch.library.opcheck(fused.registered_forward, ("cpu", *(value.requires_grad_() for value in given)))
    given = [value.detach() for value in given]
    gradient = torch.randn_like(given[0])
    for x in (True, False):
        needed = [x] + [True] * (len(given) - 1)
        torch.library.opcheck(fused.registered_backward, ("cpu", needed, gradient, *given))


@pytest.mark.parametrize("op", OPS)
def test_compiled_with_any_batch(op):
    """One graph, forward and backward, serves every batch size."""
    torch.compiler.reset()
    compiled = torch.compile(
        functools.partial(CASES[op].run, backend="cpu"), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    names = CASES[op].differentiable()
    for batch in (3, 5, 8):
        inputs = {name: v.requires_grad_(name in names) for name, v in tensors_of(op, batch, 13, 8).items()}
        with torch.compiler.set_stance("fail_on_recompile" if batch == 8 else "default"):
            out = compiled(inputs)
        found = torch.autograd.grad(out.sin().sum(), [inputs[name] for name in names])
        again = CASES[op].run(inputs, backend="cpu")
        truth = torch.autograd.grad(again.sin().sum(), [inputs[name] for name in names])
        assert torch.equal(out, again)
        assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))
    torch.compiler.reset()


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_older_processors(isa):
    """The sizes above again, in a process that uses another instruction set."""
    if native.library().isa == isa:
        pytest.skip(f"{isa} is what the tests run on")
    environment = {**os.environ, native.ISA_VARIABLE: isa}
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "register or chunks or neighbours"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:]
