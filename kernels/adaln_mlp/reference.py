"""adaln_mlp and its stack in plain PyTorch.

Inside, activations lie coefficient first, (M,B,D): LayerNorm then runs over contiguous rows and the map over
coefficients is one (M,M) x (M, B*D) product for the whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import compute_dtype

EPS = 1e-5


def block(
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
) -> Tensor:
    """One block on h (M,B,D) contiguous with shift, scale, gate (M,B,1), all of one dtype -> (M,B,D)."""
    frames, batch, dim = h.shape
    n = F.layer_norm(h, (dim,), norm_weight, norm_bias, EPS)
    n = torch.addcmul(shift, n, 1 + scale)
    y = torch.addmm(fc_bias[:, None], fc_weight, n.reshape(frames, batch * dim))
    return torch.addcmul(h, gate, y.view(frames, batch, dim))


def modulation(e: Tensor, mod_weight: Tensor, mod_bias: Tensor) -> Tensor:
    """SiLU(e_k) A_k' + a_k for all blocks: e (B,K,E) -> (K,3,M,B,1) contiguous, in the order shift, scale, gate."""
    blocks, rows, _ = mod_weight.shape
    active = F.silu(e).permute(1, 2, 0)  # (K,E,B)
    value = torch.baddbmm(mod_bias[..., None], mod_weight, active)  # (K,3M,B)
    return value.reshape(blocks, 3, rows // 3, e.shape[0], 1)


def stack(h: Tensor, e: Tensor, params: CMLPeParams) -> Tensor:
    """K blocks on h (M,B,D) with e (B,K,E), all of one dtype -> (M,B,D)."""
    mod = modulation(e, params.mod_weight, params.mod_bias)
    for k in range(mod.shape[0]):
        h = block(
            h,
            *mod[k].unbind(),
            params.norm_weight[k],
            params.norm_bias[k],
            params.fc_weight[k],
            params.fc_bias[k],
        )
    return h


def adaln_mlp(h: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, *parameters: Tensor) -> Tensor:
    """See `op.adaln_mlp`; the arguments are checked there."""
    dtype = compute_dtype(h)
    rows = (value.to(dtype).t().unsqueeze(-1) for value in (shift, scale, gate))  # (M,B,1)
    first = h.to(dtype).permute(2, 0, 1).contiguous()
    out = block(first, *rows, *(p.to(dtype) for p in parameters))
    return out.permute(1, 2, 0).to(h.dtype).contiguous()


def adaln_mlp_stack(h: Tensor, e: Tensor, params: CMLPeParams) -> Tensor:
    """See `op.adaln_mlp_stack`; the arguments are checked there."""
    dtype = compute_dtype(h)
    params = CMLPeParams(*(p.to(dtype) for p in params))
    out = stack(h.to(dtype).permute(2, 0, 1).contiguous(), e.to(dtype), params)
    return out.permute(1, 2, 0).to(h.dtype).contiguous()
