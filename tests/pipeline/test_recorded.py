"""How clips were recorded: from a store's manifest into a checkpoint, and nothing else that may stand there."""

import math

import pytest
from drawn import write_recorded

from handcraft.config import PreprocessConfig
from handcraft.data.clips import load_clips
from handcraft.data.manifest import Manifest
from handcraft.data.recorded import Recorded, detectors
from handcraft.errors import DataError

FOUND = {"backend": "holistic", "mediapipe": "0.10.21", "model_sha256": "ab" * 32, "detection": 0.5, "tracking": 0.5}


def manifest(source, **options):
    return Manifest(stage="raw", layout="holistic75", classes=("a",), source=source, **options)


def test_what_a_store_says(tmp_path):
    told = Recorded.of(manifest({"extraction": FOUND | {"more": [1]}}, fps=30.0, aspect=1.5))
    assert told == Recorded(30.0, 1.5, (FOUND,))
    assert Recorded.from_dict(told.to_dict()) == told
    other = FOUND | {"backend": "tasks"}
    both = {"stores": [{"extraction": FOUND}, {"stores": [{"extraction": other}, {"extraction": FOUND}]}]}
    assert detectors(both) == [FOUND, other]
    assert Recorded.of(manifest(both)).detectors == (FOUND, other)
    partly = {"stores": [{"extraction": FOUND}, {"command": "import-arrays"}]}
    assert detectors(partly) == [FOUND, None]
    for source in (partly, {}, {"extraction": "holistic"}, {"extraction": {"backend": ["x"], "tracking": math.inf}}):
        assert Recorded.of(manifest(source)).detectors == ()
    centred = Manifest(stage="centred", layout="handcraft60", classes=("a",), preprocessing="some")
    assert Recorded.of(centred) is None
    clips = load_clips(write_recorded(tmp_path / "s", fps=25.0, aspect=1.5), PreprocessConfig())
    assert clips.subset([1]).recorded == Recorded(25.0, 1.5)


@pytest.mark.parametrize(
    "value",
    [
        7,
        {},
        {"fps": 25.0, "aspect": 1.0},
        {"fps": 0, "aspect": None, "detectors": []},
        {"fps": True, "aspect": None, "detectors": []},
        {"fps": None, "aspect": math.nan, "detectors": []},
        {"fps": None, "aspect": "wide", "detectors": []},
        {"fps": None, "aspect": None, "detectors": {}},
        {"fps": None, "aspect": None, "detectors": ["holistic"]},
        {"fps": None, "aspect": None, "detectors": [{}]},
        {"fps": None, "aspect": None, "detectors": [{"backend": "x", "colour": 1}]},
        {"fps": None, "aspect": None, "detectors": [{"backend": "x" * 1000}]},
        {"fps": None, "aspect": None, "detectors": [{"backend": "\x1b[2J"}]},
    ],
)
def test_what_no_checkpoint_says_is_refused(value):
    with pytest.raises(DataError, match=r"recorded is .*, expected fps, aspect and detectors"):
        Recorded.from_dict(value)
