"""cmlpe_generate in Triton: a few clips, as the interpreter is slow; with --device cuda the same, compiled.

What the other backends share is in test_cmlpe_generate.py.
"""

import oracles
import pytest
import tolerances
import torch
from backends import backends
from cases import draw
from generated import CLASSES, DIM, FRAMES, SEED, oracle, setting, subset

from handcraft import kernels
from handcraft.kernels import CMLPeParams, philox

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        "triton" not in backends("cmlpe_generate"), reason="needs TRITON_INTERPRET=1 in the environment, or a GPU"
    ),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def generate(given, seed=SEED, **options):
    return kernels.cmlpe_generate(**given, seed=seed, backend="triton", **options)


def plain(given, noise, dtype):
    """The definition in PyTorch's plain operations, which stay in one dtype throughout."""
    mean, std = given["mean"].to(dtype), given["std"].to(dtype)
    window = torch.nan_to_num((given["context"][given["row"]].to(dtype) - mean) / std)
    halves = []
    for name, stream in (("reverse_params", 1), ("params", 0)):
        params = CMLPeParams(*(value.to(dtype) for value in given[name]))
        eps = philox.normal(SEED, given["clip_id"], stream, params.mod_weight.shape[0], params.mod_weight.shape[2])
        e = params.class_embedding[given["label"]][:, None] + noise * eps.to(dtype)
        x = window[:, FRAMES:].flip(1) if stream else window[:, :FRAMES]
        halves.append(oracles.plain_cmlpe(x, e, params))
    return torch.cat((halves[0].flip(1), halves[1]), dim=1) * std + mean


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
def test_error_is_at_most_twice_pytorchs_own(dtype, noise):
    given = setting(5, dtype)
    truth = oracle(given, noise)
    out = generate(given, noise=noise)
    assert out.dtype == dtype
    tolerances.check("clips", out, truth, plain(given, noise, dtype), dtype)


def test_words_are_those_of_philox_and_normals_agree():
    """Read off the clips: without blocks' weights but the shift's, the output is a linear map of the embedding.

    The gate is 1, FC the identity, scale 0: each block adds its shift, which is SiLU(e) here.
    """
    frames, dim, embedding, clips = 16, 4, 16, 5
    params = CMLPeParams(*(torch.zeros_like(value) for value in CMLPeParams.random(1, dim, frames, 1, embedding)))
    params.mod_weight[0, :frames] = torch.eye(frames)  # shift
    params.mod_bias[0, 2 * frames :] = 1.0  # gate
    params.fc_weight[0] = torch.eye(frames)
    params.out_weight.copy_(torch.eye(dim))
    clip_id = torch.tensor([0, 1, -1, 2**62 + 5, 2**33])
    index = torch.zeros(clips, dtype=torch.int64)
    for seed in (0, 2**31, 2**64 - 1):
        out = kernels.cmlpe_generate(
            params, None, torch.zeros(1, 2 * frames, dim), index, index, clip_id, seed=seed, noise=1.0, backend="triton"
        )
        found = kernels.dct_linear(out, torch.eye(dim), backend="reference")  # coefficients are the shifts
        eps = philox.normal(seed, clip_id, philox.STREAM_FORWARD, 1, embedding)[:, 0]
        expected = torch.nn.functional.silu(eps)[:, :, None].expand(-1, -1, dim)
        assert tolerances.error(found, expected) < 2 * tolerances.SLACK[torch.float32]


@pytest.mark.parametrize(
    ("dim", "frames", "blocks", "embedding"),
    [(180, 16, 2, 32), (144, 16, 1, 32), (1, 8, 2, 1), (45, 32, 1, 7), (17, 64, 1, 33)],
)
def test_sizes(dim, frames, blocks, embedding):
    params, other = (CMLPeParams.random(2, dim, frames, blocks, embedding, seed=seed) for seed in (3, 4))
    given = {
        "params": params,
        "reverse_params": other,
        "context": draw((3, 2 * frames, dim), seed=2)[0].float(),
        "row": torch.tensor([2, 0, 1]),
        "label": torch.tensor([1, 0, 1]),
        "clip_id": torch.tensor([-1, 7, 2**62]),
    }
    exact = {**given, "context": given["context"].double()}
    truth = kernels.cmlpe_generate(**exact, seed=2**64 - 2, backend="reference")
    own = tolerances.error(kernels.cmlpe_generate(**given, seed=2**64 - 2, backend="reference"), truth)
    found = generate(given, seed=2**64 - 2)
    assert tolerances.error(found, truth) < tolerances.bound(own, torch.float32)


def test_without_noise_the_modulation_is_computed_once_for_each_class():
    """One table for all clips of the batch; with noise none, as each clip has its own."""
    from handcraft.kernels import triton_support

    given = setting(5)
    blocks = given["params"].mod_weight.shape[0]
    with triton_support.recording() as found:
        generate(given, noise=0.0)
        generate(given, noise=0.1)
    tables = [launch.arguments["mod_ptr"] for launch in found]
    assert [None if table is None else table.shape for table in tables] == [(CLASSES, blocks, 3 * FRAMES)] * 2 + [
        None
    ] * 2
    assert [launch.arguments["HAS_NOISE"] for launch in found] == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_do_not_depend_on_batch_or_order(dtype):
    given = setting(5, dtype)  # four clips share a program, the fifth has one for itself
    whole = generate(given)
    order = torch.tensor([2, 0, 4, 3, 1])
    assert torch.equal(generate(subset(given, order)), whole[order])
    for size in (1, 3):
        assert torch.equal(generate(subset(given, order[:size])), whole[order[:size]])
    assert torch.equal(generate(given), whole)


def test_halves_and_their_models():
    given = setting(2)
    both = generate(given)
    assert torch.equal(generate({**given, "reverse_params": None}), both[:, FRAMES:])
    other = CMLPeParams.random(CLASSES, DIM, FRAMES, 3, 6, seed=3)
    changed = generate({**given, "reverse_params": other})
    assert torch.equal(changed[:, FRAMES:], both[:, FRAMES:])
    assert (changed[:, :FRAMES] != both[:, :FRAMES]).all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_out_of_any_dtype_and_strides_is_filled(dtype):
    given = setting(3)
    expected = generate(given)
    out = torch.full((3, 2 * FRAMES, DIM), float("nan"), dtype=dtype)
    assert generate(given, out=out) is out
    assert torch.equal(out, expected.to(dtype))
    view = torch.full((DIM, 2 * FRAMES, 6), float("nan"), dtype=dtype)[:, :, ::2].permute(2, 1, 0)
    assert torch.equal(generate(given, out=view), out)


def test_strided_input_and_no_statistics():
    given = setting(2)
    strided = torch.zeros(40, 2 * DIM, 2 * FRAMES)[:, ::2].mT.copy_(given["context"])
    rows = torch.stack((given["row"], given["row"]), 1)[:, 0]
    assert torch.equal(generate({**given, "context": strided, "row": rows}), generate(given))
    plain_numbers = {"mean": torch.zeros(DIM), "std": torch.ones(DIM)}
    without = generate({**given, "mean": None, "std": None})
    assert torch.equal(without, generate({**given, **plain_numbers}))


def test_missing_landmarks_and_empty_batch():
    given = setting(2)
    out = generate(given)
    assert torch.isfinite(out).all()
    given["context"][given["row"][0]] = torch.nan
    assert torch.isfinite(generate(given)).all()
    assert generate(setting(0)).shape == (0, 2 * FRAMES, DIM)


@pytest.mark.parametrize("field", CMLPeParams._fields)
def test_every_parameter_counts(field):
    given = {**setting(1), "reverse_params": None}
    out = generate(given)
    value = getattr(given["params"], field)
    corrupt = value + 0.5 * value.square().mean().sqrt() * draw(tuple(value.shape), seed=5)[0].float()
    moved = generate({**given, "params": given["params"]._replace(**{field: corrupt})})
    assert tolerances.error(moved, out) > 100 * tolerances.SLACK[torch.float32]
