"""Markdown from parts that may come from anywhere: a class name or a licence can be any text."""

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*\[\]<>|~]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word marks nothing up


def escape(text: object) -> str:
    """`text` in one line that Markdown shows as it is: no markup, no HTML, no end of a table's cell."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).replace("&", "&amp;").split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the cells are Markdown, so whoever has foreign text escapes it."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
