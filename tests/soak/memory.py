"""Resident memory over time: samples, whether it grows, and a picture."""

import threading
import time
from pathlib import Path

import numpy as np

from handcraft.files import atomic_path

EVERY = 1.0  # seconds between samples
WARM_UP = 0.4  # share of the samples in which libraries may still be setting themselves up
GROWTH = 0.05  # of the median, over the rest: more is a leak


class Memory:
    """Samples the resident memory of processes until the block ends."""

    def __init__(self, pids: dict[str, int]):
        """pids: name of each process -> its number."""
        self.pids = pids
        self.samples: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        start = time.monotonic()
        while not self._stop.wait(EVERY):
            for name, pid in self.pids.items():
                found = resident_mb(pid)
                if found is not None:
                    self.samples[name].append((time.monotonic() - start, found))


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def trend(samples: list[tuple[float, float]]) -> dict:
    """`median_mb`, `slope_mb_a_minute` (least squares), `growth_mb` of that slope over the time looked at,
    `allowed_mb`, and `flat`: whether it grew by no more. The warm-up is left out."""
    time_, size = np.array(samples[int(WARM_UP * len(samples)) :]).T
    slope = float(np.polyfit(time_ / 60, size, 1)[0]) if len(size) > 1 else 0.0
    median, growth = float(np.median(size)), slope * float(time_[-1] - time_[0]) / 60
    return {
        "median_mb": round(median, 1),
        "slope_mb_a_minute": round(slope, 3),
        "growth_mb": round(growth, 1),
        "allowed_mb": round(GROWTH * median, 1),
        "flat": growth <= GROWTH * median,
    }


def plot(samples: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Memory over time, a line a process, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, found in samples.items():
        time_, size = np.array(found).T
        axes.plot(time_ / 60, size, label=name, linewidth=1)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
