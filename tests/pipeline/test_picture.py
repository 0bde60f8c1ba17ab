"""Still pictures: what is drawn, where, and in which colour."""

import itertools

import numpy as np
import pytest
from drawn import person
from PIL import ImageColor

from handcraft.layouts import layout
from handcraft.render.choose import Shown
from handcraft.render.ink import font
from handcraft.render.palette import DARK, LIGHT
from handcraft.render.picture import STRIP_FRAMES, Drawing
from handcraft.render.view import SIGNING_SPACE

RAW = layout("holistic75")


def shown(clip, title="hello", note="a note", **options):
    return Shown(clip, RAW, title, note, **options)


def named(picture, palette=LIGHT) -> np.ndarray:
    """(height, width) names of the nearest colours of the palette: the edges of lines are shades."""
    names = ["ground", "stage", "left", "right", "middle"]
    colours = np.array([ImageColor.getrgb(palette[name]) for name in names])
    distance = np.abs(np.asarray(picture)[:, :, None].astype(int) - colours).sum(axis=3)
    return np.array(names)[distance.argmin(axis=2)]


def name_at(picture, place, width=320):
    """The name of the colour of a 320 pixel wide drawing where `place` (shoulder widths) lies."""
    left, top, right, _ = SIGNING_SPACE
    scale = width / (right - left)
    x, y = 12 + (place[0] - left) * scale, 12 + (place[1] - top) * scale
    return named(picture)[round(y), round(x)].item()


def test_arms_lie_where_the_landmarks_are_in_the_colour_of_their_side():
    picture = Drawing([(shown(person(aspect=2.0), aspect=2.0),)]).at(0)
    assert name_at(picture, (0.625, 0.3)) == "left", "halfway from shoulder to elbow"
    assert name_at(picture, (-0.675, 0.3)) == "right"
    assert name_at(picture, (0, 0)) == "middle", "between the shoulders"
    assert name_at(picture, (0, 0.4)) == "stage"


def test_missing_parts_are_not_drawn():
    clip = person()
    everything = Drawing([(shown(clip),)]).at(5)
    clip[5, RAW.slices["right_hand"]] = np.nan
    without_hand = Drawing([(shown(clip),)]).at(5)
    clip[5, [RAW.position("pose", index) for index in (4, 5, 6, 8, 12, 14, 16)]] = np.nan
    without_side = Drawing([(shown(clip),)]).at(5)
    right, left = (
        [int((named(picture)[:-40] == side).sum()) for picture in (everything, without_hand, without_side)]
        for side in ("right", "left")
    )
    assert right[0] > right[1] > 300
    assert right[2] == 0
    assert left[0] == left[1] <= left[2]


def test_a_glitch_of_the_detector_runs_off_the_picture():
    clip = person()
    clip[5, 40, :2] = 3e38
    clip[6, 40, :2] = -1e9
    drawing = Drawing([(shown(clip),)])
    for frame in (5, 6):
        assert drawing.at(frame).size == drawing.size


def test_frames_differ_where_the_clip_moves():
    drawing = Drawing([(shown(person()),)])
    frames = [np.asarray(picture) for picture in drawing]
    assert len(frames) == drawing.frames == 12
    assert all((one != other).any() for one, other in itertools.pairwise(frames))
    changed = (frames[0] != frames[11]).any(axis=(0, 2))
    assert changed[: changed.size // 2].any()
    assert not changed[changed.size * 3 // 4 :].any(), "the left arm, on the picture's right, is still"


def test_clips_of_a_cell_share_a_clock_and_cells_wait():
    short, long = person(3), person(9)
    pair = Drawing([(shown(short), shown(long))])
    assert pair.frames == 9
    tile = (12, 12, 12 + 320, 300)
    stretched = [np.asarray(pair.at(frame).crop(tile)) for frame in range(9)]
    assert len({picture.tobytes() for picture in stretched}) == 3
    assert (stretched[3] == stretched[4]).all()
    assert (stretched[0] != stretched[8]).any()
    apart = Drawing([(shown(short),), (shown(long),)], columns=2)
    waiting = [np.asarray(apart.at(frame).crop(tile)) for frame in range(9)]
    assert (waiting[2] == waiting[8]).all()
    assert (waiting[1] != waiting[2]).any()


def test_a_grid_is_about_as_wide_as_high_and_as_large_as_it_says():
    drawing = Drawing([(shown(person(2, seed=k)),) for k in range(9)], width=100)
    picture = drawing.at(0)
    assert picture.size == drawing.size
    assert drawing.size[0] == 3 * (100 + 2 * 12)
    assert Drawing([(shown(person(2)),)] * 4, width=100, columns=4).size[0] == 4 * 124


def test_a_strip_shows_evenly_spaced_frames_of_every_clip():
    one = Drawing([(shown(person(40)),)], width=100).strip()
    both = Drawing([(shown(person(40)), shown(person(3)))], width=100).strip()
    assert one.size[0] == STRIP_FRAMES * 106 + 24
    assert both.size[0] == one.size[0]
    assert both.size[1] > 1.5 * one.size[1]
    few = Drawing([(shown(person(3)),)], width=100).strip()
    assert few.size[0] == 3 * 106 + 24


def test_trails_are_the_paths_of_the_wrists():
    plain, trails = (Drawing([(shown(person()),)], trails=trails).at(11) for trails in (False, True))
    low = slice(12 + 215, 12 + 225), slice(12 + 45, 12 + 65)  # the right wrist was here; the arm is up now
    assert (named(plain)[low] == "stage").all()
    before, after = (np.asarray(picture)[low].astype(int) for picture in (plain, trails))
    reddest = (after - before)[..., 0] - (after - before)[..., 2]
    assert reddest.max() > 40, "a shade of the right side's colour"


def test_dark_pictures_and_the_legend():
    picture = Drawing([(shown(np.full((1, 75, 3), 0.5, "f4")),)], dark=True).at(0)
    assert picture.getpixel((0, 0)) == ImageColor.getrgb(DARK["ground"])
    foot = picture.crop((0, picture.height - 28, *picture.size))
    small = Drawing([(shown(person(1)),)], width=48).at(0)
    assert (named(small)[-28:] == "middle").sum() > 20, "a small picture is as wide as its legend"
    for side in ("left", "right", "middle"):
        assert (named(foot, DARK) == side).sum() > 20


def test_long_words_are_cut_to_the_width_of_a_clip():
    long = Drawing([(shown(person(1), title="word " * 50),)], width=160).at(0)
    words = np.asarray(long)[-90:-30] != ImageColor.getrgb(LIGHT["ground"])
    assert words.any()
    assert not words[:, -8:].any()


def test_all_colours_of_a_picture_are_near_its_palette():
    drawing = Drawing([(shown(person(), title="Ülüß"),)], trails=True)
    pixels = np.unique(np.asarray(drawing.at(5)).reshape(-1, 3), axis=0).astype(int)
    distance = np.abs(pixels[:, None] - np.array(drawing.colours)[None]).sum(axis=2).min(axis=1)
    assert len(drawing.colours) <= 256
    assert np.median(distance) < 24
    for name in ("ground", "stage", "left", "right", "middle", "text", "quiet"):
        assert ImageColor.getrgb(LIGHT[name]) in drawing.colours


def test_the_font_has_a_shape_for_more_than_english():
    if "DejaVu" not in str(font(20).path):
        pytest.skip("no DejaVu Sans here (matplotlib brings it), so letters beyond English are boxes")

    assert len({bytes(font(20).getmask(letter)) for letter in "ÊßñЖλ"}) == 5
