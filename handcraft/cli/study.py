"""`handcraft study`: the paper's open questions as experiments on a store."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli.data import Command, Folder, Store


def study(
    name: Positional[Annotated[str, arg(metavar="NAME")]],
    data: Store,
    out: Folder,
    recipe: str = "small",
    seeds: int = 5,
    clips_per_class: int | None = None,
    models: tuple[Literal["transformer", "mamba"], ...] = ("transformer", "mamba"),
    source: Annotated[Path, arg(metavar="STORE")] | None = None,
    only: tuple[str, ...] = (),
    training_only: bool = False,
) -> int:
    """Vary one thing of a recipe and say what it changes, on clips that no training saw. Writes OUT/NAME/report.html,
    report.md and study.json; trainings are shared by all studies in OUT, and a stopped study goes on where it was.

    Args:
        name: ratio, depth, embedding, noise, data, augmentation, window, splice, tokens, transfer, paper or strong.
        data: store with the real clips.
        out: folder for the studies and their trainings.
        recipe: what is varied: the name of a recipe, or a .yaml file.
        seeds: runs of every setting; intervals need three or more.
        clips_per_class: draw that many training clips of each class, by seed.
        models: classifiers to train.
        source: store with other clips, which generators see first, without labels (transfer).
        only: names of the settings to run, the one that the others are compared with among them; all by default.
        training_only: leave the test clips alone and test on groups held out from the training clips: to
            choose a recipe by.
    """
    from handcraft.recipe import load_recipe
    from handcraft.studies.catalogue import find_study
    from handcraft.studies.report import terminal
    from handcraft.studies.study import run_study

    found = run_study(
        find_study(name),
        load_recipe(recipe),
        data,
        out,
        seeds=seeds,
        clips_per_class=clips_per_class,
        models=models,
        source=source,
        only=only,
        training_only=training_only,
    )
    print(f"{terminal(found)}\n\nall figures, with changes, intervals and charts: {out / name / 'report.html'}")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("study",): (study, "vary one thing of a recipe and say what it changes", None),
}
