"""dct_linear's Triton kernels, beyond what every backend promises: on a GPU, or here in Triton's interpreter."""

import functools

import oracles
import pytest
import tolerances
import torch
import torch.nn.functional as F
from backends import DEVICE, backends
from cases import draw

from handcraft import kernels

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        "triton" not in backends("dct_linear"), reason="needs a GPU (--device cuda), or TRITON_INTERPRET=1"
    ),
]

run = functools.partial(kernels.dct_linear, backend="triton")
reference = functools.partial(kernels.dct_linear, backend="reference")


def tensors(batch, frames, dim, width, dtype=torch.float32):
    x, weight, bias, cls, position = draw(
        (batch, frames, dim), (width, dim), (width,), (width,), (frames + 1, width), seed=4
    )
    given = {"x": x.to(dtype), "weight": weight / dim**0.5, "bias": bias, "cls": cls, "position": position}
    return {name: value.to(dtype if name == "x" else torch.float32) for name, value in given.items()}


def plain(x, weight, bias, cls, position, transform="dct"):
    """The op in plain PyTorch, every number in the dtype of x."""
    weight, bias, cls, position = (value.to(x.dtype) for value in (weight, bias, cls, position))
    value = oracles.plain_dct(x.shape[1], x).to(x) @ x if transform == "dct" else x
    return torch.cat((cls.expand(len(x), 1, -1), F.linear(value, weight, bias)), 1) + position


def everything(given, compute=run, **options):
    """Output and all gradients."""
    given = {name: value.detach().requires_grad_() for name, value in given.items()}
    out = compute(**given, **options)
    (gradient,) = draw(tuple(out.shape), seed=5)
    return [out.detach(), *torch.autograd.grad(out, list(given.values()), gradient.to(out.dtype))]


# Each regime of `kernel.config` and each edge of a tile: one clip a tile and 64, one slice and two, columns in one tile
# and in several, weights that stay on chip and that stream by.
SIZES = [(65, 1, 1, 1), (3, 33, 17, 130), (2, 64, 65, 16), (2, 65, 40, 24), (2, 127, 20, 65), (1, 3, 512, 129)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("transform", ["dct", "none"])
def test_edges_of_tiles(size, dtype, transform):
    given = tensors(*size, dtype)
    exact = {name: value.double() for name, value in given.items()}
    truth = everything(exact, reference, transform=transform)
    own = everything(given, plain, transform=transform)
    for i, found in enumerate(everything(given, transform=transform)):
        tolerances.check(f"result {i}", found, truth[i], own[i], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_clip_depends_on_no_other_and_on_no_order(dtype):
    given = tensors(13, 7, 20, 24, dtype)
    x, options = given.pop("x"), given
    out = run(x, **options)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0), device="cpu").to(x.device)
    assert torch.equal(run(x[order], **options), out[order])
    assert torch.equal(run(x[4:5], **options), out[4:5])


def test_lengths_gate_what_is_read_and_written():
    """Frames beyond a clip's length are not even read: NaN there changes nothing, forward or backward."""
    given = tensors(5, 6, 5, 7)
    lengths = torch.tensor([0, 6, 1, 5, 3])
    options = {"transform": "none", "lengths": lengths, "cls_at": "last"}
    expected = everything(given, **options)
    beyond = torch.arange(6) >= lengths[:, None]
    given["x"] = given["x"].masked_fill(beyond[..., None], float("nan"))
    for found, wanted in zip(everything(given, **options), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("layout", ["time first", "batch last", "rows of another length"])
def test_any_strides_without_a_copy(layout, monkeypatch):
    given = tensors(5, 7, 20, 24)
    expected = everything(given)
    x = given["x"]
    if layout == "time first":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "batch last":
        x = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    else:
        wide = torch.full((5, 9, 27), float("nan"))
        x = wide[:, 1:8, 3:23].copy_(x)
    given["x"] = x
    monkeypatch.setattr(torch.Tensor, "contiguous", no_copy_of(x))
    found = everything(given)
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert tolerances.error(one, other) < tolerances.SLACK[torch.float32], i


def no_copy_of(x):
    """Tensor.contiguous that refuses tensors in the memory of x."""
    original, memory = torch.Tensor.contiguous, x.untyped_storage().data_ptr()

    def contiguous(tensor, **options):
        assert tensor.untyped_storage().data_ptr() != memory, "the launcher copies x"
        return original(tensor, **options)

    return contiguous


def test_gradients_nobody_asks_for_are_not_computed():
    from handcraft.kernels import triton_support
    from handcraft.kernels.dct_linear import kernel

    given = tensors(5, 7, 20, 24)
    tensors_ = (*given.values(), None)
    out = torch.empty(5, 8, 24)
    for needed, launched in (
        ((True, False, False, False, False), ["_embed_kernel"]),
        ((False, True, False, False, False), ["_weight_gradient_kernel"]),
        ((False, False, True, False, False), ["_row_sums_kernel"]),
        ((False,) * 5, []),
    ):
        with triton_support.recording() as found:
            kernel.backward(needed, out, *tensors_, "first", "dct")
        assert [launch.kernel.__name__ for launch in found] == launched


def test_bitwise_equal_runs_and_partial_sums_over_many_clips():
    given = tensors(300, 1, 4, 3)
    first, second = everything(given), everything(given)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    truth = everything({name: value.double() for name, value in given.items()}, reference)
    for one, other in zip(first, truth, strict=True):
        assert tolerances.error(one, other) < tolerances.SLACK[torch.float32]


def test_the_device_of_these_tests():
    assert run(**tensors(1, 2, 3, 4)).device.type == DEVICE
