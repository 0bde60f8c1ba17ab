"""What happens to generating, importing and the main job: killed at random moments, SIGTERM, a full disk, a folder that
cannot be written to, two calls on one folder, an altered part, numbers that are none. For training see `test_resume`.
"""

import codecs
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import Forked, readable_to_all, wait_for
from small_clips import small_clips
from tiny_recipe import arrays, write_recipe, write_toy
from twins import twin

import handcraft.generate as generation
from handcraft import cli, files, run
from handcraft.data import arrays as importing
from handcraft.data.check import check_store
from handcraft.data.clips import load_clips
from handcraft.data.part import PartFiles
from handcraft.data.store import Store
from handcraft.errors import DataError, HandcraftError, TrainingError
from handcraft.recipe import load_recipe

CLIPS = small_clips()
TWINS = tuple(twin(CLIPS, reverse=reverse) for reverse in (False, True))
TOTAL, PARTS = 60, 12


def contents(store: Path) -> dict[Path, bytes]:
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def parts(store: Path) -> int:
    return len(list(store.glob("part-*")))


def slow_down() -> None:
    """Each write takes a while, so that a process can be hit between two of them and within a part."""
    write = PartFiles.write
    pause = threading.Event()

    def slowly(*arguments):
        pause.wait(0.005)
        write(*arguments)
        pause.wait(0.005)

    PartFiles.write = slowly


def generate(out: Path, slow: bool = False) -> None:
    if slow:
        slow_down()
    generation.generate(*TWINS, CLIPS, out, total=TOTAL, seed=5, batch=2, shards=PARTS, workers=1)


def npz(folder: Path) -> Path:
    path = folder / "arrays.npz"
    if not path.exists():
        np.savez(path, **arrays(clips=24))
    return path


def import_arrays(source: Path, out: Path, slow: bool = False) -> None:
    if slow:
        importing.BATCH = 2
        slow_down()
    importing.import_arrays(source, out)


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> dict[Path, bytes]:
    """The store that nobody disturbs."""
    out = tmp_path_factory.mktemp("generated") / "store"
    generate(out)
    return contents(out)


# --- killed and stopped --------------------------------------------------------------------------------------------


def test_generating_killed_at_random_moments_goes_on_after_the_last_whole_part(tmp_path, generated):
    seed = random.SystemRandom().randrange(1 << 32)
    rng, out = random.Random(seed), tmp_path / "store"
    for _ in range(3):
        before, wanted = parts(out), parts(out) + rng.randrange(3)
        process = Forked(generate, out, True)
        wait_for(lambda wanted=wanted: parts(out) > wanted, process)
        time.sleep(rng.uniform(0, 0.03))
        assert process.kill() == -signal.SIGKILL, f"seed {seed}: {process.error}"
        assert before < parts(out) < PARTS, f"seed {seed}: what was whole is lost, or nothing was left to do"
        with pytest.raises(DataError, match="its writing was interrupted"):
            Store(out)
    generate(out)
    assert contents(out) == generated, f"seed {seed}"


def test_importing_killed_at_random_moments_leaves_no_store_and_is_done_again(tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    rng, out, source = random.Random(seed), tmp_path / "store", npz(tmp_path)
    import_arrays(source, tmp_path / "whole")
    for _ in range(3):
        before = set(out.glob("*"))
        process = Forked(import_arrays, source, out, True)
        wait_for(lambda before=before: set(out.glob("*")) - before, process)
        time.sleep(rng.uniform(0, 0.1))
        assert process.kill() == -signal.SIGKILL, f"seed {seed}: {process.error}"
        with pytest.raises(DataError, match=r"has no manifest\.json"):
            Store(out)
    import_arrays(source, out)
    assert contents(out) == contents(tmp_path / "whole"), f"seed {seed}"


def command(said: Path, function, *arguments) -> None:
    """`function(*arguments)` as what a command does, its stderr in a file."""
    with said.open("w") as sys.stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_dispatch", lambda words: function(*arguments))
        try:
            cli.main([])
        except SystemExit as ended:
            sys.stderr.flush()
            os._exit(ended.code)


def stopped(said: Path, begun, function, *arguments) -> str:
    """What a command says that SIGTERM stops once `begun()`."""
    process = Forked(command, said, function, *arguments)
    wait_for(begun, process)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.error
    return said.read_text()


def test_sigterm_stops_generating_in_one_line_and_keeps_whole_parts(tmp_path, generated):
    out = tmp_path / "store"
    said = stopped(tmp_path / "said", lambda: parts(out) > 2, generate, out, True)
    assert said == "handcraft: stopped by SIGTERM; the same command with the same folder continues where it can\n"
    assert 2 < parts(out) < PARTS
    assert not list(out.glob(f"{files.TEMPORARY}*")), "nothing half written is left"
    generate(out)
    assert contents(out) == generated


def test_sigterm_stops_importing_and_leaves_nothing(tmp_path):
    out = tmp_path / "store"
    said = stopped(tmp_path / "said", lambda: any(out.glob("*part-00000")), import_arrays, npz(tmp_path), out, True)
    assert said.startswith("handcraft: stopped by SIGTERM;")
    assert not out.exists()


# --- disks ---------------------------------------------------------------------------------------------------------


def limited(size: int, function, *arguments) -> None:
    """Files can grow to `size` bytes, as on a disk that has become full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    function(*arguments)


def test_generating_and_importing_on_a_full_disk(tmp_path, generated):
    out = tmp_path / "store"
    process = Forked(limited, 6_000, generate, out)
    assert process.wait() == 2
    assert (
        process.error == f"{out}: cannot be written (File too large); nothing of the store is kept; free space "
        "there, or choose another place"
    )
    assert not out.exists()
    generate(out)
    assert contents(out) == generated
    source = npz(tmp_path)
    process = Forked(limited, 6_000, import_arrays, source, tmp_path / "imported")
    assert process.wait() == 2
    assert "imported: cannot be written (File too large)" in process.error
    assert not (tmp_path / "imported").exists()


def as_nobody(function, *arguments) -> None:
    codecs.lookup("cp437")  # zipfile asks for it late, and nobody may not be able to read where Python lies
    os.setuid(65534)  # root may write everywhere
    function(*arguments)


@pytest.mark.skipif(os.getuid() != 0, reason="changes to another user, as only root can")
def test_generating_and_importing_into_a_folder_that_cannot_be_written_to(tmp_path):
    readable_to_all(tmp_path)
    for function, *first in ((generate,), (import_arrays, npz(tmp_path))):
        process = Forked(as_nobody, function, *first, tmp_path / "store")
        assert process.wait() == 2, process.error
        assert process.error.startswith(f"{tmp_path / 'store'}: cannot be written (Permission denied)")
        assert not (tmp_path / "store").exists()


def test_a_file_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (order.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("rename"), replace(old, new)))
    with files.atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
    assert [name.replace(str(temporary), "TEMPORARY") for name in order] == [
        "TEMPORARY/a",
        "TEMPORARY",
        "rename",
        str(tmp_path),
    ]


# --- two calls on one folder, damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generate", "import"])
def test_a_second_call_on_a_folder_is_refused_and_the_first_ends_well(tmp_path, generated, kind):
    out = tmp_path / "store"
    first = (generate, out) if kind == "generate" else (import_arrays, npz(tmp_path), out)
    process = Forked(*first, True)
    wait_for(lambda: any(out.glob("*part-00000")), process)
    with pytest.raises(DataError, match="another process is writing this store"):
        first[0](*first[1:])
    assert process.wait() == 0, process.error
    Store(out).verify()
    if kind == "generate":
        assert contents(out) == generated


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A store and a recipe for the main job, with one step for each training."""
    folder = tmp_path_factory.mktemp("job")
    recipe = load_recipe(write_recipe(folder))
    return recipe, write_toy(folder / "toy")


def test_a_second_run_on_a_folder_is_refused(tmp_path, job, monkeypatch):
    came = []

    def second(*_, **__):
        with pytest.raises(TrainingError, match="another process works in this folder") as error:
            run.run(*job, tmp_path / "run", seeds=1)
        came.append(error)
        raise HandcraftError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_generator", second)
        with pytest.raises(HandcraftError, match="enough"):
            run.run(*job, tmp_path / "run", seeds=1)
    assert came
    with pytest.MonkeyPatch.context() as patch:  # who comes after may have it
        patch.setattr(run, "train_generator", lambda *_, **__: (_ for _ in ()).throw(HandcraftError("reached")))
        with pytest.raises(HandcraftError, match="reached"):
            run.run(*job, tmp_path / "run", seeds=1)


def test_a_run_goes_on_with_the_synthetic_store_that_it_had_begun(tmp_path, job, monkeypatch):
    wanted, reached = tmp_path / "run" / "seed-0" / "synthetic", []
    recipe, toy = job
    real = run.generate
    monkeypatch.setattr(run, "evaluate_generator", lambda *_, **__: {})
    monkeypatch.setattr(run, "linear_baseline", lambda *_: (_ for _ in ()).throw(HandcraftError("reached")))

    def begun(*arguments, **options):
        reached.append(parts(wanted))
        return real(*arguments, **options, shards=3)

    monkeypatch.setattr(run, "generate", begun)
    close = PartFiles.close
    with monkeypatch.context() as patch:
        patch.setattr(
            PartFiles,
            "close",
            lambda part, *rest: close(part, *rest) if part.name != "part-00001" else exec("raise KeyboardInterrupt"),
        )
        with pytest.raises(KeyboardInterrupt):
            run.run(recipe, toy, tmp_path / "run", seeds=1)
    assert parts(wanted) == 1
    with pytest.raises(HandcraftError, match="reached"):
        run.run(recipe, toy, tmp_path / "run", seeds=1)
    assert reached == [0, 1]
    assert len(Store(wanted)) == 18


def test_an_altered_part_is_named_before_anything_is_trained(tmp_path, job):
    recipe, toy = job
    store = write_toy(tmp_path / "toy")
    frames = store / "part-00000" / "landmarks.npy"
    content = bytearray(frames.read_bytes())
    content[-100] ^= 1
    frames.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000/landmarks\.npy"):
        run.run(recipe, store, tmp_path / "run", seeds=1)
    assert not (tmp_path / "run").exists()
    Store(toy).verify()


def test_numbers_that_are_no_coordinates_are_refused_by_the_clips_name(tmp_path):
    """Infinite ones, and clips that are NaN throughout; a NaN beside numbers makes its landmark a missing one."""
    names = np.array([f"clip-{i}" for i in range(len(arrays()["y"]))])

    def refused(change, message):
        found = arrays()
        change(found)
        np.savez(tmp_path / "a.npz", **found, clip_id=names)
        with pytest.raises(DataError, match=message):
            importing.import_arrays(tmp_path / "a.npz", tmp_path / "store")
        assert not (tmp_path / "store").exists()

    def infinite(found):
        found["pose"][5, 3, 0, 0] = np.inf

    def nothing(found):
        for name in ("pose", "left_hand", "right_hand"):
            found[name][7] = np.nan

    refused(infinite, "clip-5")
    refused(nothing, "no landmark in any frame: clip-7")
    found = arrays()
    found["pose"][5, 3, 14, 0] = np.nan
    np.savez(tmp_path / "a.npz", **found, clip_id=names)
    importing.import_arrays(tmp_path / "a.npz", tmp_path / "store")
    assert any("missing by half: clip-5" in problem for problem in check_store(tmp_path / "store").problems)
    clips = load_clips(tmp_path / "store", load_recipe(write_recipe(tmp_path)).preprocess)
    halves = clips.frames.isnan()
    assert torch.equal(halves.any(2), halves.all(2))
