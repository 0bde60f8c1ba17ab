"""adaln_mlp_stack in Triton: launchers; see `kernel` for the kernels and `op.adaln_mlp_stack` for the contract."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels.adaln_mlp.kernel import run_backward, run_forward
from handcraft.kernels.triton_support import AOT_SIZES, AotCase, meta


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


KERNELS = ("adaln_forward_kernel", "adaln_streamed_kernel", "adaln_backward_kernel")


def _aot_case(name: str, dtype: torch.dtype, dim: int, frames: int, common: bool) -> AotCase:
    """Both passes of six blocks."""

    def run() -> None:
        h, e = meta(64, dim, frames, dtype=dtype), meta(64, 6, 32, dtype=dtype)
        modulation = (meta(6, 3 * frames, 32), meta(6, 3 * frames))
        block = (meta(6, dim), meta(6, dim), meta(6, frames, frames), meta(6, frames))
        forward(h, e, *modulation, *block)
        backward((True,) * 8, h, h, e, *modulation, *block)

    return AotCase(f"adaln_mlp_stack {name}", run, dict.fromkeys(KERNELS, "any"), common)


AOT_CASES = tuple(_aot_case(*size) for size in AOT_SIZES)
