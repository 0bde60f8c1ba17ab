"""`handcraft predict`: recognise signs in videos, `.pose` files and stores. See `cli` for how commands are written."""

import json as to_json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from handcraft.cli.data import Command
from handcraft.errors import ConfigError, HandcraftError, one_line


def predict(
    inputs: Positional[Annotated[tuple[Path, ...], arg(metavar="VIDEO|FILE.pose|STORE|DIR")]],
    model: Annotated[Path, arg(metavar="RUN")],
    ids: tuple[str, ...] = (),
    top: int = 5,
    window: float | None = None,
    step: float | None = None,
    fps: float | None = None,
    backend: Literal["holistic", "tasks"] = "holistic",
    task: Path | None = None,
    json: bool = False,
) -> int:
    """Recognise signs in videos, .pose files and stores. Exit code 1 if some inputs could not be recognised, 2 if none
    could.

    Args:
        inputs: videos, .pose files, folders of either (or of images in numeric order), and raw or preprocessed stores.
        model: a classifier's folder, run or checkpoint. Preprocessing is done as it says.
        ids: the clips of a store; all if none is named.
        top: classes to list for each.
        window: slide a window of so many seconds over each recording, and print the time line.
        step: seconds from window to window; half a window where not given.
        fps: sample videos at so many frames a second; and the rate of folders of images, and of a store that does not
            say its own.
        backend: what detects the landmarks of videos; should be what did for the training clips.
        task: .task file with the models of backend tasks. Its releases of MediaPipe report usage to their maker.
        json: print one JSON object a line instead of tables.
    """
    from handcraft.checkpoint import load
    from handcraft.extract.landmarker import Settings
    from handcraft.match import classifier_folder, require_classifier
    from handcraft.recording import is_store

    if not inputs:
        raise ConfigError("give at least one video, .pose file, store or folder; see `handcraft predict --help`")
    checkpoint = load(classifier_folder(model))
    require_classifier(checkpoint)
    if ids and not (len(inputs) == 1 and is_store(inputs[0])):
        raise ConfigError("--ids chooses clips of a store; give one store and nothing else with it")
    detector = Settings(backend=backend, model=None if task is None else str(task), fps=fps, image_fps=fps)
    options = {"ids": ids or None, "top": top, "window": window, "step": step, "fps": fps, "detector": detector}
    rows, failed = [], []
    for outcome in _outcomes(checkpoint, inputs, options):
        if isinstance(outcome, Exception):
            line = one_line(outcome)
            if line not in failed:  # what is not installed is missing for every video
                print(f"handcraft: {line}", file=sys.stderr)
            failed.append(line)
            continue
        rows.append(outcome)
        if json:
            print(to_json.dumps(outcome), flush=True)
    if not json:
        _print_tables(rows)
    if failed and len(failed) + len(rows) > 1:
        print(f"handcraft: {len(failed)} of {len(failed) + len(rows)} could not be recognised", file=sys.stderr)
    return 0 if not failed else 1 if rows else 2


def _outcomes(checkpoint, inputs: Sequence[Path], options: dict[str, Any]) -> Iterator[dict[str, Any] | Exception]:
    """A row for each clip, and what is wrong with each that has none."""
    from handcraft.predict import predict
    from handcraft.recording import is_store, sources

    for path in inputs:
        try:
            found = [path] if is_store(path) else sources(path)
        except (HandcraftError, OSError) as error:
            yield error
            continue
        for source in found:
            try:
                with _detecting(path):
                    rows = predict(checkpoint, source, **options)
            except (HandcraftError, OSError) as error:
                yield error
            else:
                yield from rows


@contextmanager
def _detecting(path: Path) -> Iterator[None]:
    """Shows on a terminal that something is done, and keeps from it what MediaPipe's C++ writes about every graph."""
    from rich.console import Console
    from rich.markup import escape

    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as terminal, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with Console(file=terminal).status(f"detecting and recognising: {escape(str(path))}"):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


def _print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Whole clips in one table, a table for each time line, and the notes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console, clips = Console(), [row for row in rows if "top" in row]
    if clips:
        table = Table(Column("clip", overflow="fold"), "labelled", "recognised as (probability)")
        for row in clips:
            found = ", ".join(f"{entry['class']} ({entry['probability']:.2f})" for entry in row["top"])
            table.add_row(*map(escape, (row["id"], row["label"] or "", found)))
        console.print(table)
    for row in (row for row in rows if "timeline" in row):
        table = Table("from", "to", "sign", "probability", "windows")
        for entry in row["timeline"]:
            probability = "" if entry["sign"] is None else f"{entry['probability']:.2f}"
            sign = "(nobody)" if entry["sign"] is None else entry["sign"]
            times = (f"{entry[name]:.2f} s" for name in ("start", "end"))
            table.add_row(*times, escape(sign), probability, str(entry["windows"]))
        console.print(row["id"], markup=False, highlight=False, soft_wrap=True)
        console.print(table)
    for row in rows:
        for note in row.get("notes", ()):
            console.print(f"{row['id']}: {note}", markup=False, highlight=False, soft_wrap=True)


COMMANDS: dict[tuple[str, ...], Command] = {
    ("predict",): (predict, "recognise signs in videos, .pose files and stores", None),
}
