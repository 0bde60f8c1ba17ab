"""Prediction from a checkpoint and clips alone: a store's, a file's, an array, or windows of any."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import person
from scripted_detector import script, write_video
from small_clips import small_clips
from twins import classifier, twin

from handcraft.checkpoint import load, save
from handcraft.config import PreprocessConfig
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import load_clips
from handcraft.data.preprocess import preprocess, signature
from handcraft.data.statistics import Statistics
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.layouts import layout
from handcraft.models import build
from handcraft.predict import classify, load_for, predict, recognise
from handcraft.recording import as_recording
from handcraft.timeline import merge

RAW = PreprocessConfig(coordinates="xyz", fill=2, smooth_window=5)


def raw_store(path, clips=6, unusable=None, **options):
    """Random clips of holistic75 with two shoulders; clip `unusable` shows none."""
    random = np.random.default_rng(0)
    with StoreWriter(path, layout="holistic75", stage="raw", classes=["no", "yes"], **options) as writer:
        for i in range(clips):
            clip = random.uniform(0.2, 0.8, (18 + i, 75, 3)).astype(np.float32)
            clip[:, 11, 0], clip[:, 12, 0] = 0.9, 0.1
            if i == unusable:
                clip[:, 11:13] = np.nan
            writer.add(clip, id=f"clip{i}", label="yes")
    return Store(path)


def centred_store(path, clips):
    """`clips` as a centred store."""
    with StoreWriter(
        path,
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates=clips.preprocess.coordinates,
        preprocessing=signature(clips.preprocess),
    ) as writer:
        for i in range(len(clips)):
            writer.add(clips.clip(i).numpy(), id=str(clips.ids[i]), label=int(clips.label[i]))
    return Store(path)


def test_centred_store_gives_the_models_own_probabilities_in_order(tmp_path):
    clips = small_clips()
    checkpoint = classifier(clips)
    rows = predict(checkpoint, centred_store(tmp_path / "s", clips), top=2, batch=5)
    whole = next(evaluation_batches(clips, checkpoint.window, checkpoint.statistics, 100))
    with torch.no_grad():
        expected = checkpoint.model(whole.x, whole.valid.sum(1)).softmax(1)
    assert [row["id"] for row in rows] == clips.ids.tolist()
    for row, p, label in zip(rows, expected, clips.label, strict=True):
        assert row["label"] == f"sign{label}"
        best, second = p.argsort(descending=True)[:2].tolist()
        assert [entry["class"] for entry in row["top"]] == [f"sign{best}", f"sign{second}"]
        assert [entry["probability"] for entry in row["top"]] == pytest.approx(
            [p[best].item(), p[second].item()], abs=1e-5
        )
    assert len({row["top"][0]["class"] for row in rows}) > 1
    everything = predict(checkpoint, tmp_path / "s", top=99)
    assert all(sum(entry["probability"] for entry in row["top"]) == pytest.approx(1) for row in everything)
    assert len(everything[0]["top"]) == 3, "capped at the number of classes"


def test_raw_store_is_preprocessed_as_the_checkpoint_says_and_no_other_way(tmp_path):
    store = raw_store(tmp_path / "s")
    data = load_clips(store, RAW)
    checkpoint = save(tmp_path / "run", classifier(data))
    rows = predict(checkpoint, store)
    loaded = load(checkpoint)
    logits = []
    for i in range(len(store)):
        landmarks = preprocess(store.landmarks(i), layout("holistic75"), RAW)
        clip = replace(data.subset([i]), frames=torch.from_numpy(landmarks), start=torch.tensor([0]))
        logits.append(classify(loaded, clip))
    expected = torch.cat(logits).softmax(1).max(1)
    for row, p, k in zip(rows, expected.values.tolist(), expected.indices.tolist(), strict=True):
        assert row["top"][0] == {"class": data.classes[k], "probability": pytest.approx(p, abs=1e-5)}
    # the statistics are the checkpoint's: with others the model says something else
    other = Statistics(loaded.statistics.mean + 1, loaded.statistics.std)
    changed = predict(replace(loaded, statistics=other), store)
    assert changed[0]["top"][0]["probability"] != pytest.approx(rows[0]["top"][0]["probability"], abs=1e-3)


def test_interpolation_and_velocities_are_the_checkpoints(tmp_path):
    """What shapes the input comes from the checkpoint, wherever the clip comes from."""
    store = raw_store(tmp_path / "s")
    clip = store.landmarks(3).copy()
    hand = layout("holistic75").slices["left_hand"]
    clip[:7, hand] = np.nan
    data = load_clips(store, replace(RAW, missing="interpolate"))
    checkpoint = classifier(data)
    config = replace(checkpoint.config, velocity=2.0)
    torch.manual_seed(0)
    model = build(config).eval()
    torch.nn.init.normal_(model.head.out.weight)
    run = save(tmp_path / "run", replace(checkpoint, model=model, config=config))
    loaded = load(run)
    assert loaded.preprocess.missing == "interpolate"
    assert loaded.config.velocity == 2.0
    whole = preprocess(clip, layout("holistic75"), RAW)
    seen = np.isnan(whole).any(axis=(0, 2))
    whole[:7, seen] = whole[7, seen]  # the hand waits where it is first seen, after smoothing
    frames = torch.from_numpy(whole)
    one = replace(data.subset([3]), frames=frames, start=torch.tensor([0]))
    expected = classify(loaded, one).softmax(1).max(1)
    (row,) = predict(run, clip)
    assert row["top"][0]["probability"] == pytest.approx(expected.values.item(), abs=1e-5)
    plain = replace(loaded, preprocess=RAW)
    assert predict(plain, clip)[0]["top"][0]["probability"] != pytest.approx(expected.values.item(), abs=1e-4)


def test_chosen_ids_come_in_the_order_asked_for_and_alone(tmp_path):
    store = raw_store(tmp_path / "s", unusable=2)
    checkpoint = classifier(load_clips(raw_store(tmp_path / "good"), RAW))
    rows = predict(checkpoint, store, ids=["clip4", "clip0", "clip4"])
    assert [row["id"] for row in rows] == ["clip4", "clip0", "clip4"]
    assert rows[0] == rows[2]
    assert rows[0]["top"] != rows[1]["top"]
    assert predict(checkpoint, store, ids=[]) == []
    with pytest.raises(DataError, match="clip2: no frame shows both shoulders"):
        predict(checkpoint, store, ids=["clip0", "clip2"])


def test_what_cannot_be_predicted_is_named(tmp_path):
    clips = small_clips()
    checkpoint = classifier(clips)
    store = centred_store(tmp_path / "s", clips)
    with pytest.raises(DataError, match=r"no clip 'nobody'.*1 of 2 ids.*24 clips: clip000, clip001"):
        predict(checkpoint, store, ids=["clip003", "nobody"])
    with pytest.raises(ConfigError, match="top is 0"):
        predict(checkpoint, store, top=0)
    with pytest.raises(CheckpointError, match="is a generator"):
        predict(twin(clips, reverse=False), store)
    with pytest.raises(DataError, match="another signature"):
        predict(replace(checkpoint, preprocess=PreprocessConfig(coordinates="xy", smooth_order=1)), store)
    with pytest.raises(CheckpointError, match="does not say how its clips were preprocessed"):
        predict(replace(checkpoint, preprocess=None), store)
    with torch.no_grad():
        next(checkpoint.model.parameters()).fill_(torch.nan)
    with pytest.raises(CheckpointError, match=r"not finite for 24 of 24 clips.*clip000"):
        predict(checkpoint, store)


def test_damaged_frames_are_never_recognised(tmp_path):
    """What a prediction reads is compared with its checksum; the parts that it does not read do not matter."""
    store = raw_store(tmp_path / "s", part_clips=3)
    checkpoint = replace(classifier(small_clips()), preprocess=RAW, layout=RAW.layout)
    checkpoint = replace(checkpoint, path=tmp_path / "model")
    file = tmp_path / "s" / "part-00001" / "landmarks.npy"
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    assert len(load_for(checkpoint, store, store.find(["clip0", "clip2"]))) == 2
    for places in (store.find(["clip0", "clip3"]), None):
        with pytest.raises(DataError, match=r"part-00001/landmarks\.npy: its SHA-256"):
            load_for(checkpoint, store, places)
    with pytest.raises(DataError, match="SHA-256"):
        predict(checkpoint, store)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A raw store and a model of its clips, which are as wide as high."""
    store = raw_store(tmp_path_factory.mktemp("trained") / "s", fps=25.0)
    return store, classifier(load_clips(store, RAW))


def test_an_array_is_recognised_as_the_clip_of_a_store_is(trained):
    store, checkpoint = trained
    for place, row in enumerate(predict(checkpoint, store)):
        (found,) = predict(checkpoint, np.array(store.landmarks(place)))
        assert (found["id"], found["label"], found["notes"]) == ("array", None, [])
        assert found["seen"] == {"pose": 1, "right_hand": 1, "left_hand": 1}
        assert [entry["class"] for entry in found["top"]] == [entry["class"] for entry in row["top"]]
        assert found["top"][0]["probability"] == pytest.approx(row["top"][0]["probability"], abs=1e-5)
    wide = predict(checkpoint, np.array(store.landmarks(0)), aspect=1.8)[0]
    assert wide["top"][0]["probability"] != pytest.approx(
        predict(checkpoint, store)[0]["top"][0]["probability"], abs=1e-4
    )


def test_a_video_is_recognised_as_the_clip_that_is_detected_in_it(trained, tmp_path, monkeypatch):
    store, checkpoint = trained
    clips = {60 * (place + 1): (store.landmarks(place), "holistic75") for place in range(3)}
    script(monkeypatch, clips)
    for grey, (clip, _) in clips.items():
        write_video(tmp_path / "yes" / f"{grey}.mp4", len(clip), grey, size=(64, 64))
    rows = predict(checkpoint, tmp_path, top=2)
    assert [(row["id"], row["label"]) for row in rows] == [
        (str(tmp_path / "yes" / f"{grey}.mp4"), "yes") for grey in clips
    ]
    for row, expected in zip(rows, predict(checkpoint, store, top=2), strict=False):
        assert [entry["class"] for entry in row["top"]] == [entry["class"] for entry in expected["top"]]
        assert row["top"][0]["probability"] == pytest.approx(expected["top"][0]["probability"], abs=1e-5)


def test_a_window_is_recognised_as_a_clip_of_its_own(trained):
    _, checkpoint = trained
    recording = np.concatenate([person(20, seed=seed) for seed in range(3)])
    recording[40:, [11, 12]] = np.nan  # without shoulders
    (row,) = predict(checkpoint, recording, fps=10, window=1.0, top=1)
    assert [(entry["start"], entry["end"]) for entry in row["windows"]] == [(i / 2, i / 2 + 1) for i in range(11)]
    for entry in row["windows"][:7]:
        alone = predict(checkpoint, recording[round(10 * entry["start"]) : round(10 * entry["end"])], top=1)[0]
        assert entry["top"][0]["class"] == alone["top"][0]["class"]
        assert entry["top"][0]["probability"] == pytest.approx(alone["top"][0]["probability"], abs=1e-5)
    assert [entry["top"] for entry in row["windows"][8:]] == [[], [], []]
    assert row["windows"][8]["reason"] == "no frame shows both shoulders"
    assert row["timeline"] == merge(row["windows"])
    assert "top" not in row
    uneven = replace(as_recording(recording, fps=10), varies=True)
    assert recognise(checkpoint, uneven, window=1.0)["notes"][0].startswith("its frame rate varies, and times are by")
    several = predict(checkpoint, recording, fps=10, window=1.0, top=1, batch=3)
    assert [entry["end"] for entry in several[0]["windows"]] == [entry["end"] for entry in row["windows"]]


def test_clips_of_a_store_are_cut_by_its_frame_rate(trained, tmp_path):
    store, checkpoint = trained
    rows = predict(checkpoint, store, ["clip3", "clip1"], window=0.4, step=0.4, top=1)
    assert [(row["id"], row["label"]) for row in rows] == [("clip3", "yes"), ("clip1", "yes")]
    assert [(entry["start"], entry["end"]) for entry in rows[0]["windows"]] == [(0, 0.4), (0.4, 0.8), (0.44, 0.84)]
    silent = raw_store(tmp_path / "silent")
    with pytest.raises(ConfigError, match="clip0: its frame rate is unknown"):
        predict(checkpoint, silent, window=0.4)
    assert (
        predict(checkpoint, silent, window=0.4, fps=25)[0]["windows"]
        == (predict(checkpoint, store, ["clip0"], window=0.4)[0]["windows"])
    )
    with pytest.raises(DataError, match="holds preprocessed clips"):
        predict(checkpoint, centred_store(tmp_path / "centred", small_clips()), window=0.4)


def test_clips_of_several_rates_are_cut_by_their_own(trained, tmp_path):
    with StoreWriter(tmp_path / "s", layout="holistic75", stage="raw", classes=["no"]) as writer:
        for rate in (10.0, 20.0, None, 10**400):
            writer.add(person(20), id=str(rate)[:9], label="no", provenance={"fps": rate})
    rows = predict(trained[1], tmp_path / "s", ["10.0", "20.0"], window=1.0, step=1.0)
    assert [len(row["windows"]) for row in rows] == [2, 1]
    for id in ("None", "100000000"):
        with pytest.raises(ConfigError, match=f"{id}: its frame rate is unknown"):
            predict(trained[1], tmp_path / "s", [id], window=1.0)


@pytest.mark.parametrize(
    ("clip", "options", "message"),
    [
        (np.full((5, 75, 3), np.nan), {}, "array: nobody was detected in any of its 5 frames"),
        (np.zeros((0, 75, 3)), {}, "array: has no frames"),
        (np.full((5, 75, 3), np.inf), {}, "infinite"),
        (np.zeros((5, 75, 2)), {}, "array: has x and y only, and the model was trained with z"),
        (np.zeros((5, 75, 4)), {}, "expected .frames, 75, 2 or 3"),
        (np.zeros((5, 74, 3)), {"layout": "holistic75"}, "expected .frames, 75, 2 or 3"),
        (np.zeros((5, 75, 3)), {}, "array: the shoulders are"),
    ],
)
def test_recordings_that_cannot_be_used_are_named(trained, clip, options, message):
    with pytest.raises(DataError, match=message):
        predict(trained[1], clip, **options)


def test_a_model_of_the_face_refuses_landmarks_without_one():
    small = small_clips()
    checkpoint = replace(classifier(small), layout="handcraft60", preprocess=replace(RAW, layout="handcraft60"))
    with pytest.raises(
        DataError, match=r"array: its landmarks are holistic75, .*; the model needs handcraft60 .* face:"
    ):
        predict(checkpoint, person(5))


def test_choices_that_exclude_each_other_are_named(trained, tmp_path):
    store, checkpoint = trained
    with pytest.raises(ConfigError, match="step is 1"):
        predict(checkpoint, store, step=1)
    (tmp_path / "a.pose").touch()
    with pytest.raises(ConfigError, match="ids choose the clips of a store"):
        predict(checkpoint, tmp_path / "a.pose", ["x"])
    with pytest.raises(CheckpointError, match="is a generator"):
        predict(twin(small_clips(), reverse=False), person(5))
