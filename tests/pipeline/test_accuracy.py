"""Recognition metrics against hand-counted cases and scikit-learn."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score

from handcraft.errors import DataError
from handcraft.metrics.accuracy import accuracy, write_confusion

ABC = ("a", "b", "c")


def test_hand_counted_case():
    # clips of a, a, a, b; first choices a, a, b, c; the true class is second for the last two
    logits = torch.tensor([[3.0, 2, 1], [3, 1, 2], [2, 3, 1], [1, 2, 3]])
    row = accuracy(logits, torch.tensor([0, 0, 0, 1]), ABC)
    assert row["top1"] == pytest.approx(2 / 4)
    assert row["top1_macro"] == pytest.approx((2 / 3 + 0) / 2), "c has no clip: it is no part of the mean over classes"
    assert row["confusion"].tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert row["clips"] == 4
    # F1 of a: 2*2/(2*2+0+1); of b: 0 (one wrong prediction, one missed); of c: 0 (predicted once, wrongly)
    assert row["macro_f1"] == pytest.approx((4 / 5 + 0 + 0) / 3)
    assert row["top5"] == row["top10"] == row["top5_macro"] == 1.0


def test_signatures_name_average_split_and_capped_k():
    row = accuracy(torch.eye(3), torch.arange(3), ABC, split="valid")
    assert row["signatures"]["top1"] == "top1|average:micro|clips:valid|v1"
    assert row["signatures"]["top1_macro"] == "top1|average:macro over 3 classes with clips|clips:valid|v1"
    assert row["signatures"]["top5"].startswith("top5|k:3 (capped")
    assert set(row["signatures"]) == set(row) - {"confusion", "clips", "signatures"}


def test_agrees_with_counting_on_random_scores():
    generator = torch.Generator().manual_seed(3)
    count, clips = 23, 301
    logits = torch.randn(clips, count, generator=generator)
    label = torch.randint(0, count - 2, (clips,), generator=generator)  # two classes never occur
    row = accuracy(logits, label, [f"c{i:02}" for i in range(count)])
    place = (logits > logits.gather(1, label[:, None])).sum(1).numpy()  # classes that score higher than the true one
    truth = label.numpy()
    for k in (1, 5, 10):
        assert row[f"top{k}"] == pytest.approx((place < k).mean())
        per_class = [(place[truth == c] < k).mean() for c in np.unique(truth)]
        assert row[f"top{k}_macro"] == pytest.approx(np.mean(per_class), abs=1e-6)
    first = logits.argmax(1).numpy()
    assert row["macro_f1"] == pytest.approx(f1_score(truth, first, average="macro"), abs=1e-6)
    assert (row["confusion"].numpy() == confusion_matrix(truth, first, labels=range(count))).all()
    assert int(row["confusion"].sum()) == clips, "every clip is counted once"


def test_classes_that_were_never_trained_may_score_minus_infinity():
    logits = torch.tensor([[0.0, 1, -torch.inf], [0, -1, -torch.inf], [0, -1, -torch.inf]])
    assert accuracy(logits, torch.tensor([1, 0, 2]), ABC)["top1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("logits", "label", "words"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "no clip to score"),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), r"\(2, 4\).*expected \(N, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), r"label \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels from 0 to 3 found, expected 0 to 2"),
        (torch.tensor([[0, 0, 0], [0, torch.nan, 0]]), torch.tensor([0, 1]), "1 of 2 clips.*row 1"),
    ],
)
def test_bad_input_is_named(logits, label, words):
    with pytest.raises(DataError, match=words):
        accuracy(logits, label, ABC)


def test_confusion_csv(tmp_path):
    confusion = torch.tensor([[2, 1, 0], [0, 0, 1], [4, 0, 0]])
    write_confusion(tmp_path / "confusion.csv", confusion, ("a", "b,c", "d"))
    with open(tmp_path / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true", "predicted a", "predicted b,c", "predicted d"]
    assert rows[1:] == [["a", "2", "1", "0"], ["b,c", "0", "0", "1"], ["d", "4", "0", "0"]]


def test_import_leaves_torchmetrics_alone():
    code = "import handcraft.metrics.accuracy, sys; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
