"""The sequential generator: roll-outs, the learned end, clips of any length, and generators that start from others."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from small_clips import small_clips, small_recipe

from handcraft.checkpoint import load
from handcraft.clip_task import planned_steps
from handcraft.config import Recipe, SequentialConfig
from handcraft.data.clips import Clips
from handcraft.data.window import windows
from handcraft.distributed import Share
from handcraft.engine import train
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.evaluate import evaluate_generator
from handcraft.generate import generate
from handcraft.models import build
from handcraft.models.sequential import roll_both
from handcraft.recipe import check_recipe
from handcraft.sequential import SequentialTask, extend
from handcraft.tasks import GeneratorTask
from handcraft.tracking import LOG
from handcraft.training import without_labels

TWIN = small_recipe("cmlpe", steps=12)
RECIPE = replace(TWIN, method="sequential", step=3, rollout=2)


def random_model(classes=3, dim=6, **options):
    """A sequential model with O(1) weights everywhere, since a fresh one repeats the last frame."""
    torch.manual_seed(0)
    config = SequentialConfig(classes=classes, dim=dim, context=8, blocks=2, embedding=4, **options)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


def sequential_task(clips, reverse=False, seed=0, recipe=RECIPE, **options):
    order = np.arange(len(clips))
    return SequentialTask(clips, recipe, reverse=reverse, train=order[::2], valid=order[1::2], seed=seed, **options)


def test_a_roll_out_is_the_one_step_model_called_again_and_again():
    model = random_model(step=3)
    x, label = torch.randn(5, 8, 6), torch.tensor([0, 1, 2, 0, 1])
    noise = torch.randn(5, 3 * 2, 4)
    made = model(x, label, noise, 7)
    context, wanted = x, []
    for t in range(3):
        new = model(context, label, noise[:, 2 * t : 2 * t + 2], 3)
        wanted.append(new)
        context = torch.cat([context, new], 1)[:, -8:]
    assert torch.allclose(made, torch.cat(wanted, 1)[:, :7], atol=1e-6)
    assert model(x, label).shape == (5, 8, 6)


def test_a_step_is_the_head_of_what_cmlpe_predicts():
    model = random_model(step=3)
    x, label = torch.randn(2, 8, 6), torch.tensor([0, 2])
    whole = super(type(model), model).forward(x, label, None)
    assert torch.equal(model(x, label, None, 3), whole[:, :3])


def test_noise_is_a_function_of_seed_and_sample():
    model = random_model()
    one = model.draw_noise(3, torch.tensor([5, 9]), reverse=False, steps=4)
    assert one.shape == (2, 8, 4)
    assert torch.equal(one[1], model.draw_noise(3, torch.tensor([9]), reverse=False, steps=6)[0, :8])
    assert not torch.equal(one, model.draw_noise(3, torch.tensor([5, 9]), reverse=True, steps=4))
    assert not torch.equal(one[0, :2], one[0, 2:4])


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"accumulate": 3}, {"ema": 0.9}])
def test_it_trains_with_the_settings_of_every_training(changes, tmp_path):
    clips = small_clips()

    def losses(name, **more):
        recipe = replace(RECIPE, train=replace(RECIPE.train, steps=4, validate_every=4, **more))
        train(sequential_task(clips, recipe=recipe), tmp_path / name)
        return [json.loads(line)["loss"] for line in (tmp_path / name / LOG).open()]

    assert losses("changed", **changes) == pytest.approx(losses("plain"), rel=0.05 if "precision" in changes else 1e-5)


def test_both_halves_of_a_clip_are_generated():
    forward, reverse = random_model(step=3), random_model(step=3)
    window, label, clip_id = torch.randn(4, 16, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4)
    made = roll_both((forward, reverse), window, label, clip_id, seed=1)
    noise = forward.draw_noise(1, clip_id, reverse=False, steps=3)
    assert torch.allclose(made[:, 8:], forward(window[:, :8], label, noise, 8))
    back = reverse.draw_noise(1, clip_id, reverse=True, steps=3)
    assert torch.allclose(made[:, :8], reverse(made[:, 8:].flip(1), label, back, 8).flip(1))
    changed = window.clone()
    changed[:, 8:] = 99.0
    assert torch.equal(made, roll_both((forward, reverse), changed, label, clip_id, seed=1))


def test_contexts_lie_anywhere_and_the_end_is_where_the_window_ends():
    task = sequential_task(small_clips(missing=False))
    batch = task.batch(0)
    context, target, present, valid, ended = task._roll(batch)
    assert context.shape[1] == task.model_config.context
    assert target.shape[1] == 6
    begins = []
    for i in range(len(batch)):
        frames = batch.x.shape[1]
        found = [
            b
            for b in range(frames - context.shape[1] + 1)
            if torch.equal(batch.x[i, b : b + context.shape[1]], context[i])
        ]
        begin = found[0]
        begins.append(begin)
        left = frames - begin - context.shape[1]
        assert valid[i].tolist() == [t < left for t in range(6)]
        assert ended[i].tolist() == [float(left <= 3), float(left <= 6)]
        inside = min(left, 6)
        assert torch.equal(target[i, :inside], batch.x[i, begin + context.shape[1] :][:inside])
    assert len(set(begins)) > 1
    assert present.shape[:2] == valid.shape


def test_losses_of_shares_add_up():
    task = sequential_task(small_clips())
    batch = task.batch(2)
    weights = task.weights(batch)
    shares = [task.batch(2, Share(i, 3)) for i in range(3)]
    assert torch.equal(sum(task.weights(share) for share in shares), weights)
    total = sum(task.batch_loss(share, weights) for share in shares)
    assert total.item() == pytest.approx(task.batch_loss(batch).item(), rel=1e-5)


def test_the_end_is_learned_without_disturbing_the_motion():
    task = sequential_task(small_clips())
    context = task._roll(task.batch(0))[0]
    _, ends = task.model(context, task.batch(0).label, None, 6, True)
    ends.sum().backward()
    moved = {name for name, parameter in task.model.named_parameters() if parameter.grad is not None}
    assert moved == {"end_weight", "end_bias"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A forward and a reversed sequential generator, and the clips they saw."""
    folder, clips = tmp_path_factory.mktemp("sequential"), small_clips()
    for reverse in (False, True):
        train(sequential_task(clips, reverse), folder / ("reversed" if reverse else "forward"))
    return folder, clips


def test_training_lowers_the_loss_and_resumes_bit_for_bit(trained, tmp_path):
    folder, clips = trained
    fresh, found = sequential_task(clips), load(folder / "forward", "last")
    later = sequential_task(clips)
    later.model.load_state_dict(found.model.state_dict())
    assert later.batch_loss(later.batch(0)).item() < fresh.batch_loss(fresh.batch(0)).item()
    assert found.kind == "sequential"
    again = train(sequential_task(clips), tmp_path / "again")
    assert load(again.last).sha256 == found.sha256


def test_clips_are_generated_as_from_the_twins(trained, tmp_path):
    folder, clips = trained
    clips = clips.subset(np.arange(len(clips))[::2])
    one = generate(folder / "forward", folder / "reversed", clips, tmp_path / "one", total=9, batch=4)
    other = generate(folder / "forward", folder / "reversed", clips, tmp_path / "other", total=9, batch=9)
    assert one.digests.tolist() == other.digests.tolist()
    assert len(one) == 9
    scores = evaluate_generator(folder / "forward", folder / "reversed", clips, split="train")
    assert len(scores["forward"]["per_frame"]) == load(folder / "forward").config.context
    assert scores["splice_jump"]["generated"] > 0


def test_a_clip_is_extended_by_as_many_frames_as_wanted_or_until_its_end(trained):
    folder, clips = trained
    checkpoint = load(folder / "forward")
    context = clips.clip(0).numpy()
    made = extend(checkpoint, context, "sign0", frames=50)
    assert made.shape == (50, *context.shape[1:])
    assert np.array_equal(made[:20], extend(checkpoint, context, "sign0", frames=20))
    with torch.no_grad():
        checkpoint.model.end_weight.zero_()
        checkpoint.model.end_bias.fill_(5.0)  # has ended, wherever it is
    assert len(extend(checkpoint, context, "sign0")) == checkpoint.config.step
    for options, error, reason in (
        ({"label": "other"}, DataError, "sign 'other'"),
        ({"label": "sign0", "frames": 0}, ConfigError, "frames is 0"),
        ({"label": "sign0", "context": context[:3]}, DataError, "at least"),
        ({"label": "sign0", "context": context[:, :5]}, DataError, "expected"),
    ):
        with pytest.raises(error, match=reason):
            extend(checkpoint, **{"context": context, **options})


def test_the_end_is_learned_where_the_motion_shows_it(tmp_path):
    clips = small_clips(missing=False, lengths=(40, 41))
    frames = clips.frames.clone()
    frames[:, 0, 0] = 0.2 * torch.linspace(-1, 1, 40).repeat(len(clips))  # a clock: a sign's end can be told
    recipe = replace(RECIPE, step=2, train=replace(RECIPE.train, steps=60, lr=0.03, batch=16, validate_every=60))
    clips = replace(clips, frames=frames)
    checkpoint = load(train(sequential_task(clips, recipe=recipe), tmp_path / "run").last)
    whole, order = windows(clips, torch.arange(len(clips)), recipe.window)[0].numpy(), range(1, len(clips), 2)
    made = {
        left: [len(extend(checkpoint, whole[i, : 16 - left], clips.classes[int(clips.label[i])])) for i in order]
        for left in (8, 2)
    }
    assert 6 <= np.median(made[8]) <= 12, made
    assert np.median(made[2]) <= 4, made


def test_extend_wants_a_sequential_generator(tmp_path):
    clips = small_clips()
    order = np.arange(len(clips))
    task = GeneratorTask(clips, TWIN, reverse=False, train=order[::2], valid=order[1::2], seed=0)
    with pytest.raises(ConfigError, match="expected a sequential"):
        extend(load(train(task, tmp_path / "twin").best), clips.clip(0).numpy(), "sign0", frames=3)


def test_a_roll_out_longer_than_the_context_is_refused():
    recipe = Recipe()
    long = replace(recipe.generator, method="sequential", step=5, rollout=4)
    with pytest.raises(ConfigError, match=r"generator\.rollout is 4"):
        check_recipe(replace(recipe, generator=long))


def other_signs() -> Clips:
    clips = small_clips(classes=4, seed=5)
    return replace(clips, classes=("a", "b", "c", "d"))


def test_a_generator_starts_from_one_without_labels(tmp_path):
    source, target = other_signs(), small_clips()
    plain = without_labels(source, seed=0)
    assert plain.clips.classes == ("unlabelled",)
    assert sorted([*plain.part.train, *plain.part.valid]) == list(range(len(source)))
    common = {"train": plain.part.train, "valid": plain.part.valid, "seed": 0}
    first = load(train(GeneratorTask(plain.clips, TWIN, reverse=False, **common), tmp_path / "first").last)
    order = np.arange(len(target))
    common = {"train": order[::2], "valid": order[1::2], "seed": 0}
    task = GeneratorTask(target, TWIN, reverse=False, init_from=first, **common)
    state, old = task.model.state_dict(), first.model.state_dict()
    for name in set(state) - {"class_embedding"}:
        assert torch.equal(state[name], old[name]), name
    assert state["class_embedding"].shape[0] == 3
    assert torch.allclose(state["class_embedding"], old["class_embedding"].expand(3, -1), atol=0.5)
    assert len(state["class_embedding"].unique(dim=0)) == 3
    assert set(first.seen_clips) < set(task.checkpoint().seen_clips)
    assert task.checkpoint().initial == first.sha256
    with pytest.raises(CheckpointError, match="start from the reversed one"):
        GeneratorTask(target, TWIN, reverse=True, init_from=first, **common)
    deeper = replace(TWIN, model=replace(TWIN.model, blocks=TWIN.model.blocks + 1))
    with pytest.raises(CheckpointError, match="model"):
        GeneratorTask(target, deeper, reverse=False, init_from=first, **common)


def test_sequential_fields_are_in_the_checkpoint(trained):
    folder, _ = trained
    assert asdict(load(folder / "forward").config)["rollout"] == 2
    assert planned_steps(RECIPE.train, small_clips()) == 12
