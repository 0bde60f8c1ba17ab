"""Prediction from a checkpoint and a store alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
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
from handcraft.predict import classify, load_for, predict

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
        clip = replace(data.subset([i]), frames=torch.from_numpy(landmarks), start=torch.tensor([0]), present=None)
        logits.append(classify(loaded, clip))
    expected = torch.cat(logits).softmax(1).max(1)
    for row, p, k in zip(rows, expected.values.tolist(), expected.indices.tolist(), strict=True):
        assert row["top"][0] == {"class": data.classes[k], "probability": pytest.approx(p, abs=1e-5)}
    # the statistics are the checkpoint's: with others the model says something else
    other = Statistics(loaded.statistics.mean + 1, loaded.statistics.std)
    changed = predict(replace(loaded, statistics=other), store)
    assert changed[0]["top"][0]["probability"] != pytest.approx(rows[0]["top"][0]["probability"], abs=1e-3)


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
