"""Thin modules around the functions: parameters, their initialisation, and one call."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handcraft.kernels import checks
from handcraft.kernels.cmlpe.op import cmlpe
from handcraft.kernels.dct_linear.op import dct_linear
from handcraft.kernels.mamba_block.op import mamba_block
from handcraft.kernels.params import CMLPeParams, MambaParams

TINY_GAIN = 1e-8
"""Xavier gain of F_k and W_out: a new generator repeats the last frame, yet gradients reach every parameter."""


class DCTLinear(nn.Module):
    """`dct_linear` with its own parameters: x (B,T,D) -> (B,T+1,H) with [CLS], (B,T,H) without.

    Args:
        dim: D.
        width: H.
        bias: whether the embedding has a bias.
        cls: where [CLS] goes, "first" or "last"; None: no [CLS].
        position: number of frames T if positions are learned (then T is fixed), None without positions.
        transform: "dct" or "none".
        backend: as in `dct_linear`.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        bias: bool = True,
        cls: Literal["first", "last"] | None = None,
        position: int | None = None,
        transform: Literal["dct", "none"] = "dct",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if cls not in (None, "first", "last"):
            raise ValueError(f'DCTLinear: cls is {cls!r}, expected "first", "last" or None')
        self.cls_at = cls
        self.transform = transform
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(width, dim))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.cls = nn.Parameter(torch.empty(width)) if cls is not None else None
        rows = None if position is None else position + (cls is not None)
        self.position = nn.Parameter(torch.empty(rows, width)) if rows is not None else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias as in `nn.Linear`; [CLS] and positions normal with standard deviation 0.02."""
        _linear(self.weight, self.bias)
        for row in (self.cls, self.position):
            if row is not None:
                nn.init.normal_(row, std=0.02)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B,T,D) -> tokens; lengths (B,) only with transform="none"."""
        return dct_linear(
            x,
            self.weight,
            self.bias,
            cls=self.cls,
            position=self.position,
            cls_at=self.cls_at or "first",
            transform=self.transform,
            lengths=lengths,
            backend=self.backend,
        )


class MambaBlock(nn.Module):
    """`mamba_block` with its own parameters, named, shaped and initialised as in `mamba_ssm.Mamba`: (B,L,H) -> (B,L,H).

    Args:
        width: H.
        state: N.
        conv: width of the causal convolution.
        expand: I / H.
        backend: as in `mamba_block`.
    """

    def __init__(self, width: int, state: int = 16, conv: int = 4, expand: int = 2, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        inner = expand * width
        rank = math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, state))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        # mamba-ssm marks these three so that optimisers can leave weight decay out
        self.A_log._no_weight_decay = True
        self.D._no_weight_decay = True
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As mamba-ssm: A = -(1..N), D = 1, and a step bias whose softplus is log-uniform in [1e-3, 0.1]."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            layer.reset_parameters()
        rank = self.dt_proj.in_features
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
            low, high = math.log(1e-3), math.log(0.1)
            step = torch.exp(torch.rand_like(self.dt_proj.bias) * (high - low) + low).clamp(min=1e-4)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
            self.A_log.copy_(torch.log(torch.arange(1, self.A_log.shape[1] + 1, dtype=torch.float32)))
            self.D.fill_(1.0)

    def params(self) -> MambaParams:
        """The parameters as the tuple that `mamba_block` takes."""
        return MambaParams(
            in_proj_weight=self.in_proj.weight,
            conv1d_weight=self.conv1d.weight,
            conv1d_bias=self.conv1d.bias,
            x_proj_weight=self.x_proj.weight,
            dt_proj_weight=self.dt_proj.weight,
            dt_proj_bias=self.dt_proj.bias,
            A_log=self.A_log,
            D=self.D,
            out_proj_weight=self.out_proj.weight,
        )

    def forward(self, x: Tensor, at: Tensor | None = None, norm: Tensor | None = None) -> Tensor:
        """x (B,L,H) -> (B,L,H); with at (B,) only row at[b] of each sequence, (B,H). norm: as in `mamba_block`."""
        return mamba_block(x, self.params(), at=at, norm=norm, backend=self.backend)


class CMLPe(nn.Module):
    """The generator: `cmlpe` with its own parameters, which carry the names of `CMLPeParams`.

    Args:
        classes: number of classes.
        dim: D = landmarks x coordinates.
        context: M frames in and out.
        blocks: K.
        embedding: E.
        adaln_zero: start with shift, scale and gate at zero instead of tiny F_k.
        backend: as in `cmlpe`.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        context: int = 16,
        blocks: int = 6,
        embedding: int = 32,
        adaln_zero: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.adaln_zero = adaln_zero
        self.backend = backend
        sizes = {
            "in_weight": (dim, dim),
            "in_bias": (dim,),
            "class_embedding": (classes, embedding),
            "mod_weight": (blocks, 3 * context, embedding),
            "mod_bias": (blocks, 3 * context),
            "norm_weight": (blocks, dim),
            "norm_bias": (blocks, dim),
            "fc_weight": (blocks, context, context),
            "fc_bias": (blocks, context),
            "out_weight": (dim, dim),
            "out_bias": (dim,),
        }
        for name in CMLPeParams._fields:
            setattr(self, name, nn.Parameter(torch.empty(sizes[name])))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As docs/method.md says: the model starts as "repeat the last frame"."""
        _linear(self.in_weight, self.in_bias)
        nn.init.normal_(self.class_embedding)
        for k in range(self.mod_weight.shape[0]):
            _linear(self.mod_weight[k], self.mod_bias[k])
            nn.init.xavier_uniform_(self.fc_weight[k], gain=1.0 if self.adaln_zero else TINY_GAIN)
        if self.adaln_zero:
            nn.init.zeros_(self.mod_weight)
            nn.init.zeros_(self.mod_bias)
        nn.init.ones_(self.norm_weight)
        nn.init.xavier_uniform_(self.out_weight, gain=TINY_GAIN)
        for bias in (self.norm_bias, self.fc_bias, self.out_bias):
            nn.init.zeros_(bias)

    def params(self) -> CMLPeParams:
        """The parameters as the tuple that `cmlpe` and `cmlpe_generate` take."""
        return CMLPeParams(*(getattr(self, name) for name in CMLPeParams._fields))

    def forward(self, x: Tensor, label: Tensor, eps: Tensor | None = None) -> Tensor:
        """The next M frames.

        Args:
            x: (B,M,D) standardised context.
            label: (B,) int64 in [0, classes).
            eps: (B,K,E) noise, already scaled; None: no noise.

        Returns:
            (B,M,D) in the dtype of x.

        Raises:
            TypeError, ValueError: an argument that is not as named here.
        """
        checks.index("CMLPe", "label", label, "(B,)", (x.shape[0],), x, self.class_embedding.shape[0])
        # not class_embedding[label]: the backward pass of indexing adds up in any order on several threads
        e = F.embedding(label, self.class_embedding)[:, None].expand(-1, self.mod_weight.shape[0], -1)  # (B,K,E)
        if eps is not None:
            e = e + eps
        return cmlpe(x, e, self.params(), backend=self.backend)


def _linear(weight: Tensor, bias: Tensor | None) -> None:
    """Initialise as `nn.Linear` does: both uniform within 1/sqrt(fan_in)."""
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)
