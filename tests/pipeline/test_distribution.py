"""Distribution metrics against known answers, and what `compare` says of clips that are real, copied or noise."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from dtaidistance import dtw_ndim
from scipy.linalg import sqrtm
from scipy.stats import norm
from small_clips import small_clips, small_task

from handcraft.checkpoint import load
from handcraft.cli import main
from handcraft.config import PreprocessConfig
from handcraft.data.clips import load_clips
from handcraft.data.preprocess import signature
from handcraft.data.store import StoreWriter
from handcraft.data.toy import make_toy
from handcraft.engine import train
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.layouts import layout
from handcraft.metrics import distribution, neighbours
from handcraft.metrics import motion_histograms as motion
from handcraft.metrics.alignment import dtw_mje
from handcraft.metrics.distribution import MEANING, compare, median_nearest
from handcraft.metrics.features import classifier_features, pose_features, pose_windows
from handcraft.metrics.frechet import frechet_distance
from handcraft.predict import classify
from handcraft.report import distribution as distribution_table


def test_frechet_of_two_gaussians_is_the_closed_form():
    generator = np.random.default_rng(0)
    mix, shift = generator.normal(size=(4, 4)), np.array([1.0, -2.0, 0.5, 0.0])
    x, y = generator.normal(size=(200_000, 4)), generator.normal(size=(200_000, 4)) @ mix + shift
    root = sqrtm(mix.T @ mix).real  # x has the identity as its covariance
    exact = shift @ shift + np.trace(np.eye(4) + mix.T @ mix - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("clips", [3, 20, 60])
def test_frechet_is_that_of_the_textbook_for_few_and_many_clips(clips):
    generator = np.random.default_rng(clips)
    x, y = generator.normal(size=(clips, 8)), 1 + 2 * generator.normal(size=(clips + 1, 8))
    covariance = [np.cov(z, rowvar=False) for z in (x, y)]
    root = sqrtm(covariance[0] @ covariance[1] + 1e-12 * np.eye(8)).real
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariance[0] + covariance[1] - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-3)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_refuses_shapes_that_do_not_fit():
    with pytest.raises(DataError, match=r"\(3, 2\) and \(3, 4\)"):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))


def test_kl_of_two_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 100, 2, generator=generator)
    other = 0.5 + 1.5 * torch.randn(400, 100, 2, generator=generator)
    inner = motion.edges(real)
    counts = [motion.histograms(values, inner).of(np.arange(400)) for values in (real, other)]
    edges = np.concatenate([[-np.inf], inner[0], [np.inf]])
    p, q = (np.diff(norm(*parameters).cdf(edges)) for parameters in ((0, 1), (0.5, 1.5)))
    exact = (p * np.log(p / q)).sum()
    assert motion.kl_divergence(*counts) == pytest.approx(exact, rel=0.03)
    assert motion.kl_divergence(counts[0], counts[0]) == 0
    assert motion.kl_divergence(counts[0], counts[0][:, :] * 0) is None


def test_histograms_count_every_value_once_and_no_missing_one():
    values = torch.tensor([[[0.5], [1.5], [float("nan")]], [[2.5], [9.0], [1.0]]])
    counts = motion.histograms(values, np.linspace(1, 9, motion.BINS - 1)[None]).counts
    assert counts.sum((1, 2)).tolist() == [2, 3]
    assert counts[0, 0, 0] == 1
    assert counts[1, 0, 0] == 1


def test_speed_acceleration_and_bones_of_a_known_motion():
    windows = torch.zeros(1, 4, 48, 2)
    windows[0, :, :, 0] = torch.tensor([0.0, 1.0, 3.0, 6.0])[:, None]
    windows[0, 0, 5] = torch.nan
    assert motion.speeds(windows)[0, :, 0].tolist() == [1, 2, 3]
    assert motion.accelerations(windows)[0, :, 0].tolist() == [1, 1]
    assert motion.speeds(windows)[0, :, 5].isnan().tolist() == [True, False, False]
    places = layout("pose_hands48")
    joined = motion.bones(places)
    assert len(joined) == len(set(joined))
    assert all(a < b for a, b in joined)
    assert (0, 1) in joined or (1, 2) in joined
    spread = torch.arange(48.0)[None, None, :, None].expand(1, 1, 48, 2) / 2**0.5
    assert torch.allclose(motion.bone_lengths(spread, places)[0, 0], torch.tensor([float(b - a) for a, b in joined]))


def test_dtw_aligns_a_slower_recording():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(12, 3, 2)).cumsum(0)
    assert dtw_mje(x, x.repeat(2, axis=0)) == (0.0, 1.0)
    shifted = x + np.array([0.3, 0.4])  # every point 0.5 away, if the path stays on the diagonal
    error, share = dtw_mje(x * 100, shifted * 100, threshold=60)
    path = dtw_ndim.warping_path((x * 100).reshape(12, -1), (shifted * 100).reshape(12, -1))
    rows, columns = np.array(path).T
    assert error == pytest.approx(np.linalg.norm(x[rows] * 100 - shifted[columns] * 100, axis=2).mean())
    assert 0 < share <= 1


def test_pck_is_the_share_of_points_nearer_than_the_threshold():
    x = np.zeros((6, 4, 2))
    y = x + np.array([[0.06, 0.08]] * 3 + [[0.3, 0.4]])  # three landmarks 0.1 away, one 0.5
    assert dtw_mje(x, y) == (pytest.approx(0.2), 0.75)
    assert dtw_mje(x, y, threshold=0.6)[1] == 1
    assert dtw_mje(x, y, threshold=0.05)[1] == 0


def test_dtw_leaves_out_what_is_missing():
    x = np.zeros((5, 2, 2))
    y = x + 1.0
    y[2:, 1] = np.nan
    assert dtw_mje(x, y) == (pytest.approx(2**0.5), 0.0)
    y[:] = np.nan
    assert dtw_mje(x, y) is None
    with pytest.raises(DataError, match="expected"):
        dtw_mje(x, x[:, :1])


def test_pose_distances_are_root_mean_squares_over_what_both_show():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, 5, 2, generator=generator), torch.randn(2, 4, 5, 2, generator=generator)
    x[0, :, 2] = torch.nan
    y[1, 1] = torch.nan
    found = neighbours.pose_distances(x, y)
    for i in range(3):
        for k in range(2):
            square = (x[i] - y[k]).double().square().sum(-1)
            assert found[i, k] == pytest.approx(square[~square.isnan()].mean().sqrt().item())
    x[0] = torch.nan
    assert np.isinf(neighbours.pose_distances(x, y)[0]).all()


def test_nearest_may_leave_out_the_clip_itself():
    distances = np.array([[0.0, 2.0], [2.0, 0.0]])
    assert neighbours.nearest(distances).tolist() == [0, 0]
    assert neighbours.nearest(distances, leave_out_self=True).tolist() == [2, 2]
    assert distances[0, 0] == 0


def test_diversity_and_multimodality_of_known_points():
    generator = np.random.default_rng(0)
    features, label = np.array([[0.0], [0.0], [3.0], [3.0]]), np.array([0, 0, 1, 1])
    assert neighbours.multimodality(features, label, generator) == 0
    assert neighbours.diversity(features, generator) == pytest.approx(2, abs=0.6)  # 2 of 3 partners are 3 away
    assert neighbours.multimodality(features, np.arange(4), generator) is None


def test_coverage_is_the_share_of_real_clips_reached():
    real = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)) + offset for offset in (0, 100)])
    assert neighbours.coverage(real, real[:50]) == 0.5
    assert neighbours.coverage(real, real + 0.001) == 1


def test_pose_features_have_as_many_columns_as_the_clips_allow():
    clips = small_clips()
    space = pose_features(clips)
    assert space.of(clips).shape == (len(clips), min(64, len(clips) - 1))
    assert pose_windows(clips).shape[:2] == (len(clips), 32)


@pytest.mark.parametrize("kind", ["transformer_sl", "mamba_sl"])
def test_features_of_a_classifier_are_what_its_head_sees(kind, tmp_path):
    clips = small_clips()
    checkpoint = load(train(small_task(kind, clips=clips), tmp_path / "run").best)
    space = classifier_features(checkpoint)
    found = space.of(clips)
    assert found.shape == (len(clips), checkpoint.config.width)
    assert checkpoint.sha256[:12] in space.name
    with torch.no_grad():
        logits = checkpoint.model.head(torch.from_numpy(found).float())
    assert torch.allclose(logits, classify(checkpoint, clips), atol=1e-4)
    assert len(np.unique(found, axis=0)) == len(clips)
    compared = compare(clips, clips, classifier=checkpoint, draws=2)
    assert compared["features"] == space.name
    assert compared["metrics"]["frechet"]["value"] < compare(clips, clips, draws=2)["metrics"]["frechet"]["value"]
    with pytest.raises(CheckpointError, match="preprocess"):
        space.of(dataclasses.replace(clips, preprocess=PreprocessConfig(coordinates="xy", fill=0)))
    with torch.no_grad():
        next(checkpoint.model.parameters()).fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        space.of(clips)


def test_compare_tells_real_clips_from_copies_and_noise(toy_halves):
    real, others = toy_halves
    same = compare(real, others, draws=4)["metrics"]
    assert set(same) == set(MEANING)
    for name, entry in same.items():  # real clips beside real clips are at the floor
        near = {"value": entry["value"], "floor": entry["floor"]}
        assert near["value"] == pytest.approx(near["floor"], rel=0.35, abs=0.02), (name, near)
    copies = compare(real, real, draws=4)["metrics"]
    assert copies["nearest_real"]["value"] < 1e-3 < copies["nearest_real"]["floor"]
    shaken = torch.randn(others.frames.shape, generator=torch.Generator().manual_seed(0))
    noisy = _with(others, 1.7 * others.frames + 0.3 * shaken)
    noise = compare(real, noisy, draws=4)["metrics"]
    for name in ("frechet", "kl_speed", "kl_acceleration", "kl_bone_length", "dtw_mje"):
        assert noise[name]["difference_interval"][0] > 0, name
        assert noise[name]["value"] > same[name]["value"], name
        low, high = same[name]["interval"]
        assert low <= same[name]["value"] <= high
    assert noise["pck"]["value"] < same["pck"]["value"]
    assert noise["nearest_real"]["value"] > same["nearest_real"]["value"]


def test_compare_is_a_function_of_its_seed(toy_halves):
    real, others = toy_halves
    assert compare(real, others, draws=2, seed=3) == compare(real, others, draws=2, seed=3)
    assert compare(real, others, draws=2, seed=3) != compare(real, others, draws=2, seed=4)


def test_compare_refuses_what_does_not_belong_together(toy_halves):
    real, others = toy_halves
    with pytest.raises(ConfigError, match="draws"):
        compare(real, others, draws=1)
    with pytest.raises(DataError, match="classes"):
        compare(real, dataclasses.replace(others, classes=("x",) * len(others.classes)))
    with pytest.raises(DataError, match="only"):
        compare(real.subset([0, 1, 2]), others)


def _with(clips, frames):
    return dataclasses.replace(clips, frames=frames)


@pytest.fixture(scope="module")
def toy_halves(tmp_path_factory):
    """Toy clips of five signs, two disjoint halves of them."""
    path = tmp_path_factory.mktemp("toy") / "store"
    make_toy(path, classes=5, clips=24, signers=4, seed=0)
    clips = load_clips(path, PreprocessConfig())
    order = np.random.default_rng(0).permutation(len(clips))
    return clips.subset(order[:72]), clips.subset(order[72:])


def test_the_table_has_a_row_a_figure_and_says_what_differs(toy_halves):
    real, others = toy_halves
    figures = compare(real, others, draws=2)
    figures["metrics"]["pck"] |= {"value": 0.25, "interval": [0.2, 0.3], "difference_interval": [-0.3, -0.1]}
    figures["metrics"]["kl_speed"] |= dict.fromkeys(("value", "interval", "difference_interval"))
    found = {row[0]: row for row in distribution_table.rows(figures)}
    assert list(found) == list(MEANING)
    assert found["pck"][1::2] == ("0.25 (0.2 to 0.3)", "lower")
    assert found["kl_speed"][1::2] == ("-", "-")
    assert distribution_table.table(figures).row_count == len(MEANING)
    assert len(distribution_table.legend(figures)) == len(MEANING) + 1


def test_the_command_compares_a_synthetic_store_with_a_real_one(tmp_path, capsys):
    make_toy(tmp_path / "real", classes=3, clips=16, signers=2, seed=0)
    export = load_clips(tmp_path / "real", PreprocessConfig())
    centred_store(export, tmp_path / "synthetic")
    command = ["evaluate", "--real", str(tmp_path / "real"), "--synthetic", str(tmp_path / "synthetic")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--draws", "2", "--json", str(tmp_path / "figures.json")])
    assert "frechet" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["metrics"]["nearest_real"]["value"] < 0.01  # the same clips
    for arguments, reason in (
        (command[:3], "--real and --synthetic"),
        ([*command[:3], "--synthetic", str(tmp_path / "real")], "both stores are raw"),
        ([*command, "--split", "valid"], "no clip is marked 'valid'"),
        ([*command, "--seed", "-1"], "seed is -1"),
        ([*command, "--draws", "1"], "draws is 1"),
        ([*command[:2], str(tmp_path / "nowhere"), *command[3:]], "nowhere"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert reason in capsys.readouterr().err


def centred_store(clips, path):
    """`clips` as a store of stage `centred`."""
    with StoreWriter(
        path,
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates=clips.preprocess.coordinates,
        preprocessing=signature(clips.preprocess),
    ) as writer:
        for i in range(len(clips)):
            writer.add(clips.clip(i).numpy(), id=str(clips.ids[i]), label=clips.classes[int(clips.label[i])])


def test_copies_of_training_clips_are_nearer_to_them_than_other_clips(toy_halves, monkeypatch):
    train, others = toy_halves
    monkeypatch.setattr(distribution, "_AT_ONCE", 7)
    far = median_nearest(others, train)
    windows, there = (pose_windows(clips) for clips in (others, train))
    gap = (windows[:, None] - there[None]).double().square().sum(-1)  # (N,M,T,J), NaN where one is missing
    exact = gap.nanmean((2, 3)).sqrt().min(1).values
    assert far == pytest.approx(float(np.median(exact.numpy())), rel=1e-4)
    assert median_nearest(train, train) < 1e-3 < far
    moved = _with(train, train.frames + torch.tensor([0.03, 0.04] + [0.0] * (train.frames.shape[2] - 2)))
    assert median_nearest(moved, train) == pytest.approx(0.05, rel=1e-3)
    monkeypatch.setattr(distribution, "LIMIT", 10)
    assert median_nearest(moved, train) == pytest.approx(0.05, rel=1e-3)


def test_signs_without_synthetic_clips_are_said_to_be_left_out(toy_halves):
    real, others = toy_halves
    fewer = compare(real, others.subset((others.label < 3).nonzero()[:, 0].numpy()), draws=2)
    assert fewer["classes"] == {"real": 5, "drawn": 3}
    assert "of 3 of 5 signs" in str(distribution_table.table(fewer).title)
    assert "signs" not in str(distribution_table.table(compare(real, others, draws=2)).title)
    with pytest.raises(ConfigError, match="seed is -1"):
        compare(real, others, seed=-1)
