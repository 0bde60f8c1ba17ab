"""The linear baseline: its features by hand, and the figures it is known to reach on real data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from handcraft.data.clips import Clips
from handcraft.data.split import draw_clips_per_class
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.layouts import layout
from handcraft.linear import linear_baseline, linear_features

REAL = Path(__file__).parents[2] / "../shared/data/asl33.npz"


def write_store(path, clips, labels):
    classes = sorted({str(label) for label in labels})
    with StoreWriter(path, layout="holistic75", stage="raw", classes=classes) as writer:
        for i, (clip, label) in enumerate(zip(clips, labels, strict=True)):
            writer.add(clip, id=f"clip{i:04}", label=str(label))
    return Store(path)


def signs(count, frames=20, seed=0):
    """Clips of class i % 3 that differ in how high the right wrist is; position and size in the picture are random."""
    random = np.random.default_rng(seed)
    clips = random.normal(0, 0.02, (count, frames, 75, 3)).astype(np.float32)
    clips[:, :, 11, 0] += 0.5
    clips[:, :, 12, 0] -= 0.5
    for i in range(count):
        clips[i, :, 16, 1] += i % 3
        clips[i] = clips[i] * random.uniform(0.1, 0.5) + random.uniform(0.2, 0.8)
    return clips


def test_features_are_shoulder_normalised_points_at_twelve_times(tmp_path):
    clip = np.random.default_rng(0).uniform(0, 1, (20, 75, 3)).astype(np.float32)
    clip[5:9, 33:54] = np.nan
    clip[12] = np.nan  # a frame without anything: number 7 of the twelve
    found = linear_features(write_store(tmp_path / "s", [clip], ["a"]), [0]).reshape(12, 49, 2)
    for k, t in enumerate((0, 2, 3, 5, 7, 9, 10, 12, 14, 16, 17, 19)):  # k 19 / 11, rounded
        left, right = clip[t, 11, :2].astype(float), clip[t, 12, :2].astype(float)
        wanted = (clip[t][[0, 11, 12, 13, 14, 15, 16, *range(33, 75)], :2] - (left + right) / 2) / np.linalg.norm(
            left - right
        )
        np.testing.assert_allclose(found[k], np.nan_to_num(wanted), atol=1e-6)
    assert (found[7] == 0).all()
    assert (found[3, 7:28] == 0).all(), "a missing hand is 0"
    assert (found[3, 28:] != 0).any()


def test_place_and_size_in_the_picture_do_not_matter(tmp_path):
    clip = signs(1)[0]
    store = write_store(tmp_path / "s", [clip, clip * 0.5 + 0.1], ["a", "a"])
    one, other = linear_features(store, [0, 1])
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_row_counts_every_clip_and_uses_training_clips_only(tmp_path):
    labels = [("x", "y", "z")[i % 3] for i in range(60)]
    store = write_store(tmp_path / "s", signs(60), labels)
    row = linear_baseline(store, range(30), range(30, 60))
    assert row["top1"] == 1.0
    assert row["clips"] == 30
    assert row["model"] == "linear"
    assert "7 pose and 42 hand points of holistic75 x 12 times, PCA 29" in row["signatures"]["top1"]
    wrong = [("x", "y", "z")[i % 3 if i < 30 else (i + 1) % 3] for i in range(60)]
    assert linear_baseline(write_store(tmp_path / "t", signs(60), wrong), range(30), range(30, 60))["top1"] == 0.0


def test_a_class_without_training_clips_is_never_right(tmp_path):
    labels = [("x", "y", "z")[i % 3] for i in range(30)]
    store = write_store(tmp_path / "s", signs(30), labels)
    row = linear_baseline(store, [i for i in range(15) if i % 3], range(15, 30))
    assert row["top1"] == pytest.approx(2 / 3)
    assert row["confusion"][:, 0].sum() == 0


def test_centred_clips_have_no_nose_and_the_signature_says_so():
    points = layout("pose_hands48")
    raw = torch.from_numpy(signs(30))[:, :, layout("holistic75").take(points)]
    clips = Clips(
        frames=raw.flatten(0, 1),
        start=torch.arange(30) * 20,
        length=torch.full((30,), 20),
        label=torch.arange(30) % 3,
        ids=np.array([f"c{i}" for i in range(30)]),
        group=np.full(30, ""),
        split=np.full(30, ""),
        digest=np.arange(30, dtype=np.uint64),
        classes=("x", "y", "z"),
        layout="pose_hands48",
    )
    row = linear_baseline(clips, range(15), range(15, 30))
    assert row["top1"] == 1.0
    assert row["points"] == "6 pose and 42 hand points of pose_hands48"
    assert "linear:6 pose" in row["signatures"]["top1"]


def test_what_cannot_be_fitted_is_named(tmp_path):
    clips = signs(6)
    clips[4, :, 11] = np.nan
    store = write_store(tmp_path / "s", clips, ["x", "y"] * 3)
    with pytest.raises(DataError, match="clip0004: no frame shows both shoulders"):
        linear_baseline(store, [0, 1, 2, 3], [4, 5])
    with pytest.raises(DataError, match="at least two classes, found 1"):
        linear_baseline(store, [0, 2], [1])
    with pytest.raises(DataError, match="no clip to score"):
        linear_baseline(store, [0, 1, 2, 3], [])


@pytest.mark.skipif(not REAL.exists(), reason=f"real data {REAL.name} is not on this machine")
def test_known_figures_on_real_data(tmp_path):
    data = np.load(REAL, allow_pickle=False)
    chosen = np.flatnonzero(data["split"] != "unused")
    clips = np.concatenate([data[part][chosen] for part in ("pose", "left_hand", "right_hand")], 2)
    store = write_store(tmp_path / "s", clips, data["class_names"][data["y"][chosen]])
    train, test = (np.flatnonzero(data["split"][chosen] == name) for name in ("train", "test"))
    assert linear_baseline(store, train, test)["top1"] == pytest.approx(0.990, abs=0.002)
    # mean and spread of five draws are known; these are other draws, so the mean may be off by a few standard errors
    for clips_per_class, mean, slack in ((5, 0.939, 0.03), (2, 0.626, 0.07)):
        draws = [draw_clips_per_class(train, store.labels, clips_per_class, seed) for seed in range(5)]
        found = [linear_baseline(store, draw, test)["top1"] for draw in draws]
        assert np.mean(found) == pytest.approx(mean, abs=slack)
