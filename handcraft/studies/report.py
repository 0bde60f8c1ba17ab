"""What a study found, in rows: means and spread over the seeds, and differences paired by seed with 95 % intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from handcraft.markdown import table
from handcraft.report import arm_name, changes, interval, spread, verdict

MODELS = {"transformer": "Transformer-SL", "mamba": "Mamba-SL"}
FIGURES = {
    "mpjpe": "MPJPE",
    "mpjpe_first": "in the first frame",
    "mpjpe_last": "in the last frame",
    "splice_jump": "splice jump",
    "frechet": "Fréchet distance",
    "kl_speed": "KL of speed",
    "diversity": "diversity",
    "coverage": "coverage",
    "nearest_real": "nearest real clip",
}
"""Figures of the generators that a report shows, of those that a row holds; all are in `study.json`."""
RESULT_HEAD = ("setting", "model", "trained on", "top-1", "change", "95 % interval", "")
GENERATOR_HEAD = ("setting", *FIGURES.values())


@dataclass(frozen=True)
class Result:
    """One setting and arm: top-1 of each seed, and the change against what it is compared with, seed by seed."""

    setting: str
    model: str
    arm: str
    top1: list[float]
    change: list[float]
    """Empty for what the others are compared with, and where seeds are missing."""


def results(found: dict[str, Any]) -> Iterator[Result]:
    """The rows of `study.json` by setting and arm, in the order of the settings."""
    groups: dict[tuple, dict[int, float]] = {}
    for row in found["rows"]:
        key = (row["setting"], row["model"], row["pretrained"], row["augmented"])
        groups.setdefault(key, {})[row["seed"]] = row["top1"]
    order = {name: place for place, name in enumerate(found["settings"])}
    for key in sorted(groups, key=lambda key: (key[1], key[2], key[3], order[key[0]])):
        setting, model, pretrained, augmented = key
        ours, other = groups[key], groups.get(_compared_with(found, key, groups), {})
        seeds = sorted(ours.keys() & other.keys())
        change = changes([other[seed] for seed in seeds], [ours[seed] for seed in seeds])
        arm = arm_name("synthetic" if pretrained else "none", augmented)
        yield Result(setting, MODELS[model], arm, [ours[seed] for seed in sorted(ours)], change)


def _compared_with(found: dict[str, Any], key: tuple, groups: dict) -> tuple | None:
    """The group that a group is compared with, None for a baseline: the same arm of the other setting; where that has
    no such arm its arm on real clips; in a study between arms the same setting without pretraining."""
    setting, model, pretrained, augmented = key
    if found["between"] == "arms":
        return (setting, model, False, augmented) if pretrained else None
    other = found["against"][setting]
    if not other:
        return None
    same = (other, model, pretrained, augmented)
    return same if same in groups else (other, model, False, augmented)


def result_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table of accuracies, under `RESULT_HEAD`."""
    rows = []
    for entry in results(found):
        ends = interval(entry.change)
        change = (
            spread(entry.change, sign="+") if entry.change else "",
            f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "",
            verdict(entry.change) if entry.change else "compared with",
        )
        rows.append((entry.setting, entry.model, entry.arm, spread(entry.top1), *change))
    return rows


def generator_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table of the generators' figures, under `GENERATOR_HEAD`; empty where none were measured."""
    return [
        (setting, *(spread([row.get(name) for row in ours.values()]) for name in FIGURES))
        for setting, ours in _generators(found).items()
    ]


def generator_changes(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table of what changes in these figures against the setting that each is compared with, seed by
    seed, with 95 % intervals; under `GENERATOR_HEAD`."""
    groups, rows = _generators(found), []
    for setting, ours in groups.items():
        other = groups.get(found["against"][setting])
        if other is None:
            continue
        cells = []
        for name in FIGURES:
            pairs = [(other[seed].get(name), ours[seed].get(name)) for seed in sorted(ours.keys() & other.keys())]
            change = [after - before for before, after in pairs if before is not None and after is not None]
            ends = interval(change)
            cells.append(
                f"{fmean(change):+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else spread(change, sign="+")
            )
        rows.append((setting, *cells))
    return rows


def _generators(found: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """The generators' figures by setting and seed, in the order of the settings."""
    groups: dict[str, dict[int, dict]] = {name: {} for name in found["settings"]}
    for row in found["generators"]:
        groups[row["setting"]][row["seed"]] = row
    return {name: rows for name, rows in groups.items() if rows}


def conditions(found: dict[str, Any]) -> str:
    """On what a study ran, in one sentence."""
    drawn = found["clips_per_class"]
    clips = "all training clips" if drawn is None else f"{drawn} training clips a class, drawn by seed"
    with_one = set(found["against"].values()) - {""}
    if found["between"] == "arms":
        compared = "each arm with synthetic pretraining with the same setting without"
    else:
        compared = f"each setting with {with_one.pop()}" if len(with_one) == 1 else "the settings in pairs"
    where = "; no test clips: groups held out from the training clips instead" if found.get("training_only") else ""
    return f"{found['seeds']} seeds, {clips}{where}; compared seed by seed: {compared}."


def markdown(found: dict[str, Any]) -> str:
    """`report.md`."""
    lines = [f"# {found['study']}: {found['question']}", "", conditions(found), ""]
    if found["rows"]:
        lines += table(RESULT_HEAD, result_rows(found))
    made = generator_rows(found)
    if made:
        lines += ["", "The generators, on the test clips:", "", *table(GENERATOR_HEAD, made)]
        lines += [
            "",
            "What changes in this, with 95 % intervals:",
            "",
            *table(GENERATOR_HEAD, generator_changes(found)),
        ]
    return "\n".join(lines) + "\n"
