"""Toy data: procedurally generated signs, as MediaPipe Holistic would have seen them.

Each clip is a kinematic signer (`toy_body`, `toy_signer`) who performs a sign (`toy_signs`): preparation, stroke,
retraction. It is filmed by a camera and passed through a model of the detector, with jitter and missing hands. What
makes recognition hard is what makes it hard in real data: signers differ in build, place in the frame, habits and
viewpoint; speed and timing vary from clip to clip; hands get lost, above all fast and low ones.

Every signer and every clip has a random stream of its own, keyed by (seed, signer) and (seed, sign, clip): clip k of
a sign is the same however many classes and clips are asked for, as long as there are as many signers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from handcraft import layouts
from handcraft.data.store import StoreWriter
from handcraft.data.toy_body import rotation
from handcraft.data.toy_signer import Performance, Signer, drift, make_signer, perform
from handcraft.data.toy_signs import LIMIT, vocabulary
from handcraft.errors import ConfigError

LAYOUT = layouts.layout("holistic87")
ASPECT, FPS = 4 / 3, 25.0
_DISTANCE = 2.4  # metres from camera to signer
_PASSIVE_LOST = 0.6  # share of the clips in which an idle hand is never detected
_SIGNER, _CLIP = 1, 2  # kinds of random stream


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


def _film(rng: np.random.Generator, signer: Signer, points: np.ndarray) -> np.ndarray:
    """Perspective image coordinates (T, 87, 3) of body points in metres: x, y in 0..1 of the frame, z in x's unit.

    z is relative, as the detector's: the body's to the middle of the hips, a hand's to its wrist, the face's to the
    middle of its points.
    """
    view = np.array([signer.yaw, signer.pitch, 0.0]) + np.deg2rad(rng.normal(0, (6, 3, 2)))
    seen = points @ rotation(*view).T
    scale = signer.scale * np.exp(rng.normal(0, 0.05)) * _DISTANCE / (_DISTANCE + seen[..., 2])
    image = np.stack([scale, scale * ASPECT, scale], axis=-1) * seen
    image[..., :2] += signer.centre + rng.normal(0, 0.015, 2)
    origins = {"pose": slice(23, 25), "left_hand": slice(33, 34), "right_hand": slice(54, 55), "face": slice(75, 87)}
    for name, part in LAYOUT.slices.items():
        depth = seen[..., 2] - seen[:, origins[name], 2].mean(1, keepdims=True)
        image[:, part, 2] = signer.scale * depth[:, part]
    return image


def _jitter(rng: np.random.Generator, frames: int, points: int) -> np.ndarray:
    """Detector noise (T, points, 3) of unit variance in x and y, twice that deviation in z.

    Trackers are steady from frame to frame and wrong for a while: nine tenths of the variance vary over some nine
    frames, the rest is white.
    """
    window = np.hanning(11)[1:-1]
    white = rng.normal(0, 1, (frames + len(window) - 1, points, 3))
    slow = sum(weight * white[shift : shift + frames] for shift, weight in enumerate(window / np.linalg.norm(window)))
    return (np.sqrt(0.9) * slow + np.sqrt(0.1) * rng.normal(0, 1, (frames, points, 3))) * [1, 1, 2]


def _detect(rng: np.random.Generator, image: np.ndarray, scale: float, performance: Performance) -> np.ndarray:
    """What the detector reports of a filmed clip: jitter everywhere, hands missing (NaN) in runs of frames.

    A hand is lost more easily the faster and the lower in the frame it is; an idle one often for the whole clip.
    """
    frames = len(image)
    seen = image.copy()
    unit = scale * np.array([1, ASPECT, 1])  # image units of a metre
    pose, face = LAYOUT.slices["pose"], LAYOUT.slices["face"]
    seen[:, pose] += unit * 0.0025 * _jitter(rng, frames, 33)
    seen[:, face] += unit * 0.0015 * _jitter(rng, frames, 12)
    quality = np.exp(rng.normal(0, 0.35))  # of this recording: above 1 is worse
    for side, wrist in (("left", 15), ("right", 16)):
        part = LAYOUT.slices[f"{side}_hand"]
        seen[:, [wrist, wrist + 2, wrist + 4, wrist + 6]] += unit * 0.006 * _jitter(rng, frames, 4)
        middle = image[:, part, :2].mean(1)
        speed = np.linalg.norm(np.gradient(middle, axis=0) / unit[:2], axis=-1)  # metres a frame
        low = np.clip((middle[:, 1] - 0.82) / 0.12, 0, 3)  # over 1 by the lower edge, where it is hardly ever seen
        blur = np.clip(speed / 0.05, 0, 1.5)
        noise = 0.004 * quality * (1 + blur)[:, None, None]
        whole = 0.008 * quality * _jitter(rng, frames, 1)  # the whole hand is off together
        seen[:, part] += unit * (noise * _jitter(rng, frames, 21) + whole)
        seen[:, part, 2] -= seen[:, part.start, None, 2]
        level = drift(rng, frames) + 0.6 * rng.normal(0, 1, frames)
        missing = level + 0.9 * blur + 1.5 * low + 0.4 * np.log(quality) > 2.4
        if performance.one_handed and side != performance.dominant and rng.random() < _PASSIVE_LOST:
            missing[:] = True
        seen[missing, part] = np.nan
    return np.round(seen, 5).astype(np.float32)


def toy_clips(
    classes: int = 12, clips: int = 40, signers: int = 6, seed: int = 0
) -> Iterator[tuple[np.ndarray, str, int]]:
    """Yield (landmarks (T, 87, 3) float32, sign's name, signer 0..signers-1), sign by sign, T from 20 to 60.

    classes (at most `LIMIT`) is how many signs of the vocabulary there are, clips how many of each; signers take
    turns. Landmarks are in the order of the layout `holistic87`: x and y in 0..1 of the width and height of a frame
    of aspect ratio `ASPECT`, y downwards, z in the unit of x; NaN where a hand was not detected. Every eighth signer
    (the seventh, fifteenth, ...) is left-handed. `ConfigError` names an argument that is out of range.
    """
    _check(classes, clips, signers, seed)
    return _generate(classes, clips, signers, seed)


def make_toy(out: Path | str, classes: int = 12, clips: int = 40, signers: int = 6, seed: int = 0) -> None:
    """Write the clips of `toy_clips` to a raw store at `out`: id SIGN-0000, group the signer, no split.

    The same arguments give the same clips. `ConfigError` for an argument out of range, `DataError` where a store
    exists already; either way nothing is written.
    """
    _check(classes, clips, signers, seed)
    source = {"command": "data toy", "classes": classes, "clips": clips, "signers": signers, "seed": seed}
    names = [sign.name for sign in vocabulary()[:classes]]
    with StoreWriter(
        out, layout=LAYOUT.name, stage="raw", classes=names, fps=FPS, licence="MIT", aspect=ASPECT, source=source
    ) as writer:
        for number, (landmarks, name, who) in enumerate(_generate(classes, clips, signers, seed)):
            writer.add(landmarks, id=f"{name}-{number % clips:04d}", label=name, group=f"signer{who:02d}")


def _check(classes: int, clips: int, signers: int, seed: int) -> None:
    for name, value, low, high in (
        ("classes", classes, 1, LIMIT),
        ("clips", clips, 1, 100_000),
        ("signers", signers, 1, 10_000),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"toy data: {name} is {value!r}, expected a whole number from {low} to {high}")


def _generate(classes: int, clips: int, signers: int, seed: int) -> Iterator[tuple[np.ndarray, str, int]]:
    people = [make_signer(_stream(seed, _SIGNER, i), left_handed=i % 8 == 6) for i in range(signers)]
    for number, sign in enumerate(vocabulary()[:classes]):
        for clip in range(clips):
            who = (clip + 5 * number) % signers
            rng = _stream(seed, _CLIP, number, clip)
            performance = perform(rng, sign, people[who])
            image = _film(rng, people[who], performance.points)
            yield _detect(rng, image, people[who].scale, performance), sign.name, who
