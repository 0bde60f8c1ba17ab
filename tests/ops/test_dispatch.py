"""The rule table: what `auto` picks, what a named backend does, what is said, and what forces a choice."""

import logging

import pytest
import torch

from handcraft.kernels import cmlpe, dct_linear, dispatch, env
from handcraft.kernels.dispatch import BackendError, Rule

X = torch.ones(2, 4, 3)
WEIGHT = torch.ones(5, 3)


@pytest.fixture(autouse=True)
def unforced(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


@pytest.fixture
def triton_runs(monkeypatch):
    monkeypatch.setattr(env, "backend", lambda name: env.Probe(name, True, "pretended", "1"))


def table(monkeypatch, *rules):
    monkeypatch.setattr(dispatch, "RULES", (*rules, Rule("dct_linear", "reference")))


def select(backend="auto", x=X, **shape):
    return dispatch.select("dct_linear", backend, x, **(shape or {"T": 4, "D": 3, "H": 5}))


def rule(**change):
    given = {"op": "dct_linear", "backend": "triton", "devices": frozenset({"cpu"}), "evidence": "a.json"}
    return Rule(**{**given, **change})


def test_every_op_ends_with_its_reference():
    for op in dispatch.OPS:
        mine = [rule for rule in dispatch.RULES if rule.op == op]
        assert mine[-1] == Rule(op, "reference")
    assert {rule.op for rule in dispatch.RULES} == set(dispatch.OPS)
    assert {rule.backend for rule in dispatch.RULES} <= set(dispatch.BACKENDS)


def test_evidence_names_a_results_file():
    for rule in dispatch.RULES:
        assert rule.evidence is None or rule.evidence.endswith(".json")


def test_auto_takes_the_first_rule_that_fits(monkeypatch, triton_runs):
    table(monkeypatch, rule(), rule(backend="cpu"))
    assert select() == "triton"
    table(monkeypatch, rule(backend="cpu"), rule())
    assert select() == "cpu"


@pytest.mark.parametrize(
    "change",
    [
        {"devices": frozenset({"cuda"})},
        {"dtypes": frozenset({torch.bfloat16})},
        {"condition": lambda shape: shape["T"] > 4},
        {"evidence": None},
        {"op": "cmlpe"},
    ],
)
def test_auto_passes_over_a_rule_that_does_not_fit_or_has_no_evidence(monkeypatch, triton_runs, change):
    table(monkeypatch, rule(**change))
    assert select() == "reference"


def test_auto_passes_over_a_backend_that_does_not_run_here(monkeypatch):
    monkeypatch.setattr(env, "backend", lambda name: env.Probe(name, False, "broken"))
    table(monkeypatch, rule())
    assert select() == "reference"


def test_a_named_backend_needs_no_evidence_but_has_to_fit(monkeypatch, triton_runs):
    table(monkeypatch, rule(evidence=None, condition=lambda shape: shape["T"] <= 128, wanted="T <= 128"))
    assert select("triton") == "triton"
    with pytest.raises(BackendError, match=r"'triton' does not serve this call: it takes T <= 128, the shape is .*129"):
        select("triton", T=129)
    table(monkeypatch, rule(devices=frozenset({"cuda"})))
    with pytest.raises(BackendError, match="it runs on cuda, the tensors are on cpu"):
        select("triton")
    table(monkeypatch, rule(dtypes=frozenset({torch.bfloat16})))
    with pytest.raises(BackendError, match=r"it takes torch\.bfloat16, the first argument is torch\.float32"):
        select("triton")


def test_a_named_backend_that_cannot_run_gives_reason_and_command(monkeypatch):
    probe = env.Probe("triton", False, "not installed", install='pip install "handcraft[gpu]"')
    monkeypatch.setattr(env, "backend", lambda name: probe)
    table(monkeypatch, rule())
    with pytest.raises(BackendError, match=r'not installed; install with: pip install "handcraft\[gpu\]"'):
        select("triton")


def test_the_environment_forces_a_backend_everywhere(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "mamba_ssm")
    with pytest.raises(BackendError, match="dct_linear: backend 'mamba_ssm' is not implemented in this version"):
        dct_linear(X, WEIGHT)
    with pytest.raises(BackendError):
        dct_linear(X, WEIGHT, backend="reference")
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert torch.equal(dct_linear(X, WEIGHT, backend="triton"), dct_linear(X, WEIGHT))
    monkeypatch.setenv(dispatch.VARIABLE, "speed")
    with pytest.raises(ValueError, match="the environment variable HANDCRAFT_BACKEND is 'speed', expected one of auto"):
        dct_linear(X, WEIGHT)
    monkeypatch.setenv(dispatch.VARIABLE, "")
    dct_linear(X, WEIGHT)


def test_the_environment_may_name_several_backends(monkeypatch, triton_runs):
    """The first that serves the call runs it, so that ops that one of them lacks do not stop a whole model."""
    table(monkeypatch, rule(condition=lambda shape: shape["T"] <= 128, wanted="T <= 128"))
    monkeypatch.setenv(dispatch.VARIABLE, "mamba_ssm,triton,reference")
    assert select(T=128) == "triton"
    assert select("reference", T=129) == "reference"
    monkeypatch.setenv(dispatch.VARIABLE, "mamba_ssm,triton")
    with pytest.raises(BackendError, match=r"'mamba_ssm' is not implemented in this version.*; .*it takes T <= 128"):
        select(T=129)
    monkeypatch.setenv(dispatch.VARIABLE, "mamba_ssm,auto")
    assert select(T=129) == "reference"
    monkeypatch.setenv(dispatch.VARIABLE, "triton, cuda")
    with pytest.raises(ValueError, match="HANDCRAFT_BACKEND is 'triton, cuda', expected one of auto"):
        select()


def test_auto_says_once_what_it_picked(caplog):
    dispatch._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="handcraft.kernels"):
        for _ in range(3):
            dct_linear(X, WEIGHT)
        dct_linear(X.bfloat16(), WEIGHT)
        dct_linear(X, WEIGHT, backend="reference")
    picked = "cpu" if env.backend("cpu").available else "reference"
    assert caplog.messages == [
        f"dct_linear: auto picked {picked} for torch.float32 on cpu",
        f"dct_linear: auto picked {picked} for torch.bfloat16 on cpu",
    ]


def test_shapes_outside_the_stated_ranges_run_under_auto():
    assert dct_linear(torch.ones(1, 200, 600), torch.ones(1100, 600)).shape == (1, 200, 1100)


def test_ops_reach_dispatch_with_the_device_and_sizes_they_state(monkeypatch):
    seen = {}

    def spy(op, backend, first, **shape):
        seen[op] = (backend, first.dtype, shape)
        return "reference"

    monkeypatch.setattr(dispatch, "select", spy)
    dct_linear(X.bfloat16(), WEIGHT, backend="triton")
    assert seen["dct_linear"] == ("triton", torch.bfloat16, {"T": 4, "D": 3, "H": 5})
    from handcraft.kernels import CMLPeParams

    cmlpe(torch.ones(2, 8, 3), torch.ones(2, 6, 32), CMLPeParams.random(2, 3, 8))
    assert seen["cmlpe"] == ("auto", torch.float32, {"M": 8, "D": 3})
