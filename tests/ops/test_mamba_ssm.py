"""mamba-ssm wrapped: it is given what its kernels take, its results are ours, and parameters go both ways.

Without mamba-ssm, a stand-in of the same signatures refuses what the real functions refuse. Facts about them:
state-spaces/mamba, mamba_ssm/ops/selective_scan_interface.py and csrc/selective_scan/selective_scan.cpp;
Dao-AILab/causal-conv1d, causal_conv1d/causal_conv1d_interface.py.
"""

import math
import sys
import types

import pytest
import tolerances
import torch
import torch.nn.functional as F
from cases import CASES, make_mamba, make_scan
from torch import nn

from handcraft.kernels import MambaParams, dispatch, env, selective_scan
from handcraft.kernels.mamba_block import cuda as block_cuda
from handcraft.kernels.mamba_block import mamba_ssm as block
from handcraft.kernels.mamba_block import reference
from handcraft.kernels.modules import MambaBlock
from handcraft.kernels.selective_scan import mamba_ssm as scan

real = env.backend("mamba_ssm")
needs_mamba = pytest.mark.skipif(not real.available, reason=f"mamba_ssm does not run: {real.reason}")


def scan_stand_in(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    assert all(x is None or x.dtype == u.dtype for x in (delta, z))
    assert all(x.dtype == (u.dtype if x.dim() > 2 else torch.float32) for x in (B, C))
    assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
    counts = {x.shape[1] if x.dim() == 4 else 1 for x in (B, C) if x.dim() > 2}
    assert len(counts) < 2, "B and C have different groups"
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend="reference")


def conv_stand_in(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):
    assert weight.dim() == 2
    assert 2 <= weight.shape[1] <= 4
    assert x.stride(2) == 1 or (x.stride(1) == 1 and x.shape[1] % 8 == 0)
    assert activation == "silu"
    return F.silu(reference.causal_conv(x, weight[:, None], bias))


def inner_stand_in(
    xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, B=None, C=None, D=None, delta_bias=None,
    B_bias=None, C_bias=None, delta_softplus=True,
):  # fmt: skip
    assert all(x.dtype == xz.dtype for x in (conv_weight, conv_bias, x_proj, dt_proj, out_proj))
    assert out_bias is None
    assert (B, C) == (None, None)
    inner, state = A.shape
    u, z = xz.split(inner, dim=1)
    u = F.silu(reference.causal_conv(u, conv_weight, conv_bias))
    step, B, C = F.linear(u.mT, x_proj).split((dt_proj.shape[1], state, state), dim=2)
    y = scan_stand_in(u, F.linear(step, dt_proj).mT, A, B.mT, C.mT, D, z, delta_bias, delta_softplus)
    return F.linear(y.mT, out_proj)


@pytest.fixture(params=[False, True], ids=["mamba-ssm alone", "with causal-conv1d"])
def stand_in(request, monkeypatch):
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn, interface.mamba_inner_fn = scan_stand_in, inner_stand_in
    for name, module in (("mamba_ssm", None), ("mamba_ssm.ops", None), (interface.__name__, interface)):
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))
    conv = types.ModuleType("causal_conv1d")
    conv.causal_conv1d_fn = conv_stand_in
    monkeypatch.setitem(sys.modules, "causal_conv1d", conv if request.param else None)
    probe = env.Probe("mamba_ssm", True, "a stand-in")
    monkeypatch.setattr(env, "backend", lambda name: probe)
    env._cached.cache_clear()
    # the stand-in runs on a CPU, where the rules would refuse it
    rules = [dispatch.Rule(op, name) for op in ("selective_scan", "mamba_block") for name in ("mamba_ssm", "cuda")]
    monkeypatch.setattr(dispatch, "RULES", (*rules, *dispatch.RULES))
    yield request.param
    env._cached.cache_clear()


def compare(case, tensors, backend="mamba_ssm", dtype=torch.float32, device="cpu", **extra):
    """Output and gradients against the float64 reference: at most twice the bound of the contract, since the order of
    operations is theirs."""
    names = case.differentiable()
    inputs = {name: value.to(device).requires_grad_() for name, value in case.cast(tensors, dtype).items()}
    exact = {name: value.detach().cpu().double().requires_grad_() for name, value in inputs.items()}
    plain = {name: value.detach().cpu().to(dtype).requires_grad_() for name, value in inputs.items()}
    found = case.run(inputs, backend=backend, **extra)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    results = []
    for out, leaves in ((found, inputs), (case.run(exact, backend="reference"), exact), (case.run_plain(plain), plain)):
        grads = torch.autograd.grad(out, [leaves[name] for name in names], cotangent.to(out))
        results.append([x.detach().cpu() for x in (out, *grads)])
    for name, one, truth, own in zip(("output", *names), *results, strict=True):
        assert one.dtype == (inputs[name].dtype if name in inputs else dtype), name
        assert tolerances.error(one, truth) <= 2 * tolerances.bound(tolerances.error(own, truth), dtype), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scan(stand_in, dtype):
    compare(CASES["selective_scan"], make_scan(3), dtype=dtype)


def test_scan_takes_what_mamba_ssm_does_not(stand_in):
    """Mixed dtypes, groups in one of B and C, a constant one."""
    generator = torch.Generator().manual_seed(0)
    u, delta, A = (torch.randn(*shape, generator=generator) for shape in ((2, 6, 5), (2, 6, 5), (6, 4)))
    grouped, single = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    constant = torch.randn(6, 4, generator=generator)
    for B, C in ((grouped, single), (single, grouped), (constant, grouped), (grouped.bfloat16(), constant.bfloat16())):
        found = selective_scan(u.bfloat16(), delta, A, B, C, backend="mamba_ssm")
        expected = selective_scan(u.bfloat16(), delta, A, B, C, backend="reference")
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)


def test_launcher_for_the_compiler(stand_in):
    """Its gradients are those of the direct call, None where none is needed."""
    tensors = [value.float() for value in make_scan(2).values()]
    y, last = scan.forward(*tensors, True, False)
    leaves = [x.clone().requires_grad_() for x in tensors]
    direct = scan.selective_scan(*leaves, True)
    assert torch.equal(y, direct)
    assert last.numel() == 0
    cotangent = torch.ones_like(y)
    found = scan.backward([True] * 7 + [False], cotangent, None, *tensors, True, False)
    for one, other in zip(found, torch.autograd.grad(direct, leaves[:7], cotangent), strict=False):
        assert torch.equal(one, other)
    assert found[7] is None


def test_last_state_is_refused():
    (rule,) = (r for r in dispatch.RULES if (r.op, r.backend) == ("selective_scan", "mamba_ssm"))
    shape = {"L": 9, "D": 4, "N": 16, "last": 1}
    assert "without return_last_state" in rule.misfit("cuda", torch.float32, shape)
    assert rule.misfit("cuda", torch.float32, shape | {"last": 0}) is None


@pytest.mark.parametrize("taps", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_block(stand_in, dtype, taps):
    params = MambaParams.random(8, state=5, conv=taps, seed=3)
    tensors = {"x": torch.randn(3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))}
    tensors |= {f"params.{field}": value.double() for field, value in zip(params._fields, params, strict=True)}
    compare(CASES["mamba_block"], tensors, dtype=dtype)


def test_block_around_our_own_scan(stand_in, monkeypatch):
    """backend="cuda" is the same composition; here with the reference's scan in its place."""
    monkeypatch.setattr(
        block_cuda, "selective_scan", lambda *args, backend, **kw: selective_scan(*args, backend="reference", **kw)
    )
    compare(CASES["mamba_block"], make_mamba(3, width=8), backend="cuda")


# -------------------------------------------------------------------------------------------------------- parameters

MAMBA_STATE = {  # of mamba_ssm.Mamba(d_model=40, d_state=16, d_conv=4, expand=2), in its order
    "A_log": (80, 16),
    "D": (80,),
    "in_proj.weight": (160, 40),
    "conv1d.weight": (80, 1, 4),
    "conv1d.bias": (80,),
    "x_proj.weight": (35, 80),
    "dt_proj.weight": (80, 3),
    "dt_proj.bias": (80,),
    "out_proj.weight": (40, 80),
}


class Mamba(nn.Module):
    """Parameters of `mamba_ssm.Mamba`, made as there."""

    def __init__(self, d_model, d_state=16, d_conv=4, expand=2):
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=True)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1).float()).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)


def theirs(width):
    if real.available:
        return __import__("mamba_ssm").Mamba(width)
    return Mamba(width)


def test_state_dicts_load_both_ways():
    other, ours = theirs(40), MambaBlock(40)
    for source, target in ((other, ours), (ours, theirs(40))):
        state = source.state_dict()
        assert {name: tuple(value.shape) for name, value in state.items()} == MAMBA_STATE
        target.load_state_dict(state, strict=True)
        assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())


@needs_mamba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 6, 9, 5), (4, 160, 33, 16), (2, 64, 129, 16)], ids=str)
def test_the_real_scan(shape, dtype):
    compare(CASES["selective_scan"], make_scan(*shape), dtype=dtype, device="cuda")


@needs_mamba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_real_block(dtype):
    compare(CASES["mamba_block"], make_mamba(3, width=16, length=33), dtype=dtype, device="cuda")


@needs_mamba
def test_the_real_module_computes_what_ours_does():
    other, ours = theirs(64).cuda(), MambaBlock(64).cuda()
    ours.load_state_dict(other.state_dict())
    x = torch.randn(4, 33, 64, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    outputs = []
    for module in (other, ours):
        out = module(x)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))])
    names = [name for name, _ in other.named_parameters()]
    order = [[name for name, _ in ours.named_parameters()].index(name) for name in names]
    expected, (out, *grads) = outputs
    for one, two in zip([out, *(grads[i] for i in order)], expected, strict=True):
        assert tolerances.error(one, two) < 1e-4


def test_the_wrapper_is_not_imported_with_the_package():
    assert block.__name__ in sys.modules  # imported by this file alone: neither needs mamba-ssm to be imported
    assert "mamba_ssm" not in sys.modules or real.available
