"""The commands of `handcraft data` that make and check stores; `importing` and `export` have the other ones. See
`cli` for how commands are written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Store = Annotated[Path, arg(metavar="STORE")]
Folder = Annotated[Path, arg(metavar="DIR")]
Command = tuple[Callable[..., int], str, type | None]
"""Function, summary, and for commands that take RECIPE first the type of their options."""


def data_check(store: Positional[Store]) -> int:
    """Is a store fit to train on? Checksums, missing landmarks by part, frames a clip, class balance, duplicates and
    split leaks. Exit code 1 if there are problems.

    Args:
        store: the store's folder.
    """
    from rich.console import Console

    from handcraft.data.check import check_store

    report = check_store(store)
    Console().print(report)
    return 0 if report.ok else 1


def data_card(store: Positional[Store], out: Folder | None = None) -> int:
    """Describe a store: licence, sizes, classes, detection rates, splits and groups, hashes, seed, generator, and the
    source clip of every synthetic clip. Prints Markdown.

    Args:
        store: the store's folder.
        out: folder for card.md and card.json (which lists what the Markdown sums up), in place of printing.
    """
    from handcraft.data.card import make_card, to_markdown, write_card

    if out is None:
        print(to_markdown(make_card(store)))
        return 0
    for file in write_card(store, out):
        print(file)
    return 0


def data_toy(out: Positional[Folder], classes: int = 12, clips: int = 40, signers: int = 6, seed: int = 0) -> int:
    """Make a store of procedurally generated signs, to try everything with.

    Args:
        out: folder of the new store.
        classes: number of signs.
        clips: clips of each sign.
        signers: number of signers, who share the clips.
        seed: of everything random.
    """
    from handcraft.data.toy import make_toy

    make_toy(out, classes=classes, clips=clips, signers=signers, seed=seed)
    print(f"{out}: {classes * clips} toy clips of {classes} classes by {signers} signers")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "toy"): (data_toy, "make a store of toy signs", None),
    ("data", "check"): (data_check, "is a store fit to train on?", None),
    ("data", "card"): (data_card, "describe a store: Markdown and JSON", None),
}
