"""A whole Mamba-1 block."""

import pytest
from providers import Case, draw, prepare

from handcraft.kernels import MambaParams, mamba_block


def setup(case: Case):
    shape = case.shape
    x = draw(8, case.device, case.dtype)(shape.batch, shape.length, shape.width)
    params = MambaParams.random(shape.width, shape.state, shape.conv, shape.expand)
    params = MambaParams(*(value.to(case.device) for value in params))
    return prepare(case, mamba_block, {"x": x, "params": params}, [x, *params])


@pytest.mark.cases("mamba_block forward")
def bench_forward(case, measure):
    measure(setup(case))


@pytest.mark.cases("mamba_block training")
def bench_training(case, measure):
    measure(setup(case))
