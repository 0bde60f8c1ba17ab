"""Sphinx builds these pages: `make docs`, or `sphinx-build -W -b html docs docs/_build/html`.

What can be made from the package is made from it while building, into `_generated/`: the reference of the commands
from the command line's own help, that of the functions from their docstrings, the pictures by the package itself.
"""

import dataclasses
import inspect
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import docstrings  # noqa: E402
import help_pages  # noqa: E402
import pictures  # noqa: E402

import handcraft  # noqa: E402

project = "handcraft"
author = "the authors of handcraft"
release = version = handcraft.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_generated"]

nitpicky = True  # a reference to a function that is not there is an error
nitpick_ignore_regex = [("py:(class|obj|attr|data|exc)", ".*")]  # types in signatures, most of them torch's and numpy's

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
add_module_names = False

smartquotes = False  # W' is a transpose, --out an option
highlight_language = "none"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "handcraft"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_extra_path = ["_generated/pages"]


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    names = ()
    if callable(obj):
        try:
            names = tuple(inspect.signature(obj).parameters)
        except (TypeError, ValueError):  # no signature is known of some types
            names = ()
    lines[:] = docstrings.as_rst("\n".join(lines), names).split("\n")


def _signature(app, what, name, obj, options, signature, returned):
    """A dataclass is described by its fields, which follow one by one."""
    return ("", None) if dataclasses.is_dataclass(obj) else (signature, returned)


def _generate(app, config) -> None:
    help_pages.write(HERE / "_generated")
    pictures.write(HERE / "_generated")


def setup(app) -> None:
    app.connect("config-inited", _generate)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
