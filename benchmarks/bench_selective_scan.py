"""The selective scan, with D, z, bias and softplus as a Mamba block calls it."""

import pytest
import torch
import torch.nn.functional as F
from providers import Case, draw, prepare
from torch import Tensor

from handcraft.kernels import selective_scan


def loop(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor, **_: bool
) -> Tensor:
    """The baseline: the definition as a loop over time that autograd records, softplus on, in fp32.

    What does not depend on the previous state is computed for all steps at once, as everybody does.
    """
    dtype, (u, delta, B, C, z) = u.dtype, (value.float() for value in (u, delta, B, C, z))
    delta = F.softplus(delta + delta_bias[:, None])  # (B,D,L)
    decay = torch.exp(delta[..., None] * A[:, None])  # (B,D,L,N)
    drive = (delta * u)[..., None] * B.transpose(1, 2)[:, None]  # (B,D,L,N)
    state = torch.zeros_like(decay[:, :, 0])  # (B,D,N)
    rows = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        rows.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    y = torch.stack(rows, dim=2) + D[:, None] * u
    return (y * F.silu(z)).to(dtype)


def setup(case: Case):
    shape = case.shape
    normal = draw(7, case.device)
    channels = (shape.batch, shape.dim, shape.length)
    u, delta, z = (normal(*channels).to(case.dtype) for _ in range(3))
    B, C = (normal(shape.batch, shape.state, shape.length).to(case.dtype) for _ in range(2))
    A = -torch.exp(normal(shape.dim, shape.state) / 4) * torch.arange(1, shape.state + 1, device=case.device)
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": normal(shape.dim), "z": z}
    tensors["delta_bias"] = normal(shape.dim) / 2 - 1
    arguments = {**tensors, "delta_softplus": True}
    return prepare(case, selective_scan, arguments, list(tensors.values()), plain=loop)


@pytest.mark.cases("selective_scan forward")
def bench_forward(case, measure):
    measure(setup(case))


@pytest.mark.cases("selective_scan training")
def bench_training(case, measure):
    measure(setup(case))
