"""`report.html` of a study: its rows as a page that needs nothing else, every seed a dot."""

import statistics
from typing import Any

import jinja2

from handcraft.render.page import page
from handcraft.report.charts import Scale, nice_ticks, share_scale
from handcraft.studies.report import FLOORS, Group, Row, caution, conditions, generator_results, origin, results


def page_of(found: dict[str, Any]) -> str:
    """The page of what `study.json` holds."""
    accuracies, figures = results(found), generator_results(found)
    share = share_scale([value for group in accuracies for row in group.rows for value in row.values] or [0.0, 1.0])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("handcraft.render", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    body = environment.get_template("study.html").render(
        question=found["question"],
        conditions=conditions(found),
        caution=caution(found),
        accuracies=[_chart(group, share, "top-1", ("gain", "loss")) for group in accuracies],
        figures=[_chart(group, _scale(group), "", ("higher", "lower")) for group in figures],
        floors=FLOORS,
        origin=origin(found),
    )
    return page(f"Study: {found['study']}", body, assets=["report.css", "study.css"])


def _scale(group: Group) -> Scale:
    values = [value for row in group.rows for value in row.values]
    ticks = nice_ticks(min(values), max(values))
    return Scale(ticks[0], ticks[-1])


def _chart(group: Group, scale: Scale, unit: str, words: tuple[str, str]) -> dict[str, Any]:
    return {
        "title": ", trained on ".join(group.name),
        "meaning": group.meaning,
        "unit": unit,
        "ends": scale.ends,
        "rows": [_row(row, scale, words, "synthetic" in group.name[-1] or bool(group.meaning)) for row in group.rows],
    }


def _row(row: Row, scale: Scale, words: tuple[str, str], made: bool) -> dict[str, Any]:
    mean = statistics.fmean(row.values)
    test, training = row.real_values
    marks = [
        (scale(value), text) for value, text in zip(row.real, ("test", "training"), strict=True) if value is not None
    ]
    return {
        "setting": row.setting,
        "kind": "synthetic" if made else "real",
        "value": row.value,
        "real": [f"{name} clips {value}" for name, value in (("test", test), ("training", training)) if value],
        "marks": [(at, f"{name} clips") for at, name in marks if 0 <= at <= 100],
        "dots": [(scale(value), f"seed {seed}: {value:.3f}") for seed, value in enumerate(row.values)],
        "mean": scale(mean),
        "says": f"{row.setting}: mean {mean:.3f} of {len(row.values)} seeds",
        "change": row.changed,
        "interval": row.ends,
        "verdict": row.says(*words),
    }
