"""clip_windows: against a loop in NumPy float64, missing landmarks, every optional step, and bytes that do not depend
on the batch, on every backend."""

import functools

import backends
import pytest
import tolerances
import torch
from windowed import oracle, setting

from handcraft import kernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(params=backends.backends("clip_windows"))
def clip_windows(request):
    return functools.partial(kernels.clip_windows, backend=request.param)


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)


def check(clip_windows, given):
    frames = given["frames"]
    expected, seen = oracle(**given)
    present = torch.empty(seen.shape, dtype=torch.bool)
    out = clip_windows(**given, present=present)
    assert out.dtype == (torch.float64 if frames.dtype == torch.float64 else torch.float32)
    assert torch.equal(out.isnan(), expected.isnan())
    bound = tolerances.ORACLE if out.dtype == torch.float64 else 4 * tolerances.SLACK[torch.float32]
    assert tolerances.error(out.nan_to_num(), expected.nan_to_num()) < bound
    assert torch.equal(present, seen)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("points", [(1, 2), (5, 3), (16, 2), (60, 3), (23, 2), (7, 4)])
def test_agrees_with_numpy(clip_windows, points, dtype):
    check(clip_windows, setting(points=points, dtype=dtype))


@pytest.mark.parametrize(
    "left_out", [("turns",), ("mean", "std"), ("turns", "mean", "std"), ("second", "weight", "turns", "mean", "std")]
)
@pytest.mark.parametrize("points", [(5, 3), (33, 2)])
def test_steps_left_out(clip_windows, left_out, points):
    check(clip_windows, {name: value for name, value in setting(points=points).items() if name not in left_out})


@pytest.mark.parametrize("more", [(), ("turns",), ("turns", "mean", "std")])
def test_frames_that_are_not_there(clip_windows, more):
    given = {name: value for name, value in setting().items() if name in ("frames", "first", *more)}
    given["first"][1, 4:] = given["first"][2] = -1
    check(clip_windows, given)


def test_one_coordinate(clip_windows):
    check(clip_windows, {name: value for name, value in setting(points=(9, 1)).items() if name != "turns"})


def test_a_missing_neighbour_known_answers(clip_windows):
    frames = torch.tensor([[1.0, 1], [torch.nan, torch.nan], [3, 5]])[:, None]
    pairs = torch.tensor([[0, 2], [0, 1], [1, 2], [1, 1], [2, 2], [2, 0]])
    weight = torch.tensor([[0.25], [0.9], [0.1], [0.5], [0.7], [0.25]])
    out = clip_windows(frames, pairs[:, :1], pairs[:, 1:], weight)[:, 0, 0]
    assert out.nan_to_num(-1).tolist() == [[1.5, 2], [1, 1], [3, 5], [-1, -1], [3, 5], [2.5, 4]]


def test_turn_keeps_to_its_landmark(clip_windows):
    """A missing landmark makes neither of its neighbours missing."""
    frames = torch.ones(1, 6, 3)
    frames[0, 2:5:2] = torch.nan
    out = clip_windows(frames, torch.zeros(1, 1, dtype=torch.int64), turns=torch.tensor([[0.0, 2.0, 3.0]]))[0, 0]
    assert out[[0, 1, 3, 5]].tolist() == [[-2, 2, 3]] * 4
    assert out[[2, 4]].isnan().all()


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_do_not_depend_on_batch_order_or_threads(clip_windows, threads):
    given = setting(batch=67, width=8, points=(20, 3))
    expected = clip_windows(**given)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for rows in (torch.arange(67).flip(0), torch.tensor([40]), torch.arange(3, 20)):
            some = {name: given[name][rows] for name in ("first", "second", "weight", "turns")}
            assert torch.equal(clip_windows(**{**given, **some}), expected[rows])
    finally:
        torch.set_num_threads(before)


def test_out_and_present_of_any_strides(clip_windows):
    given = setting()
    mask = torch.empty(5, 7, 5, dtype=torch.bool)
    expected = clip_windows(**given, present=mask)
    out = torch.full((5, 5, 7, 6), torch.nan).transpose(1, 2)[..., ::2]
    present = torch.zeros(5, 5, 7, dtype=torch.bool).transpose(1, 2)
    assert clip_windows(**given, out=out, present=present) is out
    assert torch.equal(out, expected)
    assert torch.equal(present, mask)


def test_strided_arguments(clip_windows):
    given = setting()
    turned = {name: value.mT.contiguous().mT for name, value in given.items()}
    assert torch.equal(clip_windows(**turned), clip_windows(**given))


@pytest.mark.parametrize("empty", [{"batch": 0}, {"width": 0}])
def test_empty(clip_windows, empty):
    given = setting(**empty)
    assert clip_windows(**given).shape == (*given["first"].shape, 5, 3)


def test_no_gradient_and_no_autocast(clip_windows):
    given = setting()
    expected = clip_windows(**given)
    given["turns"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = clip_windows(**given)
    assert not out.requires_grad
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"frames": torch.ones(4, 6)}, ValueError, r"frames has shape \(4, 6\), expected \(rows,J,C\)"),
        ({"frames": torch.ones(4, 6, 3).int()}, TypeError, r"frames is torch\.int32, expected float32"),
        ({"first": torch.full((5, 7), 40)}, ValueError, r"first has values in \[40, 40\], expected within \[0, 39\]"),
        ({"first": torch.full((5, 7), -1)}, ValueError, r"first has values in \[-1, -1\], expected within \[0, 39\]"),
        ({"second": torch.full((5, 7), -1)}, ValueError, r"second has values in \[-1, -1\]"),
        ({"second": torch.zeros(5, 6).long()}, ValueError, r"second has shape \(5, 6\), expected \(B,W\) = \(5, 7\)"),
        ({"weight": None}, ValueError, "second is given and weight is None, expected both or none"),
        ({"mean": None}, ValueError, "std is given and mean is None, expected both or none"),
        ({"weight": torch.ones(5, 7).half()}, TypeError, r"weight is torch\.float16, expected float32"),
        ({"turns": torch.ones(5, 2)}, ValueError, r"turns has shape \(5, 2\), expected \(B,3\) = \(5, 3\)"),
        ({"std": torch.ones(15)}, ValueError, r"std has shape \(15,\), expected \(J,C\) = \(5, 3\)"),
        ({"out": torch.ones(5, 7, 5, 3).half()}, TypeError, r"out is torch\.float16, expected float32"),
        ({"present": torch.ones(5, 7, 5)}, TypeError, r"present is torch\.float32, expected bool"),
        (
            {"present": torch.ones(5, 7, 3, dtype=torch.bool)},
            ValueError,
            r"present has shape \(5, 7, 3\), expected \(B,W,J\) = \(5, 7, 5\)",
        ),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match="clip_windows: " + message):
        kernels.clip_windows(**{**setting(), **change})


def test_turns_need_two_coordinates():
    with pytest.raises(ValueError, match="expected C >= 2 beside turns"):
        kernels.clip_windows(**setting(points=(9, 1)))


def test_minus_one_is_the_lowest_row():
    with pytest.raises(ValueError, match=r"first has values in \[-2, -2\], expected within \[-1, 39\]"):
        kernels.clip_windows(setting()["frames"], torch.full((5, 7), -2))
