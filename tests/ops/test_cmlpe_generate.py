"""cmlpe_generate: both twins, noise, missing landmarks, and bytes that do not depend on the batch, on every backend."""

import functools

import pytest
import tolerances
import torch
from backends import backends
from generated import CLASSES, DIM, FRAMES, SEED, oracle, setting, subset

from handcraft import kernels
from handcraft.kernels import CMLPeParams, dispatch


@pytest.fixture(params=backends("cmlpe_generate", torch.float64))
def backend(request):
    return request.param


@pytest.fixture
def cmlpe_generate(backend):
    """The op, run by one backend."""
    return functools.partial(kernels.cmlpe_generate, backend=backend)


@pytest.mark.parametrize("noise", [0.0, 0.1, 2])
def test_agrees_with_numpy(cmlpe_generate, backend, noise):
    given = setting(9, torch.float64)
    # normal numbers are fp32 everywhere: a backend's own logarithm and sine differ from torch's by their rounding
    allowed = tolerances.ORACLE if backend == "reference" or not noise else tolerances.SLACK[torch.float32]
    assert tolerances.error(cmlpe_generate(**given, seed=SEED, noise=noise), oracle(given, noise)) < allowed


def test_fp32_error(cmlpe_generate):
    given = setting(33)
    truth = oracle(given)
    out = cmlpe_generate(**given, seed=SEED)
    assert out.dtype == torch.float32
    assert tolerances.error(out, truth) < 10 * tolerances.SLACK[torch.float32]
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("dim", "threads", "sizes"),
    [(DIM, 1, (1, 7, 64, 257, 600)), (144, 1, (1, 7, 64, 257, 600)), (144, 2, (1, 257))],
)
def test_bytes_do_not_depend_on_batch_order_or_threads(cmlpe_generate, dim, threads, sizes):
    given = setting(600, dim=dim)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = cmlpe_generate(**given, seed=SEED)
        torch.set_num_threads(threads)
        for size in sizes:
            order = torch.randperm(600, generator=torch.Generator().manual_seed(size))
            for start in range(0, 600 if size > 60 else 4 * size, size):
                index = order[start : start + size]
                assert torch.equal(cmlpe_generate(**subset(given, index), seed=SEED), whole[index]), (size, start)
    finally:
        torch.set_num_threads(before)


def test_a_clip_depends_on_its_own_context_only(cmlpe_generate):
    given = setting(20)
    out = cmlpe_generate(**given, seed=SEED)
    changed = {**given, "context": given["context"].clone()}
    mine = given["row"] == given["row"][0]
    changed["context"][given["row"][0]] = torch.nan
    moved = (cmlpe_generate(**changed, seed=SEED) != out).flatten(1).any(1)
    assert torch.equal(moved, mine)


def test_reversed_half_comes_from_the_reversed_model(cmlpe_generate):
    """Fails where the forward model fills both halves, or the reversed output is not flipped back."""
    given = setting(6)
    out = cmlpe_generate(**given, seed=SEED)
    other = CMLPeParams.random(CLASSES, DIM, FRAMES, 3, 6, seed=3)
    with_other_reverse = cmlpe_generate(**{**given, "reverse_params": other}, seed=SEED)
    assert torch.equal(with_other_reverse[:, FRAMES:], out[:, FRAMES:])
    assert (with_other_reverse[:, :FRAMES] != out[:, :FRAMES]).all()
    with_other_forward = cmlpe_generate(**{**given, "params": other}, seed=SEED)
    assert torch.equal(with_other_forward[:, :FRAMES], out[:, :FRAMES])
    assert (with_other_forward[:, FRAMES:] != out[:, FRAMES:]).all()


def test_forward_half_alone(cmlpe_generate):
    given = setting(6)
    both = cmlpe_generate(**given, seed=SEED)
    half = cmlpe_generate(**{**given, "reverse_params": None}, seed=SEED)
    assert half.shape == (6, FRAMES, DIM)
    assert torch.equal(half, both[:, FRAMES:])


def test_label_seed_clip_and_noise_matter(cmlpe_generate):
    given = setting(6)
    out = cmlpe_generate(**given, seed=SEED)
    moved = [
        cmlpe_generate(**{**given, "label": (given["label"] + 1) % CLASSES}, seed=SEED),
        cmlpe_generate(**{**given, "clip_id": given["clip_id"] + 1}, seed=SEED),
        cmlpe_generate(**given, seed=SEED + 1),
        cmlpe_generate(**given, seed=SEED, noise=0.2),
    ]
    for other in moved:
        assert ((other - out).abs().amax(dim=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("field", CMLPeParams._fields)
@pytest.mark.parametrize("twin", ["params", "reverse_params"])
def test_every_parameter_of_both_twins_counts(cmlpe_generate, field, twin):
    given = setting(40)
    out = cmlpe_generate(**given, seed=SEED)
    value = getattr(given[twin], field).clone()
    step = 0.5 * value.square().mean().sqrt()
    for entry in torch.randperm(value.numel(), generator=torch.Generator().manual_seed(0))[:5]:
        corrupt = value.clone().flatten()
        corrupt[entry] += step
        changed = {**given, twin: given[twin]._replace(**{field: corrupt.view_as(value)})}
        assert tolerances.error(cmlpe_generate(**changed, seed=SEED), out) > 100 * tolerances.SLACK[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_out_is_filled_in_its_dtype(cmlpe_generate, dtype):
    given = setting(70)
    expected = cmlpe_generate(**given, seed=SEED)
    out = torch.full((70, 2 * FRAMES, DIM), float("nan"), dtype=dtype)
    assert cmlpe_generate(**given, seed=SEED, out=out) is out
    assert torch.equal(out, expected.to(dtype))
    view = torch.full((DIM, 2 * FRAMES, 140), float("nan"), dtype=dtype)[:, :, ::2].permute(2, 1, 0)
    cmlpe_generate(**given, seed=SEED, out=view)
    assert torch.equal(view, out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_context(cmlpe_generate, backend, dtype):
    given = setting(10, dtype)
    out = cmlpe_generate(**given, seed=SEED)
    assert out.dtype == dtype
    exact = cmlpe_generate(**{**given, "context": given["context"].float()}, seed=SEED)
    if backend == "reference" or dtype == torch.float16:
        assert torch.equal(out, exact.to(dtype))
    else:  # products may be of bf16 numbers
        assert tolerances.error(out, exact) < 4 * tolerances.SLACK[dtype]


def test_without_statistics_and_with_strided_input(cmlpe_generate):
    given = setting(10)
    ones = {"mean": torch.zeros(DIM), "std": torch.ones(DIM)}
    plain = cmlpe_generate(**{**given, "mean": None, "std": None}, seed=SEED)
    assert torch.equal(plain, cmlpe_generate(**{**given, **ones}, seed=SEED))
    buffer = torch.zeros(40, 2 * DIM, 2 * FRAMES)
    strided = buffer[:, ::2].mT.copy_(given["context"])
    rows = torch.stack((given["row"], given["row"]), 1)[:, 0]
    moved = {**given, "context": strided, "row": rows}
    assert torch.equal(cmlpe_generate(**moved, seed=SEED), cmlpe_generate(**given, seed=SEED))


def test_no_gradient_no_overwriting_no_autocast(cmlpe_generate):
    given = setting(5)
    given["params"] = CMLPeParams(*(value.requires_grad_() for value in given["params"]))
    kept = given["context"].clone()
    out = cmlpe_generate(**given, seed=SEED)
    assert not out.requires_grad
    assert torch.equal(given["context"].isnan(), kept.isnan())
    assert torch.equal(given["context"].nan_to_num(), kept.nan_to_num())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cmlpe_generate(**given, seed=SEED), out)


def test_empty(cmlpe_generate):
    assert cmlpe_generate(**setting(0), seed=SEED).shape == (0, 2 * FRAMES, DIM)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"context": torch.ones(40, 15, DIM)},
            ValueError,
            r"context has shape \(40, 15, 21\), expected .* W = 2M even",
        ),
        ({"context": torch.ones(40, 12, DIM)}, ValueError, r"params\.mod_weight has shape \(3, 24, 6\), expected"),
        ({"params": None}, TypeError, "params is NoneType, expected CMLPeParams"),
        ({"row": torch.tensor([0, 1, 40])}, ValueError, r"row has values in \[0, 40\], expected within \[0, 39\]"),
        ({"row": torch.zeros(3)}, TypeError, r"row is torch\.float32, expected int64"),
        ({"label": torch.tensor([0, 5, 1])}, ValueError, r"label has values in \[0, 5\], expected within \[0, 4\]"),
        ({"label": torch.tensor([0, 1])}, ValueError, r"label has shape \(2,\), expected \(B,\) = \(3,\)"),
        ({"clip_id": torch.arange(4)}, ValueError, r"clip_id has shape \(4,\), expected \(B,\) = \(3,\)"),
        ({"mean": torch.ones(4)}, ValueError, r"mean has shape \(4,\), expected \(D,\) = \(21,\)"),
        ({"std": torch.ones(DIM).half()}, TypeError, r"std is torch\.float16, expected float32"),
        ({"seed": -1}, ValueError, r"seed is -1, expected an integer in \[0, 2\^64\)"),
        ({"out": torch.ones(3, 8, DIM)}, ValueError, r"out has shape \(3, 8, 21\), expected \(B,W,D\) = \(3, 16, 21\)"),
        ({"out": torch.ones(3, 16, DIM).int()}, TypeError, r"out is torch\.int32, expected float32"),
        (
            {"reverse_params": CMLPeParams.random(4, DIM, FRAMES, 3, 6)},
            ValueError,
            r"reverse_params\.class_embedding has 4 classes, expected 5 as in params",
        ),
        ({"backend": "cuda"}, dispatch.BackendError, "backend 'cuda' is not implemented in this version"),
    ],
)
def test_errors(change, error, message):
    given = {**setting(3), "seed": SEED}
    with pytest.raises(error, match="cmlpe_generate: " + message):
        kernels.cmlpe_generate(**{**given, **change})


def test_backends_agree():
    """The same clips from every backend, and from twins of unlike depth."""
    given = setting(50)
    given["reverse_params"] = CMLPeParams.random(CLASSES, DIM, FRAMES, 4, 19, seed=2)
    expected = kernels.cmlpe_generate(**given, seed=SEED, backend="reference")
    for name in backends("cmlpe_generate"):
        found = kernels.cmlpe_generate(**given, seed=SEED, backend=name)
        assert tolerances.error(found, expected) < 4 * tolerances.SLACK[torch.float32], name


@pytest.mark.parametrize("frames", [8, 16, 32, 64])
@pytest.mark.parametrize("dim", [2, 144, 180, 512])
def test_sizes_on_every_backend(cmlpe_generate, frames, dim):
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(3, 2 * frames, dim, generator=generator, dtype=torch.float64)
    params, reverse_params = (CMLPeParams.random(2, dim, frames, 2, 5, seed=seed) for seed in (3, 4))
    given = {
        "params": params,
        "reverse_params": reverse_params,
        "context": context,
        "row": torch.tensor([2, 0, 1]),
        "label": torch.tensor([1, 0, 1]),
        "clip_id": torch.tensor([-1, 7, 2**62]),
        "seed": 2**64 - 2,
    }
    expected = kernels.cmlpe_generate(**given, backend="reference")
    assert tolerances.error(cmlpe_generate(**given), expected) < tolerances.SLACK[torch.float32]
    narrow = {**given, "context": context.float()}
    own = tolerances.error(kernels.cmlpe_generate(**narrow, backend="reference"), expected)
    assert tolerances.error(cmlpe_generate(**narrow), expected) < tolerances.bound(own, torch.float32)
