"""`landmarks.npy` while it is written: the file that numpy writes and its SHA-256, however its rows come and whatever
the file system can do."""

import errno
import hashlib
import os

import numpy as np
import pytest

from handcraft.data import frame_file
from handcraft.data.frame_file import FrameFile

POINTS = (5, 3)


@pytest.fixture(autouse=True)
def small_stage(monkeypatch):
    monkeypatch.setattr(frame_file, "_STAGE", 2 * frame_file._ALIGNED)


def frames(rows):
    return np.random.default_rng(rows).normal(size=(rows, *POINTS)).astype(np.float16)


def written(path, every, expected, cuts=(0, 1, 700, 701, 1500)):
    file = FrameFile(path, every.dtype, POINTS, expected)
    for start, end in zip(cuts, (*cuts[1:], len(every)), strict=True):
        file.append(every[start:end])
    assert file.rows == len(every)
    digest = file.finish()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path):
    np.save(tmp_path / "numpy.npy", frames(2000))
    return (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize("expected", [2000, 0, 1999, 5])
def test_the_file_is_numpys(tmp_path, saved, expected):
    assert written(tmp_path / "x.npy", frames(2000), expected) == saved


@pytest.mark.parametrize("rows", [1, 2, 272, 273])
def test_files_around_the_size_of_a_block(tmp_path, rows):
    np.save(tmp_path / "numpy.npy", frames(rows))
    assert written(tmp_path / "x.npy", frames(rows), rows, cuts=(0,)) == (tmp_path / "numpy.npy").read_bytes()


def test_clips_of_four_axes_count_their_frames(tmp_path):
    file = FrameFile(tmp_path / "x.npy", np.dtype("<f2"), POINTS, 12)
    file.append(frames(12).reshape(3, 4, *POINTS))
    assert file.rows == 12
    file.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), frames(12))


def test_a_file_that_is_not_foretold_is_read_again_for_its_hash(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(frame_file, "sha256_file", lambda path: read.append(path) or "0" * 64)
    for expected, times in ((10, 0), (0, 1), (9, 2)):
        file = FrameFile(tmp_path / f"{expected}.npy", np.dtype("<f2"), POINTS, expected)
        file.append(frames(10))
        file.finish()
        assert len(read) == times


@pytest.mark.skipif(not frame_file._DIRECT, reason="needs a system that can write past its cache of files")
@pytest.mark.parametrize("where", ["open", "write"])
def test_a_file_system_that_cannot_write_past_the_cache_is_written_through_it(tmp_path, saved, monkeypatch, where):
    refused = []

    def direct(descriptor):
        import fcntl

        return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & frame_file._DIRECT)

    def refuse(*_):
        refused.append(where)
        raise OSError(errno.EINVAL, "Invalid argument")

    if where == "open":
        system = os.open
        monkeypatch.setattr(
            os,
            "open",
            lambda path, flags, *mode: (refuse if flags & frame_file._DIRECT else system)(path, flags, *mode),
        )
        assert written(tmp_path / "x.npy", frames(2000), 2000) == saved
    else:
        opened = FrameFile._open

        class Refusing:
            def __init__(self, file):
                self.file = file

            def write(self, content):
                return refuse() if direct(self.file.fileno()) else self.file.write(content)

            def __getattr__(self, name):
                return getattr(self.file, name)

        monkeypatch.setattr(FrameFile, "_open", lambda self: Refusing(opened(self)))
        assert written(tmp_path / "x.npy", frames(2000), 2000) == saved
    assert refused == [where]


def test_other_errors_are_raised(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        FrameFile(tmp_path / "absent" / "x.npy", np.dtype("<f2"), POINTS, 10)
    (tmp_path / "there.npy").touch()
    with pytest.raises(FileExistsError):
        FrameFile(tmp_path / "there.npy", np.dtype("<f2"), POINTS, 10)


def test_letting_go_of_an_unfinished_file(tmp_path):
    file = FrameFile(tmp_path / "x.npy", np.dtype("<f2"), POINTS, 100)
    file.append(frames(3))
    file.close()
    file.close()
    assert not len((tmp_path / "x.npy").read_bytes()), "what was staged stays away"
