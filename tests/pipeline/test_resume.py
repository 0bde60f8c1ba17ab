"""Long runs and what happens to them: killed at random moments, stopped by SIGTERM, a damaged newest checkpoint, a full
disk, a folder that cannot be written to, and checkpoints of the version before."""

import errno
import fcntl
import json
import logging
import os
import random
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killing import Forked, kill_repeatedly, lines, readable_to_all, wait_for
from small_clips import small_recipe, small_task
from tiny_recipe import run_cli

from handcraft import checkpoint as checkpoints
from handcraft import cli
from handcraft.checkpoint import load
from handcraft.config import (
    LATER,
    AugmentConfig,
    MambaSLConfig,
    PreprocessConfig,
    TrainConfig,
    TransformerSLConfig,
)
from handcraft.engine import train
from handcraft.errors import CheckpointError, Stopped, TrainingError
from handcraft.files import read_json, sha256_file, verified, with_checksum, write_json
from handcraft.resume import newest_whole
from handcraft.state_file import save_state
from handcraft.tracking import LOG

STEPS = 40


def task_of(**changes):
    wanted = {"steps": STEPS, "checkpoint_every": 3, "validate_every": 8} | changes
    return small_task("transformer_sl", recipe=small_recipe("transformer_sl", **wanted), augment=True)


def run(out: Path, slow: float = 0.0) -> None:
    """Start or continue a training that can be hit while it runs."""
    task = task_of()
    whole, pause = task.batch, threading.Event()
    task.batch = lambda *step: (pause.wait(slow), whole(*step))[1]
    train(task, out, resume=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(task_of(), out)
    return out


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Bit for bit: the log, which checkpoints there are, their weights, and the state to resume from."""
    assert (found / LOG).read_text() == (expected / LOG).read_text()
    assert (found / "best.json").read_text() == (expected / "best.json").read_text()
    steps = checkpoints.list_steps(expected)
    assert checkpoints.list_steps(found) == steps
    for step in steps:
        for name in ("model.safetensors", "resume.safetensors"):
            ours, theirs = (
                safetensors.torch.load_file(checkpoints.step_folder(of, step) / name) for of in (found, expected)
            )
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert not list(found.glob(".partial-*"))


def stopped_at(out: Path, step: int) -> None:
    """A run that failed when batch `step` was asked for."""
    task = task_of()
    real = task.batch

    def batch(current, share):
        if current == step:
            raise KeyboardInterrupt
        return real(current, share)

    task.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train(task, out, resume=True)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


# --- killed and stopped --------------------------------------------------------------------------------------------


def test_six_kills_at_random_moments_change_nothing(tmp_path, whole):
    seed = random.SystemRandom().randrange(1 << 32)
    out = tmp_path / "run"
    killed = kill_repeatedly(out / LOG, 6, 7, random.Random(seed), run, out, 0.005)
    assert killed == 6, f"seed {seed}"
    run(out)
    assert_equal_runs(out, whole)


def test_sigterm_saves_the_step_and_the_next_call_goes_on(tmp_path, whole):
    out = tmp_path / "run"
    process = Forked(run, out, 0.005)
    wait_for(lambda: lines(out / LOG) > 7, process)
    process.send(signal.SIGTERM)
    process.send(signal.SIGTERM)  # as from a scheduler and from torchrun
    assert process.wait() == 143
    step = checkpoints.list_steps(out)[-1]
    assert lines(out / LOG) == step < STEPS  # nothing that was done is lost
    assert f"stopped by SIGTERM after {step} of {STEPS} steps, all saved in {out}" in process.error
    run(out)
    assert_equal_runs(out, whole)


def test_sigterm_during_the_last_step_ends_well_and_is_the_callers(tmp_path):
    """Who trains again after this must hear of it."""
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        task = task_of(steps=2)
        real = task.batch
        task.batch = lambda step, share: (step == 1 and os.kill(os.getpid(), signal.SIGTERM), real(step, share))[1]
        assert train(task, tmp_path / "run").steps == 2
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_callers_handler_is_back_afterwards(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        task = task_of()
        real = task.batch
        task.batch = lambda step, share: (os.kill(os.getpid(), signal.SIGTERM), real(step, share))[1]
        with pytest.raises(Stopped, match="after 1 of 40 steps"):
            train(task, tmp_path / "run")
        assert came == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_file_system_without_locks_is_trained_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert train(task_of(steps=1), tmp_path / "run").steps == 1


def test_a_thread_trains_without_listening_to_signals(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(task_of(steps=2), tmp_path / "run").steps))
    thread.start()
    thread.join()
    assert done == [2]


def test_the_command_says_so_with_exit_code_143(monkeypatch, capfd):
    def stop() -> int:
        raise Stopped("cmlpe: stopped by SIGTERM after 3 of 8 steps")

    monkeypatch.setitem(cli.COMMANDS, ("doctor",), (stop, "", None))
    assert run_cli("doctor") == 143
    assert capfd.readouterr().err == "handcraft: cmlpe: stopped by SIGTERM after 3 of 8 steps\n"
    monkeypatch.setenv("RANK", "1")  # of several processes, the first one says it
    assert run_cli("doctor") == 143
    assert capfd.readouterr().err == ""


def test_an_error_in_another_process_names_the_process(monkeypatch, capfd):
    def fail() -> int:
        raise TrainingError("out: cannot be written to")

    monkeypatch.setitem(cli.COMMANDS, ("doctor",), (fail, "", None))
    monkeypatch.setenv("RANK", "2")
    assert run_cli("doctor") == 2
    assert capfd.readouterr().err == "handcraft (process 2): out: cannot be written to\n"


# --- damaged checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "resume.safetensors", "config.json"])
@pytest.mark.parametrize("step", [17, 26])
def test_a_truncated_newest_checkpoint_is_left_for_the_one_before(tmp_path, whole, caplog, file, step):
    out = tmp_path / "run"
    stopped_at(out, step)
    *_, before, newest = checkpoints.list_steps(out)
    truncate(checkpoints.step_folder(out, newest) / file)
    with caplog.at_level(logging.WARNING, "handcraft"):
        run(out)
    assert f"step-{newest:08d}/{file}" in caplog.text
    assert f"it is removed, and the training continues from step {before}" in caplog.text
    assert_equal_runs(out, whole)


def test_a_missing_file_counts_as_damage(tmp_path, whole):
    out = tmp_path / "run"
    stopped_at(out, 17)
    (checkpoints.step_folder(out, checkpoints.list_steps(out)[-1]) / "resume.safetensors").unlink()
    run(out)
    assert_equal_runs(out, whole)


def test_the_best_checkpoint_damaged_while_it_is_the_newest(tmp_path, whole):
    """Its predecessor, and what was the best then, were kept for this."""
    out = tmp_path / "run"
    stopped_at(out, 16)
    assert json.loads((out / "best.json").read_text())["step"] == 16
    assert checkpoints.list_steps(out) == [8, 15, 16]
    truncate(checkpoints.step_folder(out, 16) / "model.safetensors")
    stopped_at(out, 15)
    assert json.loads((out / "best.json").read_text())["step"] == 8
    run(out)
    assert_equal_runs(out, whole)


def test_where_all_are_damaged_the_error_names_them(tmp_path):
    out = tmp_path / "run"
    stopped_at(out, 17)
    for step in checkpoints.list_steps(out):
        truncate(checkpoints.step_folder(out, step) / "model.safetensors")
    before = checkpoints.list_steps(out)
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*model\.safetensors"):
        run(out)
    assert checkpoints.list_steps(out) == before


def test_a_finished_run_keeps_its_best_and_its_last(whole):
    best = json.loads((whole / "best.json").read_text())["step"]
    assert checkpoints.list_steps(whole) == sorted({best, STEPS})
    assert newest_whole(whole) == STEPS


def test_no_checkpoint_is_no_damage(tmp_path):
    assert newest_whole(tmp_path) is None


# --- disks ---------------------------------------------------------------------------------------------------------


def limited(out: Path, size: int) -> None:
    """Files can grow to `size` bytes, as on a disk that has become full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run(out)


@pytest.mark.parametrize("size", [40_000, 1_000])
def test_a_full_disk_is_one_line_and_leaves_earlier_checkpoints_whole(tmp_path, whole, size):
    """40,000 bytes stop the checkpoint, 1,000 the log."""
    out = tmp_path / "run"
    stopped_at(out, 8)
    before = checkpoints.list_steps(out)
    assert size < (checkpoints.step_folder(out, before[-1]) / "resume.safetensors").stat().st_size
    process = Forked(limited, out, size)
    assert process.wait() == 2
    assert f"{out}: cannot be written to (" in process.error
    assert f"The checkpoints of steps {before} are whole" in process.error
    assert "\n" not in process.error
    assert checkpoints.list_steps(out) == before
    for step in before:
        checkpoints.verify(checkpoints.step_folder(out, step))
    run(out)
    assert_equal_runs(out, whole)


def read_only(out: Path) -> None:
    os.setuid(65534)  # nobody: root may write everywhere
    run(out)


@pytest.mark.skipif(os.getuid() != 0, reason="changes to another user, as only root can")
@pytest.mark.parametrize("started", [True, False])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, whole, started):
    readable_to_all(tmp_path)
    out = tmp_path / "run"
    if started:
        stopped_at(out, 8)
    process = Forked(read_only, out)
    assert process.wait() == 2
    assert f"{out}: cannot be written to (Permission denied)" in process.error
    if started:
        run(out)
        assert_equal_runs(out, whole)


# --- the version before --------------------------------------------------------------------------------------------


def as_version_1(out: Path) -> None:
    """Rewrite the checkpoints of a run as version 1 wrote them."""
    for step in checkpoints.list_steps(out):
        folder = checkpoints.step_folder(out, step)
        state = checkpoints.load_resume(folder)
        state["random"] = state["random"][0]["cpu"]
        for part in ("model", "train", "augment"):
            state["fingerprint"][part] = {k: v for k, v in state["fingerprint"][part].items() if k not in LATER}
        del state["weights"], state["fingerprint"]["generators"]
        save_state(folder / "resume.safetensors", state)
        config = verified(read_json(folder / "config.json"), folder)
        config["format_version"] = 1
        for part in ("model", "train", "augment", "preprocess"):
            if config[part] is not None:
                config[part] = {k: v for k, v in config[part].items() if k not in LATER}
        del config["generators"]
        config["sha256"]["resume.safetensors"] = sha256_file(folder / "resume.safetensors")
        write_json(folder / "config.json", with_checksum(config))


def test_version_1_loads_with_the_defaults_of_what_came_later(tmp_path, whole):
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    as_version_1(old)
    found = load(old)
    assert found.train == task_of().config
    assert found.config == task_of().model_config
    assert found.augment == task_of().augment
    expected = load(whole).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())


def test_version_1_must_not_lack_anything_else(tmp_path, whole):
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    as_version_1(old)
    file = checkpoints.find(old, "last") / "config.json"
    config = verified(read_json(file), file)
    del config["train"]["lr"]
    write_json(file, with_checksum(config))
    with pytest.raises(CheckpointError, match="TrainConfig has"):
        load(old, "last")


def test_a_run_that_version_1_began_is_continued(tmp_path, whole):
    out = tmp_path / "run"
    stopped_at(out, 17)
    as_version_1(out)
    run(out)
    assert (out / LOG).read_text() == (whole / LOG).read_text()
    found, expected = load(out, "last").model.state_dict(), load(whole, "last").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_setting_that_came_later_is_still_compared(tmp_path):
    out = tmp_path / "run"
    stopped_at(out, 17)
    as_version_1(out)
    with pytest.raises(TrainingError, match=r"train\.ema was 0\.0 when the run was started and is 0\.5 now"):
        train(task_of(ema=0.5), out, resume=True)


def test_later_fields_are_fields():
    """A name of no config would be accepted nowhere, and its field's absence refused."""
    kinds = (PreprocessConfig, TrainConfig, AugmentConfig, TransformerSLConfig, MambaSLConfig)
    assert {name for kind in kinds for name in kind.__dataclass_fields__} >= LATER
