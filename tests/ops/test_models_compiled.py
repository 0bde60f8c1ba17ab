"""The models under torch.compile: whole, forward and backward, for any batch, and compiled once for all batches."""

import backends
import pytest
import tolerances
import torch
from cases import draw
from torch._dynamo.testing import CompileCounterWithBackend

from handcraft.config import CMLPeConfig, MambaSLConfig, TransformerSLConfig
from handcraft.kernels import dispatch, env
from handcraft.models import build

CONFIGS = {
    "cmlpe": CMLPeConfig(classes=3, dim=12, context=8, blocks=2, embedding=4),
    "transformer_sl": TransformerSLConfig(
        classes=3, dim=12, frames=8, width=16, heads=2, mlp=16, layers=1, dropout=0.0
    ),
    "transformer_sl frames": TransformerSLConfig(
        classes=3, dim=12, frames=8, width=16, heads=2, mlp=16, layers=1, dropout=0.0, tokens="frames"
    ),
    "mamba_sl": MambaSLConfig(classes=3, dim=12, frames=8, width=10, layers=2),
    "mamba_sl frames": MambaSLConfig(classes=3, dim=12, frames=8, width=10, layers=1, tokens="frames"),
}
OPS = {"cmlpe": ["cmlpe"], "transformer_sl": ["dct_linear"], "mamba_sl": ["dct_linear", "mamba_block"]}
BATCHES = (7, 5, 3, 8, 17)
"""The first is no other size of a model: sizes that are equal when torch.compile first sees them it takes for one."""


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_and_inputs(kind, batch):
    torch.manual_seed(0)
    model = build(CONFIGS[kind]).to(torch.get_default_device())
    for parameter in model.parameters():  # the start is degenerate: it computes nothing to compare
        torch.nn.init.normal_(parameter, std=0.3)
    if kind == "cmlpe":
        x, eps = draw((batch, 8, 12), (batch, 2, 4), seed=batch)
        return model, (x.float(), torch.arange(batch) % 3, 0.1 * eps.float())
    (x,) = draw((batch, 8, 12), seed=batch)
    lengths = [1 + torch.arange(batch) % 8] if kind.endswith("frames") else []
    return model, (x.float(), *lengths)


def results(run, model, inputs):
    """Output and every gradient."""
    out = run(*inputs)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), list(model.parameters()))]


def serving(kind):
    """Backends that have all ops of a model; HANDCRAFT_BACKEND names one for all of them."""
    first, *others = (backends.backends(op) for op in OPS[kind.split()[0]])
    return [name for name in first if all(name in other for other in others)]


PAIRS = [
    backends.param(name, (kind, name))
    for kind in CONFIGS
    for name in (("auto",) if kind.endswith("frames") else (*serving(kind), "auto"))
]


@pytest.mark.parametrize("which", PAIRS)
def test_one_compilation_serves_every_batch(which, monkeypatch):
    kind, backend = which
    monkeypatch.setenv(dispatch.VARIABLE, "" if backend == "auto" else backend)
    model, _ = model_and_inputs(kind, 1)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    batches = BATCHES[:2] if backend == "triton" else BATCHES  # the interpreter is slow
    for batch in (*batches, 1) if backend == "auto" else batches:
        _, inputs = model_and_inputs(kind, batch)
        pairs = zip(results(compiled, model, inputs), results(model, model, inputs), strict=True)
        for i, (found, expected) in enumerate(pairs):
            assert tolerances.error(found, expected) < 20 * tolerances.SLACK[torch.float32], (batch, i)
        counts.append(counter.frame_count)
    assert counts[: len(batches)] == [counts[0]] * len(batches)
    assert counts[-1] <= 2 * counts[0]  # PyTorch compiles for a batch of 1 apart


@pytest.mark.parametrize("kind", ["cmlpe", "transformer_sl"])
def test_autocast_inside_the_compiled_model(kind):
    model, inputs = model_and_inputs(kind, 3)

    def run(*inputs):
        with torch.autocast(backends.DEVICE, dtype=torch.bfloat16):
            return model(*inputs)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, expected = results(compiled, model, inputs), results(run, model, inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert tolerances.error(one.float(), other.float()) < 4 * tolerances.SLACK[torch.bfloat16]


@pytest.mark.skipif(not env.probe("compiler").available, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_a_classifier_through_inductor():
    model, inputs = model_and_inputs("transformer_sl", 3)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for found, expected in zip(results(compiled, model, inputs), results(model, model, inputs), strict=True):
        assert tolerances.error(found, expected) < 20 * tolerances.SLACK[torch.float32]
