"""Evaluation: every clip once, the right units, the baselines on the same points, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clips import RECIPES, small_clips
from twins import classifier, twin

from handcraft.config import PreprocessConfig, WindowConfig
from handcraft.data.preprocess import signature
from handcraft.data.store import StoreWriter, hex_digests
from handcraft.data.window import windows
from handcraft.errors import CheckpointError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.kernels import cmlpe_generate
from handcraft.match import require_unseen
from handcraft.predict import classify


@pytest.fixture(scope="module")
def clips():
    return small_clips()


@pytest.fixture(scope="module")
def held_out():
    return small_clips(seed=7, per_class=9)


def test_classifier_row_counts_every_clip_whatever_the_batch(clips, held_out, tmp_path):
    checkpoint = classifier(clips, "mamba_sl", seed=3)
    row = evaluate_classifier(checkpoint, held_out, batch=4, confusion=tmp_path / "c.csv")
    right = classify(checkpoint, held_out).argmax(1) == held_out.label
    assert 0 < right.sum() < 27
    assert row["top1"] == pytest.approx(right.double().mean().item())
    assert row["clips"] == int(row["confusion"].sum()) == 27
    assert row == evaluate_classifier(checkpoint, held_out, batch=27) | {"confusion": row["confusion"]}
    assert (row["model"], row["split"], row["weights"]) == ("mamba_sl", "test", checkpoint.sha256)
    assert row["signatures"]["top1"] == "top1|average:micro|clips:test|v1"
    assert (tmp_path / "c.csv").read_text().startswith('"true","predicted sign0"')


def test_a_stores_split_is_scored_and_no_other_clip(clips, held_out, tmp_path):
    checkpoint = classifier(clips)
    with StoreWriter(
        tmp_path / "s",
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates="xy",
        preprocessing=signature(clips.preprocess),
    ) as writer:
        for data, split in ((clips, "train"), (held_out, "test")):
            for i in range(len(data)):
                name, label = f"{split}{i}", int(data.label[i])
                writer.add(data.clip(i).numpy(), id=name, label=label, split=split)
    row = evaluate_classifier(checkpoint, tmp_path / "s")
    assert row["clips"] == 27
    assert row["top1"] == evaluate_classifier(checkpoint, held_out)["top1"]
    seen = evaluate_classifier(checkpoint, tmp_path / "s", split="train")
    assert seen["clips"] == 24
    assert seen["signatures"]["top1"].endswith("clips:train|v1")
    with pytest.raises(DataError, match=r"no clip is marked 'valid' \(found: 'test', 'train'\)"):
        evaluate_classifier(checkpoint, tmp_path / "s", split="valid")


def test_clips_that_shaped_the_weights_are_refused_as_test(clips, held_out):
    checkpoint = classifier(clips)
    with pytest.raises(DataError, match="trained on 24 of the test clips"):
        evaluate_classifier(checkpoint, clips)
    # a classifier that was pretrained on the clips of a generator which saw one of the test clips
    pretrained = replace(checkpoint, seen_clips=(*checkpoint.seen_clips, *hex_digests(held_out.digest[3:4])))
    with pytest.raises(DataError, match="trained on 1 of the test clips"):
        evaluate_classifier(pretrained, held_out)
    forward, reversed = (twin(clips, reverse=reverse) for reverse in (False, True))
    with pytest.raises(DataError, match="test clips"):
        evaluate_generator(forward, reversed, clips)
    with pytest.raises(DataError, match="trained on 1 of the test clips"):
        evaluate_generator(forward, replace(reversed, seen_clips=pretrained.seen_clips), held_out)
    require_unseen(checkpoint.seen_clips, held_out, "generator")
    with pytest.raises(DataError, match="generator: was trained on 27"):
        require_unseen(hex_digests(held_out.digest), held_out, "generator")


def test_mismatches_are_refused(clips, held_out):
    checkpoint = classifier(clips)
    with pytest.raises(CheckpointError, match=r"3 classes, the clips have 3 \(only in the first: sign2; only in the s"):
        evaluate_classifier(checkpoint, replace(held_out, classes=("sign0", "sign1", "zebra")))
    with pytest.raises(CheckpointError, match="the same in another order"):
        evaluate_classifier(checkpoint, replace(held_out, classes=("sign1", "sign0", "sign2")))
    with pytest.raises(CheckpointError, match="preprocessing"):
        evaluate_classifier(checkpoint, replace(held_out, preprocess=PreprocessConfig(coordinates="xy", fill=1)))
    with pytest.raises(CheckpointError, match="numbers a landmark is 2, the clips have 3"):
        evaluate_classifier(checkpoint, replace(held_out, frames=torch.zeros(len(held_out.frames), 48, 3)))
    with pytest.raises(CheckpointError, match="is a generator"):
        evaluate_classifier(twin(clips, reverse=False), held_out)
    with pytest.raises(CheckpointError, match="give the forward generator"):
        evaluate_generator(checkpoint, twin(clips, reverse=True), held_out)


def reference(forward, reversed, clips):
    """Figures of every predictor in NumPy float64, from the windows themselves, one clip at a time."""
    mean, std = (value.double().numpy() for value in (forward.statistics.mean, forward.statistics.std))
    points, frames = {}, {}
    for i in range(len(clips)):
        window, valid = windows(clips, torch.tensor([i]), forward.window)
        for name, checkpoint in (("forward", forward), ("reversed", reversed)):
            x, ok = window[0].double().numpy(), valid[0].numpy()
            if name == "reversed":
                x, ok = x[::-1], ok[::-1]
            context = np.nan_to_num((x[:8] - mean) / std)
            with torch.no_grad():
                inputs = torch.from_numpy(context.reshape(1, 8, -1)).float()
                generated = checkpoint.model(inputs, clips.label[i : i + 1])[0].numpy().reshape(8, 48, 2)
            step = context[-1] - context[-2]
            predictions = {
                "generator": generated,
                "repeat_last": np.stack([context[-1]] * 8),
                "constant_velocity": np.stack([context[-1] + k * step for k in range(1, 9)]),
            }
            for t in range(8, 16):
                usable = ok[t] & ok[6:8].all() & ~np.isnan(x[[t, 6, 7]]).any((0, 2))
                if not usable.any():
                    continue
                for kind, predicted in predictions.items():
                    error = (predicted[t - 8] * std + mean - x[t])[usable]
                    points.setdefault((name, kind), []).extend(np.sqrt((error**2).sum(-1)))
                    standard = (predicted[t - 8] - (x[t] - mean) / std)[usable]
                    frames.setdefault((name, kind), []).append(np.sqrt((standard**2).sum()))
    return points, frames


@pytest.mark.parametrize("mode", ["resample", "zero"])
def test_generator_report_agrees_with_counting_by_hand(mode):
    recipe = replace(RECIPES["cmlpe"], window=WindowConfig(frames=16, mode=mode))
    train, test = small_clips(lengths=(9, 40)), small_clips(seed=7, lengths=(9, 40))
    forward, reversed = (twin(train, reverse=reverse, recipe=recipe) for reverse in (False, True))
    report = evaluate_generator(forward, reversed, test, batch=5)
    points, frames = reference(forward, reversed, test)
    for name in ("forward", "reversed"):
        assert report[name]["mpjpe"] == pytest.approx(np.mean(points[name, "generator"]), rel=1e-4)
        assert report[name]["frame_error"] == pytest.approx(np.mean(frames[name, "generator"]), rel=1e-4)
        for kind in ("repeat_last", "constant_velocity"):
            found = report["baselines"][kind][name]
            assert found["mpjpe"] == pytest.approx(np.mean(points[name, kind]), rel=1e-4)
            assert len(found["per_landmark"]) == 48
            assert np.average(found["per_landmark"]) == pytest.approx(found["mpjpe"], rel=0.2), "hands are seen less"
            assert found["frame_error"] == pytest.approx(np.mean(frames[name, kind]), rel=1e-4)
    for figure, values in (("mpjpe", points), ("frame_error", frames)):
        everything = values["forward", "generator"] + values["reversed", "generator"]
        assert report[figure] == pytest.approx(np.mean(everything), rel=1e-4)
        everything = values["forward", "repeat_last"] + values["reversed", "repeat_last"]
        assert report["baselines"]["repeat_last"][figure] == pytest.approx(np.mean(everything), rel=1e-4)
    assert len(report["forward"]["per_landmark"]) == 48
    assert report["clips"] == len(test)
    json.dumps(report, allow_nan=False)


def test_a_generator_that_repeats_the_last_frame_neither_beats_nor_loses_to_that_baseline(clips, held_out):
    forward, reversed = (twin(clips, reverse=reverse, scale=0) for reverse in (False, True))
    report = evaluate_generator(forward, reversed, held_out)
    still = report["baselines"]["repeat_last"]
    assert report["mpjpe"] == pytest.approx(still["mpjpe"], rel=1e-5)
    for name in ("forward", "reversed"):
        assert still[name]["margin"]["median"] == pytest.approx(1, rel=1e-4)
        assert report["baselines"]["constant_velocity"][name]["margin"]["share"] == 1.0
        assert report["baselines"]["constant_velocity"][name]["margin"]["worst"] < 1


def test_splice_jump_is_measured_on_clips_generated_from_the_held_out_windows(clips):
    test = small_clips(seed=7, missing=False)
    forward, reversed = (twin(clips, reverse=reverse) for reverse in (False, True))
    report = evaluate_generator(forward, reversed, test, seed=4, batch=5)
    window, _ = windows(test, torch.arange(len(test)), forward.window)
    made = cmlpe_generate(
        forward.model.params(),
        reversed.model.params(),
        window.flatten(2),
        torch.arange(len(test)),
        test.label,
        torch.arange(len(test)),
        seed=4,
        noise=forward.config.noise,
        mean=forward.statistics.mean.flatten(),
        std=forward.statistics.std.flatten(),
    ).unflatten(-1, (48, 2))
    for name, x in (("generated", made), ("real", window)):
        assert report["splice_jump"][name] == pytest.approx((x[:, 8] - x[:, 7]).norm(dim=-1).mean().item(), rel=1e-4)
    assert "unit:shoulder widths|frames:7 to 8" in report["signatures"]["splice_jump"]
    assert "points:pose_hands48|unit:shoulder widths|frames:8 of 16" in report["signatures"]["mpjpe"]
