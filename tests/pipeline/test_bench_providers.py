"""benchmarks/providers.py: new backends are measured without a change there, and only if they are right."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handcraft.kernels import dispatch, env
from handcraft.kernels.dispatch import Rule

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "providers.py"
CPU = frozenset({"cpu"})
SHAPE = SimpleNamespace(dtype="float32", sizes=lambda: {"M": 16, "D": 180})


@pytest.fixture(scope="module")
def providers():
    spec = importlib.util.spec_from_file_location("bench_providers", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def rules(monkeypatch):
    """A function that puts rules ahead of the table, whose backends all run here."""

    def put(*new: Rule) -> None:
        monkeypatch.setattr(dispatch, "RULES", (*new, *(Rule(op, "reference") for op in dispatch.OPS)))
        monkeypatch.setattr(env, "backend", lambda name: env.Probe(name, name != "mamba_ssm", "by the test"))

    return put


def test_every_backend_that_serves_is_a_provider(providers, rules):
    rules(
        Rule("cmlpe", "cpu", CPU, condition=lambda shape: shape["D"] <= 180),
        Rule("cmlpe", "cpu", CPU, evidence="one.json"),
        Rule("cmlpe", "triton", frozenset({"cuda"})),
        Rule("cmlpe", "mamba_ssm", CPU),
        Rule("dct_linear", "cuda", CPU),
    )
    assert providers.of_op("cmlpe", SHAPE, "cpu", compiled=False) == ["reference", "cpu"]
    assert providers.of_op("cmlpe", SHAPE, "cpu", compiled=True) == ["reference", "cpu", "compile"]
    assert providers.of_op("cmlpe", SHAPE, "cuda", compiled=True) == ["reference", "triton", "compile", "compile_graph"]
    assert providers.of_op("selective_scan", SHAPE, "cpu", compiled=False) == ["loop", "reference"]


def test_a_backend_that_does_not_take_the_shape_or_dtype_is_left_out(providers, rules):
    rules(
        Rule("cmlpe", "cpu", CPU, condition=lambda shape: shape["D"] > 180),
        Rule("cmlpe", "triton", CPU, frozenset({torch.bfloat16})),
    )
    assert providers.of_op("cmlpe", SHAPE, "cpu", compiled=False) == ["reference"]


def test_models_get_auto_once_it_may_pick_something(providers, rules):
    ops = ("dct_linear", "mamba_block")
    rules(Rule("mamba_block", "cpu", CPU), Rule("cmlpe", "cpu", CPU, evidence="one.json"))
    assert providers.of_model(ops, "cpu", compiled=True) == ["reference", "compile"]
    rules(Rule("mamba_block", "cpu", CPU, evidence="one.json"))
    assert providers.of_model(ops, "cpu", compiled=True) == ["reference", "auto", "compile"]
    assert providers.of_model(ops, "cuda", compiled=False) == ["reference"]


def test_what_auto_picks(providers, rules):
    case = providers.Case("cmlpe", "forward", SHAPE, "reference", "cpu")
    rules(Rule("cmlpe", "cpu", CPU))
    assert providers.picked(case) == "reference"
    rules(Rule("cmlpe", "cpu", CPU, evidence="one.json"))
    assert providers.picked(case) == "cpu"


def test_a_forced_backend_is_refused(providers, monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    providers.refuse_override()
    monkeypatch.setenv(dispatch.VARIABLE, "cpu")
    with pytest.raises(ValueError, match="HANDCRAFT_BACKEND is set"):
        providers.refuse_override()


def square(x: torch.Tensor, out: torch.Tensor | None = None, *, backend: str) -> torch.Tensor:
    """x^2, but "cpu" is wrong in its gradient, "triton" in its value, "cuda" is NaN."""
    y = x * x.detach() if backend == "cpu" else x * x
    y = {"triton": 1.01, "cuda": torch.nan}.get(backend, 1.0) * y
    return y if out is None else out.copy_(y)


@pytest.mark.parametrize(
    ("mode", "provider", "right"),
    [
        ("forward", "cpu", True),
        ("training", "cpu", False),
        ("forward", "triton", False),
        ("forward", "cuda", False),
        ("training", "mamba_ssm", True),
    ],
)
def test_a_wrong_result_is_not_timed(providers, mode, provider, right):
    case = providers.Case("square", mode, SHAPE, provider, "cpu")
    x = torch.linspace(1, 2, 5)
    if not right:
        with pytest.raises(AssertionError, match=f"square {mode} by {provider}: result"):
            providers.prepare(case, square, {"x": x}, [x])
        return
    found = providers.prepare(case, square, {"x": x}, [x])()
    torch.testing.assert_close(found[0].detach(), torch.linspace(1, 2, 5) ** 2)
    assert len(found) == (2 if mode == "training" else 1)
    assert found[0].requires_grad == (mode == "training")


def test_a_shared_buffer_does_not_hide_a_wrong_result(providers):
    case = providers.Case("square", "forward", SHAPE, "triton", "cpu")
    x = torch.linspace(1, 2, 5)
    with pytest.raises(AssertionError, match="result 0 is off"):
        providers.prepare(case, square, {"x": x, "out": torch.empty(5)})


def test_loop_runs_the_plain_function(providers):
    case = providers.Case("square", "forward", SHAPE, "loop", "cpu")
    x = torch.linspace(1, 2, 5)
    calls = []

    def plain(x):
        calls.append(1)
        return x**2

    call = providers.prepare(case, square, {"x": x}, plain=plain)
    calls.clear()
    call()
    assert calls == [1]
