"""The scan's arguments as its kernels take them: what the fields of csrc/selective_scan/params.h are filled with."""

from typing import NamedTuple

from torch import Tensor

from handcraft.kernels.precision import compute_dtype


class Inputs(NamedTuple):
    """Activations of one dtype; A, D and delta_bias contiguous in what is computed in."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool


class Gradients(NamedTuple):
    """One for each tensor of `Inputs`, of the same shape and dtype; None where that is None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None


def prepare(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Inputs:
    """The public function's arguments; activations of several dtypes are all taken in what u is computed in."""
    activations = [x for x in (u, delta, B, C, z) if x is not None]
    dtype = u.dtype if all(x.dtype == u.dtype for x in activations) else compute_dtype(u)

    def parameter(x: Tensor | None) -> Tensor | None:
        return x if x is None else x.to(compute_dtype(u)).contiguous()

    u, delta, B, C = (x.to(dtype) for x in (u, delta, B, C))
    gate = z if z is None else z.to(dtype)
    return Inputs(u, delta, parameter(A), B, C, parameter(D), gate, parameter(delta_bias), delta_softplus)


def last_shape(u: Tensor, A: Tensor, return_last_state: bool) -> tuple[int, ...]:
    """Shape of the second output."""
    return (*u.shape[:2], A.shape[1]) if return_last_state else (0,)


def finest_groups(inputs: Inputs) -> int:
    """Groups of channels that share both B and C; 1 if both are constant."""
    return max(groups_of(inputs.B), groups_of(inputs.C), 1)


def groups_of(x: Tensor) -> int:
    """Of B or C; 0 if constant."""
    return (0, 1, x.shape[1])[x.dim() - 2]


def fields(inputs: Inputs) -> dict[str, Tensor | int | None]:
    """Those of HANDCRAFT_SCAN_INPUTS."""
    batch, dim, length = inputs.u.shape
    return {
        "batch": batch,
        "dim": dim,
        "length": length,
        "state": inputs.A.shape[1],
        "groups_B": groups_of(inputs.B),
        "groups_C": groups_of(inputs.C),
        "delta_softplus": int(inputs.delta_softplus),
        **channels("u", inputs.u),
        **channels("delta", inputs.delta),
        "A": inputs.A,
        **mixing("B", inputs.B),
        **mixing("C", inputs.C),
        "D": inputs.D,
        **channels("z", inputs.z),
        "delta_bias": inputs.delta_bias,
    }


def channels(name: str, x: Tensor | None) -> dict[str, Tensor | int | None]:
    """Fields of a (B,D,L) tensor and its strides."""
    strides = (0, 0, 0) if x is None else x.stride()
    return {name: x, **{f"{name}_{letter}": stride for letter, stride in zip("bdl", strides, strict=True)}}


def mixing(name: str, x: Tensor) -> dict[str, Tensor | int]:
    """Fields of B, C or their gradients: strides of sequence, group (channel if constant), state and step."""
    strides = x.stride()
    if x.dim() == 2:
        strides = (0, *strides, 0)
    elif x.dim() == 3:
        strides = (strides[0], 0, *strides[1:])
    return {name: x, **{f"{name}_{letter}": stride for letter, stride in zip("bgnl", strides, strict=True)}}
