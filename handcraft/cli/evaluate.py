"""`handcraft evaluate`: a classifier's accuracy, generators' errors, or synthetic clips beside real ones."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from handcraft.cli.data import Command
from handcraft.config import Recipe
from handcraft.errors import ConfigError

OptionalStore = Annotated[Path | None, arg(metavar="STORE")]


def evaluate(
    model: Positional[Annotated[Path | None, arg(metavar="RUN")]] = None,
    data: OptionalStore = None,
    real: OptionalStore = None,
    synthetic: OptionalStore = None,
    split: str | None = None,
    test_share: float = Recipe.test_share,
    confusion: Path | None = None,
    json: Path | None = None,
    draws: int = 20,
    seed: int = 0,
) -> int:
    """Score a classifier on the clips of a split, twin generators beside predictors that learn nothing (RUN and
    --data), or synthetic clips beside real ones (--real and --synthetic, with RUN a classifier whose features the
    distances are taken in; without RUN they are principal components of the poses).

    Args:
        model: a classifier's folder, run or checkpoint, or the folder with the generators forward/ and reversed/.
        data: store with the clips to score a model on.
        real: store with real clips; each figure's floor is real clips against real clips.
        synthetic: store with synthetic clips of the same classes.
        split: which marked clips; `all` takes every clip of the store, marked or not. With --data `test` where not
            given (of a store without marks the clips that training held out), with --real `all`.
        test_share: the recipe's test_share that the model was trained with; needed for stores without marks only.
        confusion: file for the confusion matrix (CSV).
        json: file for all figures.
        draws: random halves of the real clips that the intervals come from (--real).
        seed: of these halves.
    """
    if (data is None) == (real is None) or (real is None) != (synthetic is None):
        raise ConfigError(
            "evaluate: give RUN and --data STORE to score a model, or --real and --synthetic STORE to compare clips"
        )
    if real is not None:
        from rich.console import Console

        from handcraft.commands import distribution
        from handcraft.report.distribution import legend, table

        figures = distribution(real, synthetic, model, split or "all", draws=draws, seed=seed)
        Console().print(table(figures))
        print("\n".join(legend(figures)))
    else:
        from rich import print as show

        from handcraft.commands import evaluation, without_lists

        if model is None:
            raise ConfigError("evaluate: --data is given, but no RUN to score on it")
        figures = evaluation(model, data, split or "test", test_share, confusion)
        show(without_lists(figures))
    if json is not None:
        from handcraft.files import write_json

        write_json(json, figures)
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("evaluate",): (evaluate, "score a classifier or generators, or synthetic clips beside real ones", None),
}
