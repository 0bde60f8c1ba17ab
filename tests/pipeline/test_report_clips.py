"""The clips that a report plays: the first of evenly spaced classes, each beside the clip it was generated from."""

import json

import numpy as np
import pytest
import torch
from fake_run import write_synthetic
from small_clips import small_clips

from handcraft.config import WindowConfig
from handcraft.data.store import Store
from handcraft.report.clips import clip_pairs


def pairs(folder, clips, mode="resample", fps=None, **options):
    window = WindowConfig(mode=mode)
    write_synthetic(folder / "synthetic", clips, window)
    return clip_pairs(Store(folder / "synthetic"), clips, window, fps, **options)


def test_a_synthetic_clip_lies_beside_its_source(tmp_path):
    found = pairs(tmp_path, small_clips(classes=3, per_class=2))
    # The store lists the clips backwards, so the first of a class comes from the class's last clip.
    assert [(pair.label, pair.real["note"], pair.synthetic["note"]) for pair in found] == [
        ("sign0", "clip001", "s0-000000004"),
        ("sign1", "clip003", "s0-000000002"),
        ("sign2", "clip005", "s0-000000000"),
    ]
    for pair in found:
        assert (pair.real["title"], pair.synthetic["title"]) == ("real", "synthetic")
        assert len(pair.real["frames"]) == len(pair.synthetic["frames"]) == 32
        real, made = (np.array(payload["frames"][0][0]) for payload in (pair.real, pair.synthetic))
        assert np.abs(real - made).max() <= 2, "the same body but for a hundredth of its width and rounding"
        json.dumps([pair.real, pair.synthetic], allow_nan=False)


def test_classes_are_evenly_spaced(tmp_path):
    found = pairs(tmp_path, small_clips(classes=9, per_class=1), wanted=3)
    assert [pair.label for pair in found] == ["sign0", "sign4", "sign8"]


@pytest.mark.parametrize("mode", ["wrap", "zero"])
def test_windows_that_pad_show_the_frames_of_the_clip(tmp_path, mode):
    clips = small_clips(classes=2, per_class=1, lengths=(12, 13))
    for pair in pairs(tmp_path, clips, mode, fps=25.0):
        assert len(pair.real["frames"]) == {"wrap": 32, "zero": 12}[mode]
        assert pair.real["fps"] == pair.synthetic["fps"] == 25.0


def test_a_resampled_clip_plays_as_long_as_it_took(tmp_path):
    clips = small_clips(classes=1, per_class=1, lengths=(16, 17))
    (pair,) = pairs(tmp_path, clips, fps=20.0)
    assert pair.real["fps"] == pair.synthetic["fps"] == 40.0, "32 frames of 16"


def test_a_clip_without_anything_to_draw_is_left_out(tmp_path):
    clips = small_clips(classes=2, per_class=1, missing=False)
    clips.frames[: int(clips.length[0])] = torch.nan
    object.__setattr__(clips, "present", ~clips.frames[..., 0].isnan())
    assert [pair.label for pair in pairs(tmp_path, clips)] == ["sign1"]
