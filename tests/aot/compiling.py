"""What the launchers of the Triton kernels ship, compiled for GPUs that are not here, and what the assembler says.

`cases()` runs each launcher with tensors that have no memory, records what it would launch, and `compile_launch` hands
exactly that to Triton, as it would arrive there: pointers aligned as torch aligns them, integers specialised as Triton
does it. Registers and spills are in the log of the `ptxas` that Triton ships; disassembled code does not show them.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from aot.accepted import ACCEPTED
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from handcraft.kernels import triton_support
from handcraft.kernels.triton_support import AotCase, Launch

MODULES = (
    "handcraft.kernels.dct_linear.kernel",
    "handcraft.kernels.adaln_mlp.kernel_stack",
    "handcraft.kernels.cmlpe.kernel_generate",
    "handcraft.kernels.cmlpe.kernel",
)
"""Files with kernels and their `AOT_CASES`."""


@dataclass(frozen=True)
class Target:
    """A GPU: its compute capability, the shared memory a block may use, and the name of its matrix instruction."""

    capability: int
    shared: int
    matrix: str


TARGETS = {
    "sm_80": Target(80, 163 << 10, "mma.sync"),
    "sm_90": Target(90, 227 << 10, "wgmma.mma_async"),
    "sm_100": Target(100, 227 << 10, "tcgen05.mma"),
}
_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel for one target. Sizes in bytes, shared memory and registers of a block and of a thread."""

    case: str
    kernel: str
    target: str
    num_warps: int
    registers: int
    shared: int
    spilled: int
    """Stores and loads of registers that did not fit."""
    matrix: int
    """The target's matrix instructions, counted in the text of the code."""
    other_matrix: int
    """Those of older targets."""
    meant: str
    """Which matrix instructions are meant to be there: the target's "own", "any", or "" for none."""

    def faults(self) -> list[str]:
        """What is wrong with it, in words."""
        target, found = TARGETS[self.target], []
        accepted = ACCEPTED.get(f"{self.case} {self.kernel} {self.target}", 0)
        if self.spilled > accepted:
            found.append(f"spills {self.spilled} bytes, {accepted} are accepted")
        if self.shared > target.shared:
            found.append(f"needs {self.shared} bytes of shared memory, a block may use {target.shared}")
        enough = self.matrix + (self.other_matrix if self.meant == "any" else 0)
        if self.meant and not enough:
            found.append(f"has no {target.matrix}")
        return [f"{self.case} {self.kernel} {self.target}: {fault}" for fault in found]

    def row(self) -> dict[str, Any]:
        return asdict(self)


def cases() -> Iterator[AotCase]:
    """Of every kernel file."""
    for module in MODULES:
        yield from importlib.import_module(module).AOT_CASES


def launches(run: Callable[[], None], target: str = "sm_90") -> list[Launch]:
    """What `run` launches on a GPU; the same kernel in the same form counts once, as it is compiled once."""
    with triton_support.recording(TARGETS[target].capability) as found:
        run()
    forms = {repr((launch.kernel.__name__, _arguments(launch), launch.num_warps)): launch for launch in found}
    return list(forms.values())


def compile_launch(case: AotCase, launch: Launch, target: str) -> Compiled:
    """Compile it afresh, whatever is cached."""
    signature, constants, attributes = _arguments(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = triton_support.compile_options(launch.num_warps, launch.num_stages)
    gpu = TARGETS[target]
    log = io.StringIO()
    with contextlib.redirect_stdout(log), triton.knobs.nvidia.scope(), triton.knobs.compilation.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        code = triton.compile(source, target=GPUTarget("cuda", gpu.capability, 32), options=options)
    registers, spilled = assembler_report(log.getvalue())
    counts = {other.matrix: code.asm["ptx"].count(other.matrix) for other in TARGETS.values()}
    return Compiled(
        case=case.name,
        kernel=launch.kernel.__name__,
        target=target,
        num_warps=launch.num_warps,
        registers=registers,
        shared=code.metadata.shared,
        spilled=spilled,
        matrix=counts.pop(gpu.matrix),
        other_matrix=sum(counts.values()),
        meant=case.matrix.get(launch.kernel.__name__, ""),
    )


def assembler_report(log: str) -> tuple[int, int]:
    """Registers a thread and bytes spilled, stores and loads together, from what `ptxas -v` says.

    Raises:
        ValueError: it does not say so: then nothing is known about spills.
    """
    registers = re.findall(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    if len(registers) != 1 or len(spills) < 2:
        raise ValueError(f"no registers and spills of one kernel in the assembler's log:\n{log}")
    return int(registers[0]), sum(map(int, spills))


def _arguments(launch: Launch) -> tuple[dict[str, str], dict[tuple, Any], dict[tuple, list]]:
    """Types, constants and known divisors of the arguments, as Triton derives them from a call."""
    signature, constants, attributes = {}, {}, {}
    for i, param in enumerate(launch.kernel.params):
        value = launch.arguments[param.name]
        aligned = isinstance(value, torch.Tensor)
        if aligned:
            signature[param.name] = _TYPES[value.dtype]
        elif param.is_constexpr or value is None or (value == 1 and not param.do_not_specialize):
            signature[param.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, float):
            signature[param.name] = "fp32"
        else:
            signature[param.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0 and not param.do_not_specialize
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes
