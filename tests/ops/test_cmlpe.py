"""cmlpe beyond the shared contract: every parameter counts, and the residual is on the last context frame."""

import pytest
import tolerances
import torch
from cases import CASES, make_cmlpe

from handcraft.kernels import CMLPeParams, cmlpe

CASE = CASES["cmlpe"]
FIELDS = [field for field in CMLPeParams._fields if field != "class_embedding"]


@pytest.fixture(scope="module")
def allowed():
    """What the fp32 output may differ from the truth by, relative."""
    tensors = CASE.cast(make_cmlpe(16), torch.float32)
    truth = CASE.run({name: value.double() for name, value in tensors.items()})
    return tolerances.bound(tolerances.error(CASE.run_plain(tensors), truth), torch.float32)


@pytest.mark.parametrize("field", FIELDS)
def test_corrupting_any_single_parameter_shows(field, allowed):
    """Each entry of each parameter (a sample of the larger ones), changed by half its tensor's size."""
    tensors = CASE.cast(make_cmlpe(16), torch.float32)
    expected = CASE.run(tensors)
    name = f"params.{field}"
    value = tensors[name]
    step = 0.5 * value.square().mean().sqrt()
    entries = torch.randperm(value.numel(), generator=torch.Generator().manual_seed(0))[:40]
    for entry in entries:
        corrupt = value.clone().flatten()
        corrupt[entry] += step
        moved = tolerances.error(CASE.run({**tensors, name: corrupt.view_as(value)}), expected)
        assert moved > 10 * allowed, f"{name}[{entry}] moved the output by {moved:.1e}, tolerance {allowed:.1e}"


def test_zero_output_layer_repeats_the_last_frame():
    given = CASE.arguments(make_cmlpe(3))
    zero = {name: torch.zeros_like(getattr(given["p"], name)) for name in ("out_weight", "out_bias")}
    x = given["x"]
    assert torch.equal(cmlpe(x, given["e"], given["p"]._replace(**zero)), x[:, -1:].expand_as(x))


def test_blocks_use_their_own_embedding():
    given = CASE.arguments(make_cmlpe(3))
    out = cmlpe(given["x"], given["e"], given["p"])
    for k in range(given["e"].shape[1]):
        e = given["e"].clone()
        e[:, k] += 1
        assert tolerances.error(cmlpe(given["x"], e, given["p"]), out) > 1e-3


def test_wrong_context_length_is_named():
    given = CASE.arguments(make_cmlpe(3))
    with pytest.raises(
        ValueError, match=r"cmlpe: params\.mod_weight has shape \(3, 24, 5\), expected \(K,3M,E\) = \(3, 21, 5\)"
    ):
        cmlpe(given["x"][:, :7], given["e"], given["p"])
    with pytest.raises(ValueError, match=r"cmlpe: e has shape \(3, 2, 5\), expected \(B,K,E\) = \(3, 3, 5\)"):
        cmlpe(given["x"], given["e"][:, :2], given["p"])
