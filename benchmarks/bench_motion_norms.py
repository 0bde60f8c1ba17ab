"""The generator's loss before its means: the norms of a predicted motion's errors, where a tenth is not seen."""

import pytest
from providers import Case, draw, prepare

from handcraft.kernels import motion_norms


def setup(case: Case):
    shape = case.shape
    normal = draw(10, case.device)
    prediction, target = (normal(shape.batch, shape.frames, shape.dim).to(case.dtype) for _ in range(2))
    seen = normal(shape.batch, shape.frames, shape.landmarks) > -1.28
    return prepare(case, motion_norms, {"prediction": prediction, "target": target, "seen": seen}, [prediction])


@pytest.mark.cases("motion_norms training")
def bench_training(case, measure):
    measure(setup(case))
