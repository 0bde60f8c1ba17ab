"""What the settings of a step change and what they leave: pieces, bf16, torch.compile, CUDA graphs, the moving average.
Each test would fail if its setting were not looked at."""

import json

import pytest
import safetensors.torch
import torch
from small_clips import small_clips, small_recipe, small_task

from handcraft import checkpoint as checkpoints
from handcraft import gradients as module
from handcraft.checkpoint import load_resume
from handcraft.distributed import Share
from handcraft.engine import train
from handcraft.errors import ConfigError, TrainingError
from handcraft.gradients import Gradients, Replay
from handcraft.tracking import LOG

KINDS = ["cmlpe", "transformer_sl", "mamba_sl"]


def losses(run) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / LOG).open()]


def last_weights(run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(checkpoints.find(run, "last") / "model.safetensors")


def task_with(kind="transformer_sl", **changes):
    return small_task(kind, recipe=small_recipe(kind, **({"steps": 10} | changes)), clips=small_clips(lengths=(6, 30)))


def gradients_of(task, step=3) -> list[torch.Tensor]:
    gradients = Gradients(task)
    task.network = gradients.network  # as the loop does
    gradients(step)
    return [parameter.grad for parameter in task.model.parameters()]


# --- accumulation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_add_up_to_the_whole_batch(kind):
    """8 clips in 3 pieces, with dropout and missing landmarks."""
    sizes = []
    whole, cut = task_with(kind), task_with(kind, accumulate=3)
    loss = cut.batch_loss
    cut.batch_loss = lambda batch, weights: (sizes.append(len(batch)), loss(batch, weights))[1]
    expected, found = gradients_of(whole), gradients_of(cut)
    assert sizes == [2, 3, 3]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(Gradients(cut)(5), Gradients(whole)(5))


def test_a_run_in_pieces_draws_the_same_curve(tmp_path):
    train(task_with("cmlpe"), tmp_path / "whole")
    train(task_with("cmlpe", accumulate=8), tmp_path / "cut")
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=2e-5)


def test_one_piece_is_the_plain_loss():
    task = task_with()
    task.model.train()
    found = gradients_of(task)
    task.model.zero_grad()
    task.batch_loss(task.batch(3)).backward()
    assert all(torch.equal(one, parameter.grad) for one, parameter in zip(found, task.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"), [({"accumulate": 0}, "accumulate is 0"), ({"accumulate": 9}, "at least 9")]
)
def test_pieces_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        Gradients(task_with(**changes))


# --- bf16 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_computes_in_bf16_and_keeps_the_rest_in_fp32(kind, tmp_path):
    seen = set()
    task = task_with(kind, precision="bf16")
    for layer in task.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, inputs, output: seen.add((layer.training, output.dtype)))
    found = gradients_of(task)
    expected = gradients_of(task_with(kind))
    assert all(gradient.dtype == torch.float32 for gradient in found)
    far = max(
        float((one - other).norm() / other.norm().clamp(min=1e-6)) for one, other in zip(found, expected, strict=True)
    )
    assert far > 1e-5  # not what fp32 gives
    task.model.zero_grad()
    train(task, tmp_path / "run")
    assert losses(tmp_path / "run") != losses_of_fp32(kind, tmp_path)
    assert losses(tmp_path / "run") == pytest.approx(losses_of_fp32(kind, tmp_path), rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in last_weights(tmp_path / "run").values())
    if kind == "transformer_sl":
        assert (True, torch.bfloat16) in seen
        assert (False, torch.bfloat16) not in seen  # validation


def losses_of_fp32(kind, tmp_path) -> list[float]:
    if not (tmp_path / "fp32").exists():
        train(task_with(kind), tmp_path / "fp32")
    return losses(tmp_path / "fp32")


def test_the_loss_of_bf16_is_taken_in_fp32():
    task = task_with(precision="bf16")
    gradients = Gradients(task)
    assert gradients(0).dtype == torch.float32
    assert gradients.network(task.batch(0).x, None).dtype == torch.float32


# --- torch.compile -------------------------------------------------------------------------------------------------


def test_compile_compiles_once_and_gives_the_same(tmp_path, monkeypatch):
    """With a stand-in for the code generator, which would take a minute."""
    compiled = []
    real = torch.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend=backend, **options))
    torch._dynamo.reset()
    train(task_with(compile=True), tmp_path / "compiled")
    graphs = len(compiled)
    assert graphs > 0
    torch._dynamo.reset()
    compiled.clear()
    train(task_with(compile=True, steps=3), tmp_path / "shorter")
    assert len(compiled) == graphs  # not one a batch
    train(task_with(), tmp_path / "plain")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_what_cannot_be_compiled_is_said_in_one_line(tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no C++ compiler\nand a long story")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend=backend, **options))
    torch._dynamo.reset()
    with pytest.raises(TrainingError, match=r"torch\.compile cannot compile the model .*set train\.compile"):
        train(task_with(compile=True), tmp_path / "run")


# --- CUDA graphs ---------------------------------------------------------------------------------------------------


def test_graphs_need_a_gpu_and_one_process(monkeypatch):
    with pytest.raises(ConfigError, match="cuda_graph needs a GPU, and the model is on the cpu"):
        Gradients(task_with(cuda_graph=True))
    config, device = task_with(cuda_graph=True, accumulate=3).config, torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="works in one process, and 2 train together"):
        module._check(config, 2, device)
    with pytest.raises(ConfigError, match=r"a multiple of train.accumulate \(3\)"):
        module._check(config, 1, device)
    module._check(task_with(cuda_graph=True, accumulate=2).config, 1, device)


def stand_in(run):
    """`gradients.record` without a GPU: it runs `run` to warm up, and then again for every replay. What it reads must
    lie where it lay when it was recorded, as with a graph; that recording works on a GPU is not shown here."""
    torch.rand(1)
    run()
    return run


def test_a_replayed_step_reads_the_new_batch_and_adds_to_the_same_gradients(monkeypatch):
    monkeypatch.setattr(module, "record", stand_in)
    plain, task = task_with(), task_with()
    parameters = list(task.model.parameters())
    weights = task.weights(task.batch(0))

    def run(batch, weights):
        loss = task.batch_loss(batch, weights)
        loss.backward()
        return loss.detach()

    replay = Replay(run, task.batch(0), weights, parameters)
    places = [parameter.grad.data_ptr() for parameter in parameters]
    assert not any(parameter.grad.any() for parameter in parameters)  # the warm-up left nothing
    for step in (4, 9):
        loss = replay(task.batch(step), weights)
        expected = plain.batch_loss(plain.batch(step))
        torch.testing.assert_close(loss, expected.detach())
        plain.model.zero_grad()
        expected.backward()
        for one, other in zip(parameters, plain.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
        torch._foreach_zero_([parameter.grad for parameter in parameters])
    assert [parameter.grad.data_ptr() for parameter in parameters] == places


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_with_graphs_draws_the_same_curve(tmp_path, monkeypatch, accumulate):
    recorded = []
    monkeypatch.setattr(module, "record", lambda run: recorded.append(run) or stand_in(run))
    monkeypatch.setattr(module, "_check", lambda *given: None)
    train(task_with("cmlpe", cuda_graph=True, accumulate=accumulate), tmp_path / "graph")
    train(task_with("cmlpe"), tmp_path / "plain")
    assert len(recorded) == 1
    assert losses(tmp_path / "graph") == pytest.approx(losses(tmp_path / "plain"), rel=2e-5)


# --- moving average ------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_saved_and_validated(tmp_path):
    """Against the recurrence written out: a <- 0.9 a + 0.1 w after every step, a being w after the first."""
    task = task_with("cmlpe", ema=0.9, steps=6, validate_every=3)
    average, validated, step_weights = {}, [], []
    zero = Gradients.clear

    def follow(self):
        step_weights.append({name: value.detach().clone() for name, value in task.model.state_dict().items()})
        zero(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Gradients, "clear", follow)
        whole = task.validate
        task.validate = lambda: (validated.append(dict(task.network.state_dict())), whole())[1]
        train(task, tmp_path / "run")
    for number, weights in enumerate(step_weights):
        for name, value in weights.items():
            average[name] = value.clone() if number == 0 else 0.9 * average[name] + 0.1 * value
    saved = last_weights(tmp_path / "run")
    for name, value in average.items():
        torch.testing.assert_close(saved[name], value)
        torch.testing.assert_close(validated[-1][name], value)
    assert any(not torch.equal(saved[name], value) for name, value in step_weights[-1].items())
    kept = load_resume(checkpoints.find(tmp_path / "run", "last"))["weights"]
    assert all(torch.equal(kept[name], value) for name, value in step_weights[-1].items())


def test_without_an_average_the_weights_are_what_is_saved(tmp_path):
    task = task_with("cmlpe")
    train(task, tmp_path / "run")
    saved = last_weights(tmp_path / "run")
    assert all(torch.equal(saved[name], value) for name, value in task.model.state_dict().items())
    assert load_resume(checkpoints.find(tmp_path / "run", "last"))["weights"] is None


def test_a_run_with_an_average_continues_exactly(tmp_path):
    train(task_with(ema=0.9), tmp_path / "whole")
    task = task_with(ema=0.9)
    whole = task.batch

    def batch(step, share):
        if step == 7:
            raise KeyboardInterrupt
        return whole(step, share)

    task.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path / "stopped")
    train(task_with(ema=0.9), tmp_path / "stopped", resume=True)
    assert (tmp_path / "stopped" / LOG).read_text() == (tmp_path / "whole" / LOG).read_text()
    found, expected = last_weights(tmp_path / "stopped"), last_weights(tmp_path / "whole")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("ema", [1.0, -0.1])
def test_a_decay_that_cannot_be(tmp_path, ema):
    with pytest.raises(TrainingError, match=r"train\.ema is"):
        train(task_with(ema=ema), tmp_path / "run")


# --- device --------------------------------------------------------------------------------------------------------


def test_a_gpu_asked_for_where_there_is_none_is_an_error():
    with pytest.raises(ConfigError, match=r"train\.device is cuda, but torch sees no GPU"):
        task_with(device="cuda")


def test_batches_come_from_the_tasks_device():
    task = task_with(device="cpu")
    assert task.batch(0, Share()).x.device == next(task.model.parameters()).device == torch.device("cpu")
