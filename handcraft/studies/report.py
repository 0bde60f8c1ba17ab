"""What a study found, in rows: means and spread over the seeds, and differences paired by seed with 95 % intervals."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from handcraft.markdown import escape, table
from handcraft.report import arm_name, changes, interval, spread, verdict
from handcraft.words import counted

MODELS = {"transformer": "Transformer-SL", "mamba": "Mamba-SL"}
FIGURES = {
    "mpjpe": ("MPJPE", "mean distance of predicted from recorded landmarks; lower is nearer"),
    "mpjpe_first": ("MPJPE in the first frame", "of those that are predicted"),
    "mpjpe_last": ("MPJPE in the last frame", "of those that are predicted"),
    "splice_jump": ("Jump at the splice", "how far landmarks move where the halves meet"),
    "frechet_judged": ("Fréchet distance", "of features of a classifier of real clips; lower is nearer"),
    "frechet": ("Fréchet distance of poses", "of principal components of the poses; lower is nearer"),
    "kl_speed": ("KL of speed", "real from synthetic, mean over landmarks, nats; lower is nearer"),
    "kl_acceleration": ("KL of acceleration", "the same of acceleration"),
    "kl_bone_length": ("KL of bone length", "the same of bones"),
    "diversity": ("Diversity", "mean distance of two poses of any sign; near that of test clips is right"),
    "multimodality": ("Multimodality", "mean distance of two poses of one sign; near that of test clips is right"),
    "coverage_judged": ("Coverage", "real clips with a synthetic one near, in features of a classifier; higher"),
    "coverage": ("Coverage of poses", "the same in principal components of the poses"),
    "recognised": ("Recognised", "top-1 of that classifier on synthetic clips, and on real ones"),
    "dtw_mje": ("DTW-MJE", "mean joint error to a real clip of the sign after time warping"),
    "pck": ("PCK", "share of these joints that are near"),
    "nearest_train": ("Nearest training clip", "median distance to it; far below that of test clips is copying"),
    "nearest_real": ("Nearest test clip", "median distance to it"),
}
"""Figures of the generators: name in a row -> title and meaning. A report shows those that the rows hold."""
FLOORS = (
    "Test clips and training clips: the same figure of real clips in place of synthetic ones, halves of the test "
    "against each other, and all training clips, which are of other signers or sessions where the split is by these."
)
SHORT = ("mpjpe", "splice_jump", "frechet_judged", "kl_speed", "coverage_judged", "recognised", "nearest_train")
"""Those that a terminal shows."""
RESULT_HEAD = ("setting", "model", "trained on", "top-1", "change", "95 % interval", "")
GENERATOR_HEAD = ("figure", "setting", "value", "test clips", "training clips", "change", "95 % interval", "")


@dataclass(frozen=True)
class Row:
    """A figure of one setting: the value of each seed, and the change against what the setting is compared with."""

    setting: str
    values: list[float]
    change: list[float]
    """Seed by seed; empty for what others are compared with, and where the seeds of that are missing."""
    baseline: bool
    """Whether it is what others are compared with."""
    real: tuple[float | None, float | None] = (None, None)
    """The same figure of real clips: of the test, and of all training clips."""

    @property
    def value(self) -> str:
        return spread(self.values, self._digits)

    @property
    def real_values(self) -> tuple[str, str]:
        test, training = ("" if value is None else f"{value:.{self._digits}f}" for value in self.real)
        return test, training

    @property
    def changed(self) -> str:
        return spread(self.change, self._digits, sign="+") if self.change else ""

    @property
    def ends(self) -> str:
        """The 95 % interval of the change; "" where there are too few seeds."""
        found = interval(self.change)
        return f"{found[0]:+.{self._digits}f} to {found[1]:+.{self._digits}f}" if found else ""

    def says(self, up: str, down: str) -> str:
        """What the interval says, in words; up and down where it leaves zero out."""
        if not self.change:
            return "compared with" if self.baseline else ""
        return {"gain": up, "loss": down}.get(verdict(self.change), verdict(self.change))

    @property
    def _digits(self) -> int:
        return 1 if any(abs(value) >= 10 for value in self.values) else 3


@dataclass(frozen=True)
class Group:
    """Rows that belong into one chart: a classifier and what it was trained on, or a figure of the generators."""

    name: tuple[str, ...]
    """Model and arm, or the figure's title."""
    rows: list[Row]
    meaning: str = ""


def results(found: dict[str, Any]) -> list[Group]:
    """Top-1 of the classifiers in `study.json`, by model and arm, in the order of the settings."""
    groups: dict[tuple, dict[int, float]] = {}
    for row in found["rows"]:
        key = (row["setting"], row["model"], row["pretrained"], row["augmented"])
        groups.setdefault(key, {})[row["seed"]] = row["top1"]
    order = {name: place for place, name in enumerate(found["settings"])}
    made: dict[tuple, Group] = {}
    for key in sorted(groups, key=lambda key: (key[1], key[2], key[3], order[key[0]])):
        setting, model, pretrained, augmented = key
        name = (MODELS[model], arm_name("synthetic" if pretrained else "none", augmented))
        other = _compared_with(found, key, groups)
        row = Row(setting, _in_order(groups[key]), _change(groups[key], groups.get(other, {})), other is None)
        made.setdefault(key[1:], Group(name, [])).rows.append(row)
    return list(made.values())


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


def generator_results(found: dict[str, Any], names: Iterable[str] = FIGURES) -> list[Group]:
    """The generators' figures in `study.json`, each in the order of the settings; none where none were measured."""
    by_setting: dict[str, dict[int, dict]] = {name: {} for name in found["settings"]}
    for row in found["generators"]:
        by_setting[row["setting"]][row["seed"]] = row
    groups = []
    for name in names:
        title, meaning = FIGURES[name]
        values = {
            setting: {seed: row[name] for seed, row in rows.items() if row.get(name) is not None}
            for setting, rows in by_setting.items()
        }
        rows = []
        for setting, ours in values.items():
            if not ours or len(ours) < len(by_setting[setting]):
                continue  # not measured, or not by every seed
            seeds, other = list(by_setting[setting].values()), found["against"][setting]
            real = _mean_under(seeds, "floor", name), _mean_under(seeds, "training", name)
            rows.append(Row(setting, _in_order(ours), _change(ours, values.get(other, {})), not other, real))
        if rows:
            groups.append(Group((title,), rows, meaning))
    return groups


def _mean_under(rows: list[dict[str, Any]], part: str, name: str) -> float | None:
    """Mean of a figure in a part of the rows; None where none has it."""
    known = [row[part][name] for row in rows if row.get(part, {}).get(name) is not None]
    return fmean(known) if known else None


def _in_order(by_seed: dict[int, float]) -> list[float]:
    return [by_seed[seed] for seed in sorted(by_seed)]


def _change(ours: dict[int, float], other: dict[int, float]) -> list[float]:
    """Of the seeds that both have."""
    seeds = sorted(ours.keys() & other.keys())
    return changes([other[seed] for seed in seeds], [ours[seed] for seed in seeds])


def result_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of accuracies, under `RESULT_HEAD`."""
    for group in results(found):
        for row in group.rows:
            yield row.setting, *group.name, row.value, row.changed, row.ends, row.says("gain", "loss")


def generator_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of the generators' figures, under `GENERATOR_HEAD`."""
    for group in generator_results(found):
        for row in group.rows:
            said = row.changed, row.ends, row.says("higher", "lower")
            yield *group.name, row.setting, row.value, *row.real_values, *said


def conditions(found: dict[str, Any]) -> str:
    """On what a study ran, in one sentence."""
    drawn = found["clips_per_class"]
    clips = (
        "all training clips, or what the setting says"
        if drawn is None
        else f"{drawn} training clips a class, drawn by seed"
    )
    with_one = set(found["against"].values()) - {""}
    if found["between"] == "arms":
        compared = "each arm with synthetic pretraining with the same setting without"
    else:
        compared = f'each setting with "{with_one.pop()}"' if len(with_one) == 1 else "the settings in pairs"
    where = "; no test clips: groups held out from the training clips instead" if found.get("training_only") else ""
    return f"{counted(found['seeds'], 'seed')}, {clips}{where}; compared seed by seed: {compared}."


def caution(found: dict[str, Any]) -> str:
    """What the intervals do not say, in two sentences; "" where there are none."""
    count = sum(bool(row.ends) for group in (*results(found), *generator_results(found)) for row in group.rows)
    if not count:
        return ""
    return (
        f"Of {counted(count, 'interval')} about {count / 20:.1f} would leave zero out by chance if nothing had an "
        "effect. All seeds share the test clips, so the intervals say nothing about other signers."
    )


def origin(found: dict[str, Any]) -> list[tuple[str, str]]:
    """How a study was made, as names and values: command, time, data, machine and versions, as far as it says so."""
    machine, data = found.get("machine"), found.get("data")
    rows = []
    if "command" in found:
        rows.append(("Command", found["command"]))
    if "seconds" in found:
        minutes, of_cpu = (found[name] / 60 for name in ("seconds", "cpu_seconds"))
        rows.append(("Time", f"{minutes:.1f} minutes, {of_cpu:.1f} of CPU, beside what other studies had trained"))
    if data:
        rows.append(("Data", f"{counted(data['clips'], 'clip')}, {data['hash'][:12]}"))
    if machine:
        threads = counted(machine["threads"], "thread")
        rows.append(("Machine", f"{machine['processor']}, {counted(machine['cores'], 'core')}, {threads}"))
    rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())))
    return rows


def terminal(found: dict[str, Any]) -> str:
    """What a terminal shows: accuracies, and of the generators' figures the most telling."""
    how = "Each line: mean and deviation over the seeds, 95 % interval of the change."
    blocks = [f"{found['question']} {conditions(found)}\n{how}"]
    for group in (*results(found), *generator_results(found, SHORT)):
        cells = [(row.setting, row.value, row.ends, row.says("higher", "lower")) for row in group.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        measured = {row.real_values for row in group.rows if any(row.real_values)}
        alike = measured.pop() if len(measured) == 1 else ("", "")  # of other clips in every setting: no one value
        kinds = zip(("test", "training"), alike, strict=True)
        real = ", ".join(f"{kind} clips {value}" for kind, value in kinds if value)
        title = ", trained on ".join(group.name) + f" ({real})" * bool(real)
        blocks.append("\n  ".join([title, *rows]))
    return "\n\n".join(blocks)


def markdown(found: dict[str, Any]) -> str:
    """`report.md`."""
    lines = [f"# {found['study']}: {found['question']}", "", conditions(found), ""]
    if found["rows"]:
        lines += [*table(RESULT_HEAD, result_rows(found)), ""]
    made = list(generator_rows(found))
    if made:
        lines += ["The generators, on the test clips:", "", *table(GENERATOR_HEAD, made), "", FLOORS, ""]
    if caution(found):
        lines += [caution(found), ""]
    lines += [f"- {name}: {f'`{value}`' if name == 'Command' else escape(value)}" for name, value in origin(found)]
    return "\n".join(lines) + "\n"
