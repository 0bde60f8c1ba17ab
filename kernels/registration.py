"""One differentiable, compilable operation from the forward and backward pass that each fused backend has.

A launcher is a module (`kernels/<op>/cpu.py`, ...) with two plain functions, called where no gradient is recorded:

    forward(*tensors, *options)                                   -> tuple: the outputs, then the residuals
    backward(needed, *gradients, *residuals, *tensors, *options)  -> sequence: for each tensor its gradient

`gradients` are those of the outputs; with several outputs each of them may be None, but not all. `needed` has a bool
for each tensor: what is returned for the others does not matter. Gradients may have any float dtype. Residuals are what
the forward pass keeps beside the tensors, which are kept anyway; they are no outputs and have no gradient.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from handcraft.kernels.precision import outside_autocast

NAMESPACE = "handcraft"


class Lazy:
    """A launcher imported when it is first used, since it needs a package that may be absent (Triton).

    Args:
        name: of the module, e.g. "handcraft.kernels.dct_linear.kernel".
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)  # from now on it is found without a call
        return found


def _apart(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients, each with memory of its own: autograd keeps them as `.grad`, which optimizers change in place."""
    taken: set[int] = set()
    for i, gradient in enumerate(gradients):
        memory = gradient.untyped_storage().data_ptr()
        if memory in taken:
            gradients[i] = gradient.clone()
        taken.add(memory)
    return gradients


class FusedOp:
    """An op computed by launchers: call it with the name of a backend, then its tensors and options in order.

    Eager calls go to the launcher through an autograd function, or directly where no gradient is recorded: PyTorch's
    dispatcher costs more than a small kernel. While torch.compile traces, the same launchers are called through the
    registered operations handcraft::<name>_forward and handcraft::<name>_backward.

    Args:
        name: of the op, e.g. "adaln_mlp".
        tensors: names of the tensor arguments; one that ends with "?" may be None.
        launchers: launchers by name of the backend.
        fake: as a launcher's `forward`, but returns empty tensors (for the tracer).
        options: the arguments after the tensors, as a schema writes them, e.g. "bool delta_softplus".
        outputs: number of outputs.
        residuals: number of residuals.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[str],
        launchers: Mapping[str, ModuleType | Lazy],
        fake: Callable[..., tuple[Tensor, ...]],
        *,
        options: Sequence[str] = (),
        outputs: int = 1,
        residuals: int = 0,
    ) -> None:
        self.launchers = launchers
        self.count = len(tensors)
        self.outputs = outputs
        self.residuals = residuals
        self._function = self._make_function(name)
        self.registered_forward, self.registered_backward = self._register(name, tensors, fake, options)

    def __call__(self, backend: str, *arguments: Any) -> tuple[Tensor, ...]:
        """The outputs, a tuple even if there is one."""
        if torch.compiler.is_compiling():
            results = self.registered_forward(backend, *arguments)
            return (results,) if isinstance(results, Tensor) else results[: self.outputs]
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments[: self.count]):
            return self._function.apply(backend, *arguments)
        return self.launchers[backend].forward(*arguments)[: self.outputs]

    def _keep(self, ctx, backend: str, arguments: Sequence[Any], results: Sequence[Tensor]) -> None:
        ctx.backend, ctx.options = backend, arguments[self.count :]
        ctx.save_for_backward(*results[self.outputs :], *arguments[: self.count])
        ctx.set_materialize_grads(False)

    def _gradients(self, backend: str, needed: Sequence[bool], *kept: Any) -> list[Tensor]:
        """The needed gradients alone, contiguous, in their tensors' dtypes; `kept` as `backward` takes it."""
        start = self.outputs + self.residuals
        tensors = kept[start : start + self.count]
        with outside_autocast(tensors[0].device.type):
            found = self.launchers[backend].backward(tuple(needed), *kept)
        wanted = zip(needed, found, tensors, strict=True)
        return _apart([gradient.to(tensor.dtype).contiguous() for need, gradient, tensor in wanted if need])

    def _backward(self, compute: Callable[..., Sequence[Tensor]], ctx, gradients: Sequence[Tensor | None]) -> tuple:
        """What autograd wants: an entry for the backend, for each tensor and for each option."""
        needed = list(ctx.needs_input_grad[1 : 1 + self.count])
        if all(gradient is None for gradient in gradients):
            return (None,) * (1 + self.count + len(ctx.options))
        found = iter(compute(ctx.backend, needed, *gradients, *ctx.saved_tensors, *ctx.options))
        return (None, *(next(found) if need else None for need in needed), *(None for _ in ctx.options))

    def _make_function(self, name: str) -> type[torch.autograd.Function]:
        def forward(ctx, backend: str, *arguments: Any) -> tuple[Tensor, ...]:
            results = self.launchers[backend].forward(*arguments)
            self._keep(ctx, backend, arguments, results)
            return results[: self.outputs]

        @once_differentiable
        def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            return self._backward(self._gradients, ctx, gradients)

        passes = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        return type(name, (torch.autograd.Function,), passes)

    def _register(
        self, name: str, tensors: Sequence[str], fake: Callable[..., tuple[Tensor, ...]], options: Sequence[str]
    ) -> tuple[Callable, Callable]:
        written = [f"Tensor? {t[:-1]}" if t.endswith("?") else f"Tensor {t}" for t in tensors]
        arguments = ", ".join([*written, *options])
        results = self.outputs + self.residuals
        gradients = "".join(f"Tensor? gradient{i}, " for i in range(self.outputs))
        residuals = "".join(f"Tensor residual{i}, " for i in range(self.residuals))

        def single(found: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            return found[0] if results == 1 else found

        def run_forward(backend: str, *given: Any) -> Tensor | tuple[Tensor, ...]:
            return single(tuple(self.launchers[backend].forward(*given)))

        forward = torch.library.custom_op(
            f"{NAMESPACE}::{name}_forward",
            run_forward,
            mutates_args=(),
            schema=f"(str backend, {arguments}) -> ({', '.join(['Tensor'] * results)})",
        )
        backward = torch.library.custom_op(
            f"{NAMESPACE}::{name}_backward",
            self._gradients,
            mutates_args=(),
            schema=f"(str backend, bool[] needed, {gradients}{residuals}{arguments}) -> Tensor[]",
        )
        forward.register_fake(lambda backend, *given: single(fake(*given)))

        def fake_backward(backend: str, needed: Sequence[bool], *kept: Any) -> list[Tensor]:
            given = kept[results : results + self.count]
            return [tensor.new_empty(tensor.shape) for need, tensor in zip(needed, given, strict=True) if need]

        backward.register_fake(fake_backward)

        def keep(ctx, inputs: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            self._keep(ctx, inputs[0], inputs[1:], (output,) if results == 1 else output)

        forward.register_autograd(
            lambda ctx, *given: self._backward(backward, ctx, given[: self.outputs]), setup_context=keep
        )
        return forward, backward
