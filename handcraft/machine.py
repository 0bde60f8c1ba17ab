"""What a run ran on, for its records; and how this process keeps memory."""

import ctypes
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import handcraft

_MALLOPT = {-1: (1 << 31) - 1, -3: 1 << 25, -2: 1 << 26}
"""M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (both the largest that it takes) and M_TOP_PAD of <malloc.h>."""
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")
"""What a run's figures depend on."""


def versions() -> dict[str, str]:
    """handcraft, python and the libraries that decide a run's figures."""
    found = {"handcraft": handcraft.__version__, "python": sys.version.split()[0]}
    found |= {name: metadata.version(name) for name in LIBRARIES}
    return found | {"torch": str(torch.__version__)}  # which names the build, too, such as +cu130


def machine() -> dict[str, Any]:
    """processor (its name), cores (that this process may use), memory_gb (None where the system does not say), gpus
    (names), system, and the threads torch computes with. No name of a host or a user."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations.

    glibc hands large pieces back to the system, which clears every page that is asked for again: the generator's step
    on 1,024 windows spent a fifth of its time on that. In force until the process ends. False where the C library is
    another one, and nothing was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in _MALLOPT.items())


def _processor() -> str:
    """The processor's name; what Python knows of it where /proc/cpuinfo is absent or has no name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
