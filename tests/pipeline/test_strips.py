"""Detection strips."""

import numpy as np
import pytest
from drawn import person, write_recorded
from PIL import Image
from tiny_recipe import one_line_error, run_cli

from handcraft.errors import ConfigError
from handcraft.layouts import layout
from handcraft.render.choose import Shown
from handcraft.render.palette import LIGHT
from handcraft.render.strips import detected, shares, write_strips


def shown(frames=10, lost=slice(0, 4)):
    """A clip whose left hand is lost for some frames; the landmarks of the face are those of the layout of 12."""
    clip = person(frames, "holistic87")
    clip[lost, layout("holistic87").slices["left_hand"]] = np.nan
    return Shown(clip, layout("holistic87"), "yes", "a note", 25.0)


def test_a_part_is_detected_where_any_of_its_landmarks_is():
    clip = shown()
    clip.landmarks[0, layout("holistic87").slices["left_hand"].start] = 0.5
    found = detected(clip)
    assert list(found) == ["pose", "left_hand", "right_hand", "face"]
    assert found["left_hand"].tolist() == [True] + [False] * 3 + [True] * 6
    assert found["right_hand"].all()


def test_columns_hold_the_share_of_their_time():
    seen = np.array([True, False, False, True])
    assert shares(seen, 8).tolist() == [1, 1, 0, 0, 0, 0, 1, 1], "a frame covers several columns"
    assert shares(seen, 2).tolist() == [0.5, 0.5], "a column holds several frames"
    assert shares(seen, 3).tolist() == pytest.approx([0.75, 0, 0.75])
    assert shares(np.ones(7, dtype=bool), 5).tolist() == pytest.approx([1] * 5)


def test_strips_show_when_each_part_was_detected_in_its_colour(tmp_path):
    write_strips([shown(), shown(10, slice(0, 10))], tmp_path / "s.png", width=600)
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    left, right, stage = (tuple(bytes.fromhex(LIGHT[name][1:])) for name in ("left", "right", "stage"))
    where = {ink: np.argwhere((picture == ink).all(axis=2)) for ink in (left, right, stage)}
    rows = np.unique(where[left][:, 0])
    assert len(rows) == 12, "one strip of the two left hands has any blue"
    blue, grey = (where[ink][where[ink][:, 0] == rows[0]][:, 1] for ink in (left, stage))
    assert grey.max() < blue.min(), "lost first, found later"
    assert len(grey) / (len(grey) + len(blue)) == pytest.approx(0.4, abs=0.01)
    assert len(np.unique(where[right][:, 0])) == 24
    assert np.unique(where[right][:, 0]).min() > rows.max(), "the right hand's strip lies under the left hand's"


def test_sizes_that_make_no_picture_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="a width of 20 pixels for strips"):
        write_strips([shown()], tmp_path / "s.png", width=20)
    with pytest.raises(ConfigError, match="strips of 0 clips"):
        write_strips([], tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_recorded(tmp_path / "store", fps=25.0)
    assert run_cli("render", "store", "--strips") == 0
    assert capfd.readouterr().out == "store-strips.png: 6 clips\n"
    everything = Image.open("store-strips.png").size
    assert run_cli("render", "store", "--strips", "--ids", "0-1", "--out", "one.png", "--dark") == 0
    assert Image.open("one.png").height < everything[1] / 5
    assert run_cli("render", "store", "--strips", "--out", "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data-strips") >= 6
    assert '"names":["pose","left_hand","right_hand"]' in page
    assert "data-strips>" not in page.replace("data-strips></figure>", "")
    assert "below the clips of a page" in one_line_error(capfd, "render", "store", "--strips", "--to", "gif")
