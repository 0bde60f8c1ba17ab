"""Stores that are written part by part: what outlasts an interruption, what many processes write together, and what is
refused."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from handcraft.data import resumable
from handcraft.data.resumable import ResumableWriter
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError

OPTIONS = {"layout": "pose_hands48", "stage": "raw", "classes": ["a", "b"], "source": {"seed": 1}}
CLIPS = 3  # of each part


def make(path, parts=4, *, stop_in=None, **options):
    """Write the missing parts; with `stop_in`, fail in that part after its first clip."""
    with ResumableWriter(path, parts=parts, **(OPTIONS | options)) as writer:
        for number in writer.missing:
            with writer.part(number, rows=2 * CLIPS) as notes:
                for i in range(CLIPS):
                    frames = np.full((2, 48, 3), number + i / 10, np.float32)
                    writer.add(frames, id=f"{number}-{i}", label="ab"[i % 2], split="train")
                    if number == stop_in:
                        raise KeyboardInterrupt
                notes["clips"] = CLIPS


def files(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_parts_that_are_whole_outlast_an_interruption(tmp_path):
    make(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", stop_in=2)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["part-00000", "part-00001", "unfinished"]
    with pytest.raises(DataError, match=r"no manifest\.json: its writing was interrupted"):
        Store(tmp_path / "s")
    first = (tmp_path / "s" / "part-00000" / "landmarks.npy").stat()
    make(tmp_path / "s")
    assert (tmp_path / "s" / "part-00000" / "landmarks.npy").stat().st_mtime_ns == first.st_mtime_ns, "not made again"
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    store = Store(tmp_path / "s")
    store.verify()
    assert store.ids.tolist() == [f"{part}-{i}" for part in range(4) for i in range(CLIPS)]
    with pytest.raises(DataError, match="already holds a store"):
        make(tmp_path / "s")


def test_nothing_whole_leaves_nothing(tmp_path):
    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "s", tmp_path / "kept"):
        with pytest.raises(KeyboardInterrupt):
            make(path, stop_in=0)
    assert not (tmp_path / "s").exists()
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_store_is_that_of_a_plain_writer(tmp_path):
    make(tmp_path / "parts")
    with StoreWriter(tmp_path / "plain", part_clips=CLIPS, **OPTIONS) as writer:
        for number in range(4):
            for i in range(CLIPS):
                frames = np.full((2, 48, 3), number + i / 10, np.float32)
                writer.add(frames, id=f"{number}-{i}", label="ab"[i % 2], split="train")
    assert files(tmp_path / "parts") == files(tmp_path / "plain")


def test_processes_make_a_part_each_and_one_finishes(tmp_path):
    make(tmp_path / "whole", 3)
    for number in (2, 0, 1):
        make(tmp_path / "here", 3, only=number)
        assert not (tmp_path / "here" / "manifest.json").exists()
        make(tmp_path / f"machine{number}", 3, only=number)
    make(tmp_path / "here", 3, only=1)  # it is there
    make(tmp_path / "here", 3)
    assert files(tmp_path / "here") == files(tmp_path / "whole")
    for number in range(3):  # made in other folders, brought together
        shutil.copytree(tmp_path / f"machine{number}", tmp_path / "joined", dirs_exist_ok=True)
    make(tmp_path / "joined", 3)
    assert files(tmp_path / "joined") == files(tmp_path / "whole")


def test_a_part_that_another_process_writes_is_left_to_it(tmp_path):
    with ResumableWriter(tmp_path / "s", parts=2, only=0, **OPTIONS) as writer:
        with pytest.raises(DataError, match="another process is writing"):
            make(tmp_path / "s", 2, only=0)
        with pytest.raises(DataError, match="another process is writing"):
            make(tmp_path / "s", 2)
        with writer.part(0):
            writer.add(np.ones((2, 48, 3), np.float32), id="x", label="a")
            make(tmp_path / "s", 2, only=1)
    make(tmp_path / "s", 2)
    assert len(Store(tmp_path / "s")) == 1 + CLIPS


def test_other_settings_or_a_part_without_its_note_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", stop_in=2)
    before = files(tmp_path / "s")
    for options, words in (
        ({"source": {"seed": 2}}, "seed was 1, now it is 2"),
        ({"parts": 5}, "parts_wanted was 4, now it is 5"),
        ({"classes": ["a", "b", "c"]}, "classes was"),
    ):
        with pytest.raises(DataError, match=words):
            make(tmp_path / "s", **options)
    with pytest.raises(DataError, match="holds unfinished"), StoreWriter(tmp_path / "s", **OPTIONS):
        pass
    assert files(tmp_path / "s") == before
    (tmp_path / "s" / "unfinished" / "part-00001.json").unlink()
    with pytest.raises(DataError, match=r"part-00001: has no unfinished/part-00001\.json"):
        make(tmp_path / "s")
    assert (tmp_path / "s" / "part-00001").exists()


def test_a_part_of_other_settings_copied_there_is_refused(tmp_path):
    make(tmp_path / "s", 2, only=0)
    make(tmp_path / "t", 2, only=1, source={"seed": 2})
    shutil.copytree(tmp_path / "t" / "part-00001", tmp_path / "s" / "part-00001")
    shutil.copy(tmp_path / "t" / "unfinished" / "part-00001.json", tmp_path / "s" / "unfinished")
    with pytest.raises(DataError, match=r"part-00001: was made with other settings than .*settings\.json"):
        make(tmp_path / "s", 2)
    assert (tmp_path / "s" / "part-00001").exists()
    shutil.rmtree(tmp_path / "s" / "part-00001")
    make(tmp_path / "s", 2)
    assert Store(tmp_path / "s").manifest.source == {"seed": 1}


NOT_OURS = [("chapter.txt", r"is not empty \(it holds chapter\.txt\)"), ("part-00001.json", r"has no settings\.json")]


@pytest.mark.parametrize(("name", "message"), NOT_OURS)
def test_a_folder_named_unfinished_that_is_not_ours_is_left_alone(tmp_path, name, message):
    """Somebody's own, or that of parts which were copied here without the settings."""
    (tmp_path / "s" / "unfinished").mkdir(parents=True)
    (tmp_path / "s" / "unfinished" / name).write_text("work of a month")
    (tmp_path / "s" / "part-00001").mkdir()
    with pytest.raises(DataError, match=rf"unfinished: .*{message}"):
        make(tmp_path / "s")
    assert (tmp_path / "s" / "unfinished" / name).read_text() == "work of a month"
    assert (tmp_path / "s" / "part-00001").exists()


def test_what_is_left_of_a_call_killed_at_its_start_is_cleared(tmp_path):
    (tmp_path / "s" / "unfinished").mkdir(parents=True)
    (tmp_path / "s" / "unfinished" / ".partial-0123456789ab-settings.json").write_text("{")
    make(tmp_path / "s")
    make(tmp_path / "whole")
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_settings_that_are_none_are_refused(tmp_path):
    (tmp_path / "s" / "unfinished").mkdir(parents=True)
    (tmp_path / "s" / "unfinished" / "settings.json").write_text("[1]")
    with pytest.raises(DataError, match=r"settings\.json: says nothing about a store"):
        make(tmp_path / "s")


@pytest.mark.parametrize("name", ["part-00001/landmarks.npy", "part-00001/clips.parquet", "unfinished/part-00001.json"])
def test_a_damaged_part_is_made_again(tmp_path, name):
    make(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", stop_in=2)
    content = bytearray((tmp_path / "s" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "s" / name).write_bytes(content)
    make(tmp_path / "s")
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_notes_of_all_parts_end_in_the_source(tmp_path):
    def conclude(notes):
        return {"clips": [note["clips"] for note in notes]}

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", stop_in=2, conclude=conclude)
    make(tmp_path / "s", conclude=conclude)
    assert Store(tmp_path / "s").manifest.source == {"seed": 1, "clips": [CLIPS] * 4}


def test_stopped_after_the_manifest_only_the_notes_are_cleared(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def stopped(path, **options):
        if (tmp_path / "s" / "manifest.json").exists():
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(resumable.shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "s")
    assert (tmp_path / "s" / "unfinished").exists()
    Store(tmp_path / "s").verify()
    make(tmp_path / "s")
    make(tmp_path / "whole")
    assert files(tmp_path / "s") == files(tmp_path / "whole")


@contextlib.contextmanager
def files_of_at_most(size):
    """Stands in for a full disk: a write beyond it fails, in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def add(writer, rows):
    writer.add(np.ones((rows, 48, 3), np.float32), id=f"{rows}", label="a")


def plain_store(path):
    with StoreWriter(path, **OPTIONS) as writer:
        add(writer, 1000)


def store_of_two_parts(path):
    with ResumableWriter(path, parts=2, **OPTIONS) as writer:
        for number in writer.missing:
            with writer.part(number):
                add(writer, (10, 1000)[number])


def test_a_full_disk_is_one_line_and_leaves_no_half_written_store(tmp_path):
    refused = r"s: cannot be written \(File too large\); nothing of the store is kept"
    with files_of_at_most(50_000), pytest.raises(DataError, match=refused):
        plain_store(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    refused = r"t: cannot be written \(File too large\); 1 whole part is kept: .*the same command goes on"
    with files_of_at_most(50_000), pytest.raises(DataError, match=refused):
        store_of_two_parts(tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["part-00000", "unfinished"]
    store_of_two_parts(tmp_path / "t")
    assert Store(tmp_path / "t").frames.tolist() == [10, 1000]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"s: cannot be written \(Not a directory\)"):
        make(tmp_path / "file" / "s")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_resumable
from handcraft.data.resumable import ResumableWriter

add = ResumableWriter.add
def slowly(*args, **options):
    time.sleep(0.02)
    add(*args, **options)
ResumableWriter.add = slowly
print("ready", flush=True)
test_resumable.make(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.17])
def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path, seconds):
    make(tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=seconds)
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=30)
    make(tmp_path / "s")
    assert files(tmp_path / "s") == files(tmp_path / "whole")
