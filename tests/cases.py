"""One case an op: random tensors by name, how to call the op with them, its oracle and its plain PyTorch form.

The shared contract of the ops (dtypes, gradients, strides, empty batches, error messages) is tested on these.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import oracles
import torch
from torch import Tensor

from handcraft import kernels
from handcraft.kernels import CMLPeParams, MambaParams

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    op: str
    make: Callable[[int], Tensors]
    """Batch size -> fp64 tensors by argument name; "params.x" is a field of params. The first is the op's first."""
    activations: tuple[str, ...]
    call: Callable[..., Tensor]
    oracle: Callable[..., np.ndarray]
    plain: Callable[..., Tensor]
    params: type | None = None
    unused: tuple[str, ...] = ()
    """Parameters that the op does not read, so that they get no gradient."""

    def arguments(self, tensors: dict) -> dict:
        """Fields "params.x" gathered into one tuple."""
        given = {name: value for name, value in tensors.items() if not name.startswith("params.")}
        if self.params is not None:
            given["p"] = self.params(*(tensors[f"params.{field}"] for field in self.params._fields))
        return given

    def run(self, tensors: Tensors, **extra) -> Tensor:
        return self.call(**self.arguments(tensors), **extra)

    def run_oracle(self, tensors: Tensors) -> np.ndarray:
        as_numpy = {name: value.detach().double().cpu().numpy() for name, value in tensors.items()}
        return self.oracle(**self.arguments(as_numpy))

    def run_plain(self, tensors: Tensors) -> Tensor:
        return self.plain(**self.arguments(tensors))

    def cast(self, tensors: Tensors, dtype: torch.dtype) -> Tensors:
        """Activations in `dtype`, parameters in fp32 (fp64 with fp64 activations)."""
        other = torch.float64 if dtype == torch.float64 else torch.float32
        return {name: value.to(dtype if name in self.activations else other) for name, value in tensors.items()}

    def differentiable(self) -> list[str]:
        return [name for name in self.make(1) if name not in self.unused]


def draw(*shapes: tuple[int, ...], seed: int) -> list[Tensor]:
    """Standard normal tensors in fp64 on the tests' device, the same numbers on each."""
    like = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64, "device": "cpu"}
    return [torch.randn(shape, **like).to(torch.get_default_device()) for shape in shapes]


def make_dct_linear(batch: int, frames: int = 7, dim: int = 13, width: int = 11) -> Tensors:
    x, weight, bias, cls, position = draw(
        (batch, frames, dim), (width, dim), (width,), (width,), (frames + 1, width), seed=1
    )
    return {"x": x, "weight": weight / dim**0.5, "bias": bias, "cls": cls, "position": position}


def make_adaln_mlp(batch: int, dim: int = 13, frames: int = 8) -> Tensors:
    shapes = [(batch, dim, frames), *[(batch, frames)] * 3, (dim,), (dim,), (frames, frames), (frames,)]
    names = ("h", "shift", "scale", "gate", "norm_weight", "norm_bias", "fc_weight", "fc_bias")
    tensors = dict(zip(names, draw(*shapes, seed=2), strict=True))
    tensors["norm_weight"] = 1 + tensors["norm_weight"] / 4
    tensors["fc_weight"] = tensors["fc_weight"] / frames**0.5
    return tensors


def cmlpe_params(
    dim: int, frames: int, blocks: int = 3, embedding: int = 5, classes: int = 4, seed: int = 0
) -> Tensors:
    params = CMLPeParams.random(classes, dim, frames, blocks, embedding, seed=seed)
    return {f"params.{field}": value.double() for field, value in zip(params._fields, params, strict=True)}


def make_stack(batch: int, dim: int = 13, frames: int = 8) -> Tensors:
    h, e = draw((batch, dim, frames), (batch, 3, 5), seed=3)
    return {"h": h, "e": e, **cmlpe_params(dim, frames)}


def make_cmlpe(batch: int, dim: int = 13, frames: int = 8) -> Tensors:
    x, e = draw((batch, frames, dim), (batch, 3, 5), seed=4)
    return {"x": x, "e": e, **cmlpe_params(dim, frames)}


def make_scan(batch: int, dim: int = 6, length: int = 9, state: int = 5) -> Tensors:
    shapes = [*[(batch, dim, length)] * 2, (dim, state), *[(batch, state, length)] * 2, (dim,), (batch, dim, length)]
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    tensors = dict(zip(names, draw(*shapes, (dim,), seed=5), strict=True))
    tensors["A"] = -tensors["A"].abs() - 0.1
    tensors["delta_bias"] = tensors["delta_bias"] / 2 - 1
    return tensors


MIXING_FORMS = ("batch", "groups", "one group", "constant")
"""Forms of the scan's B and C: (B,N,L), (B,3,N,L), (B,1,N,L), (D,N)."""


def make_scan_form(form_B: str, form_C: str, batch: int = 2, dim: int = 6, length: int = 5, state: int = 4) -> Tensors:
    """`make_scan` with B and C of these forms; dim is a multiple of 3."""
    shapes = (batch, state, length), (batch, 3, state, length), (batch, 1, state, length), (dim, state)
    forms = dict(zip(MIXING_FORMS, shapes, strict=True))
    tensors = make_scan(batch, dim, length, state)
    (tensors["B"],), (tensors["C"],) = draw(forms[form_B], seed=11), draw(forms[form_C], seed=12)
    return tensors


def make_mamba(batch: int, width: int = 6, length: int = 9) -> Tensors:
    params = MambaParams.random(width, state=5, seed=6)
    (x,) = draw((batch, length, width), seed=6)
    return {"x": x, **{f"params.{field}": value.double() for field, value in zip(params._fields, params, strict=True)}}


def make_motion(batch: int, frames: int = 6, dim: int = 14) -> Tensors:
    prediction, target = draw((batch, frames, dim), (batch, frames, dim), seed=7)
    return {"prediction": prediction, "target": target}


def seen_landmarks(batch: int, frames: int, landmarks: int) -> Tensor:
    """(B,M,J): some landmarks are missing in some frames, all of them in frame 4 of every third clip."""
    b, m, j = torch.arange(batch)[:, None, None], torch.arange(frames)[:, None], torch.arange(landmarks)
    return ((b + 2 * m + 3 * j) % 5 != 0) & ((m != 4) | (b % 3 != 1))


def _with_seen(function: Callable) -> Callable:
    """`function` with a mask for landmarks of two coordinates, which is no float tensor as the contract's are."""

    def run(prediction, target, **extra):
        seen = None
        if hasattr(prediction, "shape"):
            seen = seen_landmarks(*((1, *prediction.shape)[-3:-1]), prediction.shape[-1] // 2)
            if isinstance(prediction, np.ndarray):
                seen = seen.numpy()
        return function(prediction, target, seen, **extra)

    return run


def _scan(**arguments):
    return kernels.selective_scan(**arguments, delta_softplus=True)


OUTER = tuple(f"params.{name}" for name in ("in_weight", "in_bias", "class_embedding", "out_weight", "out_bias"))

CASES = {
    case.op: case
    for case in (
        Case(
            "dct_linear",
            make_dct_linear,
            ("x",),
            kernels.dct_linear,
            oracles.dct_linear,
            oracles.plain_dct_linear,
        ),
        Case(
            "adaln_mlp",
            make_adaln_mlp,
            ("h", "shift", "scale", "gate"),
            kernels.adaln_mlp,
            oracles.adaln_mlp,
            oracles.plain_adaln_mlp,
        ),
        Case(
            "adaln_mlp_stack",
            make_stack,
            ("h", "e"),
            lambda h, e, p, **extra: kernels.adaln_mlp_stack(h, e, p, **extra),
            oracles.adaln_mlp_stack,
            oracles.plain_adaln_mlp_stack,
            CMLPeParams,
            OUTER,
        ),
        Case(
            "cmlpe",
            make_cmlpe,
            ("x", "e"),
            lambda x, e, p, **extra: kernels.cmlpe(x, e, p, **extra),
            oracles.cmlpe,
            oracles.plain_cmlpe,
            CMLPeParams,
            ("params.class_embedding",),
        ),
        Case(
            "selective_scan",
            make_scan,
            ("u", "delta", "B", "C", "z"),
            _scan,
            lambda **arguments: oracles.selective_scan(**arguments, delta_softplus=True)[0],
            oracles.plain_selective_scan,
        ),
        Case(
            "mamba_block",
            make_mamba,
            ("x",),
            lambda x, p, **extra: kernels.mamba_block(x, p, **extra),
            oracles.mamba_block,
            oracles.plain_mamba_block,
            MambaParams,
        ),
        Case(
            "motion_norms",
            make_motion,
            ("prediction", "target"),
            _with_seen(kernels.motion_norms),
            _with_seen(oracles.motion_norms),
            _with_seen(oracles.plain_motion_norms),
        ),
    )
}
