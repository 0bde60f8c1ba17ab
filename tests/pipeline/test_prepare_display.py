"""DiSPLaY as downloaded: performances, their signs and performers, their frames in the order of their numbers."""

import shutil

import numpy as np
import pytest
from downloads import display_folder

from handcraft.data.prepare_display import list_display
from handcraft.errors import DataError
from handcraft.extract.video import read_frames


def test_every_performance_has_its_sign_and_performer(tmp_path):
    listing = list_display(display_folder(tmp_path))
    assert len(listing.clips) == 8
    clip = listing.clips[2]
    assert (clip.id, clip.label, clip.signer) == ("Sign_01_Performer_02_1", "Sign_01", "Performer_02")
    assert clip.path == tmp_path / clip.name == tmp_path / "Signs(1-5)" / clip.id / "02 Color Frames"
    assert listing.notes == (
        "performances: 8, fewer than the 1,728 expected (okason97/HandCraft)",
        "signs: 2, fewer than the 54 expected (the same)",
        "performers: 2, fewer than the 16 expected (doi.org/10.21227/5gsb-fb69)",
        "frames a second: 25.0 by 01 Times/Times.csv of 8 performances",
    )


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    clip = list_display(display_folder(tmp_path)).clips[0]
    brightness = [float(picture.mean()) for _, picture in read_frames(clip.path)]
    np.testing.assert_allclose(brightness, 10 + 15 * np.arange(12), atol=2)


def test_archives_in_folders_of_their_own(tmp_path):
    display_folder(tmp_path / "display" / "Signs(1-5)")
    assert len(list_display(tmp_path).clips) == 8


def test_rates(tmp_path):
    assert list_display(display_folder(tmp_path / "without", times=False)).fps is None
    folder = display_folder(tmp_path / "some")
    assert list_display(folder).fps == 25.0
    times = folder / "Signs(1-5)" / "Sign_01_Performer_01_1" / "01 Times" / "Times.csv"
    for text in ("", "no times\n", "0 days, 0 hours, 0 minutes, 1 seconds, 0 miliseconds\n" * 3):
        times.write_text(text)
        listing = list_display(folder)
        assert listing.fps == 25.0
        assert "of 7 performances" in listing.notes[-1]


def test_a_performance_without_colour_frames(tmp_path):
    folder = display_folder(tmp_path)
    shutil.rmtree(folder / "Signs(1-5)" / "Sign_02_Performer_01_2" / "02 Color Frames")
    with pytest.raises(DataError, match="Sign_02_Performer_01_2: has no folder '02 Color Frames'"):
        list_display(folder)


def test_a_performance_that_is_there_twice(tmp_path):
    display_folder(tmp_path / "a", signs=1, performers=1)
    display_folder(tmp_path / "b", signs=1, performers=1)
    with pytest.raises(DataError, match="ids must differ"):
        list_display(tmp_path)


def test_no_such_download(tmp_path):
    (tmp_path / "Signs(1-5)").mkdir()
    with pytest.raises(DataError, match="expected DiSPLaY's archives"):
        list_display(tmp_path)
