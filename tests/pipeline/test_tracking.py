"""JSON lines always, TensorBoard's files on request, and both continued where a run continues."""

import importlib.util
import json

import pytest
from small_clips import small_recipe, small_task

from handcraft.engine import train
from handcraft.errors import ConfigError, TrainingError
from handcraft.tracking import EVENTS, LOG, JsonLines, opened, require


def records(path):
    return [json.loads(line) for line in path.open()]


def test_lines_are_on_the_disk_as_they_are_written(tmp_path):
    lines = JsonLines(tmp_path / LOG, 0)
    lines.record({"step": 1, "loss": 0.5})
    assert records(tmp_path / LOG) == [{"step": 1, "loss": 0.5}]  # nothing waits in a buffer
    lines.flush()
    lines.close()
    again = JsonLines(tmp_path / LOG, 1)
    again.record({"step": 2, "loss": 0.25})
    again.close()
    assert [record["step"] for record in records(tmp_path / LOG)] == [1, 2]


def test_lines_behind_the_step_are_cut(tmp_path):
    (tmp_path / LOG).write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    JsonLines(tmp_path / LOG, 2).close()
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n{"step": 2}\n'
    with pytest.raises(TrainingError, match="line 3 is not the record of step 3"):
        JsonLines(tmp_path / LOG, 3)


def test_a_number_that_json_has_no_word_for_is_refused(tmp_path):
    with opened(tmp_path, 0, None) as (lines,), pytest.raises(ValueError, match="JSON"):
        lines.record({"step": 1, "loss": float("nan")})


def test_an_unknown_or_missing_tracker_is_named(monkeypatch):
    require(None)
    with pytest.raises(ConfigError, match="'wandb'; expected tensorboard"):
        require("wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'handcraft\[tensorboard\]'"):
        require("tensorboard")


def test_tensorboard_is_off_by_default(tmp_path):
    train(small_task("cmlpe", recipe=small_recipe("cmlpe", steps=2)), tmp_path / "run")
    assert not (tmp_path / "run" / EVENTS).exists()


def test_tensorboard_reads_what_the_lines_say(tmp_path):
    """Also behind a stop: steps that were done twice are shown once."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = small_recipe("cmlpe", steps=12, checkpoint_every=4, validate_every=6)
    task = small_task("cmlpe", recipe=recipe)
    whole = task.batch

    def batch(step, share):
        if step == 10:
            raise KeyboardInterrupt
        return whole(step, share)

    task.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path / "run", track="tensorboard")
    train(small_task("cmlpe", recipe=recipe), tmp_path / "run", resume=True, track="tensorboard")
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / EVENTS)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "grad_norm", "lr", "validation/mpjpe"}
    lines = records(tmp_path / "run" / LOG)
    for name in ("loss", "grad_norm", "lr"):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == 12
        assert shown == pytest.approx({line["step"]: line[name] for line in lines}, rel=1e-6)
    expected = {line["step"]: line["validation"]["mpjpe"] for line in lines if "validation" in line}
    assert {event.step: event.value for event in events.Scalars("validation/mpjpe")} == pytest.approx(expected)
    assert list(expected) == [6, 12]
