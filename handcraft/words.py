"""Counts and lists in the sentences that people read."""

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 clip`, `1,740 clips`; plural: where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def some(names: Sequence[object], shown: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more
