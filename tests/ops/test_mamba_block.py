"""mamba_block: causality and its parts. The shared contract is in test_contract.py."""

import pytest
import tolerances
import torch
from cases import CASES, make_mamba

from handcraft.kernels import MambaParams, mamba_block

CASE = CASES["mamba_block"]


def test_sees_the_past_only():
    given = CASE.arguments(make_mamba(2, length=12))
    out = mamba_block(given["x"], given["p"])
    later = given["x"].clone()
    later[:, 7] += 1
    moved = (mamba_block(later, given["p"]) - out).abs().amax(dim=(0, 2))
    assert (moved[:7] == 0).all()
    assert (moved[7:] > 0).all()


@pytest.mark.parametrize("field", MambaParams._fields)
def test_corrupting_any_single_parameter_shows(field):
    tensors = CASE.cast(make_mamba(16), torch.float32)
    expected = CASE.run(tensors)
    name = f"params.{field}"
    value = tensors[name]
    step = 0.5 * value.square().mean().sqrt()
    for entry in torch.randperm(value.numel(), generator=torch.Generator().manual_seed(0))[:20]:
        corrupt = value.clone().flatten()
        corrupt[entry] += step
        moved = tolerances.error(CASE.run({**tensors, name: corrupt.view_as(value)}), expected)
        assert moved > 10 * tolerances.SLACK[torch.float32], f"{name}[{entry}] moved the output by {moved:.1e}"


@pytest.mark.parametrize("taps", [1, 2, 5])
def test_other_widths_of_the_convolution(taps):
    params = MambaParams.random(6, state=3, conv=taps, expand=3, rank=2, seed=taps)
    tensors = {"x": torch.randn(2, 4, 6, dtype=torch.float64)}
    tensors |= {f"params.{field}": value.double() for field, value in zip(params._fields, params, strict=True)}
    truth = torch.from_numpy(CASE.run_oracle(tensors))
    assert tolerances.error(CASE.run(tensors), truth) < tolerances.ORACLE
