"""What is drawn of a layout: lines between landmarks, in drawing order, each on the signer's left or right or neither.

The connections are MediaPipe Holistic's own, less what a sign does not show: the legs, and the pose detector's guesses
at the fingers (pose 17 to 22), for the hands have landmarks of their own. A layout that stores fewer landmarks gets the
same lines through those it has, so a new layout needs nothing here.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handcraft.layouts import Layout

LEFT, RIGHT, MIDDLE = "left", "right", "middle"
SIDES = {LEFT: "signer's left", RIGHT: "signer's right", MIDDLE: "neither"}
"""The sides in words, for legends."""
WIDTH = {"pose": 0.04, "face": 0.02, "right_hand": 0.026, "left_hand": 0.026}
"""How thick the lines of each part are, in shoulder widths."""

# Lines through pose landmarks, back to front; two consecutive numbers are joined.
_POSE = (
    (MIDDLE, (23, 24)),
    (MIDDLE, (11, 23)),
    (MIDDLE, (12, 24)),
    (MIDDLE, (11, 12)),
    (RIGHT, (12, 14, 16)),
    (LEFT, (11, 13, 15)),
)
_NOSE = (MIDDLE, (0, 0))  # from a landmark to itself: a dot
# The pose's own face, where the layout has no better one: ear, eye, nose and mouth.
_POSE_HEAD = (
    (RIGHT, (0, 4, 5, 6, 8)),
    (LEFT, (0, 1, 2, 3, 7)),
    (MIDDLE, (9, 10)),
)
_HAND = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (5, 9, 10, 11, 12), (9, 13, 14, 15, 16), (13, 17, 18, 19, 20), (17, 0))
# Contours of the face mesh: closed ones run round, open ones from end to end.
_CONTOURS = (
    (MIDDLE, True, (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148,
                    176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)),
    (RIGHT, False, (70, 63, 105, 66, 107)),
    (LEFT, False, (336, 296, 334, 293, 300)),
    (MIDDLE, False, (168, 6, 197, 195, 5, 4, 1)),
    (MIDDLE, False, (98, 97, 2, 326, 327)),
    (RIGHT, True, (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)),
    (LEFT, True, (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)),
    (RIGHT, True, (469, 470, 471, 472)),
    (LEFT, True, (474, 475, 476, 477)),
    (MIDDLE, True, (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)),
    (MIDDLE, True, (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A line through landmarks of one part: `points` are places along the layout's landmark axis, drawn in order."""

    part: str
    side: str
    """left, right (the signer's own) or middle."""
    points: tuple[int, ...]


@dataclass(frozen=True)
class Skeleton:
    """How a layout is drawn: `lines` from back to front, and the `side` of each of its J landmarks."""

    lines: tuple[Line, ...]
    sides: tuple[str, ...]

    @functools.cached_property
    def drawn(self) -> tuple[int, ...]:
        """Places of the landmarks that a line goes through, ascending."""
        return tuple(sorted({point for line in self.lines for point in line.points}))


@functools.cache
def skeleton(layout: Layout) -> Skeleton:
    """The lines of a layout, in drawing order: pose, face, right hand, left hand."""
    stored = {part.name: part.indices for part in layout.parts}
    lines: list[Line] = []
    for part, side, chain in _chains(stored):
        for run in _runs(chain, stored[part]):
            lines.append(Line(part, side, tuple(layout.position(part, index) for index in run)))
    sides = [MIDDLE] * layout.landmarks
    for part in layout.parts:
        for place, index in enumerate(part.indices, layout.slices[part.name].start):
            sides[place] = _side(part.name, index)
    return Skeleton(tuple(lines), tuple(sides))


def _chains(stored: dict[str, Sequence[int]]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(part, side, MediaPipe indices in order) of every line that the stored parts could have."""
    if "pose" in stored:
        yield from (("pose", side, chain) for side, chain in _POSE)
        yield from (("pose", side, chain) for side, chain in ((_NOSE,) if "face" in stored else _POSE_HEAD))
    for side, closed, contour in _CONTOURS if "face" in stored else ():
        kept = tuple(index for index in contour if index in stored["face"])
        yield "face", side, kept + kept[:1] * closed
    for part, side in (("right_hand", RIGHT), ("left_hand", LEFT)):
        if part in stored:
            yield from ((part, side, chain) for chain in _HAND)


def _runs(chain: Sequence[int], stored: Sequence[int]) -> Iterator[list[int]]:
    """The pieces of a chain whose landmarks are all stored, of two landmarks and more."""
    run: list[int] = []
    for index in (*chain, None):
        if index is not None and index in stored:
            run.append(index)
            continue
        if len(run) > 1:
            yield run
        run = []


def _side(part: str, index: int) -> str:
    if part == "pose":
        if index == 0:
            return MIDDLE
        left = index in (1, 2, 3, 7, 9) or (index > 10 and index % 2 == 1)
        return LEFT if left else RIGHT
    if part == "face":
        return next((side for side, _, contour in _CONTOURS if index in contour), MIDDLE)
    return {"left_hand": LEFT, "right_hand": RIGHT}.get(part, MIDDLE)
