"""Synthetic beside real clips, as a table: each figure with its floor and intervals."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

HEAD = ("figure", "synthetic (95 %)", "floor (95 %)", "differs")


def rows(figures: dict) -> list[tuple[str, ...]]:
    """The cells of a row for each figure of `metrics.distribution.compare`, in its order."""
    return [
        (
            name,
            _with_interval(entry["value"], entry["interval"]),
            _with_interval(entry["floor"], entry["floor_interval"]),
            _verdict(entry["difference_interval"]),
        )
        for name, entry in figures["metrics"].items()
    ]


def table(figures: dict) -> Table:
    """For a terminal."""
    clips, classes = figures["clips"], figures["classes"]
    of = "" if classes["drawn"] == classes["real"] else f", of {classes['drawn']} of {classes['real']} signs"
    title = f"synthetic beside real: {figures['draws']} draws of {clips['drawn']} clips a side{of}"
    found = Table(*HEAD, title=title, box=SIMPLE_HEAD)
    for row in rows(figures):
        found.add_row(*row)
    return found


def legend(figures: dict) -> list[str]:
    """A line for each figure: what it is and which way is good."""
    lines = [f"{name}: {entry['meaning']}" for name, entry in figures["metrics"].items()]
    return [*lines, f"features: {figures['features']}"]


def number(value: float | None) -> str:
    """Three significant digits; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    return "-" if interval is None else f"{number(value)} ({number(interval[0])} to {number(interval[1])})"


def _verdict(interval: list[float] | None) -> str:
    """Whether the figure lies above or below its floor in at least 95 % of the draws."""
    if interval is None:
        return "-"
    return "higher" if interval[0] > 0 else "lower" if interval[1] < 0 else "no"
