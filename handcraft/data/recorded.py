"""How clips were recorded: the frame rate, the picture and the detector that a store names, and a model remembers.

None of it is in the landmarks themselves, and all of it is in their numbers: a model of clips of 50 frames a second,
of one detector, reads others worse. Checkpoints keep it, so that a prediction can say so.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from handcraft.data.manifest import Manifest, is_text
from handcraft.errors import DataError

SAME_RATE = 0.02  # frame rates that differ by less count as one
IDENTITY = ("backend", "mediapipe", "model_sha256", "detection", "tracking")
"""What tells detectors apart, of what `Detector.describe` says."""


@dataclass(frozen=True)
class Recorded:
    """How raw clips were recorded, as far as their store says."""

    fps: float | None = None
    """Frames a second, where all clips have the same."""
    aspect: float | None = None
    """Width / height of the pictures; None: taken as square."""
    detectors: tuple[dict[str, str | float], ...] = ()
    """What found the landmarks, see `IDENTITY`; empty where not known of all clips."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Recorded | None":
        """What a store says; None of a preprocessed one."""
        if manifest.stage != "raw":
            return None
        found = [plain_detector(value) for value in detectors(manifest.source)]
        return cls(manifest.fps, manifest.aspect, tuple(found) if all(found) else ())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"detectors": list(self.detectors)}

    @classmethod
    def from_dict(cls, value: Any) -> "Recorded":
        """From plain values, which may come from anywhere. `DataError`: they are none that `to_dict` gives."""
        fields = value if isinstance(value, dict) else {}
        rates = [fields.get(name) for name in ("fps", "aspect")]
        found = fields.get("detectors")
        good = all(rate is None or (_is_number(rate) and rate > 0) for rate in rates) and isinstance(found, list)
        if not good or any(not entry or plain_detector(entry) != entry for entry in found):
            raise DataError(f"recorded is {value!a:.80}, expected fps, aspect and detectors")
        return cls(*rates, tuple(found))


def detectors(source: Mapping[str, Any]) -> list[Any]:
    """What detected the landmarks of a store, from its manifest's `source`: what `handcraft extract` notes, for each
    store that was merged into it; None for one from elsewhere."""
    stores = source.get("stores")
    if not isinstance(stores, list) or not stores:
        return [source.get("extraction")]
    found = [value for part in stores for value in (detectors(part) if isinstance(part, Mapping) else [None])]
    return [value for at, value in enumerate(found) if value not in found[:at]]


def plain_detector(value: Any) -> dict[str, str | float]:
    """What of `value` says which detector it was; empty where nothing does."""
    told = value if isinstance(value, Mapping) else {}
    return {name: told[name] for name in IDENTITY if (is_text(told.get(name)) or _is_number(told.get(name)))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
