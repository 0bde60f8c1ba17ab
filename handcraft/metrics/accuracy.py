"""Recognition metrics on one split: top-k accuracy per instance and per class, macro F1, confusion matrix.

Every clip that is passed in is counted exactly once, so a caller gathers the scores of a whole split first.
torchmetrics does the counting and is imported on the first call: `import handcraft` stays fast.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from handcraft.errors import DataError
from handcraft.files import atomic_path

TOP = (1, 5, 10)


def accuracy(logits: Tensor, label: Tensor, classes: Sequence[str], *, split: str = "test") -> dict:
    """Score `logits (N, classes)` (any float, larger is likelier; -inf allowed) against `label (N,)` int64.

    Returns `top1, top5, top10` (share of clips whose class is among the k best, micro), `top1_macro, ...` (the same
    share per class, averaged over the classes that occur in `label`), `macro_f1` (over the classes that occur in
    `label` or among the first choices), `confusion` (classes, classes) int64, rows true and columns predicted, `clips`
    N, and `signatures`, one string a metric. k larger than the number of classes is capped there, which makes the score
    1; the signature says so. `DataError`: nothing to score, wrong shapes, labels out of range, NaN scores.
    """
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multiclass_f1_score,
    )

    _check(logits, label, len(classes))
    count, clips = len(classes), len(label)
    logits, label = logits.detach().double().cpu(), label.cpu()
    present = torch.bincount(label, minlength=count) > 0
    options = {"num_classes": count, "validate_args": False}
    row: dict = {}
    signatures: dict[str, str] = {}
    for wanted in TOP:
        k = min(wanted, count)
        capped = f"|k:{k} (capped at the number of classes)" if k < wanted else ""
        per_class = multiclass_accuracy(logits, label, average="none", top_k=k, **options)
        row[f"top{wanted}"] = float(multiclass_accuracy(logits, label, average="micro", top_k=k, **options))
        row[f"top{wanted}_macro"] = float(per_class[present].mean())
        signatures[f"top{wanted}"] = f"top{wanted}{capped}|average:micro|clips:{split}|v1"
        signatures[f"top{wanted}_macro"] = (
            f"top{wanted}{capped}|average:macro over {int(present.sum())} classes with clips|clips:{split}|v1"
        )
    row["macro_f1"] = float(multiclass_f1_score(logits, label, average="macro", **options))
    signatures["macro_f1"] = f"f1|average:macro over classes with clips or predictions|clips:{split}|v1"
    row["confusion"] = multiclass_confusion_matrix(logits, label, **options)
    row["clips"] = clips
    row["signatures"] = signatures
    return row


def write_confusion(path: Path | str, confusion: Tensor, classes: Sequence[str]) -> None:
    """Write `confusion (classes, classes)` as CSV: the true class, then one column a predicted class."""
    import pyarrow as pa
    from pyarrow import csv

    names = ["true", *(f"predicted {name}" for name in classes)]
    columns = [pa.array(list(classes)), *(pa.array(column.tolist()) for column in confusion.T)]
    with atomic_path(path) as temporary:
        csv.write_csv(pa.Table.from_arrays(columns, names=names), temporary)


def _check(logits: Tensor, label: Tensor, classes: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != classes or label.shape != logits.shape[:1]:
        raise DataError(
            f"accuracy: logits {tuple(logits.shape)} and label {tuple(label.shape)} found; "
            f"expected (N, {classes}) and (N,), one column for each of the {classes} classes"
        )
    if len(label) == 0:
        raise DataError("accuracy: there is no clip to score; check that the split has clips")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= classes:
        raise DataError(f"accuracy: labels from {low} to {high} found, expected 0 to {classes - 1}")
    bad = logits.isnan().any(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise DataError(
            f"accuracy: {int(bad.sum())} of {len(label)} clips have a score that is not a number (first: row {first}); "
            "the model that made them is broken"
        )
