"""What a run's folder holds for its report beside `metrics.json`: learning curves and confusion matrices."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handcraft.errors import DataError
from handcraft.tracking import LOG


@dataclass(frozen=True)
class Curve:
    """One training, from its log."""

    loss: np.ndarray
    """(steps,) of every step, the first being step 1."""
    validation: dict[str, list[tuple[int, float]]]
    """Metric -> step and value of each validation."""


def read_curve(folder: Path) -> Curve:
    """The curve of the training in `folder`; `DataError` names the line of its log that cannot be read."""
    path = folder / LOG
    loss, validation = [], {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); the report needs the log of every training") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            loss.append(float(record["loss"]))
            for name, value in record.get("validation", {}).items():
                validation.setdefault(name, []).append((int(record["step"]), float(value)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: is not a record of a training step ({error!r})") from None
    return Curve(np.array(loss), validation)


def read_confusion(path: Path, classes: Sequence[str]) -> np.ndarray:
    """A matrix that `write_confusion` wrote: (classes, classes) int64, rows true, columns predicted. `DataError` if it
    is not one of these classes."""
    import pyarrow as pa
    from pyarrow import csv

    names = [f"predicted {name}" for name in classes]
    types = {"true": pa.string()} | dict.fromkeys(names, pa.int64())  # a class may be called 1, or NA
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False))
        whole = table.column_names == list(types) and table["true"].to_pylist() == list(classes)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a confusion matrix ({error}); run the same command again") from None
    counts = np.stack([column.to_numpy() for column in table.columns[1:]], axis=1) if whole else np.full((1, 1), -1)
    if not whole or counts.dtype != np.int64 or (counts < 0).any():
        raise DataError(f"{path}: not a confusion matrix of the {len(classes)} classes; run the same command again")
    return counts


def mean_curve(curves: Sequence[np.ndarray], points: int = 80) -> list[tuple[float, float]]:
    """Mean over several losses (steps,) of equal meaning, in at most `points` runs of steps: (middle step, mean loss).

    Steps that only some of them reached are left out.
    """
    steps = min(len(curve) for curve in curves)
    if not steps:
        return []
    loss = np.mean([curve[:steps] for curve in curves], axis=0)
    edges = np.linspace(0, steps, min(points, steps) + 1).round().astype(int)
    return [(float(low + high + 1) / 2, float(loss[low:high].mean())) for low, high in itertools.pairwise(edges)]
