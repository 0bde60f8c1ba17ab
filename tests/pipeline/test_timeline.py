"""Sliding windows and the time line."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcraft.errors import ConfigError
from handcraft.timeline import merge, spans


def test_windows_cover_the_recording_and_the_last_ends_with_it():
    assert spans(100, 25, 2) == [(0, 50), (25, 75), (50, 100)]
    assert spans(104, 25, 2, 1) == [(0, 50), (25, 75), (50, 100), (54, 104)]
    assert spans(30, 25, 2) == [(0, 30)], "shorter than a window"
    assert spans(100, 25, 1, 2) == [(0, 25), (50, 75), (75, 100)], "gaps, where they are asked for"
    assert spans(10, 10, 0.5, 0.01) == [(i, i + 5) for i in range(6)], "a step is one frame at least"


@given(frames=st.integers(1, 500), fps=st.floats(1, 120), window=st.floats(0.1, 9), share=st.floats(0.05, 1))
def test_no_frame_is_left_out_unless_steps_are_longer_than_windows(frames, fps, window, share):
    width = round(window * fps)
    if width < 2:
        return
    found = spans(frames, fps, window, share * window)
    assert found[0][0] == 0
    assert found[-1][1] == frames
    assert all(end - first == min(width, frames) for first, end in found)
    assert all(a < c <= b + 1 for (a, b), (c, _) in pairwise(found))


@pytest.mark.parametrize(
    ("window", "step", "message"),
    [
        (0, None, "window is 0"),
        (float("nan"), None, "window is nan"),
        (2, -1, "step is -1"),
        (2, float("inf"), "step is inf"),
        (0.05, None, "less than two frames at 25"),
    ],
)
def test_what_makes_no_windows_is_refused(window, step, message):
    with pytest.raises(ConfigError, match=message):
        spans(100, 25, window, step)


def test_a_forged_length_makes_no_endless_list():
    with pytest.raises(ConfigError, match="1,000,000 windows"):
        spans(10**9, 25, 2, 0.04)


def window(start, end, sign, probability=0.5):
    return {"start": start, "end": end, "top": [{"class": sign, "probability": probability}] if sign else []}


def test_neighbours_of_one_sign_are_one_entry_and_borders_lie_in_the_middle():
    found = merge(
        [
            window(0, 2, "yes", 0.6),
            window(1, 3, "yes", 0.8),
            window(2, 4, None),
            window(3, 5, "no", 0.9),
            window(4, 6, "yes", 1.0),
        ]
    )
    assert found == [
        {"start": 0, "end": 2.5, "sign": "yes", "probability": pytest.approx(0.7), "windows": 2},
        {"start": 2.5, "end": 3.5, "sign": None, "probability": None, "windows": 1},
        {"start": 3.5, "end": 4.5, "sign": "no", "probability": 0.9, "windows": 1},
        {"start": 4.5, "end": 6, "sign": "yes", "probability": 1.0, "windows": 1},
    ]
    assert merge([window(0, 1, "a"), window(2, 3, "b")]) == [
        {"start": 0, "end": 1, "sign": "a", "probability": 0.5, "windows": 1},
        {"start": 2, "end": 3, "sign": "b", "probability": 0.5, "windows": 1},
    ], "what no window saw stays out"
    assert merge([]) == []
