"""Parameter tuples: field names are also the state-dict names of the modules and checkpoints."""

from typing import NamedTuple

import torch
from torch import Tensor


class CMLPeParams(NamedTuple):
    """Parameters of the CMLPe generator; D = landmarks x coordinates, M frames, K blocks, E embedding size."""

    in_weight: Tensor  # (D,D)
    in_bias: Tensor  # (D,)
    class_embedding: Tensor  # (classes,E)
    mod_weight: Tensor  # (K,3M,E), rows in the order shift, scale, gate
    mod_bias: Tensor  # (K,3M)
    norm_weight: Tensor  # (K,D)
    norm_bias: Tensor  # (K,D)
    fc_weight: Tensor  # (K,M,M)
    fc_bias: Tensor  # (K,M)
    out_weight: Tensor  # (D,D)
    out_bias: Tensor  # (D,)

    @classmethod
    def random(
        cls, classes: int, dim: int, context: int = 16, blocks: int = 6, embedding: int = 32, *, seed: int = 0
    ) -> "CMLPeParams":
        """Draw non-degenerate fp32 weights, O(1/sqrt(fan-in)), for tests, self-checks and benchmarks.

        The trained start of CMLPe is degenerate (it repeats the last frame), so nothing may be compared on it.
        """
        draw = _Draw(seed)
        return cls(
            in_weight=draw(dim, dim, fan_in=dim),
            in_bias=draw(dim, fan_in=4),
            class_embedding=draw(classes, embedding),
            mod_weight=draw(blocks, 3 * context, embedding, fan_in=embedding),
            mod_bias=draw(blocks, 3 * context, fan_in=4),
            norm_weight=1 + draw(blocks, dim, fan_in=16),
            norm_bias=draw(blocks, dim, fan_in=16),
            fc_weight=draw(blocks, context, context, fan_in=context),
            fc_bias=draw(blocks, context, fan_in=4),
            out_weight=draw(dim, dim, fan_in=dim),
            out_bias=draw(dim, fan_in=4),
        )


class MambaParams(NamedTuple):
    """Parameters of one Mamba-1 block as in `mamba_ssm.Mamba`; H width, I inner width, N state, R rank of the step."""

    in_proj_weight: Tensor  # (2I,H)
    conv1d_weight: Tensor  # (I,1,conv)
    conv1d_bias: Tensor  # (I,)
    x_proj_weight: Tensor  # (R+2N,I)
    dt_proj_weight: Tensor  # (I,R)
    dt_proj_bias: Tensor  # (I,)
    A_log: Tensor  # (I,N)
    D: Tensor  # (I,)
    out_proj_weight: Tensor  # (H,I)

    @classmethod
    def random(
        cls, width: int, state: int = 16, conv: int = 4, expand: int = 2, rank: int | None = None, *, seed: int = 0
    ) -> "MambaParams":
        """Draw non-degenerate fp32 weights, O(1/sqrt(fan-in)), for tests, self-checks and benchmarks."""
        draw = _Draw(seed)
        inner = expand * width
        rank = -(-width // 16) if rank is None else rank
        return cls(
            in_proj_weight=draw(2 * inner, width, fan_in=width),
            conv1d_weight=draw(inner, 1, conv, fan_in=conv),
            conv1d_bias=draw(inner, fan_in=4),
            x_proj_weight=draw(rank + 2 * state, inner, fan_in=inner),
            dt_proj_weight=draw(inner, rank, fan_in=rank),
            dt_proj_bias=draw(inner, fan_in=4) - 1,
            A_log=torch.log(torch.arange(1, state + 1, dtype=torch.float32)) + draw(inner, state, fan_in=16),
            D=1 + draw(inner, fan_in=4),
            out_proj_weight=draw(width, inner, fan_in=inner),
        )


class _Draw:
    """Normal tensors of one seeded generator, divided by sqrt(fan_in): the same numbers on whichever default device."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, *shape: int, fan_in: int = 1) -> Tensor:
        numbers = torch.randn(*shape, generator=self.generator, device="cpu") / fan_in**0.5
        return numbers.to(torch.get_default_device())
