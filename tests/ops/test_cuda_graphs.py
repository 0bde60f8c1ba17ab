"""CUDA graphs of a training step and of generation: what is captured once is replayed with other numbers."""

import backends
import pytest
import torch
from cases import draw
from generated import setting

from handcraft.kernels import CMLPeParams, cmlpe, cmlpe_generate, dct_linear

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(backends.DEVICE != "cuda", reason="needs a GPU: pytest --device cuda"),
]


def capture(run):
    """A graph of `run()`, warmed up on a stream of its own as CUDA wants it, and what it returned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def replay_equals_a_call(run, inputs, others):
    """The graph, replayed after `inputs` were overwritten with `others`, gives what a call gives."""
    graph, result = capture(run)
    for tensor, value in zip(inputs, others, strict=True):
        tensor.data.copy_(value)
    graph.replay()
    found = [tensor.clone() for tensor in result]
    for one, other in zip(found, run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_cuda_graph_of_a_training_step_of_the_generator(backend):
    params = CMLPeParams.random(3, 60, 16, 2, 8)
    x, e, other_x, other_e = (value.float() for value in draw(*[(8, 16, 60), (8, 2, 8)] * 2, seed=1))
    leaves = [value.requires_grad_() for name, value in params._asdict().items() if name != "class_embedding"]

    def step():
        out = cmlpe(x, e, params, backend=backend)
        return (out.detach(), *torch.autograd.grad(out.square().sum(), leaves))

    replay_equals_a_call(step, (x, e), (other_x, other_e))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_cuda_graph_of_a_training_step_of_the_embedding(backend):
    x, other, weight, cls, position = (
        value.float() for value in draw((8, 32, 60), (8, 32, 60), (24, 60), (24,), (33, 24), seed=2)
    )
    leaves = [value.requires_grad_() for value in (weight, cls, position)]

    def step():
        out = dct_linear(x, weight, cls=cls, position=position, backend=backend)
        return (out.detach(), *torch.autograd.grad(out.square().sum(), leaves))

    replay_equals_a_call(step, (x,), (other,))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_cuda_graph_of_generation(noise):
    given = setting(9)
    out = torch.empty(9, given["context"].shape[1], given["context"].shape[2])

    def generate():
        return (cmlpe_generate(**given, seed=5, noise=noise, out=out, backend="triton"),)

    others = [given[name].flip(0) for name in ("row", "label", "clip_id")]
    replay_equals_a_call(generate, [given[name] for name in ("row", "label", "clip_id")], others)
