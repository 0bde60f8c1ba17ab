"""The one place that picks a backend.

`RULES` is read from the top: `auto` takes the first rule that fits the op, device, dtype and shape, whose backend runs
here, and that has evidence: a JSON in `benchmarks/results/` showing that it is the faster choice on that device class.
A rule without evidence says only that the backend implements the op: it runs when asked for by name. The reference
closes the table, takes everything, and needs no evidence.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from handcraft.kernels import env

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda", "mamba_ssm")
VARIABLE = "HANDCRAFT_BACKEND"

logger = logging.getLogger("handcraft.kernels")

Shape = Mapping[str, int]


class BackendError(RuntimeError):
    """A backend asked for by name cannot run; the message gives the reason and what to install."""


@dataclass(frozen=True)
class Rule:
    """One row of the table: where `backend` implements `op`, and why `auto` may take it."""

    op: str
    backend: str
    devices: frozenset[str] | None = None
    """Device types; None: all."""
    dtypes: frozenset[torch.dtype] | None = None
    """Dtypes of the first argument; None: fp32, bf16, fp16 and fp64."""
    condition: Callable[[Shape], bool] | None = None
    """On the shape; None: every shape."""
    wanted: str = "any shape"
    """The condition in words, for error messages."""
    evidence: str | None = None
    """JSON in benchmarks/results/ that shows the gain on this device class."""

    def misfit(self, device: str, dtype: torch.dtype, shape: Shape) -> str | None:
        """Why this rule does not serve a call, or None if it does."""
        if self.devices is not None and device not in self.devices:
            return f"it runs on {', '.join(sorted(self.devices))}, the tensors are on {device}"
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it takes {', '.join(sorted(map(str, self.dtypes)))}, the first argument is {dtype}"
        if self.condition is not None and not self.condition(shape):
            return f"it takes {self.wanted}, the shape is {dict(shape)}"
        return None


OPS = (
    "dct_linear",
    "adaln_mlp",
    "adaln_mlp_stack",
    "cmlpe",
    "cmlpe_generate",
    "selective_scan",
    "mamba_block",
    "motion_norms",
    "clip_windows",
)

_CPU, _CUDA = frozenset({"cpu"}), frozenset({"cuda"})
_TRITON = _CUDA | _CPU if env.interpreting() else _CUDA
_NARROW = frozenset({torch.float32, torch.bfloat16, torch.float16})
_SCANS = ("selective_scan", "mamba_block")
_CPU_EVIDENCE = "cpu-2core.json"

_EMBEDS = "1 <= T <= 128, 1 <= D <= 512, 1 <= H <= 1024"


def _embeds(shape: Shape) -> bool:
    return 1 <= shape["T"] <= 128 and 1 <= shape["D"] <= 512 and 1 <= shape["H"] <= 1024


_GENERATES = "M in {8,16,32,64}, 1 <= D <= 512"


def _generates(shape: Shape) -> bool:
    return shape["M"] in (8, 16, 32, 64) and 1 <= shape["D"] <= 512


RULES: tuple[Rule, ...] = (
    # no evidence yet: no GPU was measured, so these run when asked for by name
    Rule("dct_linear", "triton", _TRITON, _NARROW, _embeds, _EMBEDS),
    Rule("dct_linear", "cpu", _CPU, condition=_embeds, wanted=_EMBEDS, evidence=_CPU_EVIDENCE),
    *(
        Rule(op, "triton", _TRITON, _NARROW, _generates, _GENERATES)
        for op in ("adaln_mlp", "adaln_mlp_stack", "cmlpe", "cmlpe_generate")
    ),
    *(
        Rule(
            op,
            "cpu",
            _CPU,
            condition=lambda shape: shape["M"] in (8, 16, 32, 64) and 2 <= shape["D"] <= 512,
            wanted="M in {8,16,32,64}, 2 <= D <= 512",
            evidence=_CPU_EVIDENCE,
        )
        for op in ("adaln_mlp", "adaln_mlp_stack", "cmlpe", "cmlpe_generate")
    ),
    # no evidence yet: no GPU was measured, so these run when asked for by name
    *(Rule(op, "cuda", _CUDA, _NARROW, lambda shape: shape["N"] <= 128, "N <= 128") for op in _SCANS),
    Rule(
        "selective_scan",
        "mamba_ssm",
        _CUDA,
        _NARROW,
        lambda shape: shape["N"] <= 256 and not shape.get("last"),  # its backward pass drops the last state's gradient
        "N <= 256 without return_last_state",
    ),
    Rule("mamba_block", "mamba_ssm", _CUDA, _NARROW, lambda shape: shape["N"] <= 256, "N <= 256"),
    *(Rule(op, "cpu", _CPU, evidence=_CPU_EVIDENCE) for op in (*_SCANS, "motion_norms", "clip_windows")),
    *(Rule(op, "reference") for op in OPS),
)


def select(op: str, backend: str, first: Tensor, **shape: int) -> str:
    """The backend that runs this call.

    Args:
        op: a name of `OPS`.
        backend: what the caller asked for, a name of `BACKENDS`; HANDCRAFT_BACKEND in the environment overrides it. The
            variable may hold several, separated by commas: the first that serves the call runs it.
        first: the op's first argument (its device and dtype count).
        shape: the op's sizes by the letters of the design.

    Returns:
        a backend name other than "auto".

    Raises:
        ValueError: a name that is no backend.
        BackendError: a backend asked for by name that cannot run here or does not serve this call.
    """
    forced = os.environ.get(VARIABLE)
    names = tuple(forced.split(",")) if forced else (backend,)
    for asked in names:
        if asked not in BACKENDS:
            where = f"the environment variable {VARIABLE}" if forced else "backend"
            raise ValueError(f"{op}: {where} is {forced or backend!r}, expected one of {', '.join(BACKENDS)}")
    device, dtype = first.device.type, first.dtype
    rules = tuple(rule for rule in RULES if rule.op == op)
    for asked in names:
        if asked == "auto":
            chosen = _automatic(rules, device, dtype, shape)
            if not torch.compiler.is_compiling():
                _announce(op, chosen, device, dtype)
            return chosen
        if _runs(asked) and any(rule.backend == asked and rule.misfit(device, dtype, shape) is None for rule in rules):
            return asked
    raise BackendError("; ".join(_refusal(op, asked, rules, device, dtype, shape) for asked in names))


def _refusal(op: str, asked: str, rules: tuple[Rule, ...], device: str, dtype: torch.dtype, shape: Shape) -> str:
    """Why a backend asked for by name does not run a call, in words."""
    mine = tuple(rule for rule in rules if rule.backend == asked)
    if not mine:
        others = ", ".join(dict.fromkeys(rule.backend for rule in rules))
        return f"{op}: backend {asked!r} is not implemented in this version, only {others} is{_availability(asked)}"
    if not _runs(asked):
        return f"{op}: backend {asked!r} cannot run here{_availability(asked)}"
    reasons = (rule.misfit(device, dtype, shape) for rule in mine)
    return f"{op}: backend {asked!r} does not serve this call: {'; '.join(reasons)}"


def _automatic(rules: tuple[Rule, ...], device: str, dtype: torch.dtype, shape: Shape) -> str:
    for rule in rules:
        if rule.backend == "reference":
            return rule.backend
        if rule.evidence is not None and rule.misfit(device, dtype, shape) is None and _runs(rule.backend):
            return rule.backend
    raise ValueError(f"no rule of any op serves {rules!r}; expected a closing reference rule")


def _runs(name: str) -> bool:
    """Whether a backend runs on this machine; torch.compile takes the answer as given and does not trace the probe."""
    return env.backend(name).available


# All that torch.compiler.assume_constant_result does; calling it would import torch._dynamo, which takes 1.5 s.
_runs._dynamo_marked_constant = True


@functools.lru_cache(maxsize=256)
def _announce(op: str, chosen: str, device: str, dtype: torch.dtype) -> None:
    """Say once for each op, device, dtype and choice what `auto` picked."""
    logger.info("%s: auto picked %s for %s on %s", op, chosen, dtype, device)


def _availability(name: str) -> str:
    probe = env.backend(name)
    if probe.available:
        return ""
    return f"; on this machine: {probe.reason}" + (f"; install with: {probe.install}" if probe.install else "")
