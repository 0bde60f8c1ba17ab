"""Pages of the documentation as blocks of commands, Python and expected output, and what runs them.

A page's blocks run from top to bottom in one folder. `sh` blocks go to bash as they stand, `python` blocks share one
namespace, and an `output` block after either says what it prints: `...` stands for anything, spaces and the lines of
drawn tables do not count.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(sh|python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DRAWN = re.compile("[\u2500-\u257f]+")
SECONDS = 300  # for one block; a quiet machine needs a tenth of it


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    """In the page, where its text begins."""
    expected: str | None = None


def pages() -> list[Path]:
    """All pages that people wrote, generated ones left out."""
    return sorted(page for page in DOCS.rglob("*.md") if not {"_generated", "_build"} & set(page.parts))


def blocks(page: Path) -> list[Block]:
    """The `sh` and `python` blocks of a page, in order, each with the output that is said to follow it."""
    text, found = page.read_text(encoding="utf-8"), []
    end = 0
    for match in _FENCE.finditer(text):
        kind, content = match.groups()
        if kind == "output":
            assert found, f"{page}: begins with an output block"
            assert not text[end : match.start()].strip(), f"{page}: text between a block and its output"
            found[-1] = Block(found[-1].kind, found[-1].text, found[-1].line, content)
        else:
            found.append(Block(kind, content, text.count("\n", 0, match.start()) + 2))
        end = match.end()
    return found


def run_blocks(page: Path, blocks: list[Block], folder: Path, namespace: dict | None = None) -> None:
    """Run the blocks in `folder`; AssertionError names the line of the page that fails."""
    namespace = {"__name__": "page"} if namespace is None else namespace
    for block in blocks:
        where = f"{page.relative_to(ROOT)}:{block.line}"
        printed = _bash(block, folder, where) if block.kind == "sh" else _python(block, folder, where, namespace)
        if block.expected is not None:
            assert matches(block.expected, printed), f"{where} prints\n{printed}\nexpected\n{block.expected}"


def matches(expected: str, printed: str) -> bool:
    """Whether `printed` is what `expected` describes."""
    pieces = (r"\s+".join(map(re.escape, piece.split())) for piece in expected.split("..."))
    return (
        re.fullmatch(r".*".join(rf"\s*{piece}\s*" for piece in pieces), _DRAWN.sub(" ", printed), re.DOTALL) is not None
    )


def _bash(block: Block, folder: Path, where: str) -> str:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=os.environ | {"PATH": programs, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def _python(block: Block, folder: Path, where: str, namespace: dict) -> str:
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, where, "exec")
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()
