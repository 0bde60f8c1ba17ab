"""The two tasks: what a batch's loss is, what validation sees, where statistics and weights come from, and learning."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clips import LANDMARKS, RECIPES, small_clips, small_recipe, small_task
from torch.nn import functional as F

from handcraft.checkpoint import load
from handcraft.clip_task import planned_steps
from handcraft.config import AugmentConfig, PreprocessConfig, TrainConfig, WindowConfig
from handcraft.data.batches import evaluation_batches, training_batch
from handcraft.data.manifest import hex_digests, split_hash
from handcraft.data.statistics import Statistics, authors, compute
from handcraft.engine import train
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.losses import motion_loss
from handcraft.tracking import LOG

CLASSIFIERS = ["transformer_sl", "mamba_sl"]


def shake(task):
    """Weights of some size everywhere: a new generator repeats the last frame, a new classifier knows nothing."""
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    task.model.eval()
    return task


def fields_equal(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


# --- steps ---------------------------------------------------------------------------------------------------------


def test_planned_steps():
    clips = small_clips(per_class=8).subset([0, 1, 2, 3, 4, 8, 9, 16])  # 5, 2 and 1 clips of 3 classes
    assert planned_steps(TrainConfig(steps=7), clips) == 7
    assert planned_steps(TrainConfig(epochs=3, batch=4), clips) == 6
    assert planned_steps(TrainConfig(epochs=0.1, batch=4), clips) == 1
    assert planned_steps(TrainConfig(epochs=2, batch=4, epoch="oversampled"), clips) == 8  # 2 x 3 classes x 5 / 4
    assert planned_steps(TrainConfig(epochs=1, batch=7), clips) == 2


@pytest.mark.parametrize("wrong", [{}, {"steps": 3, "epochs": 1.0}, {"steps": -1}])
def test_steps_and_epochs_exclude_each_other(wrong):
    with pytest.raises(ConfigError, match="exactly one"):
        planned_steps(TrainConfig(**wrong), small_clips())


def test_a_batch_has_at_least_one_clip():
    with pytest.raises(ConfigError, match=r"train\.batch is 0"):
        planned_steps(TrainConfig(epochs=1.0, batch=0), small_clips())


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["resample", "wrap", "zero"])
@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("augment", [True, False])
def test_ready_windows_are_the_batches_made_anew(mode, long, augment):
    """Windows that do not change are made once; the batch must not differ from the one made the ordinary way."""
    recipe = replace(RECIPES["transformer_sl"], window=WindowConfig(frames=16, mode=mode))
    clips = small_clips(lengths=(20, 45) if long else (6, 17))
    task = small_task("transformer_sl", clips=clips, recipe=recipe, augment=augment)
    for step in (0, 5):
        expected = training_batch(
            task.clips,
            step,
            batch=8,
            seed=0,
            window=recipe.window,
            statistics=task.statistics,
            augment=recipe.augment if augment else None,
        )
        found = task.batch(step)
        assert fields_equal(found, expected)
        assert fields_equal(found, task.batch(step))


def test_windows_are_laid_out_ready_only_where_nothing_is_turned_scaled_or_resampled_anew(monkeypatch):
    def ready(mode="resample", lengths=(20, 45), **augment):
        recipe = replace(
            RECIPES["transformer_sl"], window=WindowConfig(frames=16, mode=mode), augment=AugmentConfig(**augment)
        )
        task = small_task("transformer_sl", clips=small_clips(lengths=lengths), recipe=recipe, augment=True)
        task.batch(0)
        return task._ready is not None

    assert ready()
    assert ready("zero", (6, 17))
    assert ready("zero")
    assert ready("wrap", subwindow=0.9)  # which only resample knows
    assert not ready("wrap", rotation=5.0)
    assert not ready(scale=0.1)
    assert not ready(subwindow=0.9)
    monkeypatch.setattr("handcraft.clip_task.free_memory", lambda device: 1 << 18)
    assert not ready(), "it would take too much of the memory"


def test_augmentation_is_the_recipes_or_none():
    plain, augmented = (small_task("transformer_sl", augment=augment) for augment in (False, True))
    assert augmented.augment == RECIPES["transformer_sl"].augment
    assert plain.augment == AugmentConfig()
    assert not torch.equal(plain.batch(0).x, augmented.batch(0).x)
    assert torch.equal(plain.batch(0).index, augmented.batch(0).index)


# --- losses and validation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_generator_loss_written_out(reverse):
    task = shake(small_task("cmlpe", reverse=reverse))
    batch = task.batch(3)
    x = batch.x.flip(1) if reverse else batch.x
    present = batch.present.flip(1) if reverse else batch.present
    noise = task.model.draw_noise(0, batch.sample_id, reverse=reverse)
    predicted = task.model(x[:, :8], batch.label, noise)
    valid = torch.ones(8, 8, dtype=torch.bool)
    expected = motion_loss(predicted, x[:, 8:], present[:, 8:], valid)
    loss = task.batch_loss(batch)
    torch.testing.assert_close(loss, expected)
    assert noise.abs().max() > 0
    quiet = motion_loss(task.model(x[:, :8], batch.label), x[:, 8:], present[:, 8:], valid)
    assert not torch.equal(loss, quiet)


def test_the_reversed_task_is_the_forward_one_on_reversed_clips():
    """docs/method.md: the same validation error, weights being equal, on clips that are played backwards."""
    clips = small_clips(lengths=(16, 17))
    frames = torch.cat([clips.clip(i).flip(0) for i in range(len(clips))])
    backwards = replace(clips, frames=frames)
    forward = shake(small_task("cmlpe", clips=backwards))
    reverse = shake(small_task("cmlpe", clips=clips, reverse=True))
    assert reverse.validate()["mpjpe"] == pytest.approx(forward.validate()["mpjpe"], rel=1e-5)
    assert reverse.validate() != pytest.approx(shake(small_task("cmlpe", clips=clips)).validate(), rel=1e-3)


def test_generator_validation_is_the_error_per_landmark_without_noise():
    clips = small_clips(missing=False)
    task = shake(small_task("cmlpe", clips=clips))
    errors = []
    for batch in evaluation_batches(task.valid_clips, task.window, task.statistics, 2):
        predicted = task.model(batch.x[:, :8], batch.label)
        difference = (predicted - batch.x[:, 8:]).unflatten(-1, (LANDMARKS, 2)) * task.statistics.std
        errors.append(difference.norm(dim=-1).flatten())
    assert task.validate()["mpjpe"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)
    assert task.validate() == task.validate()


def test_classifier_loss_written_out():
    recipe = small_recipe("transformer_sl", label_smoothing=0.1)
    task = shake(small_task("transformer_sl", recipe=recipe))
    batch = task.batch(2)
    log = task.model(batch.x).log_softmax(-1)
    hard = -log.gather(1, batch.label[:, None]).mean()
    torch.testing.assert_close(task.batch_loss(task.batch(2)), 0.9 * hard - 0.1 * log.mean())


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifier_validation_scores_every_clip_unaugmented(kind, monkeypatch):
    monkeypatch.setattr("handcraft.clip_task._EVALUATION_BATCH", 4)  # 6 clips: the last batch is short
    task = shake(small_task(kind, augment=True))
    batch = next(evaluation_batches(task.valid_clips, task.window, task.statistics, 100))
    logits = task.model(batch.x)
    assert len(logits) == 6
    found = task.validate()
    assert found["top1"] == pytest.approx((logits.argmax(1) == batch.label).float().mean().item())
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, batch.label).item(), rel=1e-5)


def test_frame_tokens_get_the_true_lengths():
    recipe = RECIPES["mamba_sl"]
    recipe = replace(recipe, model=replace(recipe.model, tokens="frames"), window=WindowConfig(frames=16, mode="zero"))
    task = shake(small_task("mamba_sl", clips=small_clips(lengths=(6, 15)), recipe=recipe))
    batch = task.batch(0)
    assert torch.equal(batch.valid.sum(1), task.clips.length[batch.index])
    with torch.no_grad():
        first = task.batch_loss(batch)
        batch.x[~batch.valid] = 9.0
        assert torch.equal(task.batch_loss(batch), first)


def test_ranks_prefer_the_better():
    classifier, generator = small_task("mamba_sl"), small_task("cmlpe")
    ordered = [{"top1": 0.9, "loss": 0.5}, {"top1": 0.9, "loss": 0.7}, {"top1": 0.8, "loss": 0.1}]
    shuffled = [ordered[2], ordered[0], ordered[1]]
    assert sorted(shuffled, key=classifier.rank) == ordered
    assert generator.rank({"mpjpe": 0.1}) < generator.rank({"mpjpe": 0.2})


# --- data, statistics, description -----------------------------------------------------------------------------------


def test_statistics_come_from_the_training_clips_alone():
    clips = small_clips()
    task = small_task("cmlpe", clips=clips)
    expected = compute(clips.subset([i for i in range(len(clips)) if i % 4]))
    assert torch.equal(task.statistics.mean, expected.mean)
    assert torch.equal(task.statistics.std, expected.std)
    assert not torch.equal(task.statistics.mean, compute(clips).mean)


def test_given_statistics_are_used():
    given = Statistics(torch.full((LANDMARKS, 2), 0.5), torch.full((LANDMARKS, 2), 2.0))
    task = small_task("transformer_sl", statistics=given)
    plain = small_task("transformer_sl")
    restored = given.unstandardise(task.batch(0).x.unflatten(-1, (LANDMARKS, 2)))
    expected = plain.statistics.unstandardise(plain.batch(0).x.unflatten(-1, (LANDMARKS, 2)))
    present = task.batch(0).present
    torch.testing.assert_close(restored[present], expected[present])
    assert task.checkpoint().statistics.to_dict() == given.to_dict()


def test_the_authors_constants_are_used_on_request():
    task = small_task("cmlpe", recipe=replace(RECIPES["cmlpe"], statistics="authors"))
    assert torch.equal(task.statistics.mean, authors("pose_hands48", 2).mean)
    assert torch.equal(task.statistics.std, authors("pose_hands48", 2).std)


def test_the_checkpoint_describes_the_run():
    clips = small_clips()
    found = small_task("transformer_sl", clips=clips, augment=True, seed=4).checkpoint()
    assert found.classes == ("sign0", "sign1", "sign2")
    assert (found.config.classes, found.config.dim) == (3, LANDMARKS * 2)
    assert (found.layout, found.preprocess, found.seed) == ("pose_hands48", clips.preprocess, 4)
    assert found.augment == RECIPES["transformer_sl"].augment
    held = np.arange(len(clips)) % 4 == 0
    assert found.split_hashes == {"train": split_hash(clips.digest[~held]), "valid": split_hash(clips.digest[held])}
    # Validation clips select the checkpoint: the model has seen them too.
    assert found.seen_clips == tuple(hex_digests(clips.digest))


def test_initial_weights_are_a_function_of_the_seed_and_disturb_nothing():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = small_task("transformer_sl", seed=3).model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = small_task("transformer_sl", seed=3).model.state_dict()
    other = small_task("transformer_sl", seed=4).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_impossible_recipes_are_named():
    with pytest.raises(ConfigError, match="expected twice"):
        small_task("cmlpe", recipe=replace(RECIPES["cmlpe"], window=WindowConfig(frames=32)))
    with pytest.raises(ConfigError, match="classifier: window"):
        small_task("mamba_sl", recipe=replace(RECIPES["mamba_sl"], window=WindowConfig(frames=32)))
    model = replace(RECIPES["mamba_sl"].model, classes=4)
    with pytest.raises(ConfigError, match="classes is 4, but the data has 3"):
        small_task("mamba_sl", recipe=replace(RECIPES["mamba_sl"], model=model))


def test_unusable_data_is_named(tmp_path):
    clips = small_clips()
    with pytest.raises(DataError, match="no training clip"):
        small_task("cmlpe", clips=clips.subset([0]))
    with pytest.raises(DataError, match="sign1"):
        train(small_task("cmlpe", clips=clips.subset([0, 1, 2, 17, 18])), tmp_path)


# --- starting from other weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A classifier trained for a while on other clips of the same signs, with statistics of its own."""
    task = small_task("transformer_sl", clips=small_clips(seed=9), seen=["ab" * 8])
    return train(task, tmp_path_factory.mktemp("pretrained"))


@pytest.mark.parametrize("form", ["checkpoint", "path"])
def test_fine_tuning_starts_from_the_weights(pretrained, form):
    start = load(pretrained.best)
    task = small_task("transformer_sl", init_from=start if form == "checkpoint" else pretrained.best)
    assert all(torch.equal(value, start.model.state_dict()[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(task.statistics.mean, start.statistics.mean)
    found = task.checkpoint()
    assert found.initial == start.sha256
    assert start.seen_clips == ("ab" * 8,)  # the real clips behind synthetic ones, not these
    assert found.seen_clips == tuple(sorted(["ab" * 8, *hex_digests(small_clips().digest)]))


def test_fine_tuning_leaves_the_pretrained_model_alone(pretrained, tmp_path):
    """The two synthetic arms share one pretrained model."""
    start = load(pretrained.best)
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    train(small_task("transformer_sl", init_from=start), tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in start.model.state_dict().items())


def test_fine_tuning_starts_with_a_fresh_schedule(pretrained, tmp_path):
    train(small_task("transformer_sl", init_from=pretrained.best), tmp_path)
    first = json.loads((tmp_path / LOG).read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(3e-3 / 25)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("classes", lambda clips, recipe: (replace(clips, classes=("sign0", "sign1", "other")), recipe)),
        ("layout", lambda clips, recipe: (replace(clips, layout="other"), recipe)),
        ("preprocess", lambda clips, recipe: (replace(clips, preprocess=PreprocessConfig(fill=1)), recipe)),
        ("window", lambda clips, recipe: (clips, replace(recipe, window=WindowConfig(frames=16, mode="wrap")))),
        ("model", lambda clips, recipe: (clips, replace(recipe, model=replace(recipe.model, layers=2)))),
        ("model", lambda clips, recipe: (clips, RECIPES["mamba_sl"])),
    ],
)
def test_weights_of_another_model_are_refused(pretrained, field, change):
    clips, recipe = change(small_clips(), RECIPES["transformer_sl"])
    with pytest.raises(CheckpointError, match=f"its {field} is"):
        small_task("transformer_sl", clips=clips, recipe=recipe, init_from=pretrained.best)


# --- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("tokens", ["dct", "frames"])
def test_classifiers_learn(tmp_path, kind, tokens):
    rate = {"transformer_sl": 1e-2, "mamba_sl": 3e-2}[kind]
    recipe = small_recipe(
        kind, steps=80, batch=16, lr=rate, optimizer="adam", lookahead=False, validate_every=20, checkpoint_every=80
    )
    recipe = replace(recipe, model=replace(recipe.model, tokens=tokens))
    done = train(small_task(kind, clips=small_clips(per_class=24), recipe=recipe), tmp_path)
    assert done.best_metrics["top1"] > 0.7  # by chance 0.33


@pytest.mark.parametrize("reverse", [False, True])
def test_generators_learn(tmp_path, reverse):
    recipe = small_recipe("cmlpe", steps=120, batch=16, lr=1e-2, optimizer="adam", lookahead=False, validate_every=40)
    task = small_task("cmlpe", clips=small_clips(per_class=12), recipe=recipe, reverse=reverse)
    start = task.validate()["mpjpe"]
    assert train(task, tmp_path).best_metrics["mpjpe"] < 0.5 * start
