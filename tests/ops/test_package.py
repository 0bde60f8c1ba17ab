"""handcraft.kernels as a package: its one import name, and what it may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "kernels").rglob("*.py"))


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_refuses_another_import_name():
    result = run("import sys; sys.path.insert(0, '.'); import kernels")
    assert result.returncode != 0
    assert "imported as 'kernels'; import it as 'handcraft.kernels'" in result.stderr


def imported(path):
    """Absolute names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


EXTRAS = {
    "triton": {"triton_support.py", "kernel*.py", "block*.py", "generator.py", "streamed.py"},
    "cuda": {"nvrtc.py"},
}
"""Packages of an extra, and the files that may import them: nothing loads either before it is used."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_needs_torch_alone(path):
    for name in imported(path):
        top = name.partition(".")[0]
        inside = name == "handcraft.kernels" or name.startswith("handcraft.kernels.")
        extra = any(path.match(pattern) for pattern in EXTRAS.get(top, ()))
        known = top == "torch" or top in sys.stdlib_module_names or extra
        assert inside or known, f"{path} imports {name}"


def test_import_gives_the_public_names_and_loads_no_extra():
    result = run(
        "import sys; import handcraft.kernels as k; "
        "extras = ('mamba_ssm', 'causal_conv1d', 'sklearn', 'triton', 'handcraft.config'); "
        "print([m for m in extras if m in sys.modules], "
        "all(callable(getattr(k, n)) for n in k.dispatch.OPS), set(k.dispatch.OPS) - set(k.__all__))"
    )
    assert result.stdout.strip() == "[] True set()", result.stderr


def test_public_functions_document_their_contract():
    from handcraft import kernels

    for name in kernels.dispatch.OPS:
        text = getattr(kernels, name).__doc__
        for part in ("Args:", "Returns:", "Raises:", "backend", "fp32", "fused"):
            assert part.lower() in text.lower(), f"{name}: docstring lacks {part!r}"
