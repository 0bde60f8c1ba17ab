"""Which backends the op tests run, and where.

pytest --device cuda puts all tensors of the op tests on a GPU; TRITON_INTERPRET=1 adds the Triton kernels on the CPU.
Tests of the latter carry the marker `triton`, so that they can be run alone: pytest tests/ops -m triton.
"""

import pytest
import torch

from handcraft.kernels import dispatch, env

DEVICE = "cpu"


def use(device):
    """Run the op tests on this device from now on."""
    global DEVICE
    DEVICE = device
    torch.set_default_device(device)


def backends(op, dtype=torch.float32):
    """The reference, and every backend that implements the op for this dtype and runs on the tests' device."""
    rules = [
        rule
        for rule in dispatch.RULES
        if rule.op == op
        and (rule.devices is None or DEVICE in rule.devices)
        and (rule.dtypes is None or dtype in rule.dtypes)
    ]
    return [name for name in dict.fromkeys(rule.backend for rule in rules) if env.backend(name).available]


def finest(op, backend):
    """The widest dtype that the backend computes this op in."""
    return torch.float64 if backend in backends(op, torch.float64) else torch.float32


def param(backend, *values):
    """Parameters of a test of this backend, with its marker."""
    marks = [pytest.mark.triton] if backend == "triton" else []
    return pytest.param(*(values or (backend,)), marks=marks, id=None if not values else "-".join(values[0]))
