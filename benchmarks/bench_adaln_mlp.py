"""The conditional MLP blocks of CMLPe: `adaln_mlp`, one of them, and `adaln_mlp_stack`, all K."""

import pytest
from providers import Case, draw, prepare

from handcraft.kernels import CMLPeParams, adaln_mlp, adaln_mlp_stack

USED = ("mod_weight", "mod_bias", "norm_weight", "norm_bias", "fc_weight", "fc_bias")


def setup_block(case: Case):
    shape = case.shape
    normal = draw(2, case.device)
    h = normal(shape.batch, shape.dim, shape.frames).to(case.dtype)
    shift, scale, gate = (normal(shape.batch, shape.frames).to(case.dtype) for _ in range(3))
    params = CMLPeParams.random(2, shape.dim, shape.frames, 1)
    weights = {name: getattr(params, name)[0].to(case.device) for name in USED if not name.startswith("mod")}
    arguments = {"h": h, "shift": shift, "scale": scale, "gate": gate, **weights}
    return prepare(case, adaln_mlp, arguments, list(arguments.values()))


def setup_stack(case: Case):
    shape = case.shape
    normal = draw(3, case.device)
    h = normal(shape.batch, shape.dim, shape.frames).to(case.dtype)
    e = normal(shape.batch, shape.blocks, shape.embedding).to(case.dtype)
    params = CMLPeParams.random(2, shape.dim, shape.frames, shape.blocks, shape.embedding)
    params = CMLPeParams(*(value.to(case.device) for value in params))
    leaves = [h, e, *(getattr(params, name) for name in USED)]
    return prepare(case, adaln_mlp_stack, {"h": h, "e": e, "params": params}, leaves)


@pytest.mark.cases("adaln_mlp forward")
def bench_block_forward(case, measure):
    measure(setup_block(case))


@pytest.mark.cases("adaln_mlp_stack forward")
def bench_stack_forward(case, measure):
    measure(setup_stack(case))


@pytest.mark.cases("adaln_mlp_stack training")
def bench_stack_training(case, measure):
    measure(setup_stack(case))
