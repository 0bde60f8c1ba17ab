"""Folders and files that one process holds: others are refused or wait, and what ends lets go."""

import fcntl
import time

import pytest
from killing import Forked, finish, wait_for

from handcraft import locks
from handcraft.errors import DataError
from handcraft.locks import held


def hold(path, mark, seconds):
    with held(path, DataError(f"{path} is taken")):
        mark.touch()
        time.sleep(seconds)


def wait_and_tell(path, mark):
    with held(path, None) as ours:
        mark.write_text(str(ours))


@pytest.fixture(params=["folder", "file"])
def place(tmp_path, request):
    path = tmp_path / request.param
    path.mkdir() if request.param == "folder" else path.touch()
    return path


def test_another_process_is_refused_until_the_first_lets_go(tmp_path, place):
    mark = tmp_path / "mark"
    first = Forked(hold, place, mark, 60)
    wait_for(mark.exists, first)
    for shared in (False, True):
        with pytest.raises(DataError, match="is taken"), held(place, DataError("is taken"), shared=shared):
            raise AssertionError("held by two")
    first.kill()
    with held(place, DataError("is taken")) as ours:
        assert ours
    with held(place, DataError("is taken")) as ours:
        assert ours


def test_without_a_refusal_the_other_waits(tmp_path, place):
    mark = tmp_path / "mark"
    with held(place, None) as ours:
        assert ours
        waiting = Forked(wait_and_tell, place, mark)
        time.sleep(0.3)
        assert not mark.exists()
    finish([waiting])
    assert mark.read_text() == "True"


def test_those_that_share_keep_out_those_that_do_not(place):
    shared = [held(place, DataError("is taken"), shared=True) for _ in range(2)]
    with shared[0], shared[1], pytest.raises(DataError, match="is taken"), held(place, DataError("is taken")):
        raise AssertionError("held by two")


def test_where_there_are_no_locks_nothing_is_held(place, monkeypatch):
    def without(*_):
        raise OSError("not supported")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", without)
        with held(place, DataError("is taken")) as ours:
            assert not ours
    monkeypatch.setattr(locks, "fcntl", None)
    with held(place, DataError("is taken")) as ours:
        assert not ours


def test_an_error_in_the_block_is_the_blocks(place):
    with pytest.raises(OSError, match="disk full"), held(place, None):
        raise OSError("disk full")
    with held(place, DataError("is taken")) as ours:
        assert ours
