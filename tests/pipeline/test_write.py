"""The files that `handcraft render` writes, and the command itself."""

import json
import re
import sys

import numpy as np
import pytest
from drawn import HOSTILE, person, write_recorded, write_synthetic
from PIL import Image
from tiny_recipe import one_line_error, run_cli

from handcraft.errors import ConfigError
from handcraft.render.choose import choose
from handcraft.render.write import MOST, kind_of, write


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("write")
    real = write_recorded(folder / "real")
    write_synthetic(folder / "synthetic", real)
    return folder


def clips_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="handcraft-clips">(.*?)</script>', text, re.DOTALL).group(1))["clips"], text


def test_a_page_has_each_clip_once_at_one_scale(stores, tmp_path):
    write(choose(stores / "real", sheet=True), tmp_path / "a.html", "html", title="real")
    clips, text = clips_of(tmp_path / "a.html")
    assert [clip["title"] for clip in clips] == ["no", "yes"]
    assert clips[0]["box"] == clips[1]["box"]
    assert re.findall(r'data-clip="(\d)" data-sync="(\d)"', text) == [("0", "0"), ("1", "1")]


def test_beside_puts_pairs_on_one_clock(stores, tmp_path):
    cells = choose(stores / "synthetic", ["s0", "s4"], beside=stores / "real")
    write(cells, tmp_path / "a.html", "html")
    clips, text = clips_of(tmp_path / "a.html")
    assert [clip["title"].split(" ")[1] for clip in clips] == ["(real)", "(synthetic)"] * 2
    assert re.findall(r'data-clip="(\d)" data-sync="(\d)"', text) == [("0", "0"), ("1", "0"), ("2", "1"), ("3", "1")]
    assert text.count('<div class="players">') == 2
    write(cells, tmp_path / "a.gif", "gif", width=80)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 13, "the longer of the two real clips"


def test_png_is_a_strip_and_a_sheet_is_a_grid(stores, tmp_path):
    cells = choose(stores / "real", sheet=True)
    write(cells, tmp_path / "strip.png", "png", width=150)
    write(cells, tmp_path / "sheet.png", "png", width=150, sheet=True)
    with Image.open(tmp_path / "strip.png") as strip, Image.open(tmp_path / "sheet.png") as sheet:
        assert strip.width > 8 * 150 > 3 * 150 > sheet.width
    write(cells, tmp_path / "dark.png", "png", dark=True)
    with Image.open(tmp_path / "dark.png") as dark:
        assert sum(dark.getpixel((0, 0))) < 100
        assert dark.width > 8 * 240


def test_too_many_clips_odd_widths_and_folders_are_refused_before_anything_is_drawn(stores, tmp_path):
    cells = choose(stores / "real")
    for kind, most in MOST.items():
        with pytest.raises(ConfigError, match=f"expected 1 to {most}"):
            write(cells * (most + 1), tmp_path / "a", kind)
    for width in (47, 1921):
        with pytest.raises(ConfigError, match=f"width of {width}"):
            write(cells, tmp_path / "a.png", "png", width=width)
    for sheet in (False, True):
        with pytest.raises(ConfigError, match="expected at most 100,000,000 pixels"):
            write(cells * 60, tmp_path / "a.png", "png", width=1900, sheet=sheet)
    with pytest.raises(ConfigError, match="expected at most 16,000,000 pixels"):
        write(cells * 9, tmp_path / "a.gif", "gif", width=1900)
    with pytest.raises(ConfigError, match="is a folder"):
        write(cells, tmp_path, "gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "out", "expected"),
    [(None, None, "html"), ("gif", None, "gif"), (None, "a.PNG", "png"), ("mp4", "a.gif", "mp4"), (None, "a", "html")],
)
def test_the_kind_of_file_follows_the_choice_or_the_name(tmp_path, to, out, expected):
    assert kind_of(to, out and tmp_path / out) == expected


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="gif, mp4, html, png"):
        kind_of(None, tmp_path / "a.webm")


def test_the_command_draws_stores_and_files(stores, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_cli("render", stores / "real") == 0
    assert "--sheet" in capfd.readouterr().out, "it says that there is more than the first clip"
    assert [clip["note"][:3] for clip in clips_of(tmp_path / "real.html")[0]] == ["0-0"]
    assert run_cli("render", stores / "real", "--ids", "1-1", "0-2", "--to", "png", "--width", 60) == 0
    assert (tmp_path / "real.png").stat().st_size > 1000
    assert run_cli("render", stores / "synthetic", "--sheet", "--beside", stores / "real", "--out", "b.html") == 0
    assert len(clips_of(tmp_path / "b.html")[0]) == 4
    np.save(tmp_path / "clip.npy", person(3))
    assert run_cli("render", "clip.npy", "--to", "gif", "--width", 60, "--fps", 10, "--dark") == 0
    with Image.open(tmp_path / "clip.gif") as gif:
        assert gif.info["duration"] == 100


def test_the_command_says_in_one_line_what_is_wrong(stores, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert "has no clip 'x'" in one_line_error(capfd, "render", stores / "real", "--ids", "x")
    assert "no such store" in one_line_error(capfd, "render", "absent")
    assert "names no source" in one_line_error(capfd, "render", stores / "real", "--beside", stores / "real")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "handcraft[video]" in one_line_error(capfd, "render", stores / "real", "--to", "mp4")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_hostile_names_of_a_store_stay_text(tmp_path):
    write_recorded(tmp_path / "real", classes=(HOSTILE, "yes"))
    for kind in ("html", "png"):
        write(choose(tmp_path / "real", sheet=True), tmp_path / f"a.{kind}", kind, title=HOSTILE)
    clips, text = clips_of(tmp_path / "a.html")
    assert HOSTILE in {clip["title"] for clip in clips}
    assert text.count("<script") == 2
    assert "<img" not in text
