"""`pytest benchmarks/ --benchmark-only`: one setup function an op serves all providers (`providers.py`).

--full adds shapes and compiles every case; --device cuda measures on a GPU; --threads N sets torch's threads on a CPU.
Compilation and warm-up lie outside the timed call, waiting for the device inside it. The JSON (`--benchmark-json`)
also holds versions, device, threads, each case's work, and the ceilings measured in the same run.
"""

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import ceilings
import providers
import pytest
import rows
import torch
from providers import Case

from handcraft.kernels import dispatch

CEILINGS = pytest.StashKey[dict[str, float]]()
VERSIONS = ("handcraft", "torch", "triton", "numpy", "mamba-ssm", "causal-conv1d")
MODEL_OPS = {
    "cmlpe": ("cmlpe",),
    "transformer_sl": ("dct_linear",),
    "mamba_sl": ("dct_linear", "mamba_block", "selective_scan"),
}
"""Ops inside a model; `auto` becomes a provider of its training step once it picks something else for one of them."""
MAX_ROUNDS = 1000
OWN = {
    "disk": ("buffer", "memory", "store"),
    "loading": ("files", "files_workers", "memory", "mapped"),
    "online": ("stored", "online", "online_varied"),
}
"""Providers of the benchmarks that compare ways to move data; the first is the baseline."""
PARTS = {"recognise": ("predict", "preprocess", "model"), "extract": ("holistic",)}
"""What is measured of a prediction, the whole and its parts; there is nothing to compare them with."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("handcraft")
    group.addoption("--full", action="store_true", help="all shapes, and torch.compile of every case (slow)")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    group.addoption("--threads", type=int, help="torch's threads on the CPU; default: torch's own choice")


def pytest_configure(config: pytest.Config) -> None:
    try:
        providers.refuse_override()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.getoption("device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no GPU here")
    threads = config.getoption("threads")
    if threads is not None and threads < 1:
        raise pytest.UsageError(f"--threads is {threads}, expected at least 1")
    if threads:
        torch.set_num_threads(threads)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of the marked table and each provider."""
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is None:
        return
    name = marker.args[0]
    op, mode = name.split()
    device, full = metafunc.config.getoption("device"), metafunc.config.getoption("full")
    found = []
    for row in (rows.CUDA if device == "cuda" else rows.CPU)[name]:
        if full or not row.full:
            for provider in _providers(op, row.shape, device, compiled=full or row.compiled):
                case = Case(op, mode, row.shape, provider, device)
                label = f"{row.shape.label()} {row.shape.dtype} {provider}".replace(" ", "-")
                found.append(pytest.param(case, id=label))
    metafunc.parametrize("case", found)


def _providers(op: str, shape: Any, device: str, *, compiled: bool) -> list[str]:
    if op in OWN | PARTS:
        return list((OWN | PARTS)[op])
    if op == "step":
        return providers.of_model(MODEL_OPS[shape.model], device, compiled=compiled)
    return providers.of_op(op, shape, device, compiled=compiled)


@pytest.fixture(scope="session")
def _ceilings(request: pytest.FixtureRequest) -> None:
    """Measured once, before the first benchmark, on the machine as the benchmarks find it."""
    config = request.config
    if not config.getoption("benchmark_disable"):
        config.stash[CEILINGS] = ceilings.measure(config.getoption("device"))


@pytest.fixture
def measure(benchmark, case: Case, request: pytest.FixtureRequest, _ceilings: None) -> Iterator[Callable[..., None]]:
    """`measure(call)` times `call()`; `before()` is called ahead of every round and not timed."""

    def run(call: Callable[[], Any], before: Callable[[], None] | None = None) -> None:
        shape, option = case.shape, request.config.getoption
        benchmark.group = f"{case.op} {case.mode} {shape.label()} {shape.dtype}"
        benchmark.params = None  # the case says it below, in words that JSON has
        benchmark.extra_info.update(
            op=case.op,
            mode=case.mode,
            shape=shape.label(),
            dtype=shape.dtype,
            provider=case.provider,
            baseline=_baseline(case.op),
            items=shape.items,
            unit=shape.unit,
            work=asdict(shape.work(case.mode)),
        )
        if case.op in dispatch.OPS:
            benchmark.extra_info["auto"] = providers.picked(case)

        def timed() -> None:
            call()
            ceilings.synchronise(case.device)

        for _ in range(2):  # the first call may compile, allocate, or fill caches
            if before is not None:
                before()
            start = time.perf_counter()
            timed()
            seconds = time.perf_counter() - start
        rounds = min(int(float(option("benchmark_max_time")) / seconds), MAX_ROUNDS)
        benchmark.pedantic(timed, setup=before, rounds=max(rounds, option("benchmark_min_rounds")))

    yield run
    if case.provider.startswith("compile"):
        torch.compiler.reset()  # what was compiled for one shape must not be guarded against in the next


def _baseline(op: str) -> str | None:
    """The provider that the others are compared with, if there is one."""
    if op in PARTS:
        return None
    if op in OWN:
        return OWN[op][0]
    return "loop" if op == "selective_scan" else "reference"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Leave out what names the machine or is long; add what the numbers depend on."""
    machine_info.pop("node", None)
    machine_info["cpu"] = {key: machine_info["cpu"].get(key) for key in ("brand_raw", "arch", "count")}
    device = config.getoption("device")
    name = torch.cuda.get_device_name() if device == "cuda" else machine_info["cpu"]["brand_raw"]
    machine_info |= {
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add the ceilings; leave out every single timing unless --benchmark-save-data asks for them."""
    output_json["ceilings"] = config.stash[CEILINGS]
    if commit := os.environ.get("HANDCRAFT_COMMIT"):  # gpu.sh knows it where the checkout came without its history
        output_json["commit_info"]["id"] = commit
    if not config.getoption("benchmark_save_data"):
        for entry in output_json["benchmarks"]:
            entry["stats"].pop("data", None)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
