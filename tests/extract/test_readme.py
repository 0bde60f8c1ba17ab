"""The README's five commands for one's own videos, as they stand there, on short cuts of the real videos."""

import importlib.util
import re
from itertools import islice
from pathlib import Path

import av
import pytest
from doc_pages import ROOT, Block, run_blocks

from handcraft.extract.video import read_frames

VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"
SIGNS = {"yes": "msl150_yo", "no": "msl150_doctor", "thanks": "msl150_ambulancia"}
SIGNERS = ("anna", "ben", "cleo")
FRAMES = 12  # of each clip
SHORT = "--recipe.transformer.train.steps 4 --recipe.transformer.train.batch 4"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"),
    pytest.mark.skipif(not VIDEOS.exists(), reason="no real videos in ../shared/data"),
]


def cut(source: Path, to: Path, begin: int) -> None:
    """`FRAMES` frames of a video, from frame `begin` on, as a video of its own."""
    frames = [frame for _, frame in islice(read_frames(source), begin, begin + FRAMES)]
    with av.open(str(to), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_five_commands(tmp_path):
    lines = ["path,label,signer"]
    for sign, name in SIGNS.items():
        (tmp_path / "videos" / sign).mkdir(parents=True)
        for number, signer in enumerate(SIGNERS):
            path = f"{sign}/{signer}-1.mp4"
            cut(VIDEOS / f"{name}.mp4", tmp_path / "videos" / path, 16 + 4 * number)
            lines.append(f"{path},{sign},{signer}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    cut(VIDEOS / "msl150_yo.mp4", tmp_path / "new.mp4", 30)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"## Your own videos.*?(?=\n## )", text, re.DOTALL).group(0)
    commands = [line.strip().split("  #")[0] for line in section.splitlines() if line.startswith("    handcraft ")]
    assert len(commands) == 5
    commands = [f"{command} {SHORT}" if "train" in command else command for command in commands]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    check = "assert len(rows) == 1 and len(rows[0]['top']) == 3 and rows[0]['seen']['pose'] == 1.0\n"
    run_blocks(ROOT / "README.md", [Block("sh", "\n".join(commands), 1), Block("python", code + check, 1)], tmp_path)
    assert (tmp_path / "mine" / "manifest.json").exists()
