"""Table and plot of a run of the benchmarks.

    pytest benchmarks/ --benchmark-only --benchmark-json=benchmarks/results/latest.json
    python benchmarks/report.py benchmarks/results/latest.json

prints the table and writes it beside the JSON as Markdown, with the plot as PNG. A case's rate, its ratios to the
eager baseline and to torch.compile, and its percentage of each ceiling all come from one run. A ceiling is the time
that one resource alone would need: bytes at the copy rate, matrix products at the matrix rate, other multiply-adds and
exponentials at theirs; the table has the scarcest first, the others behind it.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handcraft.errors import DataError, HandcraftError
from handcraft.files import atomic_path, read_json, write_text

RESOURCES = {"bytes": "copy", "matrix_flops": "gemm", "fmas": "fma", "exps": "exp"}
"""Field of a case's work -> ceiling."""
COLOURS = {"reference": "#8a8f98", "loop": "#c9ccd1", "compile": "#d08c3f", "compile_graph": "#b0602a"}
OTHER_COLOUR = "#2f6db5"


@dataclass(frozen=True)
class Row:
    """One measured case. Ratios are speeds: 2 is twice as fast; None where there is nothing to compare with."""

    op: str
    shape: str
    provider: str
    seconds: float
    """Median."""
    rate: float
    """Items a second."""
    unit: str
    eager: float | None
    compiled: float | None
    ceiling: float | None
    """Share of the scarcest resource's ceiling that is reached."""
    resource: str
    others: dict[str, float]
    """The same of every other resource that the case needs, the scarcer ones first."""
    picked: bool
    """Whether `auto` takes this provider."""


def rows(run: dict[str, Any]) -> list[Row]:
    """The cases of a run's JSON, in its order. `DataError` names what is missing in it."""
    try:
        ceilings, groups = {name: float(rate) for name, rate in run["ceilings"].items()}, {}
        for entry in run["benchmarks"]:
            groups.setdefault(entry["group"], {})[entry["extra_info"]["provider"]] = float(entry["stats"]["median"])
        return [_row(entry, groups[entry["group"]], ceilings) for entry in run["benchmarks"]]
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"not a run of these benchmarks ({type(error).__name__}: {error}); expected the JSON that "
            "`pytest benchmarks/ --benchmark-json=FILE` writes"
        ) from None


def _row(entry: dict[str, Any], group: dict[str, float], ceilings: dict[str, float]) -> Row:
    info, seconds = entry["extra_info"], float(entry["stats"]["median"])
    provider, baseline = info["provider"], group.get(info["baseline"])
    compiled = min((group[name] for name in ("compile", "compile_graph") if name in group), default=None)
    needed = {}
    for field, name in RESOURCES.items():
        key = f"gemm_{info['dtype']}" if name == "gemm" else name
        if info["work"][field]:
            needed[name] = info["work"][field] / ceilings[key]
    resource, *others = sorted(needed, key=needed.get, reverse=True) or [""]
    return Row(
        op=f"{info['op']} {info['mode']}",
        shape=f"{info['shape']} {info['dtype']}",
        provider=provider,
        seconds=seconds,
        rate=info["items"] / seconds,
        unit=info["unit"],
        eager=None if baseline is None or provider == info["baseline"] else baseline / seconds,
        compiled=None if compiled is None or provider.startswith("compile") else compiled / seconds,
        ceiling=needed[resource] / seconds if needed else None,
        resource=resource,
        others={name: needed[name] / seconds for name in others},
        picked=info.get("auto") == provider,
    )


def markdown(run: dict[str, Any]) -> str:
    """The table, under a heading that says where, when and with what it was measured."""
    found = rows(run)
    lines = [*_heading(run), "", *_TABLE]
    lines += [
        f"| {row.op} | {row.shape} | {row.provider}{'*' if row.picked else ''} | {_number(1e3 * row.seconds)} "
        f"| {_number(row.rate)} {row.unit}/s | {_ratio(row.eager)} | {_ratio(row.compiled)} | {_share(row)} |"
        for row in found
    ]
    lines += ["", "`*`: what `auto` picks. vs eager: speed over `reference`, plain PyTorch; for the scan over `loop`, "]
    lines[-1] += "for generation to disk over `buffer`, for data loading over `files`, "
    lines[-1] += "for online pretraining over `stored`. Speeds are medians."
    lost = [row for row in found if row.picked and row.provider != "reference" and (row.compiled or 1) < 1]
    lines += [f"\n**{row.op} {row.shape}: `auto` picks {row.provider}, torch.compile is faster.**" for row in lost]
    return "\n".join(lines) + "\n"


_TABLE = (
    "| op | shape | provider | ms | rate | vs eager | vs torch.compile | of ceiling |",
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
)


def _heading(run: dict[str, Any]) -> list[str]:
    machine, commit = run.get("machine_info", {}), run.get("commit_info", {})
    versions = ", ".join(f"{name} {value}" for name, value in machine.get("versions", {}).items() if value)
    where = f"{machine.get('device_name', 'unknown device')}, {machine.get('threads', '?')} CPU threads"
    state = " with uncommitted changes" if commit.get("dirty") else ""
    rates = ", ".join(f"{name} {value / 1e9:.4g} G/s" for name, value in run["ceilings"].items())
    return [
        f"Measured on {where}; Python {machine.get('python_version', '?')}, {versions}; "
        f"commit {commit.get('id', 'unknown')[:12]}{state}; {run.get('datetime', '')[:16]} UTC.",
        "",
        f"Ceilings of the same run: {rates}.",
    ]


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = max(0, 2 - len(str(int(value))) + 1) if value >= 1 else 3
    return f"{value:,.{digits}f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(row: Row) -> str:
    if row.ceiling is None:
        return ""
    others = ", ".join(f"{name} {100 * share:.0f}" for name, share in row.others.items())
    return f"{100 * row.ceiling:.0f} % {row.resource}" + f" ({others})" * bool(others)


def plot(run: dict[str, Any], path: Path) -> None:
    """Bars of each case's speed over its baseline, one group a shape, as PNG. Shapes with one provider are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups: dict[str, list[tuple[Row, float]]] = {}
    for row in rows(run):
        groups.setdefault(f"{row.op}\n{row.shape}", []).append((row, row.eager or 1.0))
    groups = {name: bars for name, bars in groups.items() if len(bars) > 1}
    places, labels, at = [], [], 0.0
    figure = Figure(figsize=(9, 1.5 + 0.3 * sum(len(bars) + 1 for bars in groups.values())), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, bars in groups.items():
        places.append(at + (len(bars) - 1) / 2)
        labels.append(name)
        for row, speed in bars:
            axes.barh(at, speed - 1, left=1, color=COLOURS.get(row.provider, OTHER_COLOUR), height=0.85)
            axes.annotate(
                f"{row.provider}  {speed:.2f}x  {_number(row.rate)} {row.unit}/s",
                (max(speed, 1), at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            at += 1
        at += 1
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    speeds = [speed for bars in groups.values() for _, speed in bars] or [1.0]
    axes.set_xlim(min(0.5, *speeds), 8 * max(2.0, *speeds))  # room for the words beside the longest bar
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("speed over the baseline of the same run")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the table and the plot of a run of the benchmarks.")
    parser.add_argument("json", type=Path, help="what `pytest benchmarks/ --benchmark-json=FILE` wrote")
    parser.add_argument("--no-plot", action="store_true", help="table only; needs no matplotlib")
    options = parser.parse_args(arguments)
    try:
        run = read_json(options.json)
        text = markdown(run)
        write_text(options.json.with_suffix(".md"), text)
        print(text)
        if not options.no_plot:
            plot(run, options.json.with_suffix(".png"))
    except HandcraftError as error:
        print(f"{options.json}: {error}" if str(options.json) not in str(error) else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
