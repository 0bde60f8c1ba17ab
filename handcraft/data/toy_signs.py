"""The toy vocabulary: a sign is a handshape, a place, a movement and a use of the hands.

Places and movements are those of a right hand, in the body frame of `toy_body` (metres; outwards is -x); the other
hand's are mirrored. The vocabulary has a fixed order, whatever the seed. It comes in groups of four: a first sign,
one that differs from it in handshape alone, one in movement alone, and one in both, so that every sign has minimal
pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LIMIT = 240  # signs in the vocabulary


@dataclass(frozen=True)
class Sign:
    """One entry of the vocabulary; `name` is its gloss."""

    handshape: str
    place: str
    movement: str
    hands: str  # one, both (mirrored) or alternate (mirrored, opposite movement)

    @property
    def name(self) -> str:
        suffix = "" if self.hands == "one" else f"-{self.hands}"
        return f"{self.handshape}-{self.place}-{self.movement}{suffix}"


@dataclass(frozen=True)
class Place:
    """Where the middle of the palm goes, which way the fingers point and which way the palm faces."""

    centre: tuple[float, float, float]
    fingers: tuple[float, float, float]
    palm: tuple[float, float, float]


PLACES = {
    "space": Place((-0.12, 0.10, -0.28), (0.15, -0.90, -0.40), (0.05, -0.30, -0.95)),
    "chin": Place((-0.03, -0.12, -0.19), (0.45, -0.88, 0.05), (0.20, 0.10, 0.97)),
    "chest": Place((-0.03, 0.16, -0.17), (0.90, -0.42, -0.10), (0.10, 0.0, 0.99)),
    "side": Place((-0.34, 0.0, -0.22), (-0.20, -0.96, -0.20), (0.35, -0.10, -0.93)),
    "forehead": Place((-0.11, -0.27, -0.16), (0.55, -0.82, 0.05), (0.50, 0.35, 0.60)),
    "shoulder": Place((0.08, 0.06, -0.16), (0.86, -0.50, 0.0), (0.15, 0.10, 0.98)),
    "belly": Place((-0.08, 0.28, -0.25), (0.70, -0.15, -0.70), (0.05, -0.98, 0.15)),
}

Path = tuple[np.ndarray, np.ndarray, np.ndarray]


def _still(phase: np.ndarray, **turned: np.ndarray) -> Path:
    zero = np.zeros_like(phase)
    return np.zeros((len(phase), 3)), turned.get("twist", zero), turned.get("nod", zero)


def _moved(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float, phase: np.ndarray) -> Path:
    zero = np.zeros_like(phase)
    return np.stack([x + zero, y + zero, z + zero], axis=-1), zero, zero


def _circle(phase: np.ndarray, turns: float, start: float, sense: int) -> Path:
    angle = sense * 2 * np.pi * turns * phase + start
    return _moved(np.cos(angle), np.sin(angle), 0.25 * np.sin(angle), phase)


def _zigzag(phase: np.ndarray, turns: float) -> Path:
    swing = 2 / np.pi * np.arcsin(np.sin(np.pi * (2 * turns * phase + 0.5)))
    return _moved(-swing, 1.4 * phase - 0.7, 0.0, phase)


# name: (phase (T,) 0..1, repeats, start angle) -> path (T, 3) within about +-1, twist (T,), nod (T,) within +-1.
# twist turns the palm about the fingers, nod bends the wrist. Reversed twins (rise/fall, slide/sweep, arc/scoop,
# circle/stir) visit the same points, so only the order in time tells them apart.
MOVEMENTS: dict[str, Callable[[np.ndarray, int, float], Path]] = {
    "rise": lambda p, n, a: _moved(0.1, 1 - 2 * p, 0.0, p),
    "fall": lambda p, n, a: _moved(0.1, 2 * p - 1, 0.0, p),
    "slide": lambda p, n, a: _moved(0.9 - 1.8 * p, 0.0, -0.2 * p, p),
    "sweep": lambda p, n, a: _moved(1.8 * p - 0.9, 0.0, 0.2 * p - 0.2, p),
    "arc": lambda p, n, a: _moved(np.cos(np.pi * p), 0.4 - np.sin(np.pi * p), 0.0, p),
    "scoop": lambda p, n, a: _moved(np.cos(np.pi * p), np.sin(np.pi * p) - 0.4, -0.3 * np.sin(np.pi * p), p),
    "circle": lambda p, n, a: _circle(p, n - 1, a, 1),
    "stir": lambda p, n, a: _circle(p, n - 1, a, -1),
    "zigzag": lambda p, n, a: _zigzag(p, n - 0.5),
    "tap": lambda p, n, a: _moved(0.1, -0.45 * np.cos(2 * np.pi * (n + 1) * p), -0.5 * np.cos(2 * np.pi * n * p), p),
    "hold": lambda p, n, a: _still(p),
    "twist": lambda p, n, a: _still(p, twist=np.sin(2 * np.pi * (n + 0.5) * p + 0.3 * a)),
    "nod": lambda p, n, a: _still(p, nod=np.sin(2 * np.pi * (n + 0.5) * p + 0.3 * a)),
}

_SHAPE_TWINS = (
    ("flat", "five"), ("index", "vee"), ("fist", "okay"), ("claw", "five"), ("horns", "little"), ("hook", "index"),
    ("thumb", "fist"), ("pinch", "okay"), ("flat", "claw"), ("vee", "horns"), ("thumb", "little"), ("hook", "pinch"),
)  # fmt: skip
_MOVEMENT_TWINS = (
    ("rise", "fall"), ("circle", "stir"), ("arc", "scoop"), ("tap", "hold"), ("slide", "sweep"), ("zigzag", "fall"),
    ("twist", "nod"), ("circle", "arc"), ("hold", "rise"), ("sweep", "zigzag"), ("nod", "tap"),
)  # fmt: skip


def vocabulary() -> list[Sign]:
    """All `LIMIT` signs in their fixed order; names are unique."""
    places, uses = list(PLACES), ("one", "both", "one", "alternate", "one")
    signs: dict[str, Sign] = {}
    group = 0
    while len(signs) < LIMIT:
        # the three lists have lengths without a common factor, so the groups run through every combination
        shapes, place = _SHAPE_TWINS[group % 12], places[group % 7]
        movements, hands = _MOVEMENT_TWINS[group % 11], uses[group % 5]
        if hands == "alternate" and "hold" in movements:
            hands = "both"  # two hands that hold still cannot alternate
        fresh = [Sign(shape, place, movement, hands) for movement in movements for shape in shapes]
        if not any(sign.name in signs for sign in fresh):
            signs |= {sign.name: sign for sign in fresh}
        group += 1
    return list(signs.values())
