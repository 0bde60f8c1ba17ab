"""Tensors whose elements lie more than 2^31 apart, along each dimension in turn: addresses are computed in 64 bits.

On a CPU their memory is a file with holes, of which only the pages that are touched take room.
"""

import backends
import pytest
import tolerances
import torch
from cases import draw

from handcraft import kernels
from handcraft.kernels import CMLPeParams

FAR = 1 << 31
DTYPE = torch.bfloat16
B, M, D = 3, 8, 10


@pytest.fixture
def spread(tmp_path, monkeypatch):
    """spread(value, dimension, steps): a copy, in whose memory so many steps along `dimension` are 2^31 elements.

    Each single stride fits into 32 bits. There is as much memory before the copy: an offset that overflows reads and
    writes there, and is found by what it reads and writes.
    """
    original = torch.UntypedStorage.copy_

    def copy(to, source, *options):  # Triton's interpreter hands all memory back, here to itself
        return to if to.data_ptr() == source.data_ptr() else original(to, source, *options)

    monkeypatch.setattr(torch.UntypedStorage, "copy_", copy)
    size = 13 * FAR // 4  # a window of two halves takes 15/7 of it
    count = 0

    def memory():
        nonlocal count
        if backends.DEVICE == "cuda":
            if torch.cuda.mem_get_info()[0] < 4 * size * DTYPE.itemsize:
                pytest.skip("needs 56 GB of free GPU memory")
            return torch.zeros(size, dtype=DTYPE)
        count += 1
        path = tmp_path / f"memory{count}"
        with path.open("wb") as file:
            file.truncate(size * DTYPE.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=DTYPE, device="cpu")

    def make(value, dimension, steps=None):
        strides = list(torch.empty(value.shape, device="meta").stride())
        strides[dimension] = -(-FAR // (steps or value.shape[dimension] - 1) // 16) * 16
        return memory().as_strided(value.shape, strides, FAR).copy_(value)

    return make


def where(op):
    return [backends.param(name, (op, name)) for name in backends.backends(op, DTYPE) if name != "reference"]


def results(run, first, cotangent):
    first = first.requires_grad_()
    out = run(first)
    return out.detach(), torch.autograd.grad(out, first, cotangent)[0]


@pytest.mark.parametrize("dimension", [0, 1, 2])
@pytest.mark.parametrize("which", [*where("dct_linear"), *where("adaln_mlp_stack"), *where("cmlpe")])
def test_far_activations_and_gradients(spread, which, dimension):
    op, backend = which
    params = CMLPeParams.random(2, D, M, 1, 4, seed=1)
    x, e, weight = draw((B, M, D), (B, 1, 4), (M, D), seed=2)
    runs = {
        "dct_linear": lambda x: kernels.dct_linear(x, weight.float(), backend=backend),
        "adaln_mlp_stack": lambda h: kernels.adaln_mlp_stack(h, e.to(DTYPE), params, backend=backend),
        "cmlpe": lambda x: kernels.cmlpe(x, e.to(DTYPE), params, backend=backend),
    }
    x = (x.mT if op == "adaln_mlp_stack" else x).to(DTYPE).contiguous()
    (cotangent,) = draw((B, M, M) if op == "dct_linear" else tuple(x.shape), seed=3)
    cotangent = cotangent.to(DTYPE)
    near = results(runs[op], x, cotangent)
    far = results(runs[op], spread(x.detach(), dimension), spread(cotangent, dimension))
    for one, other in zip(far, near, strict=True):
        assert tolerances.error(one.float(), other.float()) < tolerances.SLACK[DTYPE]


@pytest.mark.parametrize("dimension", [0, 1, 2])
@pytest.mark.parametrize("which", where("cmlpe_generate"))
def test_far_windows_and_clips(spread, which, dimension):
    _, backend = which
    twins = [CMLPeParams.random(2, D, M, 1, 4, seed=seed) for seed in (1, 2)]
    (context,) = draw((B, 2 * M, D), seed=4)
    index = torch.arange(B).flip(0), torch.arange(B) % 2, torch.arange(B)

    def generate(context, out=None):
        return kernels.cmlpe_generate(*twins, context, *index, seed=5, out=out, backend=backend)

    near = generate(context.to(DTYPE))
    steps = M - 1 if dimension == 1 else None  # a twin sees one half of the frames
    out = spread(torch.zeros_like(near), dimension, steps)
    found = generate(spread(context.to(DTYPE), dimension, steps), out)
    assert tolerances.error(found.float(), near.float()) < tolerances.SLACK[DTYPE]
