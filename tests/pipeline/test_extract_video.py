"""Frames of small videos and of folders of images: their times, their order, which way is up, what is wrong."""

import numpy as np
import pytest
from fake_landmarker import BLACK, column, pictures, video
from PIL import Image

from handcraft.errors import ConfigError, DataError
from handcraft.extract import video as module
from handcraft.extract.video import frame_rate, look, read_frames, resampled

pytest.importorskip("av", reason="reading videos needs the extra video")


def columns(path, **options):
    """Which frames of a video came: their square moves by 4 pixels from one to the next."""
    return [column(picture) // 4 for _, picture in read_frames(path, **options)]


def times(path, **options):
    return [round(time, 4) for time, _ in read_frames(path, **options)]


def images(folder, names, size=(64, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures(len(names), size), strict=True):
        Image.fromarray(picture).save(folder / name)
    return folder


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "MOV"])
def test_every_frame_comes_once_in_order_with_its_time(tmp_path, ending):
    path = video(tmp_path / f"a.{ending}", frames=11, rate=25)
    assert columns(path) == list(range(11))
    assert times(path) == [round(at / 25, 4) for at in range(11)]
    _, picture = next(read_frames(path))
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - pictures(1)[0]).mean() < 3


def test_a_variable_rate_keeps_its_own_times(tmp_path):
    stamps = [0, 40, 80, 200, 240, 500]
    path = video(tmp_path / "a.mp4", frames=6, times=stamps)
    assert times(path) == [stamp / 1000 for stamp in stamps]
    assert columns(path, start=0.2, end=0.5) == [3, 4]


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize(
    ("start", "end", "wanted"), [(0.2, 0.4, [5, 6, 7, 8, 9]), (None, 0.08, [0, 1]), (0.9, None, [23, 24])]
)
def test_start_and_end_are_seconds_and_the_end_is_not_in(tmp_path, ending, start, end, wanted):
    path = video(tmp_path / f"a.{ending}", frames=25, size=(128, 48))
    assert columns(path, start=start, end=end) == wanted


def trimmed(path, whole, first):
    """A video copied from frame `first` (25 a second) on without coding it anew: the frames since the key frame before
    that one are in the file, and not to be shown."""
    import av

    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        left_out = int(first / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts >= left_out // 2:  # the second of two key frames
                packet.pts, packet.dts, packet.stream = packet.pts - left_out, packet.dts - left_out, stream
                target.mux(packet)
    return path


def test_a_trimmed_video_is_not_taken_for_one_that_is_cut_short(tmp_path):
    whole = video(tmp_path / "whole.mp4", frames=24, size=(128, 48), gop=8)
    path = trimmed(tmp_path / "a.mp4", whole, 16 - 1)
    assert columns(path) == list(range(15, 24))
    assert times(path) == [round(at / 25, 4) for at in range(9)]


def test_a_piece_that_a_cut_short_video_lacks_is_missed(tmp_path):
    whole, place = fast_start(tmp_path / "whole.mp4")
    (tmp_path / "a.mp4").write_bytes(whole.read_bytes()[:place])
    assert len(list(read_frames(tmp_path / "a.mp4", start=0.1, end=0.3))) == 5
    for start, end in ((0.1, 0.6), (0.2, None)):
        with pytest.raises(DataError, match=r"has 0\.40 of its 0\.80 seconds: it is cut short"):
            list(read_frames(tmp_path / "a.mp4", start=start, end=end))


def test_an_end_far_behind_the_last_frame_is_no_end_in_seconds(tmp_path):
    path = video(tmp_path / "a.mp4", frames=10)
    assert columns(path, start=0.2, end=1.3) == [5, 6, 7, 8, 9]
    with pytest.raises(DataError, match=r"last frame is at 0\.36 s, and the clip should end at 9 s"):
        list(read_frames(path, start=0.2, end=9))
    folder = images(tmp_path / "clip", ["1.png", "2.png"])
    assert len(list(read_frames(folder, end=9, image_fps=0.2))) == 2
    with pytest.raises(DataError, match=r"last frame is at 0\.04 s, and the clip should end at 9 s"):
        list(read_frames(folder, end=9, image_fps=25))


def test_frames_outside_are_not_decoded(tmp_path, monkeypatch):
    path, seen = video(tmp_path / "a.mp4", frames=25, size=(128, 48), gop=5), []
    decoded = module._from

    def counting(*arguments):
        for time, frame in decoded(*arguments):
            seen.append(time)
            yield time, frame

    monkeypatch.setattr(module, "_from", counting)
    assert columns(path, start=0.48, end=0.56) == [12, 13]
    assert min(seen) >= 0.4 - 1e-9  # the key frame before
    assert max(seen) <= 0.56 + 1e-9


def test_an_index_that_leads_astray_costs_time_and_no_frame(tmp_path):
    """A seek that lands behind its target: the frames are read from the beginning instead."""
    import av

    path = video(tmp_path / "a.mp4", frames=20)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]

        class Astray:
            sought = 0

            def seek(self, offset, **options):
                self.sought += 1
                container.seek(int(0.6 / stream.time_base) if self.sought == 1 else offset, **options)

            def decode(self, stream):
                return container.decode(stream)

        found = [round(time, 2) for time, _ in module._wanted(path, Astray(), stream, 0.2, 0.3)]
    assert found == [0.2, 0.24, 0.28]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pictures_stand_upright(tmp_path, turn, mirror):
    plain = next(read_frames(video(tmp_path / "plain.mp4")))[1]
    _, found = next(read_frames(video(tmp_path / "turned.mp4", turn=turn, mirror=mirror)))
    wanted = np.rot90(plain, turn // 90)
    np.testing.assert_array_equal(found, wanted[:, ::-1] if mirror else wanted)


def test_pixels_become_square(tmp_path):
    assert next(read_frames(video(tmp_path / "a.mp4", pixel=2)))[1].shape == (48, 128, 3)
    assert look(video(tmp_path / "b.mp4", pixel=2, turn=90))[:2] == (48, 128)


def test_look_sees_size_and_rate_without_reading_on(tmp_path):
    assert look(video(tmp_path / "a.mp4", turn=90, rate=30)) == (48, 64, 30.0)
    assert look(images(tmp_path / "clip", ["1.png"]), image_fps=12.5) == (64, 48, 12.5)
    assert look(tmp_path / "clip") == (64, 48, None)


def test_sampled_anew_the_nearest_frame_is_taken(tmp_path):
    path = video(tmp_path / "a.mp4", frames=10, rate=25)  # 0.4 s
    assert columns(path, fps=12.5) == [0, 2, 4, 6, 8]
    assert times(path, fps=12.5) == [0, 0.08, 0.16, 0.24, 0.32]
    assert columns(path, fps=50) == [at // 2 for at in range(1, 20)]  # half-way between two, the later one
    assert columns(path, fps=25) == list(range(10))
    assert columns(path, start=0.2, fps=10) == [5, 8]
    uneven = video(tmp_path / "b.mp4", frames=6, times=[0, 40, 80, 400, 440, 480])
    assert columns(uneven, fps=10) == [0, 2, 2, 3, 3]


def test_resampling_nothing_and_one_frame():
    assert list(resampled([], 10)) == []
    assert list(resampled([(0.5, "a")], 10)) == [(0.5, "a")]


def test_frame_rate_is_the_average_and_says_whether_it_varies():
    assert frame_rate(np.array([0.0])) == (None, False)
    assert frame_rate(np.arange(5) / 25) == (pytest.approx(25), False)
    rate, varies = frame_rate(np.array([0, 0.04, 0.08, 0.2]))
    assert rate == pytest.approx(15)
    assert varies
    assert not frame_rate(np.array([0, 0.033, 0.067, 0.1, 0.133]))[1]  # times in whole milliseconds


def test_images_come_in_the_order_of_their_numbers(tmp_path):
    folder = images(tmp_path / "clip", [f"img{at}.png" for at in range(12)])
    (folder / "notes.txt").write_text("no image")
    assert columns(folder) == list(range(12))
    assert times(folder) == list(range(12))
    assert times(folder, image_fps=10)[:3] == [0, 0.1, 0.2]
    assert columns(folder, image_fps=10, start=0.3, end=0.5) == [3, 4]
    assert columns(folder, image_fps=10, fps=5) == [0, 2, 4, 6, 8, 10]


def test_images_stand_upright(tmp_path):
    picture = pictures(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees with the clock
    (tmp_path / "clip").mkdir()
    Image.fromarray(picture).save(tmp_path / "clip/1.png", exif=exif)
    np.testing.assert_array_equal(next(read_frames(tmp_path / "clip"))[1], np.rot90(picture, -1))


@pytest.mark.parametrize("options", [{"start": 1.0}, {"end": 1.0}, {"fps": 10}])
def test_images_without_a_rate_have_no_times_to_cut_at(tmp_path, options):
    with pytest.raises(DataError, match="image_fps"):
        list(read_frames(images(tmp_path / "clip", ["1.png"]), **options))


def test_images_of_two_sizes_are_refused(tmp_path):
    folder = images(tmp_path / "clip", ["1.png"])
    images(folder, ["2.png"], size=(80, 48))
    with pytest.raises(DataError, match="80 x 48 pixels, those before it 64 x 48"):
        list(read_frames(folder))


def broken(tmp_path, what):
    path = tmp_path / "a.mp4"
    if what == "text":
        path.write_text("hello")
    elif what == "nothing in it":
        path.write_bytes(b"")
    elif what == "playlist":  # FFmpeg would open what it names
        path.write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    elif what == "half a file":
        whole = video(tmp_path / "whole.mp4", frames=40).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif what in ("half its frames", "half a frame"):  # the index is there, the last frames are not
        whole, place = fast_start(tmp_path / "whole.mp4")
        path.write_bytes(whole.read_bytes()[: place + 100 * (what == "half a frame")])
    elif what == "folder":
        path.mkdir()
    return path


def fast_start(path, frames=20):
    """A video whose index comes first, as on the web, and where in the file the second half of its frames begins."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(frames):
            picture = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return path, [packet.pos for packet in container.demux(video=0)][frames // 2]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("absent", "no such file"),
        ("text", "no video that can be read"),
        ("nothing in it", "no video that can be read"),
        ("playlist", "no video that can be read"),
        ("half a file", "no video that can be read"),
        ("half its frames", "has 0.40 of its 0.80 seconds: it is cut short"),
        ("half a frame", "its frame at 0.40 s is damaged"),
        ("folder", "has no frame"),
    ],
)
def test_what_is_no_video_says_so_and_names_itself(tmp_path, what, words):
    path = broken(tmp_path, what)
    with pytest.raises(DataError, match=words) as raised:
        list(read_frames(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("ending", "words"), [("mp4", "holds no video"), ("mkv", "no video that can be read"), ("avi", "has no frame")]
)
def test_a_video_of_no_frames_is_refused(tmp_path, ending, words):
    import av

    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    for reader in (module.look, lambda path: list(read_frames(path))):
        with pytest.raises(DataError, match=words):
            reader(path)


def test_sound_without_pictures_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="holds no video"):
        list(read_frames(tmp_path / "a.mp4"))


def test_a_range_without_frames_says_what_the_numbers_mean(tmp_path):
    path = video(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"no frame from 12 s to 40 s .start and end are seconds"):
        list(read_frames(path, start=12, end=40))
    for start, end in ((2, 1), (-1, None), (None, 0), (float("nan"), None), (0, float("inf"))):
        with pytest.raises(DataError, match="0 <= start < end"):
            list(read_frames(path, start=start, end=end))
    for fps in (0, -1, 1e9, float("nan")):
        with pytest.raises(ConfigError, match="fps is"):
            list(read_frames(path, fps=fps))


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 1000)
    with pytest.raises(DataError, match="64 x 48 pixels, expected at most 1,000"):
        list(read_frames(video(tmp_path / "a.mp4")))
    with pytest.raises(DataError, match="64 x 48 pixels, expected at most 1,000"):
        list(read_frames(images(tmp_path / "clip", ["1.png"])))


def test_an_image_that_is_none_is_named(tmp_path):
    images(tmp_path / "clip", ["1.png"])
    (tmp_path / "clip/2.png").write_text("hello")
    with pytest.raises(DataError, match=r"2\.png: no image that can be read"):
        list(read_frames(tmp_path / "clip"))


def test_a_video_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    import av

    def denied(name, **options):
        raise av.error.PermissionError(13, "Permission denied", name)

    path = video(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "open", denied)
    with pytest.raises(DataError, match=r"a\.mp4: cannot be read \(Permission denied\)$"):
        next(read_frames(path))


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "b.mp4").symlink_to(video(tmp_path / "a.mp4", colour=BLACK))
    with pytest.raises(DataError, match="symbolic link"):
        list(read_frames(tmp_path / "b.mp4"))


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    import sys

    path = video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'handcraft\[video\]'"):
        list(read_frames(path))
