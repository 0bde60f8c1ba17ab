"""adaln_mlp and its stack beyond the shared contract of test_contract.py."""

import tolerances
import torch
from cases import CASES, make_adaln_mlp, make_stack

from handcraft.kernels import CMLPeParams, adaln_mlp, adaln_mlp_stack


def test_gate_zero_is_the_identity():
    tensors = CASES["adaln_mlp"].cast(make_adaln_mlp(3), torch.float32)
    tensors["gate"] = torch.zeros_like(tensors["gate"])
    assert torch.equal(adaln_mlp(**tensors), tensors["h"])


def test_layer_norm_runs_over_d_and_fc_over_m():
    """Channels permuted with their norm weights permute the result; coefficients are mixed."""
    tensors = make_adaln_mlp(2)
    order = torch.randperm(tensors["h"].shape[1])
    moved = {**tensors, "h": tensors["h"][:, order]}
    for name in ("norm_weight", "norm_bias"):
        moved[name] = tensors[name][order]
    assert tolerances.error(adaln_mlp(**moved), adaln_mlp(**tensors)[:, order]) < tolerances.ORACLE
    other = {**tensors, "h": tensors["h"].clone()}
    other["h"][:, :, 3] = 0
    changed = (adaln_mlp(**other) - adaln_mlp(**tensors)).abs().amax(dim=(0, 1))
    assert changed.min() > 1e-3


def test_stack_is_the_block_repeated_with_mod_rows_in_the_order_shift_scale_gate():
    case = CASES["adaln_mlp_stack"]
    given = case.arguments(make_stack(4))
    h, e, p = given["h"], given["e"], given["p"]
    expected = h
    for k in range(e.shape[1]):
        mod = torch.nn.functional.silu(e[:, k]) @ p.mod_weight[k].T + p.mod_bias[k]
        shift, scale, gate = mod.chunk(3, dim=1)
        expected = adaln_mlp(
            expected, shift, scale, gate, p.norm_weight[k], p.norm_bias[k], p.fc_weight[k], p.fc_bias[k]
        )
    assert tolerances.error(adaln_mlp_stack(h, e, p), expected) < tolerances.ORACLE


def test_stack_keeps_h_in_fp32_between_blocks():
    """In bf16 the error is one rounding of the result, far below rounding after each of 12 blocks."""
    params = CMLPeParams.random(3, 24, 8, blocks=12, embedding=6)
    h = torch.randn(32, 24, 8).bfloat16()
    e = torch.randn(32, 12, 6).bfloat16()
    truth = adaln_mlp_stack(h.double(), e.double(), params)
    found = adaln_mlp_stack(h, e, params)
    assert ((found.double() - truth).abs() <= truth.abs() * 2.0**-8 + 1e-5).all()
