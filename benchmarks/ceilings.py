"""What this machine can do at most, measured in the same run as the operations.

`python benchmarks/ceilings.py [--device cuda] [--threads N]` prints the rates alone.

gemm_float32, gemm_bfloat16: FLOP/s of `torch.mm` of large square matrices; fp32 without TF32.
copy: bytes read plus bytes written a second, copying a buffer that no cache holds.
fma: fp32 multiply-adds a second outside of matrix units. CPU: half of gemm_float32, since the same vector units do
    both and a matrix product is the tightest loop of them there is. GPU: chains of multiply-adds in registers.
exp: exponentials a second. CPU: `torch.exp` on a tensor that stays in cache. GPU: chains of them in registers.
"""

import argparse
import time
from collections.abc import Callable

import torch

ROUNDS = 7
BUFFER = 1 << 28
"""Bytes of the buffer that is copied: eight times the largest cache met so far on a CPU."""
GEMM = {"cpu": 2048, "cuda": 8192}
IN_CACHE = 1 << 17
"""Numbers of the tensor whose exponential is taken on a CPU: 0.5 MiB."""
CHAIN = 256
"""Steps of a chain on a GPU: enough that reading and writing the number at its ends does not count."""


def measure(device: str) -> dict[str, float]:
    """Rate of every ceiling, in units a second, on "cpu" (with torch's threads) or "cuda"."""
    rates = {f"gemm_{dtype}": _gemm(device, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    rates["copy"] = _copy(device)
    if device == "cuda":
        rates["fma"], rates["exp"] = _chains()
    else:
        rates["fma"], rates["exp"] = rates["gemm_float32"] / 2, _exp_in_cache()
    return rates


def _best(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of some calls: a ceiling is what the machine reaches when nothing disturbs it."""
    call()
    found = []
    for _ in range(ROUNDS):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        found.append(time.perf_counter() - start)
    return min(found)


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _gemm(device: str, dtype: torch.dtype) -> float:
    size = GEMM[device]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    allowed, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        return 2 * size**3 / _best(lambda: torch.mm(a, b, out=out), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _copy(device: str) -> float:
    source = torch.zeros(BUFFER, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * BUFFER / _best(lambda: target.copy_(source), device)


def _exp_in_cache() -> float:
    x = torch.rand(IN_CACHE)
    out = torch.empty_like(x)
    repeats = 64

    def call() -> None:
        for _ in range(repeats):
            torch.exp(x, out=out)

    return repeats * IN_CACHE / _best(call, "cpu")


def _chains() -> tuple[float, float]:
    """Multiply-adds and exponentials a second of a GPU."""
    import chains  # needs triton, which a machine without a GPU may lack

    size = 1 << 24
    x = torch.rand(size, device="cuda")
    return tuple(size * CHAIN / _best(lambda kind=kind: chains.run(x, CHAIN, kind), "cuda") for kind in chains.KINDS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what this machine can do at most.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for name, rate in measure(options.device).items():
        print(f"{name:14} {rate / 1e9:12.1f} G/s")


if __name__ == "__main__":
    main()
