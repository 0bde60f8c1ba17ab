"""adaln_mlp_stack in Triton beyond the shared contract: its tilings, and the two stages of its sums over clips."""

import pytest
import tolerances
import torch
from backends import backends
from cases import CASES, draw, make_stack

from handcraft.kernels import CMLPeParams, adaln_mlp_stack

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        "triton" not in backends("adaln_mlp_stack"), reason="needs TRITON_INTERPRET=1 in the environment, or a GPU"
    ),
]
FIELDS = ("mod_weight", "mod_bias", "norm_weight", "norm_bias", "fc_weight", "fc_bias")


def results(h, e, params, backend):
    """The output and every gradient, by name; the output's own gradient is the same for all dtypes."""
    h, e = (value.detach().clone().requires_grad_() for value in (h, e))
    params = CMLPeParams(*(value.detach().clone().requires_grad_() for value in params))
    out = adaln_mlp_stack(h, e, params, backend=backend)
    (seen,) = draw(tuple(out.shape), seed=4)
    inputs = {"h": h, "e": e, **{field: getattr(params, field) for field in FIELDS}}
    return {
        "out": out,
        **dict(zip(inputs, torch.autograd.grad(out, list(inputs.values()), seen.to(out.dtype)), strict=True)),
    }


def check(batch, dim, frames, blocks, embedding):
    h, e = draw((batch, dim, frames), (batch, blocks, embedding), seed=3)
    params = CMLPeParams.random(2, dim, frames, blocks, embedding, seed=1)
    truth = results(h, e, params, "reference")
    plain = results(h.float(), e.float(), params, "reference")
    found = results(h.float(), e.float(), params, "triton")
    for name, value in found.items():
        tolerances.check(name, value, truth[name], plain[name], torch.float32)


@pytest.mark.parametrize(
    ("dim", "frames"),
    [(180, 16), (144, 16), (1, 8), (16, 16), (45, 32), (97, 8), (33, 64), (300, 8)],
    ids=lambda size: str(size),
)
def test_tilings(dim, frames):
    """Tiles of 64, 32 and 16 channels, with and without rows to spare; a clip a warp, and a clip over all warps."""
    check(batch=5 if dim < 20 else 2, dim=dim, frames=frames, blocks=2, embedding=3)


@pytest.mark.parametrize("parts", [1, 2])
def test_programs_that_walk_several_groups_of_clips(monkeypatch, parts):
    from handcraft.kernels.adaln_mlp import kernel

    monkeypatch.setattr(kernel, "PARTS", parts)
    check(batch=5, dim=20, frames=8, blocks=3, embedding=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_clip_does_not_depend_on_the_clips_beside_it(dtype):
    case = CASES["adaln_mlp_stack"]
    given = case.arguments(case.cast(make_stack(7), dtype))
    whole = adaln_mlp_stack(given["h"], given["e"], given["p"], backend="triton")
    order = torch.tensor([6, 2, 0])
    part = adaln_mlp_stack(given["h"][order], given["e"][order], given["p"], backend="triton")
    assert torch.equal(part, whole[order])


def test_padding_is_at_most_a_tenth_for_the_named_sizes():
    from handcraft.kernels.adaln_mlp.block import tiling
    from handcraft.kernels.adaln_mlp.streamed import streaming

    for dim in range(1, 513):
        most = 1.1 * dim if dim in (96, 120, 144, 180) else max(dim + 15, 1.1 * dim)
        for frames in (8, 16, 32, 64):
            for dtype in (torch.float32, torch.bfloat16):
                assert dim <= streaming(dim, frames, dtype).channels <= most
                cut = tiling(dim, frames, dtype)
                assert cut is None or dim <= cut.channels == sum(cut.tiles) <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("frames", [8, 16])
def test_both_ways_agree(monkeypatch, dtype, frames):
    """Clips in registers and clips that go through memory: the same numbers but for the order of sums."""
    from handcraft.kernels.adaln_mlp import kernel

    h, e = draw((3, 80, frames), (3, 2, 5), seed=3)
    params = CMLPeParams.random(2, 80, frames, 2, 5, seed=1)
    h, e = h.to(dtype), e.to(dtype)
    assert kernel.tiling(80, frames, dtype) is not None
    inside = adaln_mlp_stack(h, e, params, backend="triton")
    monkeypatch.setattr(kernel, "tiling", lambda *_: None)
    streamed = adaln_mlp_stack(h, e, params, backend="triton")
    assert tolerances.error(streamed, inside) < 4 * tolerances.SLACK[dtype]
