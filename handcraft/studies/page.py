"""`report.html` of a study: its rows as a page that needs nothing else, every seed a dot."""

import itertools
import statistics
from typing import Any

import jinja2

from handcraft.render.page import page
from handcraft.report import interval, spread, verdict
from handcraft.report.charts import Scale, share_scale
from handcraft.studies.report import GENERATOR_HEAD, Result, conditions, generator_changes, generator_rows, results


def page_of(found: dict[str, Any]) -> str:
    """The page of what `study.json` holds."""
    entries = list(results(found))
    scale = share_scale([value for entry in entries for value in entry.top1] or [0.0, 1.0])
    groups = [
        {"title": f"{model}, trained on {arm}", "rows": [_row(entry, scale) for entry in group]}
        for (model, arm), group in itertools.groupby(entries, key=lambda entry: (entry.model, entry.arm))
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("handcraft.render", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    body = environment.get_template("study.html").render(
        question=found["question"],
        conditions=conditions(found),
        groups=groups,
        ends=scale.ends,
        generators={
            "The generators, on the test clips": generator_rows(found),
            "What changes in this, with 95 % intervals": generator_changes(found),
        },
        generator_head=GENERATOR_HEAD,
        made_with=", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    )
    return page(f"Study: {found['study']}", body, assets=["report.css"])


def _row(entry: Result, scale: Scale) -> dict[str, Any]:
    ends = interval(entry.change)
    mean = statistics.fmean(entry.top1)
    return {
        "setting": entry.setting,
        "kind": "synthetic" if "synthetic" in entry.arm else "real",
        "top1": spread(entry.top1),
        "dots": [(scale(value), f"seed {seed}: {value:.3f}") for seed, value in enumerate(entry.top1)],
        "mean": scale(mean),
        "says": f"{entry.setting}: mean {mean:.3f} of {len(entry.top1)} seeds",
        "change": spread(entry.change, sign="+") if entry.change else "",
        "interval": f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "",
        "verdict": verdict(entry.change) if entry.change else "",
    }
