"""The toy signer's anatomy: proportions, handshapes, and forward and inverse kinematics in metres.

Body frame: origin midway between the shoulders, x to the image's right (the signer's left), y down, z away from the
camera, so a signer who faces the camera reaches forward along -z. Every arm is computed as a *right* arm; a left one
is its mirror image (x negated). All lengths are those of an adult of average build and are scaled by the signer.
"""

from dataclasses import dataclass

import numpy as np

SHOULDER, UPPER_ARM, FOREARM = 0.36, 0.29, 0.26  # shoulder joint to shoulder joint; shoulder-elbow; elbow-wrist

# Knuckles in the hand's own axes (towards the thumb, towards the fingertips, out of the palm), wrist at the origin.
_KNUCKLES = np.array([[0.028, 0.090, 0.0], [0.006, 0.092, 0.0], [-0.014, 0.086, 0.0], [-0.032, 0.077, 0.0]])
_PHALANGES = np.array([[0.043, 0.026, 0.021], [0.047, 0.029, 0.022], [0.043, 0.028, 0.022], [0.034, 0.020, 0.019]])
_THUMB_BASE = np.array([0.022, 0.022, 0.010])
_THUMB_BONES = (0.043, 0.033, 0.027)

# Head points relative to the middle of the neck, which lies between the shoulders: (x towards the signer's left, y, z).
_NECK = np.array([0.0, -0.05, 0.0])
_HEAD_POSE = np.array(
    [
        [0.000, -0.170, -0.120],  # 0 nose
        [0.017, -0.208, -0.098],  # 1-3 left eye: inner corner, centre, outer corner
        [0.031, -0.209, -0.095],
        [0.045, -0.207, -0.088],
        [-0.017, -0.208, -0.098],  # 4-6 right eye
        [-0.031, -0.209, -0.095],
        [-0.045, -0.207, -0.088],
        [0.074, -0.188, -0.005],  # 7 left ear, 8 right ear
        [-0.074, -0.188, -0.005],
        [0.025, -0.132, -0.100],  # 9 left mouth corner, 10 right
        [-0.025, -0.132, -0.100],
    ]
)
_HEAD_FACE = np.array(
    [
        [-0.026, -0.132, -0.098],  # 61 right mouth corner
        [0.000, -0.142, -0.110],  # 0 upper lip
        [0.026, -0.132, -0.098],  # 291 left mouth corner
        [0.000, -0.121, -0.106],  # 17 lower lip
        [-0.046, -0.206, -0.086],  # 33, 159, 133, 145: right eye, outer corner, top, inner corner, bottom
        [-0.031, -0.212, -0.094],
        [-0.017, -0.205, -0.096],
        [-0.031, -0.202, -0.094],
        [0.046, -0.206, -0.086],  # 263, 386, 362, 374: left eye, outer corner, top, inner corner, bottom
        [0.031, -0.212, -0.094],
        [0.017, -0.205, -0.096],
        [0.031, -0.202, -0.094],
    ]
)
_LEG = np.array(  # of the left side: hip, knee, ankle, heel, toe
    [[0.115, 0.50, 0.0], [0.105, 0.92, -0.02], [0.095, 1.32, 0.03], [0.095, 1.37, 0.08], [0.105, 1.39, -0.09]]
)

# Thumb bone directions in the hand's axes, from the base outwards.
_THUMBS = {
    "along": ((0.55, 0.80, 0.15), (0.20, 0.97, 0.10), (0.05, 0.99, 0.05)),
    "out": ((0.80, 0.55, 0.10), (0.88, 0.45, 0.05), (0.92, 0.38, 0.0)),
    "up": ((0.85, 0.45, 0.15), (0.99, 0.10, 0.05), (1.00, -0.05, 0.0)),
    "across": ((0.45, 0.70, 0.55), (-0.35, 0.45, 0.82), (-0.85, 0.15, 0.45)),
    "ring": ((0.50, 0.62, 0.60), (-0.10, 0.80, 0.55), (-0.25, 0.90, 0.40)),
}
_STRAIGHT, _BENT = (6, 6, 4), (80, 95, 50)  # flexion in degrees at the knuckle and the two finger joints
_CLAWED, _ROUND, _HOOKED = (18, 62, 42), (52, 46, 26), (12, 88, 55)


@dataclass(frozen=True)
class Handshape:
    """Joint angles: flexion (4, 3) and sideways spread (4,) in radians, thumb bone directions (3, 3)."""

    flexion: np.ndarray
    spread: np.ndarray
    thumb: np.ndarray


def _shape(fingers: tuple, spread: float, thumb: str) -> Handshape:
    angles = np.array([1.0, 0.2, -0.6, -1.4]) * np.deg2rad(spread)  # towards the thumb is positive
    return Handshape(np.deg2rad(np.array(fingers, float)), angles, np.array(_THUMBS[thumb]))


HANDSHAPES = {
    "flat": _shape((_STRAIGHT,) * 4, 1, "along"),
    "fist": _shape((_BENT,) * 4, 0, "across"),
    "index": _shape((_STRAIGHT, _BENT, _BENT, _BENT), 0, "across"),
    "claw": _shape((_CLAWED,) * 4, 11, "out"),
    "vee": _shape((_STRAIGHT, _STRAIGHT, _BENT, _BENT), 14, "across"),
    "okay": _shape((_ROUND, _STRAIGHT, _STRAIGHT, _STRAIGHT), 8, "ring"),
    "five": _shape((_STRAIGHT,) * 4, 15, "out"),
    "thumb": _shape((_BENT,) * 4, 0, "up"),
    "pinch": _shape((_ROUND,) * 4, 0, "ring"),
    "horns": _shape((_STRAIGHT, _BENT, _BENT, _STRAIGHT), 6, "out"),
    "hook": _shape((_HOOKED, _BENT, _BENT, _BENT), 0, "across"),
    "little": _shape((_BENT, _BENT, _BENT, _STRAIGHT), 4, "across"),
}
RELAXED = Handshape(np.deg2rad(np.array([(18, 24, 12), (22, 26, 14), (26, 28, 15), (30, 30, 16)], float)),
                    np.deg2rad(np.array([3.0, 1.0, -2.0, -5.0])), np.array(_THUMBS["along"]))  # fmt: skip


def unit(vector: np.ndarray) -> np.ndarray:
    """Scale the last axis to length 1."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def rotation(yaw: np.ndarray | float, pitch: np.ndarray | float, roll: np.ndarray | float) -> np.ndarray:
    """Matrices (..., 3, 3) that turn column vectors by roll about z, then pitch about x, then yaw about y (radians)."""
    yaw, pitch, roll = np.broadcast_arrays(np.asarray(yaw, float), pitch, roll)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*rows: list) -> np.ndarray:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = matrix([cy, zero, sy], [zero, one, zero], [-sy, zero, cy])
    about_x = matrix([one, zero, zero], [zero, cp, -sp], [zero, sp, cp])
    about_z = matrix([cr, -sr, zero], [sr, cr, zero], [zero, zero, one])
    return about_y @ about_x @ about_z


def reach(shoulder: np.ndarray, target: np.ndarray, upper: float, fore: float, pole: np.ndarray) -> tuple:
    """Two-link inverse kinematics: elbow and wrist (T, 3) of an arm that reaches for `target` (T, 3).

    The elbow bends towards `pole` (3,), a direction. A target out of reach is brought to the nearest reachable
    distance, so the bones keep their lengths exactly. Law of cosines in the plane of shoulder, target and pole.
    """
    along = target - shoulder
    distance = np.linalg.norm(along, axis=-1, keepdims=True)
    along = along / np.maximum(distance, 1e-9)
    distance = np.clip(distance, abs(upper - fore) * 1.05 + 1e-3, 0.985 * (upper + fore))
    foot = (distance**2 + upper**2 - fore**2) / (2 * distance)
    side = pole - along * (along @ pole)[..., None]
    elbow = shoulder + along * foot + unit(side) * np.sqrt(np.maximum(upper**2 - foot**2, 0.0))
    return elbow, shoulder + along * distance


def bend_limit(direction: np.ndarray, forearm: np.ndarray, limit: float) -> np.ndarray:
    """Turn `direction` (T, 3) towards `forearm` (T, 3), both unit, until the wrist bends by at most `limit` radians."""
    cosine = np.clip((direction * forearm).sum(-1, keepdims=True), -1, 1)
    angle = np.minimum(np.arccos(cosine), limit)
    side = direction - forearm * cosine
    length = np.linalg.norm(side, axis=-1, keepdims=True)
    side = np.where(length > 1e-6, side / np.maximum(length, 1e-6), 0.0)
    return unit(forearm * np.cos(angle) + side * np.sin(angle))


def hand_points(wrist: np.ndarray, fingers: np.ndarray, palm: np.ndarray, shape: Handshape, size: float) -> np.ndarray:
    """The 21 MediaPipe hand landmarks (T, 21, 3) of a right hand.

    wrist (T, 3); fingers (T, 3) unit vector from wrist to middle knuckle; palm (T, 3) unit vector out of the palm, at
    right angles to it; shape holds (T, 4, 3), (T, 4) and (T, 3, 3); size scales the adult hand.
    Order: wrist, thumb from its base (1-4), then index, middle, ring and little finger from knuckle to tip.
    """
    frames = len(wrist)
    axes = np.stack([np.cross(fingers, palm), fingers, palm], axis=-2)  # (T, 3, 3): thumb side, fingers, palm
    local = np.zeros((frames, 21, 3))
    local[:, 1] = _THUMB_BASE
    directions = unit(shape.thumb)
    for bone, length in enumerate(_THUMB_BONES):
        local[:, 2 + bone] = local[:, 1 + bone] + directions[:, bone] * length
    bend = np.cumsum(shape.flexion, axis=-1)  # (T, 4, 3): angle of each phalanx to the palm
    # a bent knuckle takes the sideways spread away, as ligaments do; else fists would fan out
    spread = shape.spread * np.clip(np.cos(shape.flexion[..., 0]), 0, 1)
    straight = np.stack([np.sin(spread), np.cos(spread)], axis=-1)  # (T, 4, 2)
    steps = np.empty((frames, 4, 3, 3))
    steps[..., :2] = np.cos(bend)[..., None] * straight[:, :, None]
    steps[..., 2] = np.sin(bend)
    steps *= _PHALANGES[:, :, None]
    local[:, 5::4] = _KNUCKLES
    joints = _KNUCKLES[:, None] + np.cumsum(steps, axis=2)
    for finger in range(4):
        local[:, 6 + 4 * finger : 9 + 4 * finger] = joints[:, finger]
    return wrist[:, None] + size * (local @ axes)


def head_points(turn: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Pose points 0-10 (T, 11, 3) and the 12 face points (T, 12, 3) of a head turned by `turn` (T, 3, 3)."""
    turned = np.concatenate([_HEAD_POSE, _HEAD_FACE]) @ turn.transpose(0, 2, 1)
    points = _NECK + size * turned
    return points[:, :11], points[:, 11:]


def legs(height: float) -> np.ndarray:
    """Pose points 23-32 (10, 3): left and right hip, knee, ankle, heel, toe in turn."""
    return np.stack([_LEG, _LEG * [-1, 1, 1]], axis=1).reshape(10, 3) * height
