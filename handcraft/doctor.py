"""`handcraft doctor`: what is installed, which backends run and why others do not, and whether the ops compute what
they should on this machine.

The self-check runs every op that a backend implements, with random O(1/sqrt(fan-in)) weights, in float32 and bfloat16
on each device, forward and backward, and compares output and every gradient with the reference in float64 on the same
numbers. The shapes are such that every kernel runs.
"""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import handcraft
from handcraft import kernels
from handcraft.kernels import CMLPeParams, MambaParams, dispatch, env

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2}
"""Largest error of an op against float64: of its output and of each gradient, relative to its largest number."""
LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "torchmetrics", "tyro", "triton")


@dataclass(frozen=True)
class Check:
    """One op, one backend, one device. `reason` says why it could not run; `error` is None then."""

    op: str
    backend: str
    device: str
    error: float | None
    reason: str = ""
    dtype: torch.dtype = torch.float32
    """Of the op's activations."""

    @property
    def ok(self) -> bool:
        return self.error is not None and self.error <= TOLERANCE[self.dtype]


def self_check() -> list[Check]:
    """Run every implemented (op, backend) on every device of this machine that the backend serves.

    HANDCRAFT_BACKEND is set aside meanwhile: it would put one backend in the place of all, the float64 reference
    included.
    """
    forced = os.environ.pop(dispatch.VARIABLE, None)
    try:
        return _check_all()
    finally:
        if forced is not None:
            os.environ[dispatch.VARIABLE] = forced


def _check_all() -> list[Check]:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    for op in dispatch.OPS:
        expected = {dtype: _call(op, "reference", "cpu", dtype, exact=True) for dtype in TOLERANCE}
        for rule in dispatch.RULES:
            if rule.op != op or not env.backend(rule.backend).available:
                continue
            found += [
                _compare(op, rule.backend, device, dtype, expected[dtype])
                for device in devices
                for dtype in TOLERANCE
                if (rule.devices is None or device in rule.devices) and (rule.dtypes is None or dtype in rule.dtypes)
            ]
    return found


def _compare(op: str, backend: str, device: str, dtype: torch.dtype, expected: list[Tensor]) -> Check:
    try:
        got = [result.double().cpu() for result in _call(op, backend, device, dtype)]
    except Exception as error:  # a broken kernel may raise anything, and the others are still to be checked
        return Check(op, backend, device, None, f"{type(error).__name__}: {error}", dtype)
    for one, other in zip(got, expected, strict=True):
        if one.shape != other.shape:
            return Check(op, backend, device, None, f"gives {one.numel()} numbers, expected {other.numel()}", dtype)
    errors = [(one - other).abs().max() / other.abs().max() for one, other in zip(got, expected, strict=True)]
    return Check(op, backend, device, float(torch.stack(errors).max()), dtype=dtype)  # NaN if one of them is


def _call(op: str, backend: str, device: str, dtype: torch.dtype, *, exact: bool = False) -> list[Tensor]:
    """Output of `op` on fixed random input, and for differentiable ops the gradients of all that was drawn.

    dtype: of activations, parameters are float32. exact: the same numbers, computed in float64.
    """
    generator = torch.Generator().manual_seed(20)
    leaves: list[Tensor] = []

    def leaf(value: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        value = value.to(device, kind)
        value = value.double() if exact else value
        leaves.append(value.requires_grad_(op not in ("cmlpe_generate", "clip_windows")))
        return leaves[-1]

    def draw(*shape: int) -> Tensor:
        return leaf(torch.randn(shape, generator=generator, dtype=torch.float64), dtype)

    def weight(*shape: int, scale: float = 1.0) -> Tensor:
        return leaf(torch.randn(shape, generator=generator, dtype=torch.float64) * scale)

    def cmlpe(seed: int = 0) -> CMLPeParams:
        return CMLPeParams(*map(leaf, CMLPeParams.random(5, 48, seed=seed)))

    calls: dict[str, Callable[[], Tensor]] = {
        "dct_linear": lambda: kernels.dct_linear(
            first, weight(80, 48, scale=48**-0.5), weight(80), cls=weight(80), position=weight(33, 80), backend=backend
        ),
        "adaln_mlp": lambda: kernels.adaln_mlp(
            first,
            *(draw(4, 32) for _ in range(3)),
            *(weight(48), weight(48), weight(32, 32, scale=32**-0.5), weight(32)),
            backend=backend,
        ),
        "adaln_mlp_stack": lambda: kernels.adaln_mlp_stack(first, draw(4, 6, 32), cmlpe(), backend=backend),
        "cmlpe": lambda: kernels.cmlpe(first, draw(4, 6, 32), cmlpe(), backend=backend),
        "cmlpe_generate": lambda: kernels.cmlpe_generate(
            cmlpe(),
            cmlpe(seed=1),
            first,
            torch.arange(4, device=device),
            torch.arange(4, device=device) % 5,
            torch.arange(4, device=device),
            seed=7,
            backend=backend,
        ),
        "selective_scan": lambda: kernels.selective_scan(
            first,
            draw(4, 48, 33),
            -weight(48, 16).exp(),
            *(draw(4, 16, 33), draw(4, 16, 33), weight(48), draw(4, 48, 33), weight(48)),
            delta_softplus=True,
            backend=backend,
        ),
        "mamba_block": lambda: kernels.mamba_block(
            first, MambaParams(*map(leaf, MambaParams.random(32))), backend=backend
        ),
        "motion_norms": lambda: kernels.motion_norms(
            first, draw(4, 16, 48), torch.ones(4, 16, 24, dtype=torch.bool, device=device), backend=backend
        ),
        "clip_windows": lambda: kernels.clip_windows(
            first,
            torch.arange(20, device=device).view(2, 10),
            torch.arange(4, 24, device=device).view(2, 10),
            weight(2, 10).sigmoid(),
            turns=weight(2, 3),
            mean=weight(25, 3),
            std=weight(25, 3).exp(),
            backend=backend,
        ),
    }
    shapes = {
        "dct_linear": (4, 32, 48),
        "adaln_mlp": (4, 48, 32),
        "adaln_mlp_stack": (4, 48, 16),
        "cmlpe": (4, 16, 48),
        "cmlpe_generate": (4, 32, 48),
        "selective_scan": (4, 48, 33),
        "mamba_block": (4, 33, 32),
        "motion_norms": (4, 16, 48),
        "clip_windows": (24, 25, 3),
    }
    first = draw(*shapes[op])
    out = calls[op]()
    if not out.requires_grad:
        return [out]
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype).to(out)
    gradients = torch.autograd.grad(out, leaves, cotangent, allow_unused=True)  # not every op reads all of CMLPeParams
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


def examine(console: Console | None = None) -> bool:
    """Print the whole report; False if an op gives wrong numbers, or HANDCRAFT_BACKEND names what cannot run."""
    console = console or Console()
    versions = Table("library", "version", title="Versions")
    versions.add_row("handcraft", handcraft.__version__)
    versions.add_row("python", f"{sys.version.split()[0]}, {platform.platform()}")
    versions.add_row("torch", torch.__version__)
    for name in LIBRARIES:
        try:
            versions.add_row(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            versions.add_row(name, "not installed")
    console.print(versions)
    probes = Table("looked for", "there", "what was found", "to install", title="This machine")
    for probe in env.report():
        probes.add_row(probe.name, "yes" if probe.available else "no", escape(probe.reason), escape(probe.install))
    console.print(probes)
    backends = Table("backend", "runs", "why, or why not", "implements", title="Backends")
    for name in dispatch.BACKENDS:
        if name != "auto":
            probe = env.backend(name)
            ops = ", ".join(dict.fromkeys(rule.op for rule in dispatch.RULES if rule.backend == name)) or "nothing yet"
            backends.add_row(name, "yes" if probe.available else "no", escape(probe.reason), ops)
    console.print(backends)
    forced, usable = os.environ.get(dispatch.VARIABLE), True
    if forced:
        names = forced.split(",")
        known = all(name in dispatch.BACKENDS for name in names)
        usable = known and any(name == "auto" or env.backend(name).available for name in names)
        effect = "every command runs its ops on it" if usable else "WRONG: it cannot run here, so every command fails"
        if usable and len(names) > 1:
            effect = "every op runs on the first of them that has it"
        console.print(escape(f"{dispatch.VARIABLE}={forced}: {effect}; the self-check tries every backend by name"))
    checks = self_check()
    allowed = ", ".join(f"{value:g} in {dtype}".replace("torch.", "") for dtype, value in TOLERANCE.items())
    title = f"Self-check against float64, tolerance {allowed}"
    table = Table("op", "backend", "device", "dtype", "error", "", title=title)
    for check in checks:
        error = "-" if check.error is None else f"{check.error:.1e}"
        verdict = "ok" if check.ok else escape(f"WRONG {check.reason}")
        table.add_row(check.op, check.backend, check.device, str(check.dtype)[6:], error, verdict)
    console.print(table)
    wrong = [check for check in checks if not check.ok]
    if wrong:
        console.print(
            f"{len(wrong)} of {len(checks)} checks failed: set {dispatch.VARIABLE}=reference to go on with plain "
            "PyTorch, and report this table"
        )
    return usable and not wrong
