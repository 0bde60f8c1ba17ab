"""Docstrings, which are plain text, as the reStructuredText of the reference."""

import pytest
from doc_pages import DOCS


@pytest.fixture
def as_rst(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from docstrings import as_rst

    return as_rst


def test_code_stays_code_and_the_rest_is_text(as_rst):
    assert as_rst("Takes `x*y`, *args and a|b in C_ units.") == r"Takes ``x*y``, \*args and a\|b in C\_ units."
    assert as_rst("Several `.pose`s.") == r"Several ``.pose``\ s."
    assert as_rst("snake_case stays") == "snake_case stays"


def test_a_block_that_is_set_in_is_a_listing(as_rst):
    found = as_rst("Computes:\n\n    y = W' x\n      + b*c\n\nand more.")
    assert found == "Computes:\n\n::\n\n    y = W' x\n      + b*c\n\nand more."


def test_sections_become_lists(as_rst):
    found = as_rst(
        "Says.\n\nArgs:\n    x, y: (B,)\n        of floats.\n    z: an `int`.\n\nReturns:\n    A tuple (a, b): both.\n"
    )
    assert found == (
        "Says.\n\n:Arguments:\n    - ``x``, ``y``: (B,) of floats.\n    - ``z``: an ``int``.\n\n"
        ":Returns:\n    A tuple (a, b): both."
    )


def test_arguments_that_begin_a_line_are_paragraphs(as_rst):
    text = "Does it.\nwidth: pixels of\none clip. dark: not here.\nother: no argument."
    assert as_rst(text, ["width", "dark"]) == (
        "Does it.\n\n``width``: pixels of\none clip. dark: not here.\nother: no argument."
    )


def test_lists_keep_their_items(as_rst):
    assert as_rst("Both:\n- one\n  goes on\n- two") == "Both:\n\n- one\n  goes on\n\n- two"
