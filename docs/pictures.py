"""The pictures and players of these pages, drawn by the package from its own toy signs.

They are made while the pages are built, and again whenever the package has changed.
"""

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import handcraft
from handcraft.commands import training_data
from handcraft.config import AugmentConfig
from handcraft.data.augment import augment
from handcraft.data.browse import browse
from handcraft.data.clips import Clips, load_clips
from handcraft.data.store import Store
from handcraft.data.toy import make_toy
from handcraft.data.window import windows
from handcraft.generate import generate
from handcraft.kernels.dct import dct_matrix
from handcraft.layouts import layout
from handcraft.recipe import load_recipe
from handcraft.render.choose import Cell, Shown, choose
from handcraft.render.write import write as draw
from handcraft.training import train_generator

SIGNS, CLIPS, SIGNERS = 6, 16, 4
STEPS = 150
"""Of each generator: enough for hands that move, in seconds."""
STRIP_WIDTH = 120
"""Pixels of each of eight frames: as wide as a page of the documentation."""
SHOWN = "five-space-rise-0004"
FRAMES_A_SECOND = 25.0


def write(folder: Path) -> None:
    """`pictures/*.png` (light and dark) and `pages/*.html` in `folder`."""
    key, mark = _package(), folder / "pictures.txt"
    if mark.exists() and mark.read_text() == key:
        return
    for part in ("pictures", "pages"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        _draw(Path(scratch), folder / "pictures", folder / "pages")
    mark.write_text(key)


def _package() -> str:
    """A hash of everything that shapes the pictures."""
    sources = [Path(__file__), *sorted(Path(handcraft.__file__).parent.rglob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _draw(scratch: Path, pictures: Path, pages: Path) -> None:
    make_toy(scratch / "toy", classes=SIGNS, clips=CLIPS, signers=SIGNERS)
    store = Store(scratch / "toy")
    _picture(pictures, "signs", choose(store.path, sheet=True), sheet=True)
    clip = choose(store.path, [SHOWN])[0][0]
    clips = load_clips(store, load_recipe("demo").preprocess)
    window = _window(clips, SHOWN)
    _picture(pictures, "stages", [(replace(clip, title="recorded"),), (_shown(window, "a window of 32 frames"),)])
    reduced = [(_shown(_smoothed(window, count), f"{count} coefficients"),) for count in (2, 4, 8, 32)]
    _picture(pictures, "dct", reduced, sheet=True)
    varied = [(_shown(_varied(window, number), f"variation {number}"),) for number in (1, 2, 3)]
    _picture(pictures, "varied", [(_shown(window, "as recorded"),), *varied], sheet=True)

    _train(scratch / "toy", scratch / "generator")
    made = generate(
        *(scratch / "generator" / twin for twin in ("forward", "reversed")),
        _sources(store.path),
        scratch / "synthetic",
        per_class=4,
        vary=False,
    )
    pairs = choose(made.path, [made.ids[clip] for clip in range(SIGNS)], beside=store.path)
    _picture(pictures, "twins", [(shown,) for shown in pairs[4]])
    draw(pairs, pages / "real-beside-synthetic.html", "html", title="Real and synthetic toy signs")
    browse(store.path, pages / "toy-browse.html", clips=48)


def _picture(folder: Path, name: str, cells: list[Cell], *, sheet: bool = False) -> None:
    for dark in (False, True):
        out = folder / f"{name}-{'dark' if dark else 'light'}.png"
        draw(cells, out, "png", sheet=sheet, width=None if sheet else STRIP_WIDTH, dark=dark)


def _recipe():
    recipe = load_recipe("demo")
    train = replace(recipe.generator.train, steps=STEPS)
    return replace(recipe, generator=replace(recipe.generator, train=train))


def _train(store: Path, out: Path) -> None:
    data = training_data(store, _recipe(), seed=0, clips_per_class=None)
    for twin in ("forward", "reversed"):
        train_generator(data, _recipe(), out / twin, reverse=twin == "reversed", seed=0, progress=False)


def _sources(store: Path) -> Clips:
    data = training_data(store, _recipe(), seed=0, clips_per_class=None)
    return data.clips.subset(data.part.train)


def _window(clips: Clips, id: str) -> torch.Tensor:
    """(1,W,J,C) of one clip."""
    place = torch.tensor([clips.ids.tolist().index(id)])
    return windows(clips, place, load_recipe("demo").generator.window)[0]


def _smoothed(window: torch.Tensor, count: int) -> torch.Tensor:
    """The window from its first `count` DCT coefficients; missing landmarks stay missing."""
    frames = window.shape[1]
    transform = dct_matrix(frames, torch.float64)[:count]
    made = torch.einsum("fs,ft,btjc->bsjc", transform, transform, window.nan_to_num().double())
    return torch.where(window.isnan(), torch.nan, made)


def _varied(window: torch.Tensor, number: int) -> torch.Tensor:
    return augment(window, AugmentConfig(rotation=20, scale=0.25), 0, torch.tensor([number]))


def _shown(window: torch.Tensor, title: str) -> Shown:
    landmarks = window[0].numpy().astype(np.float32)
    return Shown(landmarks, layout("handcraft60"), title, "", FRAMES_A_SECOND, raw=False)
