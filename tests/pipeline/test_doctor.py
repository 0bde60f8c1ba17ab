"""The doctor: a healthy machine passes, a wrong kernel does not."""

import io
import os

import pytest
import torch
from rich.console import Console
from tiny_recipe import run_cli

from handcraft import doctor, kernels
from handcraft.kernels import dispatch


def examined():
    text = io.StringIO()
    good = doctor.examine(Console(file=text, width=250))
    return good, text.getvalue()


def test_every_op_is_checked_and_right():
    checks = doctor.self_check()
    assert {check.op for check in checks} == set(dispatch.OPS)
    for check in checks:
        assert check.ok, check
        # the narrow dtype really ran, and there is room
        assert 0 < check.error < doctor.TOLERANCE[check.dtype] / (10 if check.dtype == torch.float32 else 2)


def test_report_names_versions_backends_and_ops():
    good, text = examined()
    assert good
    assert torch.__version__ in text
    for word in ("Versions", "This machine", "Backends", "Self-check", *dispatch.OPS, *dispatch.BACKENDS[1:]):
        assert word in text
    assert "WRONG" not in text


def test_command_ends_with_0_or_1(monkeypatch, capfd):
    assert run_cli("doctor") == 0
    assert "Self-check" in capfd.readouterr().out
    monkeypatch.setattr(doctor, "self_check", lambda: [doctor.Check("cmlpe", "reference", "cpu", 0.5)])
    assert run_cli("doctor") == 1


@pytest.mark.parametrize("op", dispatch.OPS)
def test_a_wrong_op_is_found(op, monkeypatch):
    """Off by a thousandth in float32 alone, as a bad kernel would be."""
    right = getattr(kernels, op)

    def wrong(*arguments, **options):
        out = right(*arguments, **options)
        return out * 1.001 if out.dtype == torch.float32 else out

    monkeypatch.setattr(kernels, op, wrong)
    bad = [check for check in doctor.self_check() if not check.ok]
    assert {check.op for check in bad} == {op}
    assert bad[0].error > doctor.TOLERANCE[torch.float32]
    good, text = examined()
    assert not good
    assert "WRONG" in text
    assert "set HANDCRAFT_BACKEND=reference" in text


def test_a_wrong_gradient_is_found(monkeypatch):
    right = kernels.mamba_block

    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (1.01 if gradient.dtype == torch.float32 else 1)

    monkeypatch.setattr(kernels, "mamba_block", lambda x, *rest, **options: right(Bent.apply(x), *rest, **options))
    assert {check.op for check in doctor.self_check() if not check.ok} == {"mamba_block"}


def test_a_wrong_gradient_of_a_parameter_is_found(monkeypatch):
    """However small it is beside the others: each is measured by its own largest number."""
    right = kernels.dct_linear

    def wrong(x, weight, *rest, **options):
        bent = weight.detach() + (weight - weight.detach()) * (1.01 if weight.dtype == torch.float32 else 1)
        return right(x, bent, *rest, **options)

    monkeypatch.setattr(kernels, "dct_linear", wrong)
    assert {check.op for check in doctor.self_check() if not check.ok} == {"dct_linear"}


@pytest.mark.parametrize("broken", ["raises", "nan", "shape"])
def test_a_broken_op_is_reported_and_the_others_still_checked(broken, monkeypatch):
    right = kernels.selective_scan

    def wrong(u, *arguments, **options):
        out = right(u, *arguments, **options)
        if out.dtype != torch.float32:
            return out
        if broken == "raises":
            raise RuntimeError("no [such] symbol")
        return out * torch.nan if broken == "nan" else out[:1]

    monkeypatch.setattr(kernels, "selective_scan", wrong)
    checks = doctor.self_check()
    assert {check.op for check in checks} == set(dispatch.OPS)
    assert {check.op for check in checks if not check.ok} == {"selective_scan"}
    good, text = examined()
    assert not good
    if broken == "raises":
        assert "WRONG RuntimeError: no [such] symbol" in text


def test_a_forced_backend_does_not_replace_the_reference(monkeypatch):
    monkeypatch.setenv("HANDCRAFT_BACKEND", "reference")
    good, text = examined()
    assert good
    assert "HANDCRAFT_BACKEND=reference: every command runs its ops on it" in text
    monkeypatch.setenv("HANDCRAFT_BACKEND", "triton,cuda,reference")
    good, text = examined()
    assert good
    assert "HANDCRAFT_BACKEND=triton,cuda,reference: every op runs on the first of them that has it" in text
    monkeypatch.setenv("HANDCRAFT_BACKEND", "fastest")
    good, text = examined()
    assert not good
    assert "HANDCRAFT_BACKEND=fastest: WRONG: it cannot run here" in text
    assert all(check.ok for check in doctor.self_check())
    assert os.environ["HANDCRAFT_BACKEND"] == "fastest"
