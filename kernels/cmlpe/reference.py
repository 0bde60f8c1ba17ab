"""cmlpe and cmlpe_generate in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels import philox
from handcraft.kernels.adaln_mlp import reference as adaln
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import compute_dtype

CHUNK = {"cpu": 64}
CHUNK_ELSEWHERE = 4096
"""Clips a pass of `cmlpe_generate`, by device type. Every pass has exactly this many, the last one padded: a product's
rounding may depend on its shape, so equal shapes are what makes the bytes of a clip independent of the batch around
it. 64 keep the activations in a CPU's cache; a GPU wants thousands in flight."""


def cmlpe(x: Tensor, e: Tensor, params: CMLPeParams) -> Tensor:
    """See `op.cmlpe`; the arguments are checked there."""
    dtype = compute_dtype(x)
    params = CMLPeParams(*(p.to(dtype) for p in params))
    out = forward(x.to(dtype).transpose(0, 1), e.to(dtype), params)
    return out.transpose(0, 1).to(x.dtype).contiguous()


def forward(x: Tensor, e: Tensor, params: CMLPeParams) -> Tensor:
    """The whole generator on x (M,B,D) with e (B,K,E), all of one dtype -> (M,B,D)."""
    frames, batch, dim = x.shape
    matrix = dct_matrix(frames, x.dtype, x.device)
    coefficient = torch.mm(matrix, x.reshape(frames, batch * dim)).view(frames, batch, dim)
    h = F.linear(coefficient, params.in_weight, params.in_bias)
    h = adaln.stack(h, e, params)
    out = F.linear(h, params.out_weight, params.out_bias).reshape(frames, batch * dim)
    return torch.mm(matrix.t(), out).view(frames, batch, dim) + x[-1:]


def cmlpe_generate(
    params: CMLPeParams,
    reverse_params: CMLPeParams | None,
    context: Tensor,
    row: Tensor,
    label: Tensor,
    clip_id: Tensor,
    seed: int,
    noise: float,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor,
) -> None:
    """See `generate.cmlpe_generate`; the arguments are checked there. Fills `out`."""
    dtype = compute_dtype(context)
    frames = params.fc_weight.shape[1]
    params = CMLPeParams(*(p.to(dtype) for p in params))
    if reverse_params is not None:
        reverse_params = CMLPeParams(*(p.to(dtype) for p in reverse_params))
    shift = None if mean is None else mean.to(dtype)
    factor = None if std is None else std.to(dtype)
    chunk = CHUNK.get(context.device.type, CHUNK_ELSEWHERE)
    for start in range(0, row.shape[0], chunk):
        part = slice(start, start + chunk)
        count = row[part].shape[0]
        ids, labels = _padded(clip_id[part], chunk), _padded(label[part], chunk)
        window = context.index_select(0, _padded(row[part], chunk)).to(dtype).transpose(0, 1)  # (W,chunk,D)
        if shift is not None:
            window = window - shift
        if factor is not None:
            window = window / factor
        window = torch.nan_to_num(window, nan=0.0, posinf=float("inf"), neginf=float("-inf"))
        ahead = _twin(window[:frames], ids, labels, params, philox.STREAM_FORWARD, seed, noise)
        if reverse_params is None:
            clip = ahead
        else:
            back = window[frames:].flip(0)
            back = _twin(back, ids, labels, reverse_params, philox.STREAM_REVERSED, seed, noise)
            clip = torch.cat((back.flip(0), ahead))
        if factor is not None:
            clip = clip * factor
        if shift is not None:
            clip = clip + shift
        out[part].copy_(clip[:, :count].transpose(0, 1))


def _twin(
    x: Tensor, clip_id: Tensor, label: Tensor, params: CMLPeParams, stream: int, seed: int, noise: float
) -> Tensor:
    """One generator with its own noise: x (M,chunk,D) -> (M,chunk,D)."""
    blocks, _, embedding = params.mod_weight.shape
    e = params.class_embedding.index_select(0, label)[:, None]  # (chunk,1,E)
    eps = philox.normal(seed, clip_id, stream, blocks, embedding).to(x.dtype)  # (chunk,K,E)
    return forward(x, e + noise * eps, params)


def _padded(index: Tensor, size: int) -> Tensor:
    """(n,) -> (size,): the first entry, which is a legal index, fills the rest."""
    if index.shape[0] == size:
        return index
    return torch.cat((index, index[:1].expand(size - index.shape[0])))
