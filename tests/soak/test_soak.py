"""The soak test itself, on a small scale: it must pass where all is well, and find what it is there to find."""

import numpy as np
import pytest
from soak import memory, run
from soak.cycle import Cycle, contents

pytestmark = pytest.mark.skipif(
    memory.resident_mb(1) is None, reason="measures the memory of processes through Linux's /proc"
)


def line(minutes, mb_a_minute, start=400.0, noise=2.0):
    at = np.arange(0, 60 * minutes, 1.0)
    wave = noise * np.sin(at)
    return list(zip(at.tolist(), (start + mb_a_minute * at / 60 + wave).tolist(), strict=True))


def test_memory_that_grows_is_told_from_memory_that_does_not():
    flat, leak = memory.trend(line(20, 0.0)), memory.trend(line(20, 3.0))
    assert flat["flat"]
    assert abs(flat["slope_mb_a_minute"]) < 0.05
    assert not leak["flat"]
    assert leak["slope_mb_a_minute"] == pytest.approx(3, abs=0.05)
    assert leak["growth_mb"] == pytest.approx(36, abs=1)
    rising = [(at, min(400.0, at)) for at, _ in line(20, 0.0)]
    assert memory.trend(rising[: 60 * 4])["growth_mb"] > 100
    assert memory.trend([(at, max(400.0 - at, 300.0)) for at, _ in line(20, 0.0)])["flat"], "shrinking is no leak"


def test_a_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    memory.plot({"one": line(1, 0.0)}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_cycle_equals_an_undisturbed_one(tmp_path):
    found = run.soak(tmp_path, minutes=0, kills=1, seed=1, size=0.05)
    assert found.failures == []
    assert found.kills.total() == 1
    assert found.rounds >= 1


def test_a_result_that_differs_is_found(tmp_path):
    cycle = Cycle(tmp_path, 0.05)
    expected, seconds = run._whole(cycle, tmp_path / "whole")
    assert {name.split("/")[0] for name in expected} == {"imported", "generated", "trained"}
    cycle.steps += 1
    outcome = run.Outcome()
    run._round(cycle, tmp_path / "killed", expected, seconds, 0, None, outcome)
    assert len(outcome.failures) == 1
    assert "trained/" in outcome.failures[0]
    assert not outcome.good
    assert contents(tmp_path / "whole") == expected
