"""`report.html`: the report of a run as one page that needs nothing else. Its figures are the rows of
`handcraft.report`, which `report.md` shows too; this module adds curves, matrices, signs and clips, and lays them out.
The markup is `render/assets/report.html`, the style `render/assets/report.css`.
"""

import functools
import itertools
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from handcraft import report
from handcraft.config import Recipe
from handcraft.data.clips import Clips
from handcraft.data.store import Store
from handcraft.recipe import from_plain
from handcraft.render.page import LEGEND, page
from handcraft.report import Arm, arm_name, by_arm, charts
from handcraft.report import matrix as matrices
from handcraft.report.charts import Series, line_chart, share_scale
from handcraft.report.clips import ClipPair, clip_pairs
from handcraft.report.data import Curve, mean_curve, read_confusion, read_curve

KINDS = {
    ("none", False): "real",
    ("none", True): "augmentation",
    ("synthetic", False): "synthetic",
    ("synthetic", True): "both",
}
"""CSS class of an arm: violet is with synthetic pretraining; dashed, or hollow, is with augmentation."""
NOTES = {
    "clips": "The first synthetic clip of evenly spaced classes, not chosen by its looks, beside the recorded clip it "
    "was generated from. The generators read a source after a small random rotation, scaling and cut, so the two do "
    "not match frame by frame. Space plays, arrow keys step.",
    "curves": "Mean over the seeds; thin lines are single seeds. Validation chooses the checkpoint.",
    "classes": "Share of each sign's test clips that is recognised, over all seeds, without augmentation.",
    "matrix": "Rows are the true signs, columns what they were taken for; the stronger the colour, the larger the "
    "share of the row. Signs are in alphabetical order, counts are summed over the seeds.",
}
SIDE, NAME, ROTATED = 22, 6.2, 0.9  # of a drawn matrix: a cell; a letter's width; height of a name's letter, rotated


def html_report(metrics: dict[str, Any], out: Path, clips: Clips, fps: float | None = None) -> str:
    """The page of a finished run.

    metrics: what `out/metrics.json` holds; out: the run's folder, whose logs, matrices and synthetic store are read;
    clips: the run's data in memory, of which the recorded clips are shown; fps: of the recordings, where known.
    `DataError` names a file of the run that is damaged or missing.
    """
    arms = by_arm(metrics)
    classes = metrics["data"]["classes"]
    confusion = {
        arm: sum(read_confusion(out / row["folder"] / "confusion.csv", classes) for row in rows)
        for arm, rows in arms.items()
    }
    recipe = from_plain(Recipe, metrics["recipe"], "metrics.json")
    pairs = _pairs(metrics, out, clips, recipe, fps)
    top1 = [row["top1"] for row in metrics["rows"]]
    linear = [row["top1"] for row in arms.get(("linear", "none", False), [])]
    changes = list(_changes(metrics, confusion))
    recognised = [value for group in changes for change in group["shown"] for value in (change.before, change.after)]
    body = _template().render(
        summary=report.summary(metrics),
        seeds=metrics["seeds"],
        classes=classes,
        notes=report.notes(metrics) | NOTES,
        legend=Markup(LEGEND),
        effects=report.effect_rows(metrics),
        head=report.HEAD[2:5],
        results=list(_results(metrics)),
        scale=share_scale(top1),
        linear=statistics.fmean(linear) if linear else None,
        pairs=pairs,
        curves=list(_curves(metrics, out)),
        changes=changes,
        change_scale=share_scale(recognised or [0.0, 1.0]),
        class_table=_class_table(metrics, confusion),
        confusions=list(_confusions(confusion, classes)),
        generator_head=report.GENERATOR_HEAD,
        generators=report.generator_rows(metrics),
        splice=report.splice(metrics),
        facts=report.facts(metrics),
        recipe=yaml.safe_dump(metrics["recipe"], sort_keys=False, allow_unicode=True),
        signatures=_signatures(metrics),
    )
    payloads = [payload for pair in pairs for payload in (pair.real, pair.synthetic)]
    return page(report.title(metrics), body, payloads, assets=("report.css",))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("handcraft.render", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _minus
    room = {name: getattr(charts, name.upper()) for name in ("width", "height", "left", "right", "bottom")}
    environment.globals.update(room)
    return environment.get_template("report.html")


def _minus(text: str) -> str:
    """A figure or note with the signs that a page has and plain text has not."""
    return re.sub(r"(?<!\S)-(?=\d)", "\N{MINUS SIGN}", text).replace("+-", "±")


def _results(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The result rows by model, each with the top-1 of its seeds."""
    entries = zip(by_arm(metrics).items(), report.result_rows(metrics), strict=True)
    for model, group in itertools.groupby(entries, key=lambda entry: entry[1][0]):
        rows = []
        for ((_, pretraining, augmentation), found), (_, arm, *figures, _) in group:
            values = [row["top1"] for row in found]
            kind = KINDS[pretraining, augmentation]
            rows.append(
                {"arm": arm, "kind": kind, "figures": figures, "top1": values, "mean": statistics.fmean(values)}
            )
        yield {"model": model, "rows": rows}


def _pairs(metrics: dict[str, Any], out: Path, clips: Clips, recipe: Recipe, fps: float | None) -> list[ClipPair]:
    """Clips of the first seed."""
    synthetic = Store(out / f"seed-{metrics['generators'][0]['seed']}" / "synthetic")
    return clip_pairs(synthetic, clips, recipe.generator.window, fps)


def _curves(metrics: dict[str, Any], out: Path) -> Iterator[dict[str, Any]]:
    """Charts of the generators, then of each classifier; what has no curve (no validation clips) is left out."""
    folders = [out / f"seed-{entry['seed']}" / "generator" for entry in metrics["generators"]]
    twins = [(twin, twin, [read_curve(folder / twin) for folder in folders]) for twin in ("forward", "reversed")]
    yield _curve_group("Generators", twins, "mpjpe", "Validation MPJPE")
    arms = {arm: rows for arm, rows in by_arm(metrics).items() if arm[0] != "linear"}
    for model in dict.fromkeys(model for model, _, _ in arms):
        trainings = [
            (KINDS[pretraining, augmentation], arm_name(pretraining, augmentation), _read(out, rows))
            for (name, pretraining, augmentation), rows in arms.items()
            if name == model
        ]
        pretrained = next((rows for (name, made, _), rows in arms.items() if (name, made) == (model, "synthetic")), [])
        if pretrained:
            before = [read_curve(out / Path(row["folder"]).parent / "pretraining") for row in pretrained]
            trainings.append(("pretraining", "the pretraining itself", before))
        yield _curve_group(report.MODELS[model], trainings, "top1", "Validation top-1")


def _read(out: Path, rows: list[dict]) -> list[Curve]:
    return [read_curve(out / row["folder"]) for row in rows]


def _curve_group(name: str, trainings: list[tuple[str, str, list[Curve]]], metric: str, title: str) -> dict[str, Any]:
    """Training loss and one validation metric of several trainings, each a kind, a name, and a curve a seed."""
    loss = [Series(said, kind, [mean_curve([curve.loss for curve in curves])]) for kind, said, curves in trainings]
    valid = [Series(said, kind, [c.validation.get(metric, []) for c in curves]) for kind, said, curves in trainings]
    drawn = [line_chart("Training loss", loss, dots=False), line_chart(title, valid, dots=True)]
    return {
        "name": name,
        "legend": [(kind, said) for kind, said, _ in trainings],
        "charts": [chart for chart in drawn if chart is not None],
    }


def _changes(metrics: dict[str, Any], confusion: dict[Arm, np.ndarray]) -> Iterator[dict[str, Any]]:
    """For each model what pretraining changed for each class, in fine-tuning without augmentation."""
    for model in dict.fromkeys(model for model, pretraining, _ in confusion if pretraining == "synthetic"):
        before, after = confusion[model, "none", False], confusion[model, "synthetic", False]
        found = matrices.class_changes(before, after, metrics["data"]["classes"], metrics["seeds"])
        shown, left_out = matrices.ends(found)
        better, worse = (sum(sign * change.gain > 0 for change in found) for sign in (1, -1))
        yield {
            "model": report.MODELS[model],
            "shown": shown,
            "left_out": left_out,
            "counts": f"{better} better, {worse} worse, {len(found) - better - worse} as before.",
        }


def _class_table(metrics: dict[str, Any], confusion: dict[Arm, np.ndarray]) -> dict[str, Any]:
    """Recognised share of every class with test clips, a column an arm."""
    clips = next(iter(confusion.values())).sum(axis=1) // metrics["seeds"]
    hits = [matrices.shares(matrix).diagonal() for matrix in confusion.values()]
    models = [report.MODELS[model] for model, _, _ in confusion]
    return {
        "models": [(model, models.count(model)) for model in dict.fromkeys(models)],
        "arms": [(KINDS[made, augmented], arm_name(made, augmented)) for _, made, augmented in confusion],
        "rows": [
            (metrics["data"]["classes"][at], int(clips[at]), [float(share[at]) for share in hits])
            for at in np.flatnonzero(clips).tolist()
        ],
    }


def _confusions(confusion: dict[Arm, np.ndarray], classes: list[str]) -> Iterator[dict[str, Any]]:
    """The matrices by model."""
    for model, arms in itertools.groupby(confusion.items(), key=lambda entry: entry[0][0]):
        yield {
            "model": report.MODELS[model],
            "arms": [
                {
                    "name": arm_name(pretraining, augmentation),
                    "kind": KINDS[pretraining, augmentation],
                    "matrix": _matrix(matrix, classes),
                    "pairs": matrices.confused_pairs(matrix, classes),
                }
                for (_, pretraining, augmentation), matrix in arms
            ],
        }


def _matrix(confusion: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Where the cells and names of a matrix lie; of many classes its picture."""
    if len(classes) > matrices.DRAWN_CLASSES:
        return {"cells": None, "picture": matrices.picture(confusion)}
    numbered = len(classes) <= matrices.NUMBERED_CLASSES
    side = SIDE if numbered else SIDE * 0.7
    shown = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    across = round(NAME * max(map(len, shown))) + 12
    down = round(ROTATED * across)
    width, height = across + side * len(classes) + 1 + 0.5 * across, down + side * len(classes) + 1

    def tip(cell: matrices.Cell) -> str:
        total = int(confusion[cell.row].sum())
        return f"{classes[cell.row]} taken for {classes[cell.column]}: {cell.count} of {total} ({cell.share:.1%})"

    return {
        "width": round(width),
        "height": round(height),
        "least": round(0.75 * width),
        "side": side,
        "numbered": numbered,
        "across": across,
        "down": down,
        "extent": round(side * len(classes)),
        "rows": [(across - 6, down + side * (at + 0.5) + 4, name) for at, name in enumerate(shown)],
        "columns": [(across + side * (at + 0.5) + 3, down - 5, name) for at, name in enumerate(shown)],
        "cells": [
            (across + side * cell.column, down + side * cell.row, cell, tip(cell)) for cell in matrices.cells(confusion)
        ],
    }


def _signatures(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How each figure is computed, said once."""
    found = [row["signatures"] for row in metrics["rows"][-1:] + metrics["generators"][:1]]
    return [entry for names in found for entry in names.items()]
