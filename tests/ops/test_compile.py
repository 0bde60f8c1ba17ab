"""torch.compile(fullgraph=True): the scan and CMLPe through inductor, every op through the tracer alone."""

import cases
import pytest
import tolerances
import torch
from cases import CASES

from handcraft.kernels import CMLPeParams, cmlpe_generate, env
from handcraft.kernels.selective_scan import op as scan_op


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compare(case, backend):
    tensors = {name: value.requires_grad_() for name, value in case.cast(case.make(3), torch.float32).items()}
    names = case.differentiable()
    compiled = torch.compile(case.run, fullgraph=True, backend=backend)
    pairs = []
    for run in (compiled, case.run):
        out = run(tensors)
        pairs.append((out, *torch.autograd.grad(out.sin().sum(), [tensors[name] for name in names])))
    for name, found, expected in zip(("output", *names), *pairs, strict=True):
        assert tolerances.error(found, expected) < 10 * tolerances.SLACK[torch.float32], name


@pytest.mark.parametrize("op", sorted(CASES))
def test_every_op_traces_whole(op):
    compare(CASES[op], "aot_eager")


needs_compiler = pytest.mark.skipif(not env.probe("compiler").available, reason="torch.compile needs a C++ compiler")


@needs_compiler
def test_scan_through_inductor():
    compare(CASES["selective_scan"], "inductor")


@needs_compiler
def test_cmlpe_through_inductor():
    """Forward only: compiling the backward pass too takes half a minute, and the tracer has seen it above."""
    tensors = CASES["cmlpe"].cast(CASES["cmlpe"].make(3), torch.float32)
    with torch.no_grad():
        found = torch.compile(CASES["cmlpe"].run, fullgraph=True)(tensors)
        assert tolerances.error(found, CASES["cmlpe"].run(tensors)) < 10 * tolerances.SLACK[torch.float32]


def test_lengths_trace_whole():
    from handcraft.kernels import dct_linear

    x, weight, cls = (value.float() for value in cases.draw((3, 6, 5), (4, 5), (4,), seed=0))
    lengths = torch.tensor([0, 6, 2])

    def run(x, weight, cls, lengths):
        return dct_linear(x, weight, cls=cls, cls_at="last", transform="none", lengths=lengths)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, cls, lengths), run(x, weight, cls, lengths))


def test_generation_traces_whole():
    params = CMLPeParams.random(3, 6, 4, 2, 5)
    context, index = torch.randn(4, 8, 6), torch.arange(3)

    def run(context, index):
        return cmlpe_generate(params, params, context, index, index, index, seed=1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert tolerances.error(compiled(context, index), run(context, index)) < 10 * tolerances.SLACK[torch.float32]


def test_autocast_inside_a_compiled_region():
    case = CASES["selective_scan"]
    tensors = case.cast(case.make(3), torch.float32)

    def run(tensors):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.run(tensors)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert compiled(tensors).dtype == torch.bfloat16
    assert torch.equal(compiled(tensors), run(tensors))


@pytest.mark.parametrize("constant", [False, True])
def test_registered_scan_passes_opcheck(constant):
    u, delta, A, B, C = cases.draw((2, 6, 5), (2, 6, 5), (6, 4), (2, 4, 5), (2, 4, 5), seed=1)
    if constant:
        B, C = cases.draw((6, 4), (6, 4), seed=2)
    inputs = tuple(value.float().requires_grad_() for value in (u, delta, -A.abs(), B, C))
    torch.library.opcheck(scan_op.REFERENCE.registered_forward, ("reference", *inputs))
    plain = tuple(value.detach() for value in inputs)
    for last in (torch.ones(2, 6, 4), None):
        given = ("reference", [True] * 5, plain[0], last, *plain)
        torch.library.opcheck(scan_op.REFERENCE.registered_backward, given)
