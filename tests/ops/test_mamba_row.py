"""mamba_block(at=...): one row of each sequence, where the CPU library replaces the recurrence by a sum; norm=...: the
norm and the residual around a block."""

import pytest
import tolerances
import torch
from cases import CASES, make_mamba
from torch.nn import functional as F

from handcraft.kernels import MambaParams, env, mamba_block
from handcraft.kernels.mamba_block.op import FUSED_ROW

NEEDS_CPU = pytest.mark.skipif(not env.backend("cpu").available, reason=env.backend("cpu").reason)
BACKENDS = ["reference", pytest.param("cpu", marks=NEEDS_CPU)]
SHAPES = [(3, 6, 9, 5, 1), (2, 5, 1, 3, 2), (5, 17, 37, 16, 6), (2, 40, 33, 7, 9), (1, 70, 12, 4, 4)]
"""Batch, width, steps, states, rank."""


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)


def inputs(batch, width, length, state, rank, dtype=torch.float64):
    """x, parameters, for each sequence another row, and the weight of a norm."""
    params = MambaParams.random(width, state=state, rank=rank, seed=width)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(batch, length, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    at = torch.randint(length, (batch,), generator=generator)
    at[0] = length - 1
    norm = 1 + torch.randn(width, generator=generator, dtype=torch.float64) / 4
    return x, MambaParams(*(value.to(wide).requires_grad_() for value in params)), at, norm.to(wide).requires_grad_()


def gradients(out, x, params, norm):
    """What came out, and its gradients."""
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [x, *params] if norm is None else [x, *params, norm]
    return (out, *torch.autograd.grad(out, leaves, cotangent.to(out.dtype)))


def results(x, params, at, norm=None, **how):
    return gradients(mamba_block(x, params, at=at, norm=norm, **how), x, params, norm)


def from_all_rows(x, params, at, norm=None):
    """The same by the whole block of the reference, the norm and the residual written out."""
    inside, whole = x, 0
    if norm is not None:
        wide = x.to(norm.dtype)
        inside = norm * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        whole = wide
    whole = (whole + mamba_block(inside, params, backend="reference")).to(x.dtype)
    out = torch.stack([rows[i] for rows, i in zip(whole, at, strict=True)])
    return gradients(out, x, params, norm)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_a_row_of_the_block(shape, normed, backend):
    given = inputs(*shape)[: 3 + normed]
    for found, expected in zip(results(*given, backend=backend), from_all_rows(*given), strict=True):
        assert tolerances.error(found, expected) < tolerances.ORACLE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision(dtype, normed, backend):
    """At most twice the error of the reference in the same dtype, plus slack."""
    x, params, at, norm = inputs(16, 24, 33, 16, 2, dtype)
    exact_x, exact_norm, *rest = (value.detach().double().requires_grad_() for value in (x, norm, *params))
    last = [norm] if normed else []
    truth = from_all_rows(exact_x, MambaParams(*rest), at, *([exact_norm] if normed else []))
    plain, mine = from_all_rows(x, params, at, *last), results(x, params, at, *last, backend=backend)
    names = ("output", "x", *params._fields, *["norm"] * normed)
    for name, found, right, own in zip(names, mine, truth, plain, strict=True):
        assert found.dtype == own.dtype
        tolerances.check(name, found, right, own, dtype)


@NEEDS_CPU
def test_gradcheck():
    x, params, at, norm = inputs(2, 4, 5, 3, 2)

    def block(x, norm, *p):
        return mamba_block(x, MambaParams(*p), at=at, norm=norm, backend="cpu")

    assert torch.autograd.gradcheck(block, (x, norm, *params), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x, *p: block(x, None, *p), (x, *params), fast_mode=True)


@NEEDS_CPU
def test_later_steps_do_not_count():
    x, params, at, norm = inputs(4, 12, 9, 5, 1, torch.float32)
    late = torch.arange(9) > at[:, None]
    out, dx, *_ = results(x, params, at, norm, backend="cpu")
    assert (dx[late] == 0).all()
    with torch.no_grad():
        other = mamba_block(x.masked_fill(late[..., None], 9.0), params, at=at, norm=norm, backend="cpu")
        assert torch.equal(other, out)


@NEEDS_CPU
def test_repeats_and_threads_give_the_same_bits():
    given = inputs(37, 40, 12, 5, 3, torch.float32)
    threads = torch.get_num_threads()
    runs = []
    for count in (2, 2, 1):
        torch.set_num_threads(count)
        runs.append(results(*given, backend="cpu"))
    torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(map(torch.equal, runs[0], run))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_is_the_block_with_its_norm_and_residual(backend):
    x, params, _, norm = inputs(3, 12, 9, 5, 2)
    found = gradients(mamba_block(x, params, norm=norm, backend=backend), x, params, norm)
    block = mamba_block(F.rms_norm(x, x.shape[-1:], norm, 1e-5), params, backend="reference")
    for one, other in zip(found, gradients(x + block, x, params, norm), strict=True):
        assert tolerances.error(one, other) < tolerances.ORACLE


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_the_residual_alone(backend):
    x, params, at, norm = inputs(3, 12, 9, 5, 2, torch.float32)
    with torch.no_grad():
        expected = mamba_block(x, params, norm=norm, backend="reference")
        with torch.autocast("cpu", torch.bfloat16):
            whole = mamba_block(x, params, norm=norm, backend=backend)
            row = mamba_block(x, params, at=at, norm=norm, backend=backend)
    assert whole.dtype == row.dtype == torch.float32
    for found, right in ((whole, expected), (row, expected[torch.arange(3), at])):
        torch.testing.assert_close(found, right, rtol=0, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    tensors = CASES["mamba_block"].cast(make_mamba(0), torch.float32)
    params = MambaParams(*(tensors[f"params.{field}"].requires_grad_() for field in MambaParams._fields))
    at, norm = torch.empty(0, dtype=torch.int64), torch.ones(6, requires_grad=True)
    out, dx, *grads = results(tensors["x"].requires_grad_(), params, at, norm, backend=backend)
    assert out.shape == (0, 6)
    assert dx.shape == tensors["x"].shape
    assert not any(grad.any() for grad in grads)


@NEEDS_CPU
def test_strided_inputs():
    x, params, at, norm = inputs(3, 12, 9, 5, 1, torch.float32)
    turned = MambaParams(*(v.mT.contiguous().mT if v.dim() > 1 else v for v in params))
    wide = torch.stack((x, torch.full_like(x, torch.nan)), dim=3)[..., 0]
    rows = torch.stack((at, at + 100), dim=1)[:, 0]
    apart = torch.stack((norm, torch.full_like(norm, torch.nan)), dim=1)[:, 0]
    found = mamba_block(wide, turned, at=rows, norm=apart, backend="cpu")
    assert torch.equal(found, mamba_block(x, params, at=at, norm=norm, backend="cpu"))


@NEEDS_CPU
@pytest.mark.parametrize("normed", [False, True])
def test_registered_operations_pass_opcheck(normed):
    x, params, at, norm = inputs(3, 12, 9, 5, 1, torch.float32)
    norm = norm if normed else None
    torch.library.opcheck(FUSED_ROW.registered_forward, ("cpu", x, *params, at, norm))
    given = [None if value is None else value.detach() for value in (x, *params, at, norm)]
    _, *kept = FUSED_ROW.registered_forward("cpu", *given)
    needed = [True] * (1 + len(params)) + [False, normed]
    torch.library.opcheck(FUSED_ROW.registered_backward, ("cpu", needed, torch.randn(3, 12), *kept, *given))


def test_traces_whole():
    given = inputs(3, 6, 9, 5, 1, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(mamba_block, fullgraph=True, backend="aot_eager")
    x, params, at, norm = given
    for given in ({}, {"norm": norm}):
        leaves = [x, *params, *given.values()]
        found = torch.autograd.grad(compiled(x, params, at=at, **given).sin().sum(), leaves)
        expected = torch.autograd.grad(mamba_block(x, params, at=at, **given).sin().sum(), leaves)
        for one, other in zip(found, expected, strict=True):
            assert tolerances.error(one, other) < 10 * tolerances.SLACK[torch.float32]
    torch.compiler.reset()


def test_bad_rows_and_norms_are_named():
    x, params, at, norm = inputs(2, 6, 9, 5, 1)
    with pytest.raises(ValueError, match=r"mamba_block: norm has shape \(5,\), expected \(H,\) = \(6,\)"):
        mamba_block(x, params, at=at, norm=norm[1:])
    with pytest.raises(ValueError, match=r"mamba_block: at has values in \[3, 9\], expected within \[0, 8\]"):
        mamba_block(x, params, at=torch.tensor([3, 9]))
    with pytest.raises(TypeError, match=r"mamba_block: at is torch\.int32, expected int64"):
        mamba_block(x, params, at=torch.tensor([3, 0], dtype=torch.int32))
