"""`handcraft generate`: synthetic clips from trained twin generators."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from handcraft.cli_data import Command, Folder, Store


def generate(
    generator: Annotated[Path, arg(metavar="DIR")],
    data: Store,
    out: Folder,
    per_class: int | None = None,
    total: int | None = None,
    seed: int = 0,
    batch: int = 1024,
    missing: Literal["source", "none"] = "source",
    vary: bool = True,
) -> int:
    """Write a store of synthetic clips, made from real ones by the twin generators.

    Args:
        generator: folder with forward/ and reversed/, as `handcraft train generator` leaves it.
        data: store with the real clips; those the generators were trained on are the sources.
        out: folder of the new store.
        per_class: clips of each class; give this or --total.
        total: clips in all.
        seed: clip i of a seed is the same however many are made.
        batch: clips made at a time.
        missing: `source` leaves out what the source clip lacks, `none` keeps all landmarks.
        vary: rotate, scale and cut the source clips as the generators' own training did.
    """
    from handcraft.checkpoint import load
    from handcraft.generate import generate as make
    from handcraft.predict import load_for
    from handcraft.synthesis import seen_by

    forward, reverse = load(generator / "forward"), load(generator / "reversed")
    sources = seen_by(forward, load_for(forward, data))
    wanted = {"per_class": per_class, "total": total, "seed": seed, "batch": batch, "missing": missing, "vary": vary}
    made = make(forward, reverse, sources, out, **wanted)
    print(f"{out}: {len(made)} synthetic clips of {len(made.classes)} classes from {len(sources)} real ones")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("generate",): (generate, "write a store of synthetic clips", None),
}
