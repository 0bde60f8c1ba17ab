"""GIF and MP4: every frame, in order, at the right speed."""

import sys

import numpy as np
import pytest
from drawn import person
from PIL import Image

from handcraft.errors import ConfigError
from handcraft.layouts import layout
from handcraft.render.choose import Shown
from handcraft.render.movie import write_gif, write_mp4
from handcraft.render.picture import Drawing


@pytest.fixture(scope="module")
def drawing():
    return Drawing([(Shown(person(7), layout("holistic75"), "hello", "a note"),)], width=101)


def gif_frames(path):
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0, "it repeats"
        for number in range(gif.n_frames):
            gif.seek(number)
            yield np.asarray(gif.convert("RGB")).astype(int), gif.info["duration"]


def test_a_gif_has_every_frame_at_its_time(tmp_path, drawing):
    write_gif(drawing, tmp_path / "a.gif", 25)
    found = list(gif_frames(tmp_path / "a.gif"))
    assert [duration for _, duration in found] == [40] * 7
    for (frame, _), expected in zip(found, drawing, strict=True):
        assert np.abs(frame - np.asarray(expected).astype(int)).mean() < 1.5


def test_rates_that_centiseconds_cannot_express_hold_on_average(tmp_path, drawing):
    write_gif(drawing, tmp_path / "a.gif", 30)
    durations = [duration for _, duration in gif_frames(tmp_path / "a.gif")]
    assert set(durations) == {30, 40}
    assert sum(durations) == pytest.approx(7 / 30 * 1000, abs=5)
    write_gif(drawing, tmp_path / "b.gif", 500)
    assert {duration for _, duration in gif_frames(tmp_path / "b.gif")} == {20}, "browsers slow down faster ones"


def test_an_unknown_rate_is_25(tmp_path, drawing):
    write_gif(drawing, tmp_path / "a.gif")
    assert {duration for _, duration in gif_frames(tmp_path / "a.gif")} == {40}


def test_an_mp4_has_every_frame_in_what_browsers_play(tmp_path, drawing):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    write_mp4(drawing, tmp_path / "a.mp4", 30)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 30
        found = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
    width, height = drawing.size
    assert len(found) == 7
    assert found[0].shape == (height + height % 2, width + width % 2, 3)
    for frame, expected in zip(found, drawing, strict=True):
        assert np.abs(frame[:height, :width] - np.asarray(expected).astype(int)).mean() < 6


def test_without_pyav_the_error_says_what_to_install(tmp_path, drawing, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'handcraft\[video\]'"):
        write_mp4(drawing, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
