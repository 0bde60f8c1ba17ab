"""The embedding of the classifiers: `dct_linear` with [CLS] first and learned positions."""

import pytest
from providers import Case, draw, prepare

from handcraft.kernels import dct_linear


def setup(case: Case):
    shape = case.shape
    normal = draw(1, case.device)
    x = normal(shape.batch, shape.frames, shape.dim).to(case.dtype)
    weight = normal(shape.width, shape.dim) / shape.dim**0.5
    cls, position = normal(shape.width), normal(shape.frames + 1, shape.width)
    arguments = {"x": x, "weight": weight, "cls": cls, "position": position}
    return prepare(case, dct_linear, arguments, list(arguments.values()))


@pytest.mark.cases("dct_linear forward")
def bench_forward(case, measure):
    measure(setup(case))


@pytest.mark.cases("dct_linear training")
def bench_training(case, measure):
    measure(setup(case))
