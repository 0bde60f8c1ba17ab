"""The charts of `report.html` as numbers: where lines, dots and ticks lie. `assets/report.html` draws them as SVG and
HTML with the page's own colours, so that they follow light and dark and their text stays text.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 360, 200  # of a line chart: a phone shows it at its own size
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 10, 34  # room for the ticks
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One colour of a line chart. name: in words; kind: its CSS class; lines: one a seed, or a single mean."""

    name: str
    kind: str
    lines: Sequence[Points]


@dataclass(frozen=True)
class Line:
    """A drawn line: SVG points, and a dot with a tooltip for each of them that is worth one."""

    kind: str
    points: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class LineChart:
    """x and y ticks are (place, text); `says` describes the chart to those who do not see it."""

    title: str
    x: list[tuple[float, str]]
    y: list[tuple[float, str]]
    seeds: list[Line]
    means: list[Line]
    says: str


def line_chart(title: str, series: Sequence[Series], *, dots: bool) -> LineChart | None:
    """Steps along x, values along y, y from a round number below the smallest; None where nothing was recorded.

    dots: each point is a measurement to be pointed at (a validation), and each seed shows as a thin line of its own.
    """
    series = [replace(entry, lines=[line for line in entry.lines if line]) for entry in series if any(entry.lines)]
    if not series:
        return None
    everything = [point for entry in series for line in entry.lines for point in line]
    high_x = max(x for x, _ in everything)
    ticks = nice_ticks(min(y for _, y in everything), max(y for _, y in everything))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / high_x
        return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1)

    def drawn(entry: Series, points: Points, dots: bool) -> Line:
        at = [place(x, y) for x, y in points]
        text = " ".join(f"{x:g},{y:g}" for x, y in at)
        tips = [f"{entry.name}, step {x:g}: {y:.3f}" for x, y in points]
        return Line(entry.kind, text, [(*xy, tip) for xy, tip in zip(at, tips, strict=True)] if dots else [])

    seeds = [drawn(entry, line, False) for entry in series if len(entry.lines) > 1 for line in entry.lines]
    means = [(entry, mean_line(entry.lines)) for entry in series]
    last = ", ".join(f"{entry.name} {line[-1][1]:.3f}" for entry, line in means)
    return LineChart(
        title,
        [(place(x, low)[0], f"{x:g}") for x in nice_ticks(0, high_x) if x <= high_x],
        [(place(0, y)[1], text) for y, text in zip(ticks, texts(ticks), strict=True)],
        seeds if dots else [],
        [drawn(entry, line, dots) for entry, line in means],
        f"{title}, by step. At the end: {last}.",
    )


def mean_line(lines: Sequence[Points]) -> list[tuple[float, float]]:
    """The mean of several lines at every x that all of them have."""
    values = [dict(line) for line in lines]
    return [(x, statistics.fmean(value[x] for value in values)) for x in values[0] if all(x in v for v in values)]


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` + 1 round numbers from at or below `low` to at or above `high`."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many digits as the one that needs most."""
    digits = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    return [f"{tick:.{digits}f}" for tick in ticks]


@dataclass(frozen=True)
class Scale:
    """A horizontal scale in per cent of its width, for dots placed by CSS."""

    low: float
    high: float

    @property
    def ends(self) -> list[str]:
        """What stands at its ends."""
        return texts((self.low, self.high))

    def __call__(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def share_scale(values: Sequence[float]) -> Scale:
    """From a round share below the smallest of `values` to 1, or to a round one above the largest."""
    ticks = nice_ticks(min(values), max(values))
    return Scale(max(0.0, ticks[0]), min(1.0, ticks[-1]))
