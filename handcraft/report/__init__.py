"""What a run found, in words and rows: means and spread over the seeds, what synthetic pretraining changed, the linear
model and the generators beside them. `report.md`, `report.html` and the terminal show these same rows.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.stats import t as student

from handcraft.markdown import escape
from handcraft.markdown import table as markdown_table
from handcraft.words import counted

MODELS = {"linear": "linear model", "transformer_sl": "Transformer-SL", "mamba_sl": "Mamba-SL"}
"""Name of a model in words, by its name in `metrics.json`."""
HEAD = ("model", "trained on", "top-1", "top-5", "top-1 per class", "seeds")
SCORES = ("top1", "top5", "top1_macro")
EFFECT_HEAD = ("model", "fine-tuned on", "top-1 without", "top-1 with", "change", "95 % interval", "better with", "")
GENERATOR_HEAD = ("predictor", "MPJPE", "frame error", "CMLPe nearer", "error ratio")
FEWEST_SEEDS = 3  # two say next to nothing about their spread
PARTS = ("train", "valid", "test")
Arm = tuple[str, str, bool]
"""A row's model, pretraining and augmentation."""


def by_arm(metrics: dict[str, Any]) -> dict[Arm, list[dict]]:
    """The rows of each model and arm, a row a seed, in the order they ran."""
    found: dict[Arm, list[dict]] = {}
    for row in metrics["rows"]:
        found.setdefault((row["model"], row["pretraining"], row["augmentation"]), []).append(row)
    return found


def result_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells, a row for each model and arm, in the order they ran: mean and, from two seeds on, the standard
    deviation over the seeds (n - 1)."""
    return [
        (
            MODELS[model],
            arm_name(pretraining, augmentation),
            *(spread([row[name] for row in rows]) for name in SCORES),
            str(len(rows)),
        )
        for (model, pretraining, augmentation), rows in by_arm(metrics).items()
    ]


def arm_name(pretraining: str, augmentation: bool) -> str:
    """An arm in words."""
    return "real" + " + augmentation" * augmentation + " + synthetic pretraining" * (pretraining == "synthetic")


def spread(values: Sequence[float | None], digits: int = 3, sign: str = "") -> str:
    """`mean +- standard deviation` of the values; a dash where one of them could not be measured. sign: "+" to write a
    mean's plus."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    text = f"{statistics.fmean(known):{sign}.{digits}f}"
    return text if len(known) == 1 else f"{text} +- {statistics.stdev(known):.{digits}f}"


def effects(metrics: dict[str, Any]) -> Iterator[tuple[Arm, list[float], list[float]]]:
    """For each arm with synthetic pretraining: the arm, and top-1 of each seed without and with the pretraining."""
    arms = by_arm(metrics)
    for (model, pretraining, augmentation), rows in arms.items():
        if pretraining == "synthetic":
            without = arms[model, "none", augmentation]
            yield (model, pretraining, augmentation), [r["top1"] for r in without], [r["top1"] for r in rows]


def effect_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """What synthetic pretraining changed, a row for each model and way to fine-tune; the change is taken seed by seed,
    between two trainings on the same clips. Empty for a run without pretraining."""
    rows = []
    for (model, _, augmentation), without, pretrained in effects(metrics):
        found = changes(without, pretrained)
        ends = interval(found)
        rows.append(
            (
                MODELS[model],
                arm_name("none", augmentation),
                spread(without),
                spread(pretrained),
                spread(found, sign="+"),
                f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "-",
                f"{sum(change > 0 for change in found)} of {counted(len(found), 'seed')}",
                verdict(found),
            )
        )
    return rows


def interval(found: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean of the values, by Student's t; None for fewer than `FEWEST_SEEDS`."""
    if len(found) < FEWEST_SEEDS:
        return None
    mean, error = statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))
    half = float(student.ppf(0.975, len(found) - 1)) * error
    return mean - half, mean + half


def verdict(found: Sequence[float]) -> str:
    """What the changes of the seeds allow to say: gain or loss where their `interval` lies on one side of zero."""
    ends = interval(found)
    if ends is None:
        return "too few seeds to tell"
    return "gain" if ends[0] > 0 else "loss" if ends[1] < 0 else "within the spread"


def changes(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [new - old for old, new in zip(before, after, strict=True)]


def generator_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """Errors of the generators and of the predictors that learn nothing, on the test clips."""
    found = metrics["generators"]
    if not found:
        return []
    rows = [
        ("CMLPe, both twins", spread([g["mpjpe"] for g in found]), spread([g["frame_error"] for g in found]), "", "")
    ]
    for name in found[0]["baselines"]:
        other = [g["baselines"][name] for g in found]
        margins = [twin["margin"] for entry in other for twin in (entry["forward"], entry["reversed"])]
        rows.append(
            (
                name.replace("_", " "),
                spread([entry["mpjpe"] for entry in other]),
                spread([entry["frame_error"] for entry in other]),
                spread([margin["share"] for margin in margins]),
                spread([margin["median"] for margin in margins]),
            )
        )
    return rows


def splice(metrics: dict[str, Any]) -> str:
    """The jump at the splice in a sentence; "" where no generator was measured."""
    jumps = [g["splice_jump"] for g in metrics["generators"]]
    if not jumps:
        return ""
    made, real = (spread([jump[name] for jump in jumps]) for name in ("generated", "real"))
    return f"Jump at the splice: {made} in generated clips, {real} in real ones at the same place."


def title(metrics: dict[str, Any]) -> str:
    return f"handcraft run: {metrics['recipe']['name']}"


def summary(metrics: dict[str, Any]) -> str:
    """What ran on how much, in a sentence or two of plain text."""
    description, data, drawn = metrics["recipe"]["description"], metrics["data"], metrics["clips_per_class"]
    threads = counted(metrics["machine"]["threads"], "thread")
    return (
        (f"{description}. " if description else "")
        + f"{counted(data['clips'], 'clip')} of {counted(len(data['classes']), 'class', 'classes')}"
        + (f", {drawn} training clips a class drawn by seed" if drawn else "")
        + f"; {counted(metrics['seeds'], 'seed')}; {metrics['seconds']:.0f} s on {threads}."
    )


def notes(metrics: dict[str, Any]) -> dict[str, str]:
    """What has to be said under each table."""
    single = metrics["seeds"] == 1
    mean = "One seed, so there is no spread." if single else "Mean +- standard deviation over the seeds."
    return {
        "results": f"{mean} Checkpoints were chosen on validation clips, never on these.",
        "effects": "The change is taken seed by seed, between two trainings on the same clips: mean +- standard "
        "deviation, and the interval in which the mean of many seeds would lie with 95 % confidence (Student's t). It "
        "is called a gain or a loss where that interval leaves out zero, within the spread where it does not; take a "
        "verdict on fewer than five seeds as a hint. All seeds share these test clips, so the interval says nothing "
        "about other signers.",
        "generators": "CMLPe nearer: share of the landmarks on which its error is the smaller one; error ratio: the "
        "median of its error over the other's. Errors over both twins, margins over each twin: mean +- standard "
        "deviation over seeds, and twins.",
    }


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What was run on what, as pairs of plain text: data, split and hashes, machine, versions."""
    source, splits, machine = metrics["data_source"], metrics["splits"], metrics["machine"]
    first = splits["0"]
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb']:.0f} GB"
    gpus = "".join(f", {name}" for name in machine["gpus"])
    return [
        ("Data", f"{Path(source['path']).name}, hash {metrics['data']['hash']}"),
        ("Licence", source["licence"] or "not stated"),
        ("Split", first["how"]),
        *([("Held-out groups", ", ".join(first["test_groups"]))] if first["test_groups"] else []),
        *(
            (
                f"Seed {seed}",
                ", ".join(f"{split[name]['clips']} {name} ({split[name]['hash'][:12]})" for name in PARTS),
            )
            for seed, split in splits.items()
        ),
        ("Machine", f"{machine['processor']}, {counted(machine['cores'], 'core')}{memory}{gpus}; {machine['system']}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())),
    ]


def table(metrics: dict[str, Any]) -> Table:
    """The result table for a terminal of 80 columns: top-1 alone, the rest stands in the report."""
    seeds = counted(metrics["seeds"], "seed")
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{metrics['recipe']['name']}: test split, {seeds}")
    for name in HEAD[:3]:
        made.add_column(name, no_wrap=True)
    for row in result_rows(metrics):
        made.add_row(*row[:3])
    return made


def markdown(metrics: dict[str, Any]) -> str:
    """The report as Markdown: results, generators, data and splits, versions."""
    said = notes(metrics)
    lines = [
        f"# {escape(title(metrics))}",
        "",
        escape(summary(metrics)),
        "",
        "## Recognition on the test clips",
        "",
        *markdown_table(HEAD, result_rows(metrics)),
        "",
        said["results"],
        "",
    ]
    if changed := effect_rows(metrics):
        lines += ["## What synthetic pretraining changed", "", *markdown_table(EFFECT_HEAD, changed), ""]
        lines += [said["effects"], ""]
    lines += ["## Generators on the test clips", "", *markdown_table(GENERATOR_HEAD, generator_rows(metrics)), ""]
    lines += [said["generators"], ""]
    if metrics["generators"]:
        lines += [splice(metrics), ""]
        lines += [f"- {name}: `{text}`" for name, text in metrics["generators"][0]["signatures"].items()]
        lines.append("")
    lines += ["## What was run on what", "", *(f"- {name}: {escape(text)}." for name, text in facts(metrics)), ""]
    return "\n".join(lines)
