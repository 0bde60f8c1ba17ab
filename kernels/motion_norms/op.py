"""motion_norms: the public function; its docstring is the contract."""

import torch
from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.motion_norms import cpu, reference
from handcraft.kernels.precision import autocast_first, outside_autocast
from handcraft.kernels.registration import FusedOp

OP = "motion_norms"
FUSED = FusedOp(
    OP,
    ("prediction", "target", "seen"),
    {"cpu": cpu},
    lambda prediction, *_: (prediction.new_empty(prediction.shape[0], 2, prediction.shape[1]),),
)


def motion_norms(prediction: Tensor, target: Tensor, seen: Tensor, *, backend: str = "auto") -> Tensor:
    """How far a predicted motion is off in every frame, and how far its steps from frame to frame are.

        e_m = prediction_m - target_m where the landmark is seen in frame m, else 0
        norms[:,0,m] = |e_m|
        norms[:,1,m] = |e_m - e_{m-1}| over landmarks seen in both frames; 0 for m = 0

    Args:
        prediction: (B,M,D) fp32, bf16, fp16 or fp64; D = J * coordinates.
        target: (B,M,D), the same dtypes. Where nothing is seen it may be NaN.
        seen: (B,M,J) bool.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,2,M) in the dtype of the prediction; Euclidean norms over D, summed in fp32 (fp64 if it is fp64).

    Differentiable in prediction and target; a norm of 0 has gradient 0. The fused backend takes every shape.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "prediction", prediction, prediction)
    checks.dims(OP, "prediction", prediction, "(B,M,D)")
    checks.activation(OP, "target", target, prediction)
    checks.shape(OP, "target", target, "(B,M,D)", tuple(prediction.shape))
    checks.tensor(OP, "seen", seen)
    if seen.dtype != torch.bool:
        raise TypeError(f"{OP}: seen is {seen.dtype}, expected bool")
    checks.dims(OP, "seen", seen, "(B,M,J)")
    checks.shape(OP, "seen", seen, "(B,M,J)", (*prediction.shape[:2], seen.shape[2]))
    checks.device(OP, "seen", seen, prediction)
    frames, dim = prediction.shape[1:]
    landmarks = seen.shape[2]
    if frames < 1 or landmarks < 1 or dim < 1 or dim % landmarks:
        raise ValueError(
            f"{OP}: prediction has shape {tuple(prediction.shape)} and seen {tuple(seen.shape)}, expected (B,M,D) and "
            "(B,M,J) with M >= 1 and D a multiple of J"
        )
    prediction = autocast_first(prediction)
    chosen = dispatch.select(OP, backend, prediction, M=frames, D=dim)
    with outside_autocast(prediction.device.type):
        if chosen == "reference":
            return reference.motion_norms(prediction, target, seen)
        return FUSED(chosen, prediction, target, seen)[0]
