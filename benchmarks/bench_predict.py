"""Latency of one clip on the CPU, from its video to its sign: the detector, preprocessing and the model apart.

The landmarks are those of a toy signer, among 553 points as MediaPipe gives them; the detector is measured on a real
video where there is one and where MediaPipe is installed (`make extract-env`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_pipeline import task_of
from providers import Case

from handcraft.config import PreprocessConfig
from handcraft.data.clips import Clips
from handcraft.data.preprocess import preprocess
from handcraft.data.toy import ASPECT, FPS, toy_clips
from handcraft.errors import ConfigError
from handcraft.extract.landmarker import Settings, detector_of
from handcraft.extract.worker import ClipSource, extract_clip
from handcraft.layouts import layout
from handcraft.predict import classify, recognise
from handcraft.recording import Recording

VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
CLASSES = 16
RAW = layout("holistic553")


def recording(frames: int) -> Recording:
    """A toy clip, stretched to `frames` frames; the face is at its 12 points only."""
    clip = next(toy_clips(1, 1, 1))[0]
    seen = np.full((frames, RAW.landmarks, 3), np.nan, dtype=np.float32)
    seen[:, RAW.take(layout("holistic87"))] = clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)]
    return Recording(seen, RAW.name, "toy", fps=FPS, aspect=ASPECT)


def clips_of(frames: np.ndarray, config: PreprocessConfig) -> Clips:
    """A preprocessed clip (T,J,C), once for each class."""
    one, texts = torch.ones(CLASSES, dtype=torch.int64), np.full(CLASSES, "")
    return Clips(
        frames=torch.from_numpy(frames),
        start=0 * one,
        length=len(frames) * one,
        label=torch.arange(CLASSES),
        ids=texts,
        group=texts,
        split=texts,
        digest=np.arange(CLASSES, dtype=np.uint64),
        classes=tuple(f"sign{i:02d}" for i in range(CLASSES)),
        layout=config.layout,
        preprocess=config,
    )


def setup_recognise(case: Case) -> Callable[[], object]:
    """From raw landmarks to classes: the whole, preprocessing alone, or window and model alone."""
    raw, config = recording(case.shape.frames), PreprocessConfig()
    prepared = preprocess(raw.landmarks, RAW, config, raw.aspect)
    clips = clips_of(prepared, config)
    checkpoint = replace(task_of(case.shape.model, clips, 1).checkpoint(), preprocess=config)
    one = clips.subset([0])
    assert recognise(checkpoint, raw)["top"][0]["class"] == clips.classes[int(classify(checkpoint, one).argmax())]
    return {
        "predict": lambda: recognise(checkpoint, raw),
        "preprocess": lambda: preprocess(raw.landmarks, RAW, config, raw.aspect),
        "model": lambda: classify(checkpoint, one),
    }[case.provider]


@pytest.mark.cases("recognise forward")
def bench_recognise(case, measure):
    measure(setup_recognise(case))


@pytest.mark.cases("extract forward")
def bench_extract(case, measure):
    source = ClipSource(VIDEOS / case.shape.name, id="video", label="")
    if not source.path.exists():
        pytest.skip(f"no {source.path.name} in ../shared/data/videos")
    try:
        detector_of(Settings()).describe(Settings())
    except ConfigError as error:
        pytest.skip(str(error))
    measure(lambda: extract_clip(source, Settings()))
