"""mamba_block(at=...): one row of each sequence, where the CPU library replaces the recurrence by a sum."""

import pytest
import tolerances
import torch
from cases import CASES, make_mamba

from handcraft.kernels import MambaParams, env, mamba_block

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
    """x, parameters, and for each sequence another row."""
    params = MambaParams.random(width, state=state, rank=rank, seed=width)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(batch, length, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    at = torch.randint(length, (batch,), generator=generator)
    at[0] = length - 1
    return x, MambaParams(*(value.to(wide).requires_grad_() for value in params)), at


def results(x, params, at, **how):
    out = mamba_block(x, params, at=at, **how)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (out, *torch.autograd.grad(out, [x, *params], cotangent.to(out.dtype)))


def from_all_rows(x, params, at):
    """The same by the whole block of the reference."""
    whole = mamba_block(x, params, backend="reference")
    out = torch.stack([rows[i] for rows, i in zip(whole, at, strict=True)])
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (out, *torch.autograd.grad(out, [x, *params], cotangent.to(out.dtype)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_a_row_of_the_block(shape, backend):
    given = inputs(*shape)
    for found, expected in zip(results(*given, backend=backend), from_all_rows(*given), strict=True):
        assert tolerances.error(found, expected) < tolerances.ORACLE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision(dtype, backend):
    """At most twice the error of the reference in the same dtype, plus slack."""
    x, params, at = inputs(16, 24, 33, 16, 2, dtype)
    exact = x.detach().double().requires_grad_(), MambaParams(*(v.detach().double().requires_grad_() for v in params))
    truth, plain = from_all_rows(*exact, at), from_all_rows(x, params, at)
    for name, found, right, own in zip(
        ("output", "x", *params._fields), results(x, params, at, backend=backend), truth, plain, strict=True
    ):
        assert found.dtype == own.dtype
        tolerances.check(name, found, right, own, dtype)


@NEEDS_CPU
def test_gradcheck():
    x, params, at = inputs(2, 4, 5, 3, 2)
    assert torch.autograd.gradcheck(
        lambda x, *p: mamba_block(x, MambaParams(*p), at=at, backend="cpu"), (x, *params), fast_mode=True
    )


@NEEDS_CPU
def test_later_steps_do_not_count():
    x, params, at = inputs(4, 12, 9, 5, 1, torch.float32)
    late = torch.arange(9) > at[:, None]
    out, dx, *_ = results(x, params, at, backend="cpu")
    assert (dx[late] == 0).all()
    with torch.no_grad():
        assert torch.equal(mamba_block(x.masked_fill(late[..., None], 9.0), params, at=at, backend="cpu"), out)


@NEEDS_CPU
def test_repeats_give_the_same_bits_and_threads_the_same_numbers():
    """torch's matrix products may round otherwise on another number of threads."""
    given = inputs(37, 40, 12, 5, 3, torch.float32)
    threads = torch.get_num_threads()
    runs = []
    for count in (2, 2, 1):
        torch.set_num_threads(count)
        runs.append(results(*given, backend="cpu"))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, runs[0], runs[1]))
    for one, other in zip(runs[0], runs[2], strict=True):
        assert tolerances.error(one, other) < 10 * tolerances.SLACK[torch.float32]


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    tensors = CASES["mamba_block"].cast(make_mamba(0), torch.float32)
    params = MambaParams(*(tensors[f"params.{field}"].requires_grad_() for field in MambaParams._fields))
    at = torch.empty(0, dtype=torch.int64)
    out, dx, *grads = results(tensors["x"].requires_grad_(), params, at, backend=backend)
    assert out.shape == (0, 6)
    assert dx.shape == tensors["x"].shape
    assert not any(grad.any() for grad in grads)


@NEEDS_CPU
def test_strided_inputs():
    x, params, at = inputs(3, 12, 9, 5, 1, torch.float32)
    turned = MambaParams(*(v.mT.contiguous().mT if v.dim() > 1 else v for v in params))
    wide = torch.stack((x, torch.full_like(x, torch.nan)), dim=3)[..., 0]
    rows = torch.stack((at, at + 100), dim=1)[:, 0]
    assert torch.equal(mamba_block(wide, turned, at=rows, backend="cpu"), mamba_block(x, params, at=at, backend="cpu"))


def test_traces_whole():
    given = inputs(3, 6, 9, 5, 1, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(mamba_block, fullgraph=True, backend="aot_eager")
    x, params, at = given
    found = torch.autograd.grad(compiled(x, params, at=at).sin().sum(), [x, *params])
    expected = torch.autograd.grad(mamba_block(x, params, at=at).sin().sum(), [x, *params])
    for one, other in zip(found, expected, strict=True):
        assert tolerances.error(one, other) < 10 * tolerances.SLACK[torch.float32]
    torch.compiler.reset()


def test_rows_out_of_range_are_named():
    x, params, _ = inputs(2, 6, 9, 5, 1)
    with pytest.raises(ValueError, match=r"mamba_block: at has values in \[3, 9\], expected within \[0, 8\]"):
        mamba_block(x, params, at=torch.tensor([3, 9]))
    with pytest.raises(TypeError, match=r"mamba_block: at is torch\.int32, expected int64"):
        mamba_block(x, params, at=torch.tensor([3, 0], dtype=torch.int32))
