"""What every Triton kernel here shares: how it is launched, the precision of its products, and how it is recorded.

Imported by `kernel.py` files alone, which `registration.Lazy` imports when they are first used: `handcraft.kernels`
needs no Triton. With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors, one NumPy operation at
a time: for tests.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, summed in fp32; a and b of one dtype. PRECISION counts for fp32 operands: see `product_precision`.

    The interpreters of Triton 3.6 to 3.9 multiply bf16 operands wrongly; upcast operands they multiply exactly as the
    matrix units do.
    """
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """fp32 to `DTYPE`, to the nearest: the interpreters of Triton 3.6 to 3.9 cut bf16 off instead, twice the error."""
    if INTERPRETED and DTYPE is tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def offsets(index, stride):
    """index * stride in int64: one stride of a large batch, or of a transposed view, may exceed 2^31 elements."""
    return tl.cast(index, tl.int64) * stride


@triton.jit
def block_diagonal(matrix_ptr, clip, row, other_clip, column, size, TURNED: tl.constexpr):
    """(rows,columns) of a contiguous (size,size) matrix, or of its transpose, where both are of one clip, else 0."""
    mask = (clip[:, None] == other_clip[None, :]) & (row < size)[:, None] & (column < size)[None, :]
    at = column[None, :] * size + row[:, None] if TURNED else row[:, None] * size + column[None, :]
    return tl.load(matrix_ptr + at, mask=mask, other=0.0)


def block(size: int) -> int:
    """The smallest power of two that holds `size` and that matrix units take."""
    return max(16, triton.next_power_of_2(size))


def clips_in(rows: int, frames: int) -> tuple[int, int]:
    """How a tile of `rows` rows holds whole clips: rows of each, a power of two, and their number, at least 1."""
    block_t = triton.next_power_of_2(frames)
    return block_t, max(1, rows // block_t)


def contiguous(small: Tensor | None) -> Tensor | None:
    """For parameters, of which a copy costs nothing that counts."""
    return None if small is None else small.contiguous()


def product_precision(dtype: torch.dtype) -> str:
    """How products of fp32 operands are computed: "tf32x3", three TF32 products that carry fp32's 24 bits between them.

    Plain "tf32" only where PyTorch was told that its own fp32 products on GPUs may use it. Operands of 16 bits are
    multiplied as they are, for them the answer is a constant, so that they are not compiled twice.
    """
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and dtype == torch.float32 else "tf32x3"


def operand_dtype(first: Tensor) -> tl.dtype:
    """What the operands of products are rounded to: the dtype of the op's first argument."""
    return _TYPES[first.dtype]


_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def alignment(tensor: Tensor, *sizes: int) -> int:
    """Elements, a power of two, of which every row of `tensor` starts and ends at a multiple: how wide loads may be.

    Rows run along the last dimension. Triton looks only whether numbers divide by 16; a row of 180 elements divides by
    4, which allows 8-byte loads of bf16. So kernels take strides in units of this constant.

    Args:
        tensor: its strides and address count; an element of at most 16 bytes.
        sizes: further lengths that have to be multiples, usually that of a row.

    Returns:
        1, 2, 4 or 8, at most 16 bytes; 1 if a row is not contiguous.
    """
    if tensor.stride(-1) != 1:
        return 1
    width = min(8, 16 // tensor.element_size())
    numbers = (*sizes, *(s for s, n in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True) if n > 1))
    while width > 1 and any(number % width for number in numbers):
        width //= 2
    while width > 1 and tensor.data_ptr() % (width * tensor.element_size()):
        width //= 2
    return width


@dataclass(frozen=True)
class Launch:
    """One call of a kernel, as `launch` was given it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class AotCase:
    """Kernels to be compiled without a GPU, exactly as their launcher ships them; in `AOT_CASES` of a kernel.py."""

    name: str
    run: Any
    """Calls a launcher with tensors on the device "meta"; what it launches is recorded and compiled."""
    matrix: Mapping[str, str] = field(default_factory=dict)
    """Kernels that are meant to run on matrix units, by name: with the GPU's "own" instruction, or with "any", where
    products are too small for Hopper's and Blackwell's, which take 64 rows."""
    common: bool = True
    """Whether CI compiles it: of each kernel the shapes measured first. `make test-aot FORMS=all` takes all."""


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory, for cases to be compiled."""
    return torch.empty(shape, dtype=dtype, device="meta")


AOT_SIZES = (
    ("bf16 D180 M16", torch.bfloat16, 180, 16, True),
    ("fp32 D180 M16", torch.float32, 180, 16, True),
    ("bf16 D96 M16", torch.bfloat16, 96, 16, False),
    ("fp32 D96 M16", torch.float32, 96, 16, False),
    ("fp16 D120 M16", torch.float16, 120, 16, False),
    ("fp32 D120 M16", torch.float32, 120, 16, False),
    ("bf16 D144 M16", torch.bfloat16, 144, 16, False),
    ("fp32 D144 M16", torch.float32, 144, 16, False),
    ("bf16 D512 M16", torch.bfloat16, 512, 16, False),
    ("fp32 D512 M16", torch.float32, 512, 16, False),
    *(
        (f"{name} D180 M{frames}", dtype, 180, frames, False)
        for frames in (8, 32, 64)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    ),
)
"""Name, dtype, D and M of the cases of CMLPe's kernels, and whether they are common."""


_RECORDS: list[tuple[int, list[Launch]]] = []


@contextlib.contextmanager
def recording(capability: int = 90) -> Iterator[list[Launch]]:
    """Within it kernels are not run: the list given holds what would have been, on a GPU of that `capability`."""
    _RECORDS.append((capability, []))
    try:
        yield _RECORDS[-1][1]
    finally:
        _RECORDS.pop()


def capability(device: torch.device) -> int:
    """The compute capability of a GPU, 90 for an H200; for recording what was asked for; 90 for the interpreter."""
    if _RECORDS:
        return _RECORDS[-1][0]
    return _capability(device) if device.type == "cuda" else 90


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def compile_options(num_warps: int, num_stages: int) -> dict[str, Any]:
    """What `launch` tells the compiler, said in full: its defaults change.

    Multiply and add become one instruction. A thread may have all the registers there are: told nothing, the assembler
    has been seen to keep to 64 on sm_100 and to spill.
    """
    registers = min(255, (64 << 10) // (32 * num_warps))
    return {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True, "maxnreg": registers}


def launch(
    kernel: Any, grid: Sequence[int], first: Tensor, arguments: Mapping[str, Any], *, num_warps: int, num_stages: int
) -> None:
    """Run a kernel on the device of `first`, whichever is current. A grid with a zero in it is nothing to do.

    Args:
        kernel: a function under triton.jit.
        grid: programs along up to three axes.
        first: the tensor that names the device.
        arguments: all of the kernel's, constants included, by name. No dtype, batch size or length may be a constant
            that is not bounded: each value is compiled anew.
        num_warps, num_stages: the launch config.
    """
    if 0 in grid:
        return
    if _RECORDS:
        _RECORDS[-1][1].append(Launch(kernel, tuple(grid), dict(arguments), num_warps, num_stages))
        return
    options = compile_options(num_warps, num_stages)
    if first.device.type == "cuda" and first.device.index != torch.cuda.current_device():
        with torch.cuda.device(first.device):
            kernel[tuple(grid)](**arguments, **options)
    else:
        kernel[tuple(grid)](**arguments, **options)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 132, those of an H200, where there is none: for recording and for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
