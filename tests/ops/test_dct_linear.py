"""dct_linear: the transform itself, [CLS], positions, lengths. The shared contract is in test_contract.py."""

import itertools

import oracles
import pytest
import scipy.fft
import tolerances
import torch
from cases import draw

from handcraft.kernels import dct_linear
from handcraft.kernels.dct import dct_matrix


@pytest.mark.parametrize("size", [1, 2, 7, 16, 32, 60, 129])
def test_matrix_is_scipys_orthonormal_dct(size):
    matrix = dct_matrix(size, torch.float64)
    expected = torch.from_numpy(scipy.fft.dct(torch.eye(size, dtype=torch.float64).numpy(), axis=0, norm="ortho"))
    assert (matrix - expected).abs().max() < 1e-14
    assert (matrix @ matrix.T - torch.eye(size)).abs().max() < 1e-13
    assert torch.equal(dct_matrix(size), matrix.float())


def test_dct_of_a_window_is_scipys():
    (x,) = draw((4, 32, 9), seed=0)
    found = dct_linear(x, torch.eye(9))
    expected = torch.from_numpy(scipy.fft.dct(x.numpy(), axis=1, norm="ortho"))
    assert tolerances.error(found, expected) < tolerances.ORACLE


OPTIONS = list(itertools.product((False, True), (None, "first", "last"), (False, True)))


@pytest.mark.parametrize(("bias", "cls_at", "position"), OPTIONS)
@pytest.mark.parametrize("mode", ["dct", "none", "lengths"])
def test_every_combination(bias, cls_at, position, mode):
    frames, dim, width = 6, 5, 7
    x, w, b, c, p = draw((4, frames, dim), (width, dim), (width,), (width,), (frames + 1, width), seed=1)
    given = {
        "bias": b if bias else None,
        "cls": c if cls_at else None,
        "position": (p if cls_at else p[:-1]) if position else None,
        "cls_at": cls_at or "first",
        "transform": "dct" if mode == "dct" else "none",
        "lengths": torch.tensor([0, 1, 4, 6]) if mode == "lengths" else None,
    }
    as_numpy = {name: value.numpy() if torch.is_tensor(value) else value for name, value in given.items()}
    truth = torch.from_numpy(oracles.dct_linear(x.numpy(), w.numpy(), **as_numpy))
    found = dct_linear(x, w, **given)
    assert tolerances.error(found, truth) < tolerances.ORACLE


def test_cls_last_sits_right_after_the_clip_and_later_rows_are_zero():
    x, w, c = draw((2, 5, 3), (4, 3), (4,), seed=2)
    out = dct_linear(x, w, cls=c, cls_at="last", transform="none", lengths=torch.tensor([2, 5]))
    assert torch.equal(out[0, 2], c)
    assert torch.equal(out[1, 5], c)
    assert not out[0, 3:].any()
    assert torch.equal(out[0, :2], x[0, :2] @ w.T)


def test_frames_beyond_the_length_get_and_give_nothing():
    x, w, b, c, p = draw((2, 5, 3), (4, 3), (4,), (4,), (6, 4), seed=3)
    lengths = torch.tensor([2, 4])
    x, w, b, c, p = (value.requires_grad_() for value in (x, w, b, c, p))
    for cls_at in ("first", "last"):
        options = {"cls": c, "position": p, "cls_at": cls_at, "transform": "none", "lengths": lengths}
        assert torch.autograd.gradcheck(lambda *v, o=options: dct_linear(v[0], v[1], v[2], **o), (x, w, b))
        out = dct_linear(x, w, b, **options)
        grad_x, grad_p = torch.autograd.grad(out.sum(), (x, p))
        assert not grad_x[0, 2:].any()
        assert grad_x[0, :2].all()
        assert grad_p[:3].eq(2).all()
        assert grad_p[5].eq(0).all()


def test_lengths_with_dct_are_refused():
    with pytest.raises(ValueError, match='lengths given with transform="dct", expected transform="none"'):
        dct_linear(torch.ones(2, 4, 3), torch.ones(5, 3), lengths=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(2, 0, 3)}, ValueError, r"x has shape \(2, 0, 3\), expected \(B,T,D\) with T >= 1"),
        ({"weight": torch.ones(5, 4)}, ValueError, r"weight has shape \(5, 4\), expected \(H,D\) = \(5, 3\)"),
        ({"bias": torch.ones(4)}, ValueError, r"bias has shape \(4,\), expected \(H,\) = \(5,\)"),
        ({"position": torch.ones(4, 5)}, ValueError, r"position has shape \(4, 5\), expected \(T\+1,H\) = \(5, 5\)"),
        (
            {"cls": None, "position": torch.ones(5, 5)},
            ValueError,
            r"position has shape \(5, 5\), expected \(T,H\) = \(4, 5\)",
        ),
        ({"cls_at": "middle"}, ValueError, 'cls_at is \'middle\', expected "first" or "last"'),
        ({"transform": "fft"}, ValueError, 'transform is \'fft\', expected "dct" or "none"'),
        ({"lengths": torch.tensor([1, 5])}, ValueError, r"lengths has values in \[1, 5\], expected within \[0, 4\]"),
        ({"lengths": torch.tensor([-1, 2])}, ValueError, r"lengths has values in \[-1, 2\], expected within \[0, 4\]"),
        ({"lengths": torch.tensor([1])}, ValueError, r"lengths has shape \(1,\), expected \(B,\) = \(2,\)"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, r"lengths is torch\.float32, expected int64"),
    ],
)
def test_errors(change, error, message):
    given = {"x": torch.ones(2, 4, 3), "weight": torch.ones(5, 3), "cls": torch.ones(5), "transform": "none"}
    with pytest.raises(error, match="dct_linear: " + message):
        dct_linear(**{**given, **change})
