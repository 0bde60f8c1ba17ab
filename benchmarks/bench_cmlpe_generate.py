"""Generation: `cmlpe_generate` by both twins into a buffer that exists already."""

import pytest
import torch
from bench_cmlpe import CLASSES, params_of
from providers import Case, draw, prepare

from handcraft.kernels import cmlpe_generate

MISSING = 0.05
"""Share of the context's landmarks that are missing, as a lost hand is."""


def setup(case: Case):
    shape = case.shape
    window = 2 * shape.frames
    context = draw(5, case.device, case.dtype)(shape.clips, window, shape.dim)
    generator = torch.Generator().manual_seed(6)
    missing = torch.rand(shape.clips, window, shape.dim, generator=generator) < MISSING
    context[missing.to(case.device)] = torch.nan
    clip_id = torch.arange(shape.batch)
    arguments = {
        "params": params_of(case, 0),
        "reverse_params": params_of(case, 1),
        "context": context,
        "row": torch.randint(shape.clips, (shape.batch,), generator=generator).to(case.device),
        "label": (clip_id % CLASSES).to(case.device),
        "clip_id": clip_id.to(case.device),
        "seed": 0,
        "mean": torch.linspace(-1, 1, shape.dim, device=case.device),
        "std": torch.linspace(0.5, 2, shape.dim, device=case.device),
    }
    shared = torch.empty(shape.batch, window, shape.dim, dtype=torch.float16, device=case.device)

    def into_buffer(*, backend: str = "auto", **arguments):
        return cmlpe_generate(**arguments, out=shared, backend=backend)

    return prepare(case, into_buffer, arguments)


@pytest.mark.cases("cmlpe_generate forward")
def bench_forward(case, measure):
    measure(setup(case))
