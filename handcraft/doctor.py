"""`handcraft doctor`: what is installed, which backends run and why others do not, and whether the ops compute what
they should on this machine.

The self-check runs every op that a backend implements, with random O(1/sqrt(fan-in)) weights, in float32 on each
device, forward and backward, and compares output and every gradient with the reference in float64.
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

TOLERANCE = 2e-4
"""Largest error of a float32 op against float64: of its output and of each gradient, relative to its largest number."""
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "torchmetrics", "tyro", "triton")


@dataclass(frozen=True)
class Check:
    """One op, one backend, one device. `reason` says why it could not run; `error` is None then."""

    op: str
    backend: str
    device: str
    error: float | None
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.error is not None and self.error <= TOLERANCE


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
        expected = _call(op, "reference", "cpu", torch.float64)
        for rule in dispatch.RULES:
            if rule.op != op or not env.backend(rule.backend).available:
                continue
            for device in devices:
                if rule.devices is None or device in rule.devices:
                    found.append(_compare(op, rule.backend, device, expected))
    return found


def _compare(op: str, backend: str, device: str, expected: list[Tensor]) -> Check:
    try:
        got = [result.double().cpu() for result in _call(op, backend, device, torch.float32)]
    except Exception as error:  # a broken kernel may raise anything, and the others are still to be checked
        return Check(op, backend, device, None, f"{type(error).__name__}: {error}")
    for one, other in zip(got, expected, strict=True):
        if one.shape != other.shape:
            return Check(op, backend, device, None, f"gives {one.numel()} numbers, expected {other.numel()}")
    errors = [(one - other).abs().max() / other.abs().max() for one, other in zip(got, expected, strict=True)]
    return Check(op, backend, device, float(torch.stack(errors).max()))  # NaN if one of them is


def _call(op: str, backend: str, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Output of `op` on fixed random input, and for differentiable ops the gradients of all that was drawn."""
    generator = torch.Generator().manual_seed(20)
    leaves: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        leaves.append(value.to(device, dtype).requires_grad_(op not in ("cmlpe_generate", "clip_windows")))
        return leaves[-1]

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return leaf(torch.randn(shape, generator=generator, dtype=torch.float64) * scale)

    def cmlpe(seed: int = 0) -> CMLPeParams:
        return CMLPeParams(*map(leaf, CMLPeParams.random(5, 48, seed=seed)))

    calls: dict[str, Callable[[], Tensor]] = {
        "dct_linear": lambda: kernels.dct_linear(
            first, draw(80, 48, scale=48**-0.5), draw(80), cls=draw(80), position=draw(33, 80), backend=backend
        ),
        "adaln_mlp": lambda: kernels.adaln_mlp(
            first,
            *(draw(4, 16) for _ in range(3)),
            *(draw(48), draw(48), draw(16, 16, scale=0.25), draw(16)),
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
            -draw(48, 16).exp(),
            *(draw(4, 16, 33), draw(4, 16, 33), draw(48), draw(4, 48, 33), draw(48)),
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
            draw(2, 10).sigmoid(),
            turns=draw(2, 3),
            mean=draw(25, 3),
            std=draw(25, 3).exp(),
            backend=backend,
        ),
    }
    shapes = {
        "dct_linear": (4, 32, 48),
        "adaln_mlp": (4, 48, 16),
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
    gradients = torch.autograd.grad(out.sin().sum(), leaves, allow_unused=True)  # not every op reads all of CMLPeParams
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


def examine(console: Console | None = None) -> bool:
    """Print the whole report; False if an op gives wrong numbers, or HANDCRAFT_BACKEND names what cannot run."""
    console = console or Console()
    versions = Table("library", "version", title="Versions")
    versions.add_row("handcraft", handcraft.__version__)
    versions.add_row("python", f"{sys.version.split()[0]}, {platform.platform()}")
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
        usable = forced in dispatch.BACKENDS and (forced == "auto" or env.backend(forced).available)
        effect = "every command runs its ops on it" if usable else "WRONG: it cannot run here, so every command fails"
        console.print(escape(f"{dispatch.VARIABLE}={forced}: {effect}; the self-check tries every backend by name"))
    checks = self_check()
    table = Table("op", "backend", "device", "error", "", title=f"Self-check against float64, tolerance {TOLERANCE:g}")
    for check in checks:
        error = "-" if check.error is None else f"{check.error:.1e}"
        table.add_row(
            check.op, check.backend, check.device, error, "ok" if check.ok else escape(f"WRONG {check.reason}")
        )
    console.print(table)
    wrong = [check for check in checks if not check.ok]
    if wrong:
        console.print(
            f"{len(wrong)} of {len(checks)} checks failed: set {dispatch.VARIABLE}=reference to go on with plain "
            "PyTorch, and report this table"
        )
    return usable and not wrong
