"""What a study found, in rows: means and spread over the seeds, and differences paired by seed with 95 % intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from handcraft.markdown import table
from handcraft.report import arm_name, changes, interval, spread, verdict

MODELS = {"transformer": "Transformer-SL", "mamba": "Mamba-SL"}
FIGURES = {
    "mpjpe": "MPJPE",
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
    """The group that a group is compared with, None for a baseline: the same arm of the baseline setting; where that
    has no such arm its arm on real clips; in a study between arms the same setting without pretraining."""
    setting, model, pretrained, augmented = key
    if found["between"] == "arms":
        return (setting, model, False, augmented) if pretrained else None
    if setting == found["baseline"]:
        return None
    same = (found["baseline"], model, pretrained, augmented)
    return same if same in groups else (found["baseline"], model, False, augmented)


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
    groups: dict[str, list[dict]] = {}
    for row in found["generators"]:
        groups.setdefault(row["setting"], []).append(row)
    return [
        (setting, *(spread([row.get(name) for row in groups[setting]]) for name in FIGURES))
        for setting in found["settings"]
        if setting in groups
    ]


def conditions(found: dict[str, Any]) -> str:
    """On what a study ran, in one sentence."""
    drawn = found["clips_per_class"]
    clips = "all training clips" if drawn is None else f"{drawn} training clips a class, drawn by seed"
    compared = (
        "each arm with synthetic pretraining with the same setting without"
        if found["between"] == "arms"
        else f"each setting with {found['baseline']}"
    )
    return f"{found['seeds']} seeds, {clips}; compared seed by seed: {compared}."


def markdown(found: dict[str, Any]) -> str:
    """`report.md`."""
    lines = [f"# {found['study']}: {found['question']}", "", conditions(found), ""]
    lines += table(RESULT_HEAD, result_rows(found))
    made = generator_rows(found)
    if made:
        lines += ["", "The generators, on the test clips:", "", *table(GENERATOR_HEAD, made)]
    return "\n".join(lines) + "\n"
