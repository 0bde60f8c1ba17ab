"""Who computes an operation: plain PyTorch, torch.compile of it, and every backend that `dispatch.RULES` names.

A new backend is measured as soon as it has a rule there; nothing is added here. Each provider's result is compared
with the reference's before it is timed: a fast wrong answer is an error, not a record.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handcraft.kernels import dispatch, env

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Largest difference from the reference, in units of the largest number of the tensor. It only tells wrong from right;
the tests judge precision."""

LONGEST_COMPILED_LOOP = 65
"""torch.compile unrolls the plain loop of the scan; longer ones take minutes to compile."""


@dataclass(frozen=True)
class Case:
    """One measurement: a shape, computed by a provider. device: "cpu" or "cuda"."""

    op: str
    mode: str
    shape: Any
    provider: str
    device: str

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.shape.dtype)


def of_op(op: str, shape: Any, device: str, *, compiled: bool) -> list[str]:
    """Providers of one op: `reference` is eager PyTorch; then the backends that run here and serve the shape.

    The scan's `loop` is the plain loop over time that autograd records; torch.compile gets that one too.
    """
    found = ["loop"] if op == "selective_scan" else []
    found += ["reference", *_backends(op, shape, device)]
    if compiled and not (op in ("selective_scan", "mamba_block") and shape.length > LONGEST_COMPILED_LOOP):
        found.append("compile")
        if device == "cuda":
            found.append("compile_graph")
    return found


def of_model(ops: Sequence[str], device: str, *, compiled: bool) -> list[str]:
    """Providers of a whole model made of `ops`: `auto` only where it would not pick the reference throughout."""
    found = ["reference"]
    rules = (rule for rule in dispatch.RULES if rule.op in ops and rule.evidence is not None)
    if any((rule.devices is None or device in rule.devices) and env.backend(rule.backend).available for rule in rules):
        found.append("auto")
    if compiled:
        found.append("compile")
    return found


def _backends(op: str, shape: Any, device: str) -> list[str]:
    dtype = getattr(torch, shape.dtype)
    serving = (
        rule.backend
        for rule in dispatch.RULES
        if rule.op == op and rule.backend != "reference" and rule.misfit(device, dtype, shape.sizes()) is None
    )
    return [name for name in dict.fromkeys(serving) if env.backend(name).available]


def picked(case: Case) -> str:
    """The backend that `auto` takes for this case's op."""
    return dispatch.select(case.op, "auto", torch.empty(0, dtype=case.dtype, device=case.device), **case.shape.sizes())


def refuse_override() -> None:
    """ValueError where the environment forces one backend: every provider would silently be that one."""
    if os.environ.get(dispatch.VARIABLE):
        raise ValueError(f"{dispatch.VARIABLE} is set; unset it, the benchmarks choose the backends themselves")


def prepare(
    case: Case,
    op: Callable[..., Tensor],
    arguments: dict[str, Any],
    leaves: Sequence[Tensor] = (),
    plain: Callable[..., Tensor] | None = None,
) -> Callable[[], Any]:
    """The call to be timed: `op(**arguments)`, in training mode also the gradients of `leaves`.

    plain: for an op whose reference is no plain PyTorch, the function that `loop` and torch.compile take instead.
    """
    reference = functools.partial(op, backend="reference")
    if case.provider == "loop":
        function = plain
    elif case.provider.startswith("compile"):
        mode = "reduce-overhead" if case.provider == "compile_graph" else None
        function = torch.compile(plain or reference, fullgraph=True, dynamic=False, mode=mode)
    else:
        function = functools.partial(op, backend=case.provider)
    call, expected = (_call(case.mode, f, arguments, leaves) for f in (function, reference))
    if case.provider != "reference":
        truth = [tensor.clone() for tensor in expected()]  # both may write to the same buffer
        _compare(case, call(), truth)
    return call


def _call(mode: str, function: Callable[..., Tensor], arguments: dict, leaves: Sequence[Tensor]) -> Callable[[], Any]:
    if mode == "forward":
        return torch.no_grad()(lambda: (function(**arguments),))
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.no_grad():
        shape = function(**arguments)
    gradient = torch.randn(shape.shape, generator=torch.Generator().manual_seed(9)).to(shape)

    def call() -> tuple[Tensor, ...]:
        out = function(**arguments)
        return (out, *torch.autograd.grad(out, leaves, gradient))

    return call


def _compare(case: Case, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        error = (one.double() - other.double()).abs().max() / other.double().abs().max()
        if not error < TOLERANCE[case.shape.dtype]:
            raise AssertionError(
                f"{case.op} {case.mode} by {case.provider}: result {i} is off by {float(error):.2g} of its largest "
                "number; nothing is timed that computes something else"
            )


def draw(seed: int, device: str, dtype: torch.dtype = torch.float32) -> Callable[..., Tensor]:
    """A function that draws standard normal tensors of a shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)
