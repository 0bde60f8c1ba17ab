"""Docstrings of handcraft as reStructuredText, for Sphinx.

They are plain text to be read in an editor: single backticks are code, an indented block is a formula or a listing, and
`Args:`, `Returns:` and `Raises:` begin lists. Whatever else reStructuredText would take for markup is only text.
"""

import re
import textwrap
from collections.abc import Collection, Iterator

SECTIONS = {"Args:": "Arguments", "Returns:": "Returns", "Raises:": "Raises"}
_CODE = re.compile(r"(`[^`]+`)")
_ENTRY = re.compile(r"([\w.]+(?:, [\w.]+)*): (.*)", re.DOTALL)
_MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")  # emphasis, substitutions, references


def as_rst(text: str, names: Collection[str] = ()) -> str:
    """The docstring `text` of an object whose arguments are `names`."""
    made, lines = [], text.strip("\n").split("\n")
    while lines:
        if not lines[0].strip():
            lines.pop(0)
        elif lines[0] in SECTIONS:
            title = SECTIONS[lines.pop(0)]
            made.append(f":{title}:\n{textwrap.indent(_entries(_take(lines, _indented)), '    ')}")
        elif _indented(lines[0]):
            block = textwrap.dedent("\n".join(_take(lines, _indented))).strip("\n")
            made.append(f"::\n\n{textwrap.indent(block, '    ')}")
        else:
            made += _paragraphs(_take(lines, lambda line: bool(line.strip()) and line not in SECTIONS), names)
    return "\n\n".join(made)


def escape(text: str) -> str:
    """Prose as reStructuredText: code stays code, the rest loses every other meaning."""
    made = []
    for piece in _CODE.split(text):
        if _CODE.fullmatch(piece):
            made.append(f"`{piece}`")
        else:
            joined = bool(made) and piece[:1] not in ("", " ", "\n", *".,:;!?)]}'\"-/")
            made.append("\\ " * joined + _MARKUP.sub(r"\\\g<0>", piece))
    return "".join(made)


def _indented(line: str) -> bool:
    """Whether a line belongs to a block that is set in."""
    return not line.strip() or line.startswith("    ")


def _take(lines: list[str], belongs) -> list[str]:
    """Remove and return the first lines, as long as they belong."""
    end = next((at for at, line in enumerate(lines) if not belongs(line)), len(lines))
    taken, lines[:] = lines[:end], lines[end:]
    return taken


def _paragraphs(lines: list[str], names: Collection[str]) -> Iterator[str]:
    """Lines without a gap: a paragraph, or several where list items or arguments begin lines."""
    found: list[list[str]] = []
    for line in lines:
        entry = _ENTRY.match(line)
        argument = entry is not None and set(entry[1].split(", ")) <= set(names)
        if not found or argument or line.startswith("- "):
            found.append([])
        found[-1].append(line.strip())
    for group in found:
        text = "\n".join(group)
        entry = _ENTRY.fullmatch(text)
        if text.startswith("- "):
            yield "- " + escape(text[2:]).replace("\n", "\n  ")
        elif entry and set(entry[1].split(", ")) <= set(names):
            yield f"{_literals(entry[1])}: {escape(entry[2])}"
        else:
            yield escape(text)


def _entries(lines: list[str]) -> str:
    """The body of a section: a list where its lines begin with `name: `, else prose."""
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    if not _ENTRY.match(text):
        return escape(text)
    entries = [_ENTRY.fullmatch(entry) for entry in re.split(r"\n(?=\S)", text)]
    if None in entries:
        return escape(" ".join(text.split()))
    return "\n".join(f"- {_literals(found[1])}: {escape(' '.join(found[2].split()))}" for found in entries)


def _literals(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))
