"""What is drawn of each layout."""

import pytest

from handcraft.layouts import LAYOUTS, layout
from handcraft.render.skeleton import WIDTH, skeleton


def joined(name: str) -> set[tuple[str, int, int]]:
    """(part, index, index) of every two MediaPipe landmarks that a line of the layout joins, the smaller one first."""
    found = layout(name)
    indices = {
        place: (part.name, index)
        for part in found.parts
        for place, index in enumerate(part.indices, found.slices[part.name].start)
    }
    pairs = set()
    for line in skeleton(found).lines:
        for one, other in zip(line.points, line.points[1:], strict=False):
            (part, first), (_, second) = indices[one], indices[other]
            pairs.add((part, min(first, second), max(first, second)))
    return pairs


@pytest.mark.parametrize("name", LAYOUTS)
def test_lines_stay_within_their_part_and_arms_and_hands_are_whole_in_every_layout(name):
    found = skeleton(layout(name))
    for line in found.lines:
        where = layout(name).slices[line.part]
        assert all(where.start <= point < where.stop for point in line.points)
        assert line.part in WIDTH
    pairs = joined(name)
    assert {("pose", 11, 12), ("pose", 11, 13), ("pose", 13, 15), ("pose", 12, 14), ("pose", 14, 16)} <= pairs
    for hand in ("left_hand", "right_hand"):
        fingers = {(hand, at, at + 1) for finger in range(5) for at in range(4 * finger + 1, 4 * finger + 4)}
        palm = {(hand, 0, 1), (hand, 0, 5), (hand, 5, 9), (hand, 9, 13), (hand, 13, 17), (hand, 0, 17)}
        assert {pair for pair in pairs if pair[0] == hand} == fingers | palm


def test_twelve_face_points_are_drawn_as_closed_mouth_and_eyes():
    face = {pair[1:] for pair in joined("handcraft60") if pair[0] == "face"}
    mouth = {(17, 61), (17, 291), (0, 291), (0, 61)}
    right_eye = {(33, 145), (133, 145), (133, 159), (33, 159)}
    left_eye = {(263, 374), (362, 374), (362, 386), (263, 386)}
    assert face == mouth | right_eye | left_eye


def test_the_mesh_is_drawn_by_its_contours_and_irises_where_they_are_stored():
    with_irises, without = joined("holistic553"), joined("holistic543")
    assert with_irises - without == {("face", a, b) for a, b in ((469, 470), (470, 471), (471, 472), (469, 472))} | {
        ("face", a, b) for a, b in ((474, 475), (475, 476), (476, 477), (474, 477))
    }
    oval = layout("holistic543").position("face", 10)
    assert oval in skeleton(layout("holistic543")).drawn
    assert len(skeleton(layout("holistic543")).drawn) < 200


def test_the_pose_has_a_face_only_where_the_layout_has_none():
    assert ("pose", 0, 1) in joined("holistic75")
    assert ("pose", 0, 1) not in joined("holistic87")
    assert ("pose", 0, 0) in joined("holistic87"), "the nose stays, as a dot"


@pytest.mark.parametrize("name", ["holistic75", "holistic87", "handcraft60", "pose_hands48"])
def test_mirroring_swaps_the_sides(name):
    """A line's mirror image has the other side: checked through the layout's own table of mirrored landmarks."""
    found = layout(name)
    other = {"left": "right", "right": "left", "middle": "middle"}
    sides = skeleton(found).sides
    for place, mirrored in enumerate(found.flip):
        assert sides[mirrored] == other[sides[place]]
    for line in skeleton(found).lines:
        touched = {sides[point] for point in line.points} - {"middle"}
        assert line.side == "middle" or touched == {line.side}


def test_legs_and_the_pose_detectors_fingers_are_left_out():
    drawn = set(skeleton(layout("holistic75")).drawn)
    assert not drawn & {*range(17, 23), *range(25, 33)}
    assert {*range(17), 23, 24, *range(33, 75)} == drawn
