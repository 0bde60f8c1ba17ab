"""adaln_mlp_stack in Triton: launchers; see `kernel` for the kernels and `op.adaln_mlp_stack` for the contract."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels.adaln_mlp.kernel import run_backward, run_forward
from handcraft.kernels.triton_support import AotCase


def forward(h: Tensor, e: Tensor, mod_weight: Tensor, mod_bias: Tensor, *block: Tensor) -> tuple[Tensor]:
    """`block`: norm_weight, norm_bias, fc_weight, fc_bias."""
    return (run_forward(h, e, (mod_weight, mod_bias), *block),)


def backward(
    needed: Sequence[bool], dout: Tensor, h: Tensor, e: Tensor, mod_weight: Tensor, mod_bias: Tensor, *block: Tensor
) -> tuple[Tensor, ...]:
    """Arguments as in `forward`; every gradient is computed."""
    dh, dmod, *parameters = run_backward(dout, h, e, (mod_weight, mod_bias), *block)
    return (dh, *modulation_backward(dmod, e, mod_weight), *parameters)


def modulation_backward(dmod: Tensor, e: Tensor, mod_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of e, mod_weight and mod_bias from those of the modulation, dmod (B,K,3M): sums over the batch.

    They are products of matrices of one size for all blocks, in fp32 as PyTorch computes it: left to its library.
    """
    wide = e.float()
    active, sigmoid = F.silu(wide), torch.sigmoid(wide)
    rows = dmod.transpose(0, 1)  # (K,B,3M)
    dactive = torch.bmm(rows, mod_weight).transpose(0, 1)  # (B,K,E)
    de = dactive * (sigmoid + active * (1 - sigmoid))
    return de, torch.bmm(rows.mT, active.transpose(0, 1)), dmod.sum(0)


def _aot_case(name: str, dtype: torch.dtype, dim: int, frames: int, blocks: int = 6) -> AotCase:
    """The forward pass; the backward pass still spills a little (docs/kernels.md)."""

    def run() -> None:
        def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        h, e = make(64, dim, frames, dtype=dtype), make(64, blocks, 32, dtype=dtype)
        modulation = (make(blocks, 3 * frames, 32), make(blocks, 3 * frames))
        block = (make(blocks, dim), make(blocks, dim), make(blocks, frames, frames), make(blocks, frames))
        forward(h, e, *modulation, *block)

    return AotCase(f"adaln_mlp_stack {name} forward", run)


AOT_CASES = (
    _aot_case("bf16 D180 M16", torch.bfloat16, 180, 16),
    _aot_case("fp16 D144 M16", torch.float16, 144, 16),
    _aot_case("fp32 D180 M16", torch.float32, 180, 16),
)
