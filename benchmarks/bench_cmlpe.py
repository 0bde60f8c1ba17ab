"""The generator: `cmlpe`."""

import pytest
from providers import Case, draw, prepare

from handcraft.kernels import CMLPeParams, cmlpe

CLASSES = 100


def params_of(case: Case, seed: int) -> CMLPeParams:
    shape = case.shape
    params = CMLPeParams.random(CLASSES, shape.dim, shape.frames, shape.blocks, shape.embedding, seed=seed)
    return CMLPeParams(*(value.to(case.device) for value in params))


def setup(case: Case):
    shape = case.shape
    normal = draw(4, case.device, case.dtype)
    x = normal(shape.batch, shape.frames, shape.dim)
    e = normal(shape.batch, shape.blocks, shape.embedding)
    params = params_of(case, 0)
    leaves = [x, e, *(value for name, value in params._asdict().items() if name != "class_embedding")]
    return prepare(case, cmlpe, {"x": x, "e": e, "params": params}, leaves)


@pytest.mark.cases("cmlpe forward")
def bench_forward(case, measure):
    measure(setup(case))


@pytest.mark.cases("cmlpe training")
def bench_training(case, measure):
    measure(setup(case))
