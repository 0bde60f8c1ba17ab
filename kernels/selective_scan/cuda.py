"""selective_scan on a GPU: launchers of csrc/selective_scan/scan.cu, which NVRTC compiles when it is first used.

    delta_t = softplus(delta_t + delta_bias),   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,
    y_t     = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t)

u, delta, z, y (B,D,L) in any strides, fast where D or L is contiguous; A (D,N), N <= 128; B, C (B,N,L), (B,G,N,L) or
(D,N); last state (B,D,N). Made for short sequences, right for all: L is walked in chunks of at most `ROWS` steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handcraft.kernels import nvrtc
from handcraft.kernels.selective_scan import arguments
from handcraft.kernels.selective_scan.arguments import Gradients, Inputs

SOURCE = Path(__file__).parents[2] / "csrc" / "selective_scan" / "scan.cu"
TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "f16"}
MAX_STATE = 128

ROWS = 40
"""Steps of a chunk at most: a tile of them fits into shared memory with 8 warps a multiprocessor (bf16, L = 33)."""
QUAD = 4
"""Channels of a lane."""
RESERVED = 1024
"""Bytes of shared memory that a block takes beside its own."""
BLOCKS = 256
"""Fewer blocks than this leave multiprocessors idle: then blocks are made smaller."""
RUNS = 2048
"""Blocks from which on a block takes several batch items, so that partial sums over the batch stay few."""


@dataclass(frozen=True)
class Form:
    """What a module is compiled for."""

    dtype: torch.dtype
    state: int
    gated: bool
    fixed_B: bool
    fixed_C: bool

    @property
    def states(self) -> int:
        """Of a lane."""
        return 1 if self.state <= 4 else 2 if self.state <= 8 else 4

    @property
    def lanes(self) -> int:
        """Of a channel."""
        lanes = 4
        while self.states * lanes < self.state:
            lanes *= 2
        return lanes

    @property
    def padded(self) -> int:
        return self.states * self.lanes

    def segment(self, warps: int) -> int:
        """Steps of which the backward kernel keeps the states in registers: as many as the assembler places without a
        spill on sm_80, sm_90 and sm_100 (tests/ops/test_nvrtc.py), and cost no block its place in shared memory."""
        if self.fixed_B or self.fixed_C:
            return 1
        if warps == 1 or self.lanes == 32:
            return 2
        return 4 if self.dtype.itemsize == 2 and self.lanes == 4 and warps == 4 else 3

    def forward_warps(self, warps: int) -> int:
        """A multiprocessor, as the registers allow. Small blocks are for small calls, which do not fill it."""
        return 16 if warps == 4 and not (self.fixed_B or self.fixed_C) else 8

    def backward_warps(self, warps: int) -> int:
        return 8

    def channels(self, warps: int) -> int:
        """Of a block's tile."""
        return warps * QUAD * 32 // self.lanes

    def source(self, warps: int) -> nvrtc.Source:
        values = {
            "T": TYPES[self.dtype],
            "STATES": self.states,
            "LANES": self.lanes,
            "WARPS": warps,
            "FORWARD_WARPS": self.forward_warps(warps),
            "BACKWARD_WARPS": self.backward_warps(warps),
            "SEGMENT": self.segment(warps),
            "GATED": int(self.gated),
            "FIXED_B": int(self.fixed_B),
            "FIXED_C": int(self.fixed_C),
        }
        return nvrtc.Source(SOURCE, tuple((f"HANDCRAFT_{name}", str(value)) for name, value in values.items()))

    def forward_bytes(self, warps: int, rows: int) -> int:
        """Shared memory of a block of scan_forward."""
        return 4 * rows * _row(2 * self.channels(warps) + self._mixing())

    def backward_bytes(self, warps: int, rows: int) -> int:
        """Shared memory of a block of scan_backward."""
        channels = self.channels(warps)
        row = _row(2 * channels + self._mixing() + channels * self.dtype.itemsize // 4)
        segment = self.segment(warps) * (2 * warps * self._mixing() + self.gated * channels)
        slots = max(-(-rows // self.segment(warps)) - 2, 0)
        return 4 * (rows * row + segment + slots * warps * 32 * QUAD * self.states)

    def _mixing(self) -> int:
        """Numbers of B and C a step."""
        return (2 - self.fixed_B - self.fixed_C) * self.padded


def _row(numbers: int) -> int:
    """`row_of` in tile.h."""
    return (-(-numbers // 4) | 1) * 4


@dataclass(frozen=True)
class Plan:
    """How a call is cut up: by its shape and the GPU's shared memory alone, so that sums come in a fixed order."""

    form: Form
    warps: int
    shared: int
    rows: int
    """Steps of a chunk."""
    tiles: int
    group_tiles: int
    """Tiles of channels, and those of one group."""
    run: int
    runs: int
    """Batch items of a block, and blocks in the batch."""

    @property
    def grid(self) -> int:
        return self.tiles * self.runs

    def fields(self, bounds: Tensor | None) -> dict[str, Tensor | int | None]:
        cut = {"tiles": self.tiles, "group_tiles": self.group_tiles, "rows": self.rows, "run": self.run}
        return {**cut, "bounds": bounds}


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor]:
    """y (B,D,L) in the dtype of u, and the last state (B,D,N) in fp32; empty without return_last_state."""
    inputs = arguments.prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y = torch.empty(u.shape, dtype=inputs.u.dtype, device=u.device)
    last = torch.empty(arguments.last_shape(u, A, return_last_state), dtype=torch.float32, device=u.device)
    if u.numel():
        _run_forward(inputs, y, last if return_last_state else None, None, _rows(u.shape[2]))
    return y.to(u.dtype), last


def backward(
    needed: Sequence[bool],
    dy: Tensor | None,
    dlast: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> Gradients:
    """All gradients whatever is `needed`: they share nearly all of the work."""
    inputs = arguments.prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    like = {"dtype": inputs.u.dtype, "device": u.device}
    dy = torch.zeros(u.shape, **like) if dy is None else dy.to(inputs.u.dtype)
    dlast = dlast.float().contiguous() if return_last_state and dlast is not None else None
    make = torch.empty if u.numel() else torch.zeros
    gradients = Gradients(*(x if x is None else make(x.shape, dtype=x.dtype, device=x.device) for x in inputs[:-1]))
    if u.numel():
        _run_backward(inputs, dy, dlast, gradients)
    return gradients


def _run_forward(inputs: Inputs, y: Tensor, last: Tensor | None, bounds: Tensor | None, rows: int) -> None:
    """Fill y, and what is not None of the last states and the states before each chunk."""
    form = _form(inputs)
    plan = _plan(inputs, form, form.forward_bytes, form.forward_warps, rows)
    fields = {**arguments.fields(inputs), **arguments.channels("y", y), "last": last, **plan.fields(bounds)}
    _launch(plan, "scan_forward", plan.grid, plan.shared, fields, inputs.u.device)


def _run_backward(inputs: Inputs, dy: Tensor, dlast: Tensor | None, gradients: Gradients) -> None:
    """Fill the gradients. Sequences of several chunks are run forward first, for the states between the chunks."""
    batch, dim, length = inputs.u.shape
    device, state = inputs.u.device, inputs.A.shape[1]
    form = _form(inputs)
    plan = _plan(inputs, form, form.backward_bytes, form.backward_warps, _rows(length))
    bounds = None
    if plan.rows < length:
        chunks = -(-length // plan.rows)
        bounds = torch.empty(batch, chunks - 1, dim, state, device=device)
        _run_forward(inputs, torch.empty_like(inputs.u), None, bounds, plan.rows)
    columns = state * (1 + form.fixed_B + form.fixed_C) + 2
    varying = 2 - form.fixed_B - form.fixed_C
    fields = {
        **arguments.fields(inputs),
        **arguments.channels("dy", dy),
        "dlast": dlast,
        **arguments.channels("du", gradients.u),
        **arguments.channels("ddelta", gradients.delta),
        "dA": gradients.A,
        **arguments.mixing("dB", gradients.B),
        **arguments.mixing("dC", gradients.C),
        "dD": gradients.D,
        **arguments.channels("dz", gradients.z),
        "ddelta_bias": gradients.delta_bias,
        **arguments.channels("y", None),
        **plan.fields(bounds),
        "runs": plan.runs,
        "columns": columns,
        "channel_sums": torch.empty(plan.runs, dim, columns, device=device),
        "mixing_sums": torch.empty(batch, plan.tiles, length, varying, form.padded, device=device),
    }
    _launch(plan, "scan_backward", plan.grid, plan.shared, fields, device)
    sums = dim * columns + sum(x.numel() for x in (gradients.B, gradients.C) if x.dim() > 2)
    _launch(plan, "scan_finish", -(-sums // (32 * plan.warps)), 0, fields, device)


def _launch(
    plan: Plan, kernel: str, grid: int, shared: int, fields: dict[str, Tensor | int | None], device: torch.device
) -> None:
    nvrtc.launch(plan.form.source(plan.warps), kernel, grid, 32 * plan.warps, shared, fields, device)


def _form(inputs: Inputs) -> Form:
    state = inputs.A.shape[1]
    return Form(inputs.u.dtype, state, inputs.z is not None, inputs.B.dim() == 2, inputs.C.dim() == 2)


def _rows(length: int) -> int:
    """Chunks of nearly one length."""
    return -(-length // -(-length // ROWS))


def _plan(
    inputs: Inputs, form: Form, bytes_of: Callable[[int, int], int], most: Callable[[int], int], rows: int
) -> Plan:
    """The number of warps a block that fills a multiprocessor best, of those that leave none idle.

    Args:
        bytes_of: warps and rows -> shared memory of a block.
        most: warps -> warps a multiprocessor.
        rows: of a chunk; halved until a block fits into the GPU's shared memory.
    """
    batch, dim, _ = inputs.u.shape
    groups = arguments.finest_groups(inputs)
    limits = nvrtc.limits(inputs.u.device)
    while bytes_of(1, rows) > limits.block:
        rows = -(-rows // 2)
    best = None
    for warps in (1, 2, 4):
        group_tiles = -(-(dim // groups) // form.channels(warps))
        shared = bytes_of(warps, rows)
        blocks = batch * groups * group_tiles
        if shared > limits.block or (best is not None and blocks < BLOCKS):
            continue
        resident = min(limits.multiprocessor // (shared + RESERVED), most(warps) // warps) * warps
        useful = resident * dim / (groups * group_tiles * form.channels(warps))
        if best is None or useful >= best[0]:
            run = max(1, blocks // RUNS)
            best = useful, Plan(form, warps, shared, rows, groups * group_tiles, group_tiles, run, -(-batch // run))
    return best[1]
