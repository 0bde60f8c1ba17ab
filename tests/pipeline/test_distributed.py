"""Several processes train as one does: shares of batches, the same curve, every clip validated once, files of the first
process alone, and what happens when one of them dies. Over gloo, in processes of this machine; `test_torchrun`
does it with torchrun."""

import json
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killing import Forked, finish, lines, together, wait_for
from small_clips import small_clips, small_recipe, small_task

from handcraft import checkpoint as checkpoints
from handcraft import distributed
from handcraft.distributed import WHOLE, Share
from handcraft.engine import train
from handcraft.errors import ConfigError, DataError, TrainingError
from handcraft.tracking import LOG

LENGTHS = (6, 30)  # frames of the clips


def recipe_of(kind, **changes):
    return small_recipe(kind, **({"batch": 7, "steps": 12} | changes))  # 7 is no multiple of 2 or 3


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / LOG).open()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(checkpoints.find(run, "last") / "model.safetensors")


def assert_same_curve(found: Path, expected: Path) -> None:
    """To rounding; the validation scores to rounding too."""
    ours, theirs = records(found), records(expected)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-3)
        assert one.get("validation", {}) == pytest.approx(other.get("validation", {}), rel=1e-4)
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-3, atol=1e-4)


# --- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "count"), [(7, 3), (8, 2), (5, 5), (2, 3), (0, 4)])
def test_shares_cover_every_sample_once_and_are_alike(total, count):
    places = [list(range(total)[Share(i, count).of(total)]) for i in range(count)]
    assert [place for some in places for place in some] == list(range(total))
    assert max(map(len, places)) - min(map(len, places)) <= 1
    assert WHOLE.of(total) == slice(0, total)


@pytest.mark.parametrize("wrong", [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="share"):
        Share(*wrong)


@pytest.mark.parametrize("kind", ["cmlpe", "transformer_sl"])
def test_the_losses_of_shares_add_up_to_the_loss_of_the_batch(kind):
    """Not to their average: shares have different numbers of frames that count."""
    task = small_task(kind, recipe=recipe_of(kind), clips=small_clips(lengths=(6, 30)))
    task.model.eval()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    whole = task.batch(3)
    shares = [task.batch(3, Share(i, 3)) for i in range(3)]
    assert torch.equal(torch.cat([share.x for share in shares]), whole.x)
    assert [len(share) for share in shares] == [2, 2, 3]
    expected = task.batch_loss(whole)
    found = [task.batch_loss(share, task.weights(whole)) for share in shares]
    torch.testing.assert_close(sum(found), expected)
    assert torch.equal(sum(task.weights(share) for share in shares), task.weights(whole))
    alone = sum(task.batch_loss(share) for share in shares) / 3
    assert abs(alone - expected) > 1e-4 * expected


# --- alone ---------------------------------------------------------------------------------------------------------


def test_alone_there_is_nothing_to_exchange():
    assert (distributed.world(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.share() == WHOLE
    tensor = torch.ones(2)
    assert distributed.total(tensor) is tensor
    assert distributed.gather(tensor) == [tensor]
    assert distributed.on_first(lambda: 5) == 5
    with pytest.raises(RuntimeError, match="connection"), distributed.lost_peers():
        raise RuntimeError("connection closed")  # nobody to lose


def test_joined_does_nothing_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with distributed.joined():
        assert distributed.world() == 1


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device("auto") == distributed.device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"train\.device is cuda, but torch sees no GPU"):
        distributed.device("cuda")
    with pytest.raises(ConfigError, match="'tpu'; expected auto, cpu or cuda"):
        distributed.device("tpu")
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.device("auto") == distributed.device("cuda") == torch.device("cuda", 1)
    assert chosen == [1, 1]
    assert distributed.device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU of its own, torch sees 2"):
        distributed.device("auto")


# --- together ------------------------------------------------------------------------------------------------------


def exchange():
    rank = distributed.rank()
    assert distributed.total(torch.tensor([rank + 1, 5])).tolist() == [6, 15]
    assert [int(found) for found in distributed.gather(torch.tensor([rank]))] == [0, 1, 2]
    assert distributed.share() == Share(rank, 3)
    assert distributed.on_first(distributed.rank) == 0
    error = DataError if rank == 0 else TrainingError
    with pytest.raises(error, match="no such file" if rank == 0 else "first process .* failed: DataError: no such"):
        distributed.on_first(refuse)


def refuse():
    raise DataError("no such file")


def test_sums_lists_and_answers(tmp_path):
    finish(together(3, tmp_path, exchange))


@pytest.mark.parametrize(("kind", "count"), [("cmlpe", 2), ("transformer_sl", 3), ("mamba_sl", 2)])
def test_processes_draw_the_curve_of_one(tmp_path, kind, count):
    """With missing landmarks, dropout, and fewer validation clips than processes."""
    finish(together(count, tmp_path, train_task, kind, LENGTHS, {}, tmp_path / "several"))
    train_task(kind, LENGTHS, {}, tmp_path / "one")
    assert_same_curve(tmp_path / "several", tmp_path / "one")
    assert {path.name for path in (tmp_path / "several").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }


def train_task(kind, lengths, changes, out):
    """Two clips validate, which is fewer than three processes."""
    task = small_task(kind, recipe=recipe_of(kind, **changes), clips=small_clips(lengths=lengths))
    task.valid_clips = task.valid_clips.subset([0, 3])
    train(task, out)


def test_processes_and_pieces_draw_the_curve_of_one(tmp_path):
    changes = {"accumulate": 3, "ema": 0.8, "label_smoothing": 0.1}
    finish(together(2, tmp_path, train_task, "transformer_sl", LENGTHS, changes, tmp_path / "several"))
    train_task("transformer_sl", LENGTHS, changes | {"accumulate": 1}, tmp_path / "one")
    assert_same_curve(tmp_path / "several", tmp_path / "one")


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path):
    processes = together(3, tmp_path, train_task, "cmlpe", LENGTHS, {"batch": 2}, tmp_path / "run")
    assert [process.wait() for process in processes] == [2, 2, 2]
    assert "train.batch is 2; expected at least 3" in processes[0].error


def test_what_fails_in_the_first_process_fails_in_all(tmp_path):
    train(small_task("cmlpe"), tmp_path / "run")
    processes = together(2, tmp_path, train_task, "cmlpe", LENGTHS, {}, tmp_path / "run")
    assert [process.wait() for process in processes] == [2, 2]
    assert "holds a run already" in processes[0].error
    assert "the first process of this training failed: TrainingError" in processes[1].error


def train_on_infinity(out):
    task = small_task("transformer_sl", recipe=recipe_of("transformer_sl"))
    whole = task.batch

    def batch(step, share=WHOLE):
        found = whole(step, share)
        found.x[found.sample_id == 5 * 7 + 6] = torch.inf  # the last of batch 5, which the last process has
        return found

    task.batch = batch
    train(task, out)


def test_a_clip_without_a_finite_loss_is_named(tmp_path):
    task = small_task("transformer_sl", recipe=recipe_of("transformer_sl"))
    culprit = str(task.clips.ids[task.batch(5).index[6]])
    processes = together(2, tmp_path, train_on_infinity, tmp_path / "run")
    assert [process.wait() for process in processes] == [2, 2]
    assert f"clips concerned: {culprit}. Look" in processes[0].error


# --- faults --------------------------------------------------------------------------------------------------------

LONG = {"steps": 30, "checkpoint_every": 3, "validate_every": 15}


def long_run(out, resume=False, slow=0.0):
    """A training that can be hit while it runs."""
    task = small_task("transformer_sl", recipe=recipe_of("transformer_sl", **LONG))
    whole = task.batch
    task.batch = lambda *step: (time.sleep(slow), whole(*step))[1]
    train(task, out, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The same in two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    finish(together(2, folder, long_run, folder / "run"))
    return folder / "run"


def assert_equal_runs(found: Path, expected: Path) -> None:
    assert (found / LOG).read_text() == (expected / LOG).read_text()
    ours, theirs = weights(found), weights(expected)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_a_new_start_continues(tmp_path, whole, victim):
    out = tmp_path / "killed"
    processes = together(2, tmp_path, long_run, out, False, 0.01)
    wait_for(lambda: lines(out / LOG) > 6, *processes)
    processes[victim].send(signal.SIGKILL)
    assert processes[victim].wait() == -signal.SIGKILL
    other = processes[1 - victim]
    assert other.wait() == 2
    assert "lost contact with another one, which was killed or failed" in other.error
    assert 0 < checkpoints.list_steps(out)[-1] < 30
    finish(together(2, tmp_path, long_run, out, True))
    assert_equal_runs(out, whole)


def test_sigterm_to_one_process_stops_all_at_the_same_step(tmp_path, whole):
    out = tmp_path / "stopped"
    processes = together(2, tmp_path, long_run, out, False, 0.01)
    wait_for(lambda: lines(out / LOG) > 6, *processes)
    processes[1].send(signal.SIGTERM)
    assert [process.wait() for process in processes] == [143, 143]
    step = checkpoints.list_steps(out)[-1]
    assert f"stopped by SIGTERM after {step} of 30 steps" in processes[0].error
    assert lines(out / LOG) == step
    finish(together(2, tmp_path, long_run, out, True))
    assert_equal_runs(out, whole)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, whole):
    first = Forked(long_run, tmp_path / "run", False, 0.01)
    wait_for(lambda: lines(tmp_path / "run" / LOG) > 6, first)
    first.send(signal.SIGTERM)
    assert first.wait() == 143
    finish(together(2, tmp_path, long_run, tmp_path / "run", True))
    ours, theirs = records(tmp_path / "run"), records(whole)
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
