"""`handcraft generate`: synthetic clips from trained twin generators."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from handcraft.cli.data import Command, Folder, Store
from handcraft.errors import ConfigError


def generate(
    generator: Annotated[Path, arg(metavar="DIR")],
    data: Store,
    out: Folder,
    per_class: int | None = None,
    total: int | None = None,
    seed: int = 0,
    batch: int = 2048,
    missing: Literal["source", "none"] = "source",
    vary: bool = True,
    gate: tuple[str, ...] = (),
    classifier: Annotated[Path | None, arg(metavar="RUN")] = None,
    shards: int | None = None,
    shard: int | None = None,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Write a store of synthetic clips, made from real ones by the twin generators. The same command goes on with a
    store that was interrupted, after its last whole part.

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
        gate: keep only clips that pass, one or more of confidence:P (the classifier gives the clip's class at least
            probability P), distance:Q (as near to a real clip of the class as Q % of the real ones are), bones:R (no
            bone off its source's length by more than the factor R), speed:Q (no faster than Q % of the real clips).
        classifier: the run or checkpoint that gate confidence asks.
        shards: parts of the store; parts of 4,096 clips if not given.
        shard: make only this part, from 0 on: one job on each of many machines makes one, and the command without
            --shard, given when they have ended, makes what is missing and finishes the store.
        workers: batches made side by side; by default one a thread of the CPU.
        device: where to generate; auto takes a GPU where there is one.
    """
    from handcraft.checkpoint import load
    from handcraft.commands import classifier_folder
    from handcraft.distributed import device as find_device
    from handcraft.gates import build_gates
    from handcraft.generate import generate as make
    from handcraft.predict import load_for
    from handcraft.synthesis import seen_by

    if classifier is not None and not any(text.startswith("confidence:") for text in gate):
        raise ConfigError(f"--classifier is {classifier}, but no --gate confidence:P asks it")
    forward, reverse = load(generator / "forward"), load(generator / "reversed")
    sources = seen_by(forward, load_for(forward, data)).to(find_device(device))
    judge = None if classifier is None else load(classifier_folder(classifier))
    gates = build_gates(gate, sources, forward, judge)
    wanted = {"per_class": per_class, "total": total, "seed": seed, "batch": batch, "missing": missing, "vary": vary}
    spread = {"shards": shards, "shard": shard, "workers": workers}
    made = make(forward, reverse, sources, out, gates=gates, **wanted, **spread)
    if made is None:
        print(f"{out}: part {shard} of {shards} is there; once all are, the command without --shard finishes the store")
        return 0
    print(f"{out}: {len(made)} synthetic clips of {len(made.classes)} classes from {len(sources)} real ones")
    if gates:
        rates = made.manifest.source["rates"]
        rejected = ", ".join(f"{count} by {name}" for name, count in rates["rejected"].items())
        print(f"{rates['made']} clips made, {rates['kept']} kept; rejected: {rejected}")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("generate",): (generate, "write a store of synthetic clips", None),
}
