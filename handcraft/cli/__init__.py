"""The `handcraft` command. Each subcommand is one function here with typed arguments, from which tyro makes the help
and the checks, and calls the library; errors the package raises on purpose end in one line and exit code 2.

    handcraft --help                what there is
    handcraft run small --help      every field of the recipe `small`, with its value, to be overridden
"""

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro

from handcraft.cli import data, evaluate, export, extract, generate, importing, predict, prepare, study, train, view
from handcraft.cli.data import Command, Folder, Store
from handcraft.config import Recipe
from handcraft.errors import ConfigError, HandcraftError, Stopped, one_line
from handcraft.recipe import check_recipe, load_recipe, recipe_names


@dataclass(frozen=True)
class Run:
    """Train the generators, generate, train both classifiers in four arms, and report: the whole recipe."""

    data: Store
    """Store with the real clips."""
    out: Folder
    """Folder for everything the run makes; the same call continues a stopped run."""
    seeds: int = 3
    """Runs of everything, with the seeds 0, 1, ...; figures come with their spread."""
    clips_per_class: int | None = None
    """Draw that many training clips of each class, by seed; the generators see only those."""
    track: Literal["tensorboard"] | None = None
    """Beside the JSON lines of each training, write what `tensorboard --logdir OUT` shows."""
    recipe: Recipe = field(default_factory=Recipe)


def run(options: Run) -> int:
    from rich.console import Console

    from handcraft.distributed import is_first, joined
    from handcraft.report import table
    from handcraft.run import run as go

    check_recipe(options.recipe)
    chosen = {"seeds": options.seeds, "clips_per_class": options.clips_per_class, "track": options.track}
    with joined():
        outcome = go(options.recipe, options.data, options.out, **chosen)
        if is_first():
            Console().print(table(outcome.metrics))
            print(f"report: {outcome.page} (and {outcome.report.name} beside it)")
    return 0


def doctor() -> int:
    """Say what is installed, which backends run and why others do not, and check every op against float64."""
    from handcraft.doctor import examine

    return 0 if examine() else 1


COMMANDS: dict[tuple[str, ...], Command] = {
    ("run",): (run, "the whole recipe: generators, synthetic clips, classifiers, report", Run),
    **extract.COMMANDS,
    **data.COMMANDS,
    **importing.COMMANDS,
    **prepare.COMMANDS,
    **export.COMMANDS,
    **view.COMMANDS,
    **train.COMMANDS,
    **generate.COMMANDS,
    **evaluate.COMMANDS,
    **predict.COMMANDS,
    **study.COMMANDS,
    ("doctor",): (doctor, "versions, devices, backends, and a self-check of every op", None),
}
"""Words of the command -> function, summary, and for commands that take RECIPE first the type of their options."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with 0 (good), 1 (problems found), 2 (cannot be done, said why), 130
    (interrupted) or 143 (stopped by SIGTERM, with the training's state saved).

    Of the processes that torchrun starts, the first one reports; the others say only what went wrong in them.
    """
    process = os.environ.get("RANK", "0")
    name = "handcraft" if process == "0" else f"handcraft (process {process})"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("handcraft").setLevel(logging.INFO if process == "0" else logging.WARNING)
    logging.getLogger("handcraft.kernels").setLevel(logging.WARNING)
    try:
        with _terminable():
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except Stopped as error:
        if process == "0":
            print(f"{name}: {one_line(error)}", file=sys.stderr)
        code = 143
    except HandcraftError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        code = 2
    except (RuntimeError, ValueError) as error:
        if not _about_backend(error):
            raise
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as error:
        how, code = ("stopped by SIGTERM", 143) if isinstance(error, _Terminated) else ("interrupted", 130)
        print(f"handcraft: {how}; the same command with the same folder continues where it can", file=sys.stderr)
    raise SystemExit(code)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: what is half written goes, what is whole stays, as after Ctrl-C."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into `_Terminated`; a training takes its own care of it. Processes of torchrun end at once: they may
    be waiting for each other."""
    if threading.current_thread() is not threading.main_thread() or "RANK" in os.environ:
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _about_backend(error: Exception) -> bool:
    """Whether an op could not run on the backend that HANDCRAFT_BACKEND asks for."""
    from handcraft.kernels import dispatch

    return isinstance(error, dispatch.BackendError) or dispatch.VARIABLE in str(error)


def _dispatch(argv: list[str]) -> int:
    if argv == ["--version"]:
        import handcraft

        print(f"handcraft {handcraft.__version__}")
        return 0
    words = next((words for words in COMMANDS if tuple(argv[: len(words)]) == words), None)
    if words is None:
        group = tuple(itertools.takewhile(lambda word: not word.startswith("-"), argv))
        known = [words for words in COMMANDS if words[: len(group)] == group]
        if known and (not argv or argv[len(group) :][:1] in (["-h"], ["--help"])):
            print(_overview(known))
            return 0
        words = [words for words in COMMANDS if words[0] == argv[0]] or COMMANDS
        raise ConfigError(
            f"unknown command {' '.join(group[:3] or argv)!r}; known: {', '.join(' '.join(known) for known in words)}"
        )
    function, _, options = COMMANDS[words]
    rest, name = argv[len(words) :], f"handcraft {' '.join(words)}"
    if options is None:
        return tyro.cli(function, args=rest, prog=name)
    if not rest or rest[0].startswith("-"):
        if rest[:1] not in (["-h"], ["--help"]):
            raise ConfigError(f"give a recipe first, one of {_recipes()} or a .yaml file; see `{name} --help`")
        print(
            f"usage: {name} RECIPE [options]\n\n{options.__doc__}\n\nRECIPE is one of {_recipes()}, or a .yaml file of "
            f"your own. See `{name} small --help` for the options."
        )
        return 0
    recipe = load_recipe(rest[0])
    default = options(data=tyro.MISSING, out=tyro.MISSING, recipe=recipe)
    return function(tyro.cli(options, args=rest[1:], prog=f"{name} {rest[0]}", default=default))


def _overview(commands: Sequence[tuple[str, ...]]) -> str:
    width = max(len(" ".join(words)) for words in commands)
    lines = [f"  handcraft {' '.join(words):{width}s} {COMMANDS[words][1]}" for words in commands]
    return "\n".join(["usage: handcraft COMMAND ... (each has --help)", "", *lines, "", f"recipes: {_recipes()}"])


def _recipes() -> str:
    return ", ".join(recipe_names())
