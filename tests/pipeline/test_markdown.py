"""Foreign text in Markdown is shown as it is, in one line and inside its cell."""

import pytest

from handcraft.markdown import escape, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("thank-you", "thank-you"),
        ("left_hand", "left_hand"),
        ("_under_ score", r"\_under\_ score"),
        ("a|b", r"a\|b"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("![x](http://y) *b* `c` ~~d~~ \\", r"!\[x\](http://y) \*b\* \`c\` \~\~d\~\~ \\"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("two\r\nlines\tand  more", "two lines and more"),
        (7, "7"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


def test_table():
    assert table(("a", "b"), [("1", "2"), ("3", "4")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |"]
