"""From a store to clips in memory: preprocessing happens exactly once, and whatever cannot be used is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_clips import tiny_clips

from handcraft.config import PreprocessConfig
from handcraft.data import clips as clips_module
from handcraft.data.clips import load_clips
from handcraft.data.preprocess import preprocess, signature
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.files import read_json, verified, with_checksum, write_json
from handcraft.layouts import layout

CONFIG = PreprocessConfig()
LENGTHS = (20, 9, 33, 1, 12)


def raw_clip(frames, seed):
    rng = np.random.default_rng(seed)
    clip = rng.uniform(0.2, 0.8, (75, 3)) + 0.02 * rng.normal(size=(frames, 75, 3)).cumsum(0)
    clip[:, 11, 0], clip[:, 12, 0] = 0.7, 0.3
    clip[rng.uniform(size=frames) < 0.2, 33:54] = np.nan
    return clip.astype(np.float32)


def raw_store(path, landmarks, **options):
    options = {"layout": "holistic75", "stage": "raw", "classes": ["b", "a"], "aspect": 1.5, "part_clips": 2} | options
    with StoreWriter(path, **options) as writer:
        for i, clip in enumerate(landmarks):
            split = "test" if i == 2 else "train"
            writer.add(clip, id=f"clip{i}", label="ab"[i % 2], group=f"signer{i}", split=split)
    return path


def centred_store(path, landmarks, dtype=np.float16, **options):
    options = {"layout": "pose_hands48", "stage": "centred", "preprocessing": signature(CONFIG)} | options
    return raw_store(path, landmarks, dtype=dtype, aspect=None, **options)


@pytest.fixture
def landmarks():
    return [raw_clip(frames, seed) for seed, frames in enumerate(LENGTHS)]


def test_a_raw_store_is_preprocessed(tmp_path, landmarks):
    store = Store(raw_store(tmp_path / "raw", landmarks))
    clips = load_clips(store, CONFIG)
    assert len(clips) == 5
    assert clips.frames.dtype == torch.float32
    assert clips.length.tolist() == list(LENGTHS)
    for i, clip in enumerate(landmarks):
        expected = preprocess(clip, layout("holistic75"), CONFIG, aspect=1.5)
        np.testing.assert_array_equal(clips.clip(i).numpy(), expected)
    assert clips.classes == ("a", "b")
    assert clips.label.tolist() == [0, 1, 0, 1, 0]
    assert clips.ids.tolist() == [f"clip{i}" for i in range(5)]
    assert clips.group.tolist() == [f"signer{i}" for i in range(5)]
    assert clips.digest.dtype == np.uint64
    np.testing.assert_array_equal(clips.digest, store.digests)
    assert (clips.layout, clips.preprocess) == ("pose_hands48", CONFIG)
    by_path = load_clips(str(store.path), CONFIG)
    np.testing.assert_array_equal(by_path.frames.numpy(), clips.frames.numpy())


def test_a_centred_store_is_never_preprocessed_again(tmp_path, monkeypatch):
    """Noise that smoothing would flatten and a body that centring would move come back as they were stored."""
    rng = np.random.default_rng(0)
    stored = [rng.normal(3, 2, (frames, 48, 3)).astype(np.float16) for frames in LENGTHS]
    stored[2][4, 27:] = np.nan  # a gap that filling would close

    def again(*_):
        raise AssertionError("a centred clip went through preprocessing")

    monkeypatch.setattr(clips_module, "preprocess_clip", again)
    clips = load_clips(centred_store(tmp_path / "centred", stored), CONFIG)
    assert clips.frames.dtype == torch.float32
    for i, clip in enumerate(stored):
        np.testing.assert_array_equal(clips.clip(i).numpy(), clip.astype(np.float32))


def test_preprocessing_twice_would_show(tmp_path, landmarks):
    """The old behaviour, processing what was processed before, gives other numbers: so the test above can fail."""
    once = [preprocess(clip, layout("holistic75"), CONFIG) for clip in landmarks]
    twice = preprocess(landmarks[0], layout("holistic75"), replace(CONFIG, layout="holistic75"))
    twice = preprocess(twice, layout("holistic75"), CONFIG)
    assert np.nanmax(np.abs(twice - once[0])) > 1e-3
    clips = load_clips(centred_store(tmp_path / "centred", once, dtype=np.float32), CONFIG)
    np.testing.assert_array_equal(clips.clip(0).numpy(), once[0])


@pytest.mark.parametrize("change", [{"smooth_window": 5}, {"centre": "paper"}, {"fill": 0}, {"coordinates": "xy"}])
def test_a_store_of_another_preprocessing_is_refused(tmp_path, change):
    path = centred_store(tmp_path / "centred", [np.zeros((4, 48, 3), np.float16)])
    with pytest.raises(DataError, match="another signature") as caught:
        load_clips(path, replace(CONFIG, **change))
    assert signature(CONFIG) in str(caught.value)
    assert signature(replace(CONFIG, **change)) in str(caught.value)


def test_a_manifest_that_contradicts_its_signature_is_refused(tmp_path):
    path = centred_store(tmp_path / "centred", [np.zeros((4, 48, 3), np.float16)])
    manifest = path / "manifest.json"
    other = {"preprocessing": signature(replace(CONFIG, layout="handcraft60"))}
    write_json(manifest, with_checksum(verified(read_json(manifest), manifest) | other))
    with pytest.raises(DataError, match="its manifest is wrong"):
        load_clips(path, replace(CONFIG, layout="handcraft60"))


def test_unusable_clips_are_all_named(tmp_path, landmarks):
    landmarks[1][:, 11] = np.nan
    landmarks[4][:, :33] = np.nan
    with pytest.raises(DataError, match=r"2 of 5 clips cannot be used: clip1: .*both shoulders.*clip4: .*both"):
        load_clips(raw_store(tmp_path / "raw", landmarks), CONFIG)
    many = [clip.copy() for clip in landmarks[4:] * 8]
    with pytest.raises(DataError, match=r"8 of 8 .*clip4.*; and 3 more"):
        load_clips(raw_store(tmp_path / "many", many), CONFIG)


def test_xy_stores(tmp_path, landmarks):
    path = raw_store(tmp_path / "xy", [clip[..., :2] for clip in landmarks], coordinates="xy")
    with pytest.raises(DataError, match=r"x and y only; set preprocess\.coordinates to 'xy'"):
        load_clips(path, CONFIG)
    flat = load_clips(path, replace(CONFIG, coordinates="xy"))
    full = load_clips(raw_store(tmp_path / "xyz", landmarks), CONFIG)
    np.testing.assert_allclose(flat.frames.numpy(), full.frames[..., :2].numpy(), atol=1e-6)


def test_half_missing_landmarks_of_a_centred_store_are_missing(tmp_path):
    clip = np.ones((4, 48, 3), np.float16)
    clip[2, 5, 1] = np.nan
    clips = load_clips(centred_store(tmp_path / "half", [clip]), CONFIG)
    assert clips.frames[2, 5].isnan().all()
    assert int(clips.frames.isnan().sum()) == 3


def test_infinite_coordinates_name_the_clip(tmp_path):
    path = centred_store(tmp_path / "centred", [np.ones((frames, 48, 3), np.float16) for frames in LENGTHS])
    frames = np.load(path / "part-00001" / "landmarks.npy", mmap_mode="r+")  # clips 2 and 3, 33 and 1 frames
    frames[33, 7, 0] = -np.inf
    frames.flush()
    with pytest.raises(DataError, match="clip clip3 holds infinite"):
        load_clips(path, CONFIG)


def test_subsets_share_the_frames():
    clips = tiny_clips([5, 9, 3, 12, 7])
    part = clips.subset([4, 1])
    assert part.frames.data_ptr() == clips.frames.data_ptr()
    assert part.ids.tolist() == ["c4", "c1"]
    assert part.length.tolist() == [7, 9]
    assert torch.equal(part.clip(0).nan_to_num(), clips.clip(4).nan_to_num())
    assert part.rows().tolist() == [*range(29, 36), *range(5, 14)]
    mask = np.array([False, True, False, True, False])
    for index in (mask, torch.from_numpy(mask), np.array([1, 3]), torch.tensor([1, 3])):
        assert clips.subset(index).ids.tolist() == ["c1", "c3"]
    assert part.subset([1]).ids.tolist() == ["c1"]
    assert len(clips.subset([])) == 0
    assert clips.subset([]).rows().tolist() == []
    with pytest.raises(DataError, match="mask has shape"):
        clips.subset(mask[:3])


def test_splits():
    clips = tiny_clips([5, 9, 3, 12, 7])
    assert clips.train().ids.tolist() == ["c1", "c2", "c4"]
    assert clips.test().ids.tolist() == ["c0", "c3"]
    with pytest.raises(DataError, match=r"no clip is marked 'test' .*'train'"):
        clips.train().test()


def test_by_class():
    clips = tiny_clips([1] * 7, labels=[2, 0, 2, 2, 0, 2, 0], classes=4)
    order, first, count = clips.by_class
    assert order.tolist() == [1, 4, 6, 0, 2, 3, 5]
    assert first.tolist() == [0, 3, 3, 7]
    assert count.tolist() == [3, 0, 4, 0]
    assert clips.subset([0, 1]).by_class[2].tolist() == [1, 0, 1, 0]


def test_to_a_device():
    clips = tiny_clips([5, 9])
    assert torch.equal(clips.to("cpu").length, clips.length)
    assert clips.to("meta").frames.device.type == clips.to("meta").start.device.type == "meta"
