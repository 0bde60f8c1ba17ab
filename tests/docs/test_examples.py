"""Every command and every piece of Python in the documentation runs, as it stands there, and prints what is said."""

import importlib.util
import re

import numpy as np
import pytest
from doc_pages import DOCS, ROOT, Block, blocks, matches, pages, run_blocks
from tiny_recipe import arrays

NOT_RUN = {"install.md": "its commands install packages"}
NEEDS = {"pose.md": "pose_format", "lsfb.md": "webdataset"}
"""Page -> package of an extra, without which it is skipped."""
RUN = [page for page in pages() if page.name not in NOT_RUN and blocks(page)]
SHORT = " ".join(
    f"--recipe.{part}.train.steps 2 --recipe.{part}.train.batch 4" for part in ("generator", "transformer", "mamba")
)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_page_runs(page, tmp_path):
    package = NEEDS.get(page.name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    run_blocks(page, blocks(page), tmp_path)


def test_every_fence_is_of_a_known_kind():
    """A command in a block of another kind would never be run."""
    known = {"sh", "python", "output", "text"}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        found = set(re.findall(r"^```([a-z]*)$", text, re.MULTILINE)) - {""}
        assert page.name in NOT_RUN or found <= known, f"{page}: {found - known}"


def test_readme_runs(tmp_path):
    """The README's commands on a small file of arrays, with trainings of two steps; those on data that is not part of
    the project, and `make`, are left out, as are those on videos, which tests/extract/test_readme.py runs."""
    page = ROOT / "README.md"
    whole = page.read_text(encoding="utf-8")
    videos = re.search(r"## Your own videos.*?(?=\n## )", whole, re.DOTALL).group(0)
    text = whole.replace(videos, "\n" * videos.count("\n"))  # each line stays where it is
    commands = [line.strip() for line in text.splitlines() if line.startswith("    handcraft ")]
    ours = [command.split("  #")[0] for command in commands if "asl33" not in command]
    assert len(ours) >= 9
    found = arrays(clips=24, classes=2)
    short = [
        f"{command} {SHORT}".replace("--seeds 3", "--seeds 1")
        if re.match("handcraft (run|train)", command)
        else command
        for command in ours
    ]
    names = {"left": found["left_hand"], "right": found["right_hand"], "names": found["class_names"], "numpy": np}
    namespace = found | names | {"signer": found["session"], "__name__": "page"}
    code = [block for block in blocks(page) if block.kind == "python" and block.text not in videos]
    assert [block.text.split("(")[0] for block in code[:1]] == ["numpy.savez_compressed"]
    steps = [Block("sh", "\n".join(short), text.count("\n", 0, text.index(ours[0])) + 1)]
    run_blocks(page, [code[0], *steps, *code[1:]], tmp_path, namespace)


def test_output_is_compared():
    assert matches("a ... d\n", "a  b\n c d \n")
    assert matches("...\nb\n", "a\n--\nb\n")
    assert matches("x 0... y", "x 0.25 y")
    assert matches("model  top-1", "┃ model ┃ top-1 ┃\n")
    assert not matches("a d", "a b d")
    assert not matches("a\n", "a\nb\n")
    assert not matches("...\nb", "b c")


def test_a_failing_block_is_named(tmp_path):
    page = DOCS / "tutorial.md"
    with pytest.raises(AssertionError, match=r"docs/tutorial\.md:7 ended with 3"):
        run_blocks(page, [Block("sh", "true\nexit 3 | cat\n", 7)], tmp_path)
    with pytest.raises(AssertionError, match=r"docs/tutorial\.md:9 prints"):
        run_blocks(page, [Block("python", "print(1)\n", 9, "2\n")], tmp_path)
