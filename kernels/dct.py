"""The orthonormal DCT-II matrix."""

import functools
import math

import torch
from torch import Tensor


@functools.lru_cache(maxsize=64)
def _cached(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _build(size).to(device=device, dtype=dtype)


def _build(size: int) -> Tensor:
    frame = torch.arange(size, dtype=torch.int64)
    # cos has period 2 pi: reducing (2t+1)k modulo 4T in integers keeps every entry exact to the last bits
    phase = ((2 * frame[None, :] + 1) * frame[:, None]) % (4 * size)  # (k,t)
    matrix = torch.cos(phase.to(torch.float64) * (math.pi / (2 * size))) * math.sqrt(2.0 / size)
    matrix[0] = math.sqrt(1.0 / size)
    return matrix


def dct_matrix(size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The DCT-II: C[k,t] = w_k cos(pi (t+1/2) k / T), w_0 = sqrt(1/T), else sqrt(2/T); its inverse is C'.

    Args:
        size: T, number of frames and of coefficients.
        dtype: fp32 or fp64; computed in fp64 and rounded once.
        device: where the matrix lives.

    Returns:
        (T,T) matrix, shared between callers: do not write to it.
    """
    if torch.compiler.is_compiling():  # a traced call must not capture a cached tensor of another graph
        return _build(size).to(device=device, dtype=dtype)
    with torch.inference_mode(False), torch.no_grad():
        return _cached(size, dtype, torch.device(device))
