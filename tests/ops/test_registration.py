"""FusedOp: launchers become one differentiable operation, eager and compiled, with optional tensors and residuals."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from handcraft.kernels.registration import FusedOp

SEEN = []


def forward(a, b, c, double):
    """y = a b (+ c), times 2 if double, in the dtype of a; row sums in fp32; residual: 3 a."""
    SEEN.append(torch.is_grad_enabled())
    y = a.float() * b.float() * (2 if double else 1)
    y = y if c is None else y + c
    return y.to(a.dtype), y.sum(1), 3 * a.float()


def backward(needed, dy, dsum, triple, a, b, c, double):
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(triple, 3 * a.float())
    total = torch.zeros(a.shape) if dy is None else dy.float()
    total = total if dsum is None else total + dsum[:, None]
    factor = 2 if double else 1
    return total * b.float() * factor if needed[0] else None, total * a.float() * factor, total


def fake(a, b, c, double):
    single = a.new_empty(a.shape, dtype=torch.float32)
    return a.new_empty(a.shape), single.new_empty(a.shape[0]), single


OP = FusedOp(
    "registration_test",
    ("a", "b", "c?"),
    {"cpu": SimpleNamespace(forward=forward, backward=backward)},
    fake,
    options=("bool double",),
    outputs=2,
    residuals=1,
)


def inputs():
    a, b, c = (torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    return a.bfloat16().requires_grad_(), b.requires_grad_(), c.requires_grad_()


def both(a, b, c):
    y, total = OP("cpu", a, b, c, True)
    return y.float().sin().sum() + total.cos().sum()


def without_c(a, b, c):
    return OP("cpu", a, b, None, False)[0].float().sin().sum()


def expected(function, a, b, c):
    double = function is both
    y = a.float() * b * (2 if double else 1) + (c if double else 0)
    # the rounding of y to bf16 passes its gradient on unchanged
    loss = (y + (y.bfloat16().float() - y).detach()).sin().sum()
    return loss + y.sum(1).cos().sum() if double else loss


@pytest.mark.parametrize("function", [both, without_c])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients(function, compiled):
    torch.compiler.reset()
    values = inputs()
    wanted = values if function is both else values[:2]
    run = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True) if compiled else function
    found = torch.autograd.grad(run(*values), wanted)
    truth = torch.autograd.grad(expected(function, *values), wanted)
    for one, other, value in zip(found, truth, wanted, strict=True):
        assert one.dtype == value.dtype
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_only_what_is_needed_is_computed_and_each_output_may_go_unused():
    a, b, c = inputs()
    only_b = torch.autograd.grad(OP("cpu", a.detach(), b, None, True)[1].sum(), b)[0]
    torch.testing.assert_close(only_b, 2 * a.detach().float())
    assert torch.autograd.grad(OP("cpu", a, b, c, True)[0].sum(), [a, b, c])[0].dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.autograd.grad(OP("cpu", a, b, c, True)[1].sum(), c)


def test_no_function_where_no_gradient_is_recorded():
    a, b, c = inputs()
    with torch.no_grad():
        assert not any(result.requires_grad for result in OP("cpu", a, b, c, False))
    assert OP("cpu", a.detach(), b.detach(), None, False)[0].grad_fn is None
    assert OP("cpu", a, b.detach(), None, False)[0].grad_fn is not None
    SEEN.clear()
    OP("cpu", a, b, c, True)
    assert SEEN == [False]


class Dispatched(TorchDispatchMode):
    """Names of our operations that reach PyTorch's dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "handcraft":
            self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_eager_calls_bypass_the_dispatcher():
    with Dispatched() as seen:
        OP.registered_forward("cpu", *inputs(), True)
    assert seen.names == ["registration_test_forward.default"]
    with Dispatched() as seen:
        a, b, c = inputs()
        OP("cpu", a, b, c, True)[0].sum().backward()
        with torch.no_grad():
            OP("cpu", a, b, c, True)
    assert seen.names == []


def test_registered_operations_pass_opcheck():
    a, b, c = inputs()
    torch.library.opcheck(OP.registered_forward, ("cpu", a, b, c, True))
    torch.library.opcheck(OP.registered_forward, ("cpu", b, b.detach(), None, False))
    a, b, c = (value.detach() for value in (a, b, c))
    for needed in ([True, True, True], [False, True, False]):
        torch.library.opcheck(
            OP.registered_backward, ("cpu", needed, a, None, 3 * a.float(), a, b, c if needed[2] else None, True)
        )


def test_no_two_gradients_share_memory():
    """A launcher may hand out parts of one tensor: changed in place, one gradient must not change another."""

    def shared(needed, dy, a, b):
        return dy, dy[:1]

    launcher = SimpleNamespace(forward=lambda a, b: (a + b,), backward=shared)
    op = FusedOp("shared_memory_test", ("a", "b"), {"cpu": launcher}, lambda a, b: (a.new_empty(a.shape),))
    a, b = torch.zeros(3, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    op("cpu", a, b)[0].backward(torch.ones(3, 2))
    a.grad.zero_()
    assert torch.equal(b.grad, torch.ones(1, 2))
