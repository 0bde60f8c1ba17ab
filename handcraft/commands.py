"""What commands do beyond one call of the library: find the source clips, tell kinds apart, print tables."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from handcraft.checkpoint import Checkpoint, load
from handcraft.data.clips import Clips
from handcraft.data.store import Store
from handcraft.errors import CheckpointError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.predict import load_for, predict

ALL = "all"


def evaluation(model: Path, store: Path, split: str, confusion: Path | None) -> dict:
    """Figures of a classifier's run, or of the generators in `model/forward` and `model/reversed`, as plain values.

    split "all" scores every clip of the store, whatever its mark.
    """
    if (model / "forward").is_dir() and (model / "reversed").is_dir():
        forward, reverse = load(model / "forward"), load(model / "reversed")
        data: Store | Clips = Store(store)
        if split == ALL:
            data = load_for(forward, data)
        return evaluate_generator(forward, reverse, data, split)
    checkpoint = load(model)
    if checkpoint.kind == "cmlpe":
        raise CheckpointError(f"{model}: is one generator; give the folder that holds forward/ and reversed/")
    data = Store(store)
    if split == ALL:
        data = load_for(checkpoint, data)
    row = evaluate_classifier(checkpoint, data, split, confusion=confusion)
    return {name: value.tolist() if name == "confusion" else value for name, value in row.items()}


def seen_by(generator: Checkpoint, clips: Clips) -> Clips:
    """The clips a generator was trained on: the sources it may generate from. `DataError` if none of them is here."""
    seen = np.array([int(digest, 16) for digest in generator.seen_clips], dtype=np.uint64)
    known = np.isin(clips.digest, seen)
    if not known.any():
        raise DataError(
            f"none of the {len(clips)} clips is among those {generator.path} was trained on; give the store that the "
            "generators were trained with"
        )
    return clips.subset(known)


def print_predictions(model: Path, store: Path, ids: Iterable[str] | None, top: int, *, as_json: bool) -> None:
    """Print the likeliest classes of each clip, as a table or as JSON lines."""
    rows = predict(model, store, ids, top)
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table("clip", "labelled", "recognised as (probability)")
    for row in rows:
        found = ", ".join(f"{entry['class']} ({entry['probability']:.2f})" for entry in row["top"])
        table.add_row(row["id"], row["label"], found)
    Console().print(table)
