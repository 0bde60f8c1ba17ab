"""Named landmark layouts: which MediaPipe Holistic landmarks a clip holds, in what order, and how they mirror.

A raw clip keeps what the detector gave (`holistic75`, `holistic87`, ...); a model sees one of the small layouts of
the paper (`handcraft60`, `pose_hands48`). Sides are the signer's own.
"""

from dataclasses import dataclass

from handcraft.errors import ConfigError

# The 12 face-mesh vertices of the paper's 60 landmarks: mouth corners and lips, then four around each eye.
FACE12 = (61, 0, 291, 17, 33, 159, 133, 145, 263, 386, 362, 374)
UPPER_POSE = (12, 14, 16, 11, 13, 15)  # right shoulder, elbow, wrist; left shoulder, elbow, wrist
NOSE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 11, 12  # indices into MediaPipe's 33-point pose

_MIRROR = {
    "pose": {1: 4, 2: 5, 3: 6, 7: 8, 9: 10} | {i: i + 1 for i in range(11, 32, 2)},
    "face": {61: 291, 33: 263, 159: 386, 133: 362, 145: 374},
}


@dataclass(frozen=True)
class Part:
    """One detector part: its name and the MediaPipe indices of its landmarks, in stored order."""

    name: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """An ordered list of parts. `landmarks` is J, the number of points of one frame."""

    name: str
    parts: tuple[Part, ...]

    @property
    def landmarks(self) -> int:
        return sum(len(part.indices) for part in self.parts)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each part lies along the landmark axis."""
        found, start = {}, 0
        for part in self.parts:
            found[part.name] = slice(start, start + len(part.indices))
            start += len(part.indices)
        return found

    def position(self, part: str, index: int) -> int:
        """Place of MediaPipe landmark `index` of `part` along the landmark axis; `ConfigError` if it is not stored."""
        for candidate in self.parts:
            if candidate.name == part and index in candidate.indices:
                return self.slices[part].start + candidate.indices.index(index)
        raise ConfigError(f"layout {self.name} has no landmark {index} of part {part}; it holds {self.describe()}")

    def take(self, target: "Layout") -> list[int]:
        """Indices along this layout's landmark axis that give `target`; `ConfigError` if a landmark is missing."""
        return [self.position(part.name, index) for part in target.parts for index in part.indices]

    def lacks(self, target: "Layout") -> list[str]:
        """Names of the parts of `target` that this layout does not hold all landmarks of."""
        held = {part.name: set(part.indices) for part in self.parts}
        return [part.name for part in target.parts if not set(part.indices) <= held.get(part.name, set())]

    @property
    def flip(self) -> tuple[int, ...]:
        """Permutation that belongs to mirroring x: `mirrored[..., j, :] = clip[..., flip[j], :]` with x negated."""
        other = {"left_hand": "right_hand", "right_hand": "left_hand"}
        order = []
        for part in self.parts:
            both = _MIRROR.get(part.name, {})
            both = both | {right: left for left, right in both.items()}
            order += [self.position(other.get(part.name, part.name), both.get(i, i)) for i in part.indices]
        return tuple(order)

    def describe(self) -> str:
        return ", ".join(f"{part.name} ({len(part.indices)})" for part in self.parts)


_POSE = Part("pose", tuple(range(33)))
_LEFT = Part("left_hand", tuple(range(21)))
_RIGHT = Part("right_hand", tuple(range(21)))
_UPPER = Part("pose", UPPER_POSE)
_FACE12 = Part("face", FACE12)

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("holistic75", (_POSE, _LEFT, _RIGHT)),
        Layout("holistic87", (_POSE, _LEFT, _RIGHT, _FACE12)),
        Layout("holistic543", (_POSE, _LEFT, _RIGHT, Part("face", tuple(range(468))))),
        Layout("holistic553", (_POSE, _LEFT, _RIGHT, Part("face", tuple(range(478))))),
        Layout("handcraft60", (_UPPER, _RIGHT, _LEFT, _FACE12)),
        Layout("pose_hands48", (_UPPER, _RIGHT, _LEFT)),
    )
}


def layout(name: str) -> Layout:
    """The layout of that name; `ConfigError` lists the known ones."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise ConfigError(f"unknown landmark layout {name!r}; known: {', '.join(LAYOUTS)}") from None
