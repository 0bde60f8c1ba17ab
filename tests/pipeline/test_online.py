"""Online pretraining: the clips of a store that nobody wrote, each once, by generators that saw no test clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clips import RECIPES, small_clips
from twins import twin

from handcraft import clip_task
from handcraft.checkpoint import load, save
from handcraft.config import AugmentConfig, Recipe, WindowConfig
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import load_clips
from handcraft.data.host import HostFrames
from handcraft.data.statistics import compute
from handcraft.data.store import hex_digests
from handcraft.distributed import Share
from handcraft.engine import train
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.generate import generate
from handcraft.online import OnlineTask
from handcraft.partition import partition
from handcraft.synthesis import Synthesizer, seen_by
from handcraft.tracking import LOG
from handcraft.training import Data, pretrain_classifier, pretrain_online, train_classifier, train_generator

PART = RECIPES["transformer_sl"]
AUGMENT = AugmentConfig(rotation=10, scale=0.1, subwindow=0.8)


@pytest.fixture(scope="module")
def clips():
    return small_clips(lengths=(9, 30))


def twins_of(clips, mode="resample"):
    recipe = replace(RECIPES["cmlpe"], window=WindowConfig(frames=16, mode=mode), augment=AUGMENT)
    return [twin(clips, reverse=reverse, recipe=recipe) for reverse in (False, True)]


def online(clips, twins, part=PART, seed=3, **changes):
    part = replace(part, train=replace(part.train, **changes))
    return OnlineTask(Synthesizer(*twins, clips, seed=seed), part, statistics=compute(clips))


@pytest.mark.parametrize("mode", ["resample", "wrap", "zero"])
def test_batches_are_the_clips_of_a_store_of_the_same_seed(clips, mode, tmp_path):
    twins = twins_of(clips, mode)
    part = replace(PART, window=WindowConfig(frames=16, mode=mode))
    task = online(clips, twins, part)
    stored = load_clips(generate(*twins, clips, tmp_path / "s", total=40, seed=3), clips.preprocess)
    assert (len(set(stored.length.tolist())) > 2) == (mode != "resample")
    (expected,) = evaluation_batches(stored, part.window, task.statistics, 40)
    for step in (0, 4):
        batch, here = task.batch(step), slice(8 * step, 8 * step + 8)
        for name in ("x", "present", "valid", "label"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)[here])
        assert batch.sample_id.tolist() == list(range(here.start, here.stop))
        assert torch.equal(clips.label[batch.index], batch.label)


def test_a_shorter_window_crops_at_random_as_training_does(clips):
    twins = twins_of(clips, "wrap")
    whole = online(clips, twins, replace(PART, window=WindowConfig(frames=16, mode="wrap")))
    model = replace(PART.model, frames=8)
    short = online(clips, twins, replace(PART, window=WindowConfig(frames=8, mode="wrap"), model=model))
    begun = set()
    for step in range(4):
        for window, long in zip(short.batch(step).x, whole.batch(step).x, strict=True):
            begun.add(next(at for at in range(9) if torch.equal(window, long[at : at + 8])))
    assert len(begun) > 3


def test_no_clip_comes_twice_and_shares_make_the_batch(clips):
    task = online(clips, twins_of(clips))
    batches = [task.batch(step) for step in range(20)]
    assert len({x.numpy().tobytes() for batch in batches for x in batch.x}) == 160
    assert torch.cat([batch.label for batch in batches]).bincount().tolist() == [54, 53, 53]
    shares = [task.batch(7, Share(i, 3)) for i in range(3)]
    for name in ("x", "present", "valid", "label", "index", "sample_id"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batches[7], name))
    other = online(clips, twins_of(clips), seed=4).batch(0)
    assert not torch.equal(other.x, batches[0].x)


def test_a_synthesizer_over_clips_that_lie_elsewhere_is_the_same(clips):
    far = replace(clips, frames=HostFrames.of(clips.frames))
    for ways in ({}, {"missing": "none", "vary": False}):
        made = Synthesizer(*twins_of(clips), clips, seed=3, **ways)
        moved = made.over(far)
        assert moved.clips is far
        for ours, theirs in zip(moved.make(torch.arange(20)), made.make(torch.arange(20)), strict=True):
            assert torch.equal(ours.nan_to_num(9), theirs.nan_to_num(9))


def test_sources_are_held_once_and_where_training_keeps_them(clips, monkeypatch):
    """As beside a GPU that has no room for them."""
    twins = twins_of(clips)
    far = replace(clips, frames=HostFrames.of(clips.frames))
    monkeypatch.setattr(clip_task, "place", lambda clips, device: far)
    task = online(clips, twins)
    assert task.synthesizer.clips.frames is far.frames
    monkeypatch.undo()
    assert torch.equal(task.batch(2).x, online(clips, twins).batch(2).x)


def test_an_interrupted_training_continues_exactly(clips, tmp_path):
    twins = twins_of(clips)

    class Stops(OnlineTask):
        def batch(self, step, *share):
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step, *share)

    whole = train(online(clips, twins, steps=12), tmp_path / "whole")
    task = online(clips, twins, steps=12)
    stopping = Stops(task.synthesizer, replace(PART, train=task.config), statistics=task.statistics)
    with pytest.raises(KeyboardInterrupt):
        train(stopping, tmp_path / "stopped")
    resumed = train(online(clips, twins, steps=12), tmp_path / "stopped", resume=True)
    assert (tmp_path / "stopped" / LOG).read_bytes() == (tmp_path / "whole" / LOG).read_bytes()
    assert load(resumed.last).sha256 == load(whole.last).sha256
    for change in ({"seed": 4}, {"twins": [replace(twins[0], sha256="x"), twins[1]]}):
        with pytest.raises(Exception, match=r"cannot resume: (seed|generators)"):
            train(online(clips, **({"twins": twins, "steps": 12} | change)), tmp_path / "stopped", resume=True)


# --- in the pipeline -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    clips = small_clips(per_class=12)
    clips = replace(clips, split=np.array([""] * len(clips)))
    return Data(clips, partition(clips, seed=0))


@pytest.fixture(scope="module")
def generator(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    recipe = Recipe(generator=replace(RECIPES["cmlpe"], train=replace(RECIPES["cmlpe"].train, steps=3)))
    for name in ("forward", "reversed"):
        train_generator(data, recipe, folder / name, reverse=name == "reversed", seed=0)
    return folder


def test_pretraining_says_what_was_behind_it_and_training_goes_on_from_there(data, generator, tmp_path):
    part = replace(PART, train=replace(PART.train, steps=20))
    trained = pretrain_online(data, part, 0.2, generator, tmp_path / "p", seed=1)
    found, (forward, reverse) = load(trained.last), [load(generator / name) for name in ("forward", "reversed")]
    assert (trained.steps, trained.last_metrics, found.seed) == (4, None, 1)
    assert found.generators == (forward.sha256, reverse.sha256)
    assert set(found.seen_clips) == {*forward.seen_clips, *reverse.seen_clips}
    assert torch.equal(found.statistics.mean, data.statistics(part).mean)
    sources = seen_by(forward, data.clips)
    assert sorted(sources.ids) == sorted(data.clips.ids[data.part.train]), "validation clips are no sources"
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {"", ".json", ".jsonl", ".safetensors"}
    short = replace(part, train=replace(part.train, steps=1))
    tuned = train_classifier(data, short, tmp_path / "c", augment=False, seed=1, init_from=trained.last)
    assert load(tuned.last).generators == found.generators
    # a store of the same generators leaves the same mark
    store = generate(forward, reverse, sources, tmp_path / "store", per_class=4)
    stored = load(pretrain_classifier(data, part, 0.1, store, tmp_path / "s", seed=1).last)
    assert stored.generators == found.generators


def test_generators_that_do_not_fit_are_refused(data, generator, tmp_path):
    def refused(match, kind=DataError, of=data, share=0.5, folder=generator):
        with pytest.raises(kind, match=match):
            pretrain_online(of, PART, share, folder, tmp_path / "x", seed=0)

    refused("pretrain is 1; expected a share", ConfigError, share=1)
    refused("no such folder", CheckpointError, folder=tmp_path / "nothing")
    swapped = Data(data.clips, replace(data.part, train=data.part.test, test=data.part.train))
    refused(r"forward/step-00000003: was trained on \d+ of the test clips", of=swapped)
    strangers = replace(data.clips, digest=data.clips.digest + np.uint64(1))
    refused("none of the 36 clips is among those", of=Data(strangers, data.part))
    refused(
        "was trained on 3 classes", CheckpointError, of=Data(replace(data.clips, classes=("a", "b", "c")), data.part)
    )
    # the forward generator alone has seen clips for training; the reversed one must not have seen the others
    leaky = load(generator / "reversed")
    seen = sorted({*leaky.seen_clips, *hex_digests(data.clips.digest[data.part.test])})
    save(tmp_path / "reversed", replace(leaky, seen_clips=tuple(seen)))
    (tmp_path / "forward").symlink_to(generator / "forward")
    refused("reversed/step-00000003: was trained on 11 of the test clips", folder=tmp_path)
    assert not (tmp_path / "x").exists()
