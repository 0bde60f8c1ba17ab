"""Logs and matrices of a run are read as they were written, and refused by name where they are damaged."""

import numpy as np
import pytest
import torch
from fake_run import STEPS, write_log
from hypothesis import given
from hypothesis import strategies as st

from handcraft.errors import DataError
from handcraft.metrics.accuracy import write_confusion
from handcraft.report.data import mean_curve, read_confusion, read_curve


def test_a_curve_is_the_log(tmp_path):
    write_log(tmp_path, "top1", every=5)
    curve = read_curve(tmp_path)
    np.testing.assert_allclose(curve.loss, 1 / np.arange(1, STEPS + 1))
    assert curve.validation == {"top1": [(5, 0.05), (10, 0.10), (15, 0.15), (20, 0.20)]}


def test_a_training_without_validation(tmp_path):
    write_log(tmp_path, every=0)
    assert read_curve(tmp_path).validation == {}
    (tmp_path / "log.jsonl").write_text("")
    assert len(read_curve(tmp_path).loss) == 0


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"step": 1}', '{"step": 1, "loss": "x"}', '{"loss": 1, "validation": 3}']
)
def test_a_damaged_log_is_named(tmp_path, line):
    write_log(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"log\.jsonl, line {STEPS + 1}"):
        read_curve(tmp_path)


def test_a_log_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"log\.jsonl: cannot be read"):
        read_curve(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"log\.jsonl: cannot be read"):
        read_curve(tmp_path)


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(names, st.data())
def test_a_matrix_comes_back_whatever_its_classes_are_called(tmp_path_factory, classes, data):
    size = len(classes)
    counts = data.draw(st.lists(st.integers(0, 2**40), min_size=size * size, max_size=size * size))
    matrix = torch.tensor(counts).reshape(size, size)
    path = tmp_path_factory.mktemp("matrix") / "confusion.csv"
    write_confusion(path, matrix, classes)
    np.testing.assert_array_equal(read_confusion(path, classes), matrix.numpy())


def test_classes_called_like_numbers_and_missing_values(tmp_path):
    classes = ["1", "NA", "", "null", "true"]
    write_confusion(tmp_path / "c.csv", torch.arange(25).reshape(5, 5), classes)
    np.testing.assert_array_equal(read_confusion(tmp_path / "c.csv", classes), np.arange(25).reshape(5, 5))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("predicted b", "predicted c"),
        lambda text: text.replace('"b",', '"c",'),
        lambda text: text.replace("3", "x"),
        lambda text: text.replace("3", "-3"),
        lambda text: text.replace("3", "1.5"),
        lambda text: text.replace("3", ""),
        lambda text: "\n".join(text.splitlines()[:-1]),
        lambda text: text + '"c",1,2\n',
        lambda text: "",
    ],
)
def test_another_matrix_is_refused_by_name(tmp_path, change):
    path = tmp_path / "confusion.csv"
    write_confusion(path, torch.arange(4).reshape(2, 2), ["a", "b"])
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=r"confusion\.csv: .*confusion matrix"):
        read_confusion(path, ["a", "b"])


def test_a_matrix_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"confusion\.csv"):
        read_confusion(tmp_path / "confusion.csv", ["a"])


def test_the_mean_of_losses_over_seeds_and_runs_of_steps():
    assert mean_curve([np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])], points=2) == [(1.5, 2.5), (3.5, 4.5)]
    assert mean_curve([np.array([1.0, 2, 3])], points=80) == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert mean_curve([np.array([1.0, 2, 3]), np.array([5.0])]) == [(1.0, 3.0)]
    assert mean_curve([np.array([])]) == []
    assert len(mean_curve([np.ones(1000)])) == 80
