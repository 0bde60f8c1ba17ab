"""The Triton kernels behind torch.library, and in the doctor's table: in the interpreter, or compiled on a GPU."""

import pytest
import torch
from backends import DEVICE, backends
from cases import CASES

from handcraft.kernels import dispatch
from handcraft.kernels.adaln_mlp import op as adaln_op
from handcraft.kernels.cmlpe import op as cmlpe_op
from handcraft.kernels.dct_linear import op as dct_op

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        "triton" not in backends("cmlpe"), reason="needs TRITON_INTERPRET=1 in the environment, or a GPU"
    ),
]
FUSED = {
    "dct_linear": dct_op.FUSED,
    "adaln_mlp": adaln_op.FUSED,
    "adaln_mlp_stack": adaln_op.FUSED_STACK,
    "cmlpe": cmlpe_op.FUSED,
}


@pytest.mark.parametrize("op", FUSED)
def test_registered_operations_pass_opcheck(op):
    case, options = CASES[op], ()
    tensors = case.cast(case.make(2), torch.float32)
    given = [value for name, value in tensors.items() if name not in case.unused]
    if op == "dct_linear":
        given, options = [*given, None], ("first", "dct")
    gradient = torch.ones_like(case.run(tensors))
    plain = [None if value is None else value.detach() for value in given]
    needed = [value is not None for value in given]
    torch.library.opcheck(FUSED[op].registered_backward, ("triton", needed, gradient, *plain, *options))
    leaves = [None if value is None else value.detach().requires_grad_() for value in given]
    torch.library.opcheck(FUSED[op].registered_forward, ("triton", *leaves, *options))


def test_the_doctor_compares_every_kernel_with_the_reference():
    pytest.importorskip("rich")  # a machine with a GPU may have no more than the kernels need
    from handcraft import doctor

    checks = [check for check in doctor.self_check() if check.backend == "triton" and check.device == DEVICE]
    assert {check.op for check in checks} == {rule.op for rule in dispatch.RULES if rule.backend == "triton"}
    for check in checks:
        assert check.ok, check


def test_the_doctor_runs_every_kernel():
    pytest.importorskip("rich")
    from handcraft import doctor
    from handcraft.kernels import triton_support
    from handcraft.kernels.adaln_mlp import kernel as adaln
    from handcraft.kernels.cmlpe import kernel as cmlpe
    from handcraft.kernels.cmlpe import kernel_generate
    from handcraft.kernels.dct_linear import kernel as dct
    from handcraft.kernels.dct_linear import kernel_gradient

    modules = adaln, cmlpe, kernel_generate, dct, kernel_gradient
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    with triton_support.recording() as found:
        doctor.self_check()
    assert {launch.kernel.__name__ for launch in found} == kernels
