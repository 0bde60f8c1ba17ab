"""The loop: exact resuming, what it refuses, keeps and writes; `test_resume` has the faults of long runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_clips import RECIPES, small_clips, small_recipe, small_task

from handcraft import checkpoint as checkpoints
from handcraft.distributed import WHOLE
from handcraft.engine import train
from handcraft.errors import CheckpointError, TrainingError
from handcraft.files import read_json, sha256_file, verified, with_checksum, write_json
from handcraft.state_file import save_state
from handcraft.tracking import LOG


def contents(out: Path) -> dict:
    """All that a run leaves behind: log, pointer, configs, and every tensor of every checkpoint, resume state too."""
    found = {LOG: (out / LOG).read_text(), "best": (out / "best.json").read_text()}
    for step in checkpoints.list_steps(out):
        folder = checkpoints.step_folder(out, step)
        found[f"{step} config"] = json.loads((folder / "config.json").read_text())
        found |= {f"{step} {k}": v for k, v in safetensors.torch.load_file(folder / "model.safetensors").items()}
        found |= flatten(checkpoints.load_resume(folder), f"{step} resume")
    return found


def flatten(value, prefix: str) -> dict:
    if isinstance(value, dict):
        return {k: v for name, entry in value.items() for k, v in flatten(entry, f"{prefix}.{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, entry in enumerate(value) for k, v in flatten(entry, f"{prefix}[{i}]").items()}
    return {prefix: value}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, name


class Stopped(Exception):
    pass


def stop_at(task, step):
    """Let `task` fail when batch `step` is asked for, as a crash would."""
    whole = task.batch

    def batch(current, share=WHOLE):
        if current == step:
            raise Stopped
        return whole(current, share)

    task.batch = batch
    return task


@pytest.mark.parametrize("kind", ["cmlpe", "transformer_sl", "mamba_sl"])
@pytest.mark.parametrize("step", [3, 17])
def test_a_stopped_run_continues_exactly(tmp_path, kind, step):
    train(small_task(kind), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(stop_at(small_task(kind), step), tmp_path / "stopped")
    torch.manual_seed(step)  # the caller's random state has no say
    train(small_task(kind), tmp_path / "stopped", resume=True)
    assert_equal(contents(tmp_path / "stopped"), contents(tmp_path / "whole"))


@pytest.mark.parametrize("moment", ["save", "write_best", "prune"])
def test_a_crash_while_writing_a_checkpoint_continues_exactly(tmp_path, monkeypatch, moment):
    train(small_task("transformer_sl"), tmp_path / "whole")
    calls = 0
    real = getattr(checkpoints, moment)

    def crash(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(checkpoints, moment, crash)
    with pytest.raises(Stopped):
        train(small_task("transformer_sl"), tmp_path / "crashed")
    monkeypatch.undo()
    train(small_task("transformer_sl"), tmp_path / "crashed", resume=True)
    assert_equal(contents(tmp_path / "crashed"), contents(tmp_path / "whole"))


def test_a_finished_run_returns_at_once(tmp_path):
    first = train(small_task("transformer_sl"), tmp_path / "run")
    task = stop_at(small_task("transformer_sl"), 0)
    task.validate = task.batch = None  # neither trained nor validated again
    before = contents(tmp_path / "run")
    assert train(task, tmp_path / "run", resume=True) == first
    assert_equal(contents(tmp_path / "run"), before)


def test_resuming_without_a_checkpoint_starts(tmp_path):
    with pytest.raises(Stopped):
        train(stop_at(small_task("cmlpe"), 2), tmp_path / "run")
    assert train(small_task("cmlpe"), tmp_path / "run", resume=True).steps == 24
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / LOG).open()] == list(range(1, 25))


def half_trained(tmp_path) -> Path:
    """A run that was stopped at step 12; the folder of its last checkpoint."""
    with pytest.raises(Stopped):
        train(stop_at(small_task("transformer_sl"), 12), tmp_path / "run")
    return checkpoints.step_folder(tmp_path / "run", checkpoints.list_steps(tmp_path / "run")[-1])


@pytest.mark.parametrize("damage", [b"\xff\n", b"{}\n", b"[]\n", b'{"step": 7}\n', b"[" * 9999 + b"\n", b""])
def test_a_damaged_log_is_named(tmp_path, damage):
    half_trained(tmp_path)
    log = tmp_path / "run" / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
    with pytest.raises(TrainingError, match=r"log\.jsonl: line 4 is not the record of step 4"):
        train(small_task("transformer_sl"), tmp_path / "run", resume=True)


def test_a_log_that_is_gone_is_named(tmp_path):
    half_trained(tmp_path)
    (tmp_path / "run" / LOG).unlink()
    with pytest.raises(TrainingError, match=r"log\.jsonl: line 1 "):
        train(small_task("transformer_sl"), tmp_path / "run", resume=True)


def rewrite_state(folder: Path, change) -> None:
    """Change a checkpoint's resume state, and the checksums that would notice."""
    state = checkpoints.load_resume(folder)
    change(state)
    save_state(folder / "resume.safetensors", state)
    config = verified(read_json(folder / "config.json"), folder)
    config["sha256"]["resume.safetensors"] = sha256_file(folder / "resume.safetensors")
    write_json(folder / "config.json", with_checksum(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda state, name=name: state.pop(name), f"no usable '{name}'")
            for name in ("fingerprint", "optimizer", "random", "best_step")
        ),
        (lambda state: state.update(metrics=3), "no usable 'metrics'"),
        (lambda state: state.update(best_step=5), "step 5, is not there"),
        (lambda state: state["optimizer"].clear(), "does not fit the training"),
        (lambda state: state.update(random=torch.zeros(3)), "does not fit the training"),
    ],
)
def test_a_state_that_cannot_be_resumed_from_is_named(tmp_path, change, message):
    folder = half_trained(tmp_path)
    rewrite_state(folder, change)
    with pytest.raises(CheckpointError, match=message):
        train(small_task("transformer_sl"), tmp_path / "run", resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(small_task("cmlpe"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(small_task("cmlpe"), tmp_path / "run")
    assert_equal(contents(tmp_path / "run"), before)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("train.lr", lambda: {"recipe": small_recipe("transformer_sl", lr=0.01)}),
        ("train.steps", lambda: {"recipe": small_recipe("transformer_sl", steps=48)}),
        ("seed", lambda: {"seed": 1}),
        ("data.training clips", lambda: {"clips": small_clips(seed=5)}),
        ("augment.rotation", lambda: {"augment": True}),
        ("model.width", lambda: {"recipe": wider()}),
    ],
)
def test_resuming_with_anything_else_names_it(tmp_path, field, change):
    with pytest.raises(Stopped):
        train(stop_at(small_task("transformer_sl"), 12), tmp_path / "run")
    with pytest.raises(TrainingError, match=f"{field} was"):
        train(small_task("transformer_sl", **change()), tmp_path / "run", resume=True)


def wider():
    recipe = RECIPES["transformer_sl"]
    return replace(recipe, model=replace(recipe.model, width=32))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    task = small_task("cmlpe")
    whole = task.batch

    def batch(step, share=WHOLE):
        if step == 3:
            with pytest.raises(TrainingError, match="another process"):
                train(small_task("cmlpe"), tmp_path / "run", resume=True)
        return whole(step, share)

    task.batch = batch
    assert train(task, tmp_path / "run").steps == 24


def test_a_non_finite_loss_names_the_clip_and_keeps_checkpoints(tmp_path):
    task = small_task("transformer_sl")
    fine = task.batch

    def batch(step, share=WHOLE):
        found = fine(step, share)
        if step == 13:
            found.x[2, 5, 7] = torch.inf
        return found

    task.batch = batch
    expected = str(task.clips.ids[fine(13).index[2]])
    others = {str(task.clips.ids[i]) for i in fine(13).index} - {expected}
    with pytest.raises(TrainingError, match=expected) as caught:
        train(task, tmp_path / "run")
    assert not any(name in str(caught.value) for name in others)
    steps = checkpoints.list_steps(tmp_path / "run")
    assert steps[-1] == 12
    model = checkpoints.load(tmp_path / "run", "last").model
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_non_finite_gradient_stops_before_the_weights_are_touched(tmp_path):
    task = small_task("transformer_sl")
    whole = task.batch_loss
    losses = iter([1.0] * 7 + [1e38] * 9)
    task.batch_loss = lambda batch, weights=None: whole(batch, weights) * next(losses)
    parameter = task.model.head.out.bias
    parameter.register_hook(lambda gradient: gradient * 1e38)
    with pytest.raises(TrainingError, match="gradient norm"):
        train(task, tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in task.model.state_dict().values())


def test_a_non_finite_validation_stops(tmp_path):
    clips = small_clips()
    task = small_task("transformer_sl", clips=clips)
    task.valid_clips.frames[task.valid_clips.start[1]] = 3e38  # shared frames, but of no training clip
    with pytest.raises(TrainingError, match=f"validation.*{task.valid_clips.ids[1]}"):
        train(task, tmp_path / "run")


def test_best_is_the_best_and_last_the_last(tmp_path):
    task = small_task("transformer_sl")
    scores = iter([0.2, 0.9, 0.5, 0.9])
    task.validate = lambda: {"top1": next(scores), "loss": 1.0}
    done = train(task, tmp_path / "run")
    assert checkpoints.list_steps(tmp_path / "run") == [12, 24]  # an equal score is not better
    assert (done.best, done.last) == (tmp_path / "run/step-00000012", tmp_path / "run/step-00000024")
    assert done.best_metrics == {"top1": 0.9, "loss": 1.0}
    assert checkpoints.load(tmp_path / "run").step == 12
    assert checkpoints.load(tmp_path / "run").metrics == {"top1": 0.9, "loss": 1.0}


def test_without_validation_the_last_is_the_best(tmp_path):
    done = train(small_task("transformer_sl", validation=False), tmp_path / "run")
    assert done.best == done.last
    assert done.best_metrics is None
    assert checkpoints.list_steps(tmp_path / "run") == [24]
    assert checkpoints.load(tmp_path / "run").metrics is None


def test_the_log_has_a_line_a_step(tmp_path):
    train(small_task("transformer_sl"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).open()]
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert [line["step"] for line in lines if "validation" in line] == [6, 12, 18, 24]
    assert all({"loss", "grad_norm", "lr"} <= line.keys() for line in lines)
    assert max(line["lr"] for line in lines) == pytest.approx(3e-3, rel=0.05)


def test_the_callers_random_state_stays(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    train(small_task("transformer_sl"), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(small_task("transformer_sl", seed=seed), tmp_path / name)
    assert_equal(contents(tmp_path / "a"), contents(tmp_path / "b"))
    assert (tmp_path / "a" / LOG).read_text() != (tmp_path / "c" / LOG).read_text()


def test_gradients_are_clipped(tmp_path):
    task = small_task("cmlpe", recipe=small_recipe("cmlpe", clip_norm=1e-3, lookahead=False, optimizer="adam", steps=1))
    seen = []
    task.model.in_weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad))
    train(task, tmp_path / "run")
    logged = json.loads((tmp_path / "run" / LOG).read_text())["grad_norm"]
    assert logged > 1e-3
    assert seen[0].norm() <= 1.001e-3  # the hook's tensor is the one that was clipped in place


def test_progress_goes_to_stderr_on_request_only(tmp_path, capsys):
    train(small_task("cmlpe"), tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
    train(small_task("cmlpe"), tmp_path / "loud", progress=True)
    assert "cmlpe: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["validate_every", "checkpoint_every"])
def test_intervals_must_be_positive(tmp_path, field):
    with pytest.raises(TrainingError, match=f"{field} is 0"):
        train(small_task("cmlpe", recipe=small_recipe("cmlpe", **{field: 0})), tmp_path / "run")
