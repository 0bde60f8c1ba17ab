"""The result table of a run: means and spread over the seeds, the linear model and the generators beside them."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

HEAD = ("model", "trained on", "top-1", "top-5", "top-1 per class", "seeds")


def result_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells, a row for each model and arm, in the order they ran: mean and, from two seeds on, the standard
    deviation over the seeds (n - 1)."""
    arms: dict[tuple, list[dict]] = {}
    for row in metrics["rows"]:
        arms.setdefault((row["model"], row["pretraining"], row["augmentation"]), []).append(row)
    return [
        (
            model,
            arm_name(pretraining, augmentation),
            *(spread([row[name] for row in rows]) for name in ("top1", "top5", "top1_macro")),
            str(len(rows)),
        )
        for (model, pretraining, augmentation), rows in arms.items()
    ]


def arm_name(pretraining: str, augmentation: bool) -> str:
    """An arm in words."""
    return "real" + " + augmentation" * augmentation + " + synthetic pretraining" * (pretraining == "synthetic")


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """`mean +- standard deviation` of the values; a dash where one of them could not be measured."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    text = f"{statistics.fmean(known):.{digits}f}"
    return text if len(known) == 1 else f"{text} +- {statistics.stdev(known):.{digits}f}"


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


GENERATOR_HEAD = ("predictor", "MPJPE", "frame error", "landmarks where CMLPe is nearer", "median error ratio")


def table(metrics: dict[str, Any]) -> Table:
    """The result table for a terminal of 80 columns: top-1 alone, the rest stands in the report."""
    seeds = f"{metrics['seeds']} seed" + "s" * (metrics["seeds"] > 1)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{metrics['recipe']['name']}: test split, {seeds}")
    for name in HEAD[:3]:
        made.add_column(name, no_wrap=True)
    for row in result_rows(metrics):
        made.add_row(*row[:3])
    return made


def markdown(metrics: dict[str, Any]) -> str:
    """The report as Markdown: results, generators, data and splits, versions."""
    recipe, splits = metrics["recipe"], metrics["splits"]
    first = splits["0"]
    drawn = metrics["clips_per_class"]
    lines = [
        f"# {recipe['name']}",
        "",
        (f"{recipe['description']}. " if recipe["description"] else "")
        + f"{metrics['data']['clips']} clips of {len(metrics['data']['classes'])} classes"
        + (f", {drawn} training clips a class drawn by seed" if drawn else "")
        + f"; {metrics['seeds']} seeds; {metrics['seconds']:.0f} s on {metrics['threads']} threads.",
        "",
        "## Recognition on the test clips",
        "",
        *_markdown_table(HEAD, result_rows(metrics)),
        "",
        "Mean +- standard deviation over the seeds. Checkpoints were chosen on validation clips, never on these.",
        "",
        "## Generators on the test clips",
        "",
        *_markdown_table(GENERATOR_HEAD, generator_rows(metrics)),
        "",
        "Errors over both twins, margins over each twin: mean +- standard deviation over seeds, and twins.",
        "",
    ]
    jumps = [g["splice_jump"] for g in metrics["generators"]]
    if jumps:
        made, real = (spread([jump[name] for jump in jumps]) for name in ("generated", "real"))
        lines += [f"Jump at the splice: {made} in generated clips, {real} in real ones at the same place.", ""]
        lines += [f"- {name}: `{text}`" for name, text in metrics["generators"][0]["signatures"].items()]
        lines.append("")
    lines += ["## Data", "", f"- Split: {first['how']}."]
    if first["test_groups"]:
        lines.append(f"- Held-out groups: {', '.join(first['test_groups'])}.")
    for seed, split in splits.items():
        sizes = ", ".join(f"{split[name]['clips']} {name} ({split[name]['hash'][:12]})" for name in PARTS)
        lines.append(f"- Seed {seed}: {sizes}.")
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    return "\n".join([*lines, f"- Versions: {versions}.", ""])


PARTS = ("train", "valid", "test")


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
