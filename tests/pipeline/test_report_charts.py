"""Where lines, dots and ticks lie, checked against places worked out by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcraft.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Series,
    line_chart,
    mean_line,
    nice_ticks,
    share_scale,
    texts,
)


def test_ticks_are_round_and_enclose():
    assert nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(0.013, 0.047) == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert nice_ticks(0, 300) == [0, 100, 200, 300]
    assert nice_ticks(0.5, 0.5)[0] <= 0 < 1 <= nice_ticks(0.5, 0.5)[-1]
    assert texts([0, 0.25, 1]) == ["0.00", "0.25", "1.00"]
    assert texts([0, 100]) == ["0", "100"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_of_any_range(low, extent):
    ticks = nice_ticks(low, low + extent)
    slack = 1e-6 * extent + 1e-9 * abs(low)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + extent - slack
    assert 2 <= len(ticks) <= 7
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-3, abs_tol=1e-9 * abs(low)) for step in steps)


def test_a_chart_puts_points_on_its_scales():
    chart = line_chart("Loss", [Series("real", "real", [[(1, 0.0), (4, 1.0)], [(1, 1.0), (4, 1.0)]])], dots=True)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    quarter = LEFT + (right - LEFT) / 4
    middle = (TOP + bottom) / 2
    assert [line.points for line in chart.seeds] == [
        f"{quarter:g},{bottom:g} {right:g},{TOP:g}",
        f"{quarter:g},{TOP:g} {right:g},{TOP:g}",
    ]
    assert [line.points for line in chart.means] == [f"{quarter:g},{middle:g} {right:g},{TOP:g}"]
    assert chart.means[0].dots == [
        (quarter, middle, "real, step 1: 0.500"),
        (right, TOP, "real, step 4: 1.000"),
    ]
    assert (chart.y[0], chart.y[-1]) == ((bottom, "0.00"), (TOP, "1.00"))
    assert (chart.x[0], chart.x[-1]) == ((LEFT, "0"), (right, "4"))
    assert chart.says == "Loss, by step. At the end: real 1.000."


def test_a_chart_of_means_alone():
    chart = line_chart("Loss", [Series("a", "real", [[(1, 1.0)]]), Series("b", "both", [[]])], dots=False)
    assert chart.seeds == []
    assert [(line.kind, line.dots) for line in chart.means] == [("real", [])]
    assert line_chart("Loss", [Series("b", "both", [[]]), Series("c", "real", [])], dots=True) is None


def test_a_seed_without_validation_leaves_the_mean_of_the_others():
    chart = line_chart("Top-1", [Series("real", "real", [[(5, 0.5)], [], [(5, 1.0)]])], dots=True)
    assert chart.says.endswith("real 0.750.")


def test_the_mean_is_taken_where_all_lines_have_a_value():
    assert mean_line([[(1, 1.0), (2, 3.0)], [(1, 3.0)]]) == [(1, 2.0)]


def test_scales():
    assert Scale(0.5, 1.0)(0.75) == 50
    scale = share_scale([0.61, 0.93])
    assert (scale.low, scale.high, scale.ends) == (0.6, 1.0, ["0.6", "1.0"])
    assert (share_scale([0.5]).low, share_scale([0.5]).high) == (0.0, 1.0)
    assert (share_scale([1.0, 1.0]).low, share_scale([1.0]).high) == pytest.approx((0.5, 1.0))
