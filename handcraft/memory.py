"""How much memory there is still to have: what decides where a data set is kept."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

_MEMINFO, _OWN_GROUP, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be allocated on `device`.

    Of a GPU what its driver calls free; of the host what the kernel calls available, and no more than the limits of
    this process's control groups (those of a container or a job) leave. Half of all memory where the system says
    neither.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _text(_MEMINFO), re.MULTILINE)
    if found is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([int(found.group(1)) << 10, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Bytes that each control group around this process leaves; those without a limit are left out.

    Files that the kernel caches for the group and has not used lately count as free: it drops them when asked for more.
    """
    for line in _text(_OWN_GROUP).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "":  # version 2 of the interface
            root, limit, used, idle = _GROUPS, "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            root, limit, used, idle = (
                _GROUPS / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        place = root / own.lstrip("/")
        for folder in (place, *place.parents):
            most, now = (_text(folder / name).strip() for name in (limit, used))
            if most.isdigit() and now.isdigit():
                cached = re.search(rf"^{idle} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                yield max(0, int(most) - int(now) + (int(cached.group(1)) if cached else 0))
            if folder == root:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
