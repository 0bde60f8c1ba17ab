"""How a toy signer performs a sign: build and habits, timing, and the arms' motion in three dimensions."""

from dataclasses import dataclass, replace

import numpy as np

from handcraft.data.toy_body import (
    FOREARM,
    HANDSHAPES,
    RELAXED,
    SHOULDER,
    UPPER_ARM,
    Handshape,
    bend_limit,
    hand_points,
    head_points,
    legs,
    reach,
    rotation,
    unit,
)
from handcraft.data.toy_signs import MOVEMENTS, PLACES, Place, Sign

FRAMES = (20, 60)  # shortest and longest clip
_MIRROR = np.array([-1.0, 1.0, 1.0])
_HANGING = Place((-0.25, 0.50, -0.06), (0.10, 0.97, -0.20), (0.95, 0.0, 0.30))
_FOLDED = Place((-0.06, 0.36, -0.17), (0.90, 0.25, -0.20), (0.20, 0.0, 0.97))
_PALM = 0.085  # metres from the wrist to the middle of the palm, which a place gives
_AMPLITUDE = 0.11  # metres of a movement's unit


@dataclass(frozen=True)
class Signer:
    """Build, style and usual place before the camera of one signer."""

    shoulders: float  # metres from joint to joint; so are upper and fore, the bones of the arm
    upper: float
    fore: float
    size: float  # of trunk, hands and head, relative to the average adult
    hand: float
    head: float
    amplitude: float
    pace: float
    lag: float  # part of a clip that usually passes before the signer sets off
    habit: np.ndarray  # (3,) where this signer puts every place, metres off
    curl: np.ndarray  # (4, 3) how much more this signer bends each finger joint, radians
    pole: np.ndarray  # (3,) where the elbow points
    folded: bool  # rests the idle hand before the belly
    left_handed: bool
    yaw: float
    pitch: float
    scale: float  # image widths per metre at the signer's distance
    centre: np.ndarray  # (2,) image position of the point between the shoulders


@dataclass(frozen=True)
class Performance:
    """A clip before it is filmed."""

    points: np.ndarray  # (T, 87, 3) metres in the body frame of `toy_body`, in the order of the layout holistic87
    dominant: str  # left or right
    one_handed: bool


@dataclass(frozen=True)
class _Timing:
    """activity and shaping (T,) are 0 at rest and 1 during the stroke, phase (T,) runs from 0 to 1 over the stroke."""

    activity: np.ndarray
    shaping: np.ndarray  # how far the hand has taken its handshape: it does so early, as in real signing
    phase: np.ndarray


def make_signer(rng: np.random.Generator, left_handed: bool) -> Signer:
    """Draw a signer."""
    size = rng.uniform(0.92, 1.08)
    bones = size * rng.uniform(0.95, 1.05, 3)
    return Signer(
        shoulders=SHOULDER * bones[0],
        upper=UPPER_ARM * bones[1],
        fore=FOREARM * bones[2],
        size=size,
        hand=size * rng.uniform(0.94, 1.06),
        head=size * rng.uniform(0.95, 1.05),
        amplitude=rng.uniform(0.8, 1.25),
        pace=rng.uniform(0.8, 1.25),
        lag=rng.uniform(-0.04, 0.08),
        habit=rng.normal(0, 0.02, 3),
        curl=np.deg2rad(rng.normal(0, 6, (4, 3))),
        pole=np.array([rng.uniform(-0.75, -0.25), 0.85, rng.uniform(0.05, 0.35)]),
        folded=bool(rng.random() < 0.3),
        left_handed=left_handed,
        yaw=np.deg2rad(rng.uniform(-18, 18)),
        pitch=np.deg2rad(rng.uniform(-8, 8)),
        scale=rng.uniform(0.64, 0.84),
        centre=np.array([rng.uniform(0.43, 0.57), rng.uniform(0.46, 0.56)]),
    )


def drift(rng: np.random.Generator, frames: int, *shape: int) -> np.ndarray:
    """Slow random motion (frames, *shape) of unit variance: three sine waves of at most two cycles a clip."""
    rates, phases = rng.uniform(0.3, 2.0, (3, 1, *shape)), rng.uniform(0, 2 * np.pi, (3, 1, *shape))
    time = np.linspace(0, 1, frames).reshape(1, frames, *[1] * len(shape))
    return np.sin(2 * np.pi * rates * time + phases).sum(0) * np.sqrt(2 / 3)


def _smooth(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk rise from 0 to 1 over 0..1."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _timing(rng: np.random.Generator, signer: Signer) -> _Timing:
    frames = int(np.clip(np.rint(36 / signer.pace * np.exp(rng.normal(0, 0.22))), *FRAMES))
    lead, tail = signer.lag + rng.uniform(-0.10, 0.16), rng.uniform(-0.12, 0.14)  # negative: the clip is cut short
    prepare, retract, stroke = *rng.uniform(0.14, 0.26, 2), rng.uniform(0.32, 0.55)
    after = prepare + stroke
    time = np.linspace(0, 1, frames)
    time = time + rng.uniform(-0.5, 0.5) * np.sin(2 * np.pi * time) / (2 * np.pi)  # monotone warp
    time = time * (lead + after + retract + tail) - lead
    phase = np.clip((time - prepare) / stroke, 0, 1)
    ease = rng.uniform(0.2, 0.9)
    phase = ease * phase**2 * (3 - 2 * phase) + (1 - ease) * phase
    activity = _smooth(time / prepare) * (1 - _smooth((time - after) / retract))
    shaping = _smooth(time / (0.7 * prepare)) * (1 - _smooth((time - after) / (0.8 * retract)))
    return _Timing(activity, shaping, phase)


def _handshape(rng: np.random.Generator, name: str, signer: Signer, shaping: np.ndarray) -> Handshape:
    """The handshape over time (T leading): from the relaxed hand to this signer's version of the sign's and back."""
    aim, frames = HANDSHAPES[name], len(shaping)
    curl = signer.curl + np.deg2rad(rng.normal(0, 5, (4, 3)) + 3 * drift(rng, frames, 4, 3))
    weight = shaping[:, None, None]
    flexion = RELAXED.flexion + weight * (aim.flexion - RELAXED.flexion) + curl
    spread = RELAXED.spread + weight[..., 0] * (aim.spread * rng.uniform(0.6, 1.3) - RELAXED.spread)
    thumb = RELAXED.thumb + weight * (aim.thumb - RELAXED.thumb) + rng.normal(0, 0.08, (3, 3))
    return Handshape(np.clip(flexion, np.deg2rad(-8), np.deg2rad(110)), spread, unit(thumb))


def _arm(
    rng: np.random.Generator,
    signer: Signer,
    rest: Place,
    place: Place,
    path: tuple[np.ndarray, np.ndarray, np.ndarray],
    timing: _Timing,
    shape: Handshape,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elbow (T, 3), wrist (T, 3) and hand (T, 21, 3) of a right arm that goes from `rest` to `place` and back."""
    offset, twist, nod = path
    frames, weight = len(offset), timing.activity[:, None]
    shoulder = np.array([-signer.shoulders / 2, 0, 0])
    aim = (np.array(place.centre) + rng.normal(0, 0.012, 3)) * signer.size + signer.habit + offset * _AMPLITUDE
    middle = np.array(rest.centre) * signer.size * (1 - weight) + aim * weight
    middle = middle + 0.006 * drift(rng, frames, 3)
    middle[:, 2] -= 0.30 * timing.activity * (1 - timing.activity)  # the hand swings forward on its way, round the body
    fingers = np.array(rest.fingers) * (1 - weight) + (np.array(place.fingers) + rng.normal(0, 0.10, 3)) * weight
    palm = np.array(rest.palm) * (1 - weight) + (np.array(place.palm) + rng.normal(0, 0.10, 3)) * weight
    elbow, wrist = reach(shoulder, middle - _PALM * signer.hand * unit(fingers), signer.upper, signer.fore, signer.pole)
    forearm = unit(wrist - elbow)
    # hanging hands point down and signing ones up: the forearm's share leads the fingers round instead of through zero
    fingers = bend_limit(unit(unit(fingers) + 0.4 * forearm), forearm, np.deg2rad(65))
    across = unit(np.cross(fingers, palm))
    palm = np.cross(across, fingers)
    turn, bow = (twist * np.deg2rad(55))[:, None], (nod * np.deg2rad(38))[:, None]
    palm = palm * np.cos(turn) + across * np.sin(turn)
    fingers, palm = fingers * np.cos(bow) + palm * np.sin(bow), palm * np.cos(bow) - fingers * np.sin(bow)
    return elbow, wrist, hand_points(wrist, fingers, palm, shape, signer.hand)


def perform(rng: np.random.Generator, sign: Sign, signer: Signer) -> Performance:
    """Let `signer` perform `sign` once. Bones keep their lengths exactly; the wrist of arm and hand is one point."""
    timing = _timing(rng, signer)
    frames = len(timing.phase)
    place = PLACES[sign.place]
    if sign.hands != "one":
        x, y, z = place.centre
        place = replace(place, centre=(min(x, -0.17), y, z))  # two hands side by side need room
    repeats, start = int(rng.integers(2, 4)), rng.uniform(-0.8, 0.8)
    offset, twist, nod = MOVEMENTS[sign.movement](timing.phase, repeats, start)
    amplitude = signer.amplitude * rng.uniform(0.85, 1.15)
    motion = (offset * amplitude, twist * min(amplitude, 1.2), nod * min(amplitude, 1.2))
    shape = _handshape(rng, sign.handshape, signer, timing.shaping)
    leading = _arm(rng, signer, _HANGING, place, motion, timing, shape)

    idle = sign.hands == "one"
    sense = {"one": 0.0, "both": 1.0, "alternate": -1.0}[sign.hands] * rng.uniform(0.85, 1.0)
    following = tuple(sense * part for part in motion)
    if idle:
        timing = replace(timing, activity=np.zeros(frames), shaping=np.zeros(frames))
    shape = _handshape(rng, sign.handshape, signer, timing.shaping)
    rest = _FOLDED if idle and signer.folded else _HANGING
    passive = _arm(rng, signer, rest, place, following, timing, shape)

    dominant = "left" if signer.left_handed != (rng.random() < 0.04) else "right"  # all sign with the other at times
    right, left = (leading, passive) if dominant == "right" else (passive, leading)
    points = _assemble(rng, signer, right, tuple(part * _MIRROR for part in left))
    return Performance(points, dominant, idle)


def _assemble(rng: np.random.Generator, signer: Signer, right: tuple, left: tuple) -> np.ndarray:
    """Body, hands and face (T, 87, 3) from both arms, the trunk swaying a little as a whole and the head by itself."""
    frames = len(right[0])
    points = np.zeros((frames, 87, 3))
    turn = np.deg2rad([6.0, 4.0, 3.0]) * drift(rng, frames, 3)
    points[:, :11], points[:, 75:] = head_points(rotation(*turn.T), signer.head)
    points[:, 11, 0], points[:, 12, 0] = signer.shoulders / 2, -signer.shoulders / 2
    points[:, 23:33] = legs(signer.size)
    for side, first, (elbow, wrist, hand) in ((0, 33, left), (1, 54, right)):
        points[:, 13 + side], points[:, 15 + side] = elbow, wrist
        points[:, first : first + 21] = hand
        points[:, [17 + side, 19 + side, 21 + side]] = hand[:, [17, 5, 2]]  # knuckles of little and index finger, thumb
    sway = np.deg2rad([2.5, 1.0, 1.0]) * drift(rng, frames, 3)
    return points @ rotation(*sway.T).transpose(0, 2, 1) + 0.006 * drift(rng, frames, 1, 3)
