"""What the soak test does over and over: import, generate, train, on small data of its own. What is in the folder when
it is done is a function of nothing, so it must be the same each time, bit for bit, killed or not."""

import time
from pathlib import Path

import numpy as np
from small_clips import small_clips, small_recipe, small_task
from tiny_recipe import arrays
from twins import twin

from handcraft.data.arrays import import_arrays
from handcraft.data.manifest import MANIFEST
from handcraft.data.store import Store
from handcraft.engine import train
from handcraft.files import sha256_file, write_text
from handcraft.generate import generate
from handcraft.resume import LOCK

STAGES = ("import", "generate", "train")
MARK = "stage"  # beside the folder of a cycle: which stage it is in


class Cycle:
    """The data, made once; processes that are forked from here share it."""

    def __init__(self, folder: Path, size: float = 1.0):
        """folder: for the file to import. size: of every stage."""
        self.npz = folder / "arrays.npz"
        np.savez(self.npz, **arrays(clips=int(600 * size), frames=40))
        self.clips = small_clips()
        self.twins = tuple(twin(self.clips, reverse=reverse) for reverse in (False, True))
        self.total = int(8000 * size)
        self.steps = int(80 * size)

    def __call__(self, out: Path) -> None:
        """Do, in the folder `out`, what is not yet done there."""
        self._enter(out, "import")
        if not (out / "imported" / MANIFEST).exists():
            import_arrays(self.npz, out / "imported")
        self._enter(out, "generate")
        if not (out / "generated" / MANIFEST).exists():
            generate(*self.twins, self.clips, out / "generated", total=self.total, shards=10, workers=1)
        self._enter(out, "train")
        recipe = small_recipe("transformer_sl", steps=self.steps, checkpoint_every=7, validate_every=20)
        train(small_task("transformer_sl", clips=self.clips, recipe=recipe, augment=True), out / "trained", resume=True)
        for store in ("imported", "generated"):
            Store(out / store).verify()

    def _enter(self, out: Path, stage: str) -> None:
        write_text(mark(out), f"{stage} {time.monotonic()}")


def mark(out: Path) -> Path:
    """The file that says which stage the cycle in `out` is in, and since when."""
    return out.with_name(f"{out.name}.{MARK}")


def contents(out: Path) -> dict[str, str]:
    """Every file that a cycle leaves -> its SHA-256."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK)
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files}
