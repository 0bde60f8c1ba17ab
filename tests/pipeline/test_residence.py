"""Where clips are kept changes no number: in memory, mapped, preprocessed into a cache; and batches made ahead."""

import logging
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from killing import Forked, finish, wait_for
from small_clips import PREPROCESS, RECIPES, small_clips, small_recipe, small_task

from handcraft.config import WindowConfig
from handcraft.data import clips as clips_module
from handcraft.data import residence
from handcraft.data.clips import load_clips
from handcraft.data.host import HostFrames
from handcraft.data.prefetch import Prefetch
from handcraft.data.preprocess import signature
from handcraft.data.residence import open_clips, place
from handcraft.data.statistics import compute
from handcraft.data.store import Store, StoreWriter
from handcraft.data.toy import make_toy
from handcraft.distributed import WHOLE, Share
from handcraft.engine import train
from handcraft.errors import ConfigError, DataError
from handcraft.tracking import LOG


def write(path, clips, dtype=np.float16):
    """A centred store of four parts."""
    with StoreWriter(
        path,
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates="xy",
        preprocessing=signature(PREPROCESS),
        dtype=dtype,
        part_clips=7,
    ) as writer:
        for i in range(len(clips)):
            writer.add(clips.clip(i).numpy(), id=str(clips.ids[i]), label=int(clips.label[i]), split="train")
    return Store(path)


@pytest.fixture(scope="module")
def centred(tmp_path_factory):
    return write(tmp_path_factory.mktemp("residence") / "centred", small_clips())


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv(residence.CACHE_VARIABLE, str(tmp_path / "cache"))
    make_toy(tmp_path / "toy", classes=3, clips=4, signers=2)
    return Store(tmp_path / "toy")


def equal(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


# --- frames outside ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[0, 20], [0, 3, 4, 15, 20]])
def test_rows_come_in_the_order_asked_for_from_any_part(cuts):
    frames = np.random.default_rng(0).normal(size=(20, 5, 2)).astype(np.float16)
    opened = []

    def part(number):
        opened.append(number)
        return frames[cuts[number] : cuts[number + 1]]

    host = HostFrames(np.array(cuts), part, (5, 2), torch.float16)
    assert (host.shape, host.dtype, len(host)) == ((20, 5, 2), torch.float16, 20)
    rows = torch.tensor([19, 0, 3, 3, 14, 2, 19])
    assert torch.equal(host.index_select(0, rows), torch.from_numpy(frames)[rows])
    assert len(opened) == len(set(opened)), "a part is opened once a batch"
    assert torch.equal(host[2:16], torch.from_numpy(frames[2:16]))
    assert host.index_select(0, rows[:0]).shape == (0, 5, 2)
    for wrong in (-1, 20):
        with pytest.raises(IndexError, match=f"rows {wrong} to {wrong} of 20"):
            host.index_select(0, torch.tensor([wrong]))


def test_rows_are_brought_to_the_device():
    host = HostFrames.of(torch.zeros(4, 5, 2)).to("meta")
    assert host.device.type == host.index_select(0, torch.tensor([1])).device.type == "meta"


# --- the same numbers everywhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cmlpe", "transformer_sl"])
@pytest.mark.parametrize("mode", ["resample", "wrap", "zero"])
@pytest.mark.parametrize("ready", [True, False])
def test_batches_are_the_same_wherever_the_clips_are(centred, kind, mode, ready, monkeypatch):
    if not ready:
        monkeypatch.setattr("handcraft.clip_task.free_memory", lambda device: 0)
    recipe = replace(RECIPES[kind], window=WindowConfig(frames=16, mode=mode))
    known = {way: open_clips(centred, PREPROCESS, way) for way in ("auto", "memory", "mapped")}
    assert isinstance(known["auto"].frames, torch.Tensor)
    assert (known["auto"].frames.dtype, known["mapped"].frames.dtype) == (torch.float32, torch.float16)
    for augment in (True, False):
        options = {"recipe": recipe} if kind == "cmlpe" else {"recipe": recipe, "augment": augment}
        tasks = {way: small_task(kind, clips=clips, **options) for way, clips in known.items()}
        for step in (0, 1, 9, 2):
            first, *others = (task.batch(step) for task in tasks.values())
            assert all(equal(first, other) for other in others)
        first, *others = (task.validate() for task in tasks.values())
        assert all(first == other for other in others)
        first, *others = (task.fingerprint() for task in tasks.values())
        assert all(first == other for other in others), "a run may be continued where there is less memory"


def test_training_is_the_same_wherever_the_clips_are(centred, tmp_path):
    for way in ("auto", "mapped"):
        recipe = small_recipe("transformer_sl", steps=6)
        task = small_task("transformer_sl", clips=open_clips(centred, PREPROCESS, way), recipe=recipe, augment=True)
        train(task, tmp_path / way)
    assert (tmp_path / "auto" / LOG).read_bytes() == (tmp_path / "mapped" / LOG).read_bytes()


def test_statistics_and_single_clips_of_mapped_frames(centred):
    one, other = (open_clips(centred, PREPROCESS, way) for way in ("auto", "mapped"))
    assert torch.equal(compute(one).mean, compute(other).mean)
    assert torch.equal(compute(one).std, compute(other).std)
    for i in (0, 11, 23):
        assert torch.equal(one.clip(i).nan_to_num(9), other.clip(i).float().nan_to_num(9))
    part = other.subset([20, 3])
    assert torch.equal(part.clip(1).nan_to_num(9), other.clip(3).nan_to_num(9))


def test_mapped_frames_are_checked_and_mended_as_loaded_ones_are(tmp_path):
    clips = small_clips(missing=False)
    clips.frames[30, 5, 1] = torch.nan
    store = write(tmp_path / "halves", clips)
    for way in ("auto", "mapped"):
        frames = open_clips(store, PREPROCESS, way).frames[0:40]
        assert frames.isnan().sum() == 2
        assert frames[30, 5].isnan().all()
    frames = np.load(store.path / "part-00003" / "landmarks.npy", mmap_mode="r+")
    frames[-1, 3, 0] = np.inf
    frames.flush()
    with pytest.raises(DataError, match="clip clip023 holds infinite"):
        open_clips(store, PREPROCESS, "mapped")


# --- raw stores ----------------------------------------------------------------------------------------------------


def test_a_raw_store_is_preprocessed_once_for_mapping(raw, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "handcraft")
    loaded, mapped = load_clips(raw, PREPROCESS), open_clips(raw, PREPROCESS, "mapped")
    (file,) = (tmp_path / "cache").glob("*.npy")
    assert f"preprocessing its clips once, into {file}" in caplog.text
    every = mapped.frames[0 : len(mapped.frames)]
    assert every.numpy().tobytes() == loaded.frames.numpy().tobytes()
    np.testing.assert_array_equal(mapped.digest, loaded.digest)

    def again(*_):
        raise AssertionError("preprocessed a second time")

    monkeypatch.setattr(clips_module, "preprocess_clip", again)
    assert torch.equal(open_clips(raw, PREPROCESS, "mapped").frames[3:9].nan_to_num(), every[3:9].nan_to_num())
    # another preprocessing is another file
    with pytest.raises(AssertionError, match="a second time"):
        open_clips(raw, replace(PREPROCESS, fill=1), "mapped")
    assert list((tmp_path / "cache").glob("*.npy")) == [file], "nothing half done stays"


@pytest.mark.parametrize("damage", [lambda data: data[:-8], lambda data: b"x" * 200, lambda data: data + b"1"])
def test_a_damaged_cache_is_named_and_never_read(raw, tmp_path, damage):
    open_clips(raw, PREPROCESS, "mapped")
    (file,) = (tmp_path / "cache").glob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"{file.name}: .*delete it"):
        open_clips(raw, PREPROCESS, "mapped")


def test_unusable_clips_leave_no_cache(raw, tmp_path, monkeypatch):
    def unusable(*_):
        raise DataError("nothing to centre on")

    monkeypatch.setattr(clips_module, "preprocess_clip", unusable)
    with pytest.raises(DataError, match="12 of 12 clips cannot be used"):
        open_clips(raw, PREPROCESS, "mapped")
    assert not list((tmp_path / "cache").glob("*.npy"))


def prepare(path, cache, begun, log):
    """Map the raw store at `path`, noting that its preprocessing has begun, which then takes its time."""
    os.environ[residence.CACHE_VARIABLE] = str(cache)
    preprocess_clip = clips_module.preprocess_clip

    def slowly(*arguments):
        begun.touch()
        time.sleep(0.05)
        return preprocess_clip(*arguments)

    clips_module.preprocess_clip = slowly
    logging.getLogger("handcraft").setLevel(logging.INFO)
    logging.getLogger("handcraft").addHandler(logging.FileHandler(log))
    open_clips(path, PREPROCESS, "mapped")


def test_of_many_processes_one_prepares_and_the_others_wait(raw, tmp_path):
    """As the processes of torchrun do, at the same moment."""
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    finish([Forked(prepare, raw.path, tmp_path / "cache", tmp_path / "begun", log) for log in logs])
    assert sum(log.exists() and "preprocessing its clips once" in log.read_text() for log in logs) == 1
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_makes_is_not(raw, tmp_path):
    cache, begun = tmp_path / "cache", tmp_path / "begun"

    def partial():
        return set(cache.glob(".partial-*.npy"))

    killed = Forked(prepare, raw.path, cache, begun, tmp_path / "killed.log")
    wait_for(lambda: begun.exists() and bool(partial()), killed)
    killed.kill()
    (left,) = partial()
    begun.unlink()
    live = Forked(prepare, raw.path, cache, begun, tmp_path / "live.log")
    wait_for(begun.exists, live)
    (made,) = partial()
    assert made != left
    open_clips(raw, replace(PREPROCESS, fill=1), "mapped")
    assert partial() <= {made}
    finish([live])
    assert not partial()
    assert len(list(cache.glob("*.npy"))) == 2
    # of another file, which nobody makes any more
    stale = cache / left.name
    stale.touch()
    open_clips(raw, replace(PREPROCESS, fill=2), "mapped")
    assert not stale.exists()


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(residence.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert residence.cache_folder() == tmp_path / "handcraft" / "clips"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert residence.cache_folder().parts[-3:] == (".cache", "handcraft", "clips")


# --- the choice ----------------------------------------------------------------------------------------------------


def test_memory_decides_and_the_log_says_so(centred, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "handcraft")
    size = 2 * int(centred.frames.sum()) * 48 * 2  # as stored, in bytes

    def opened(free):
        monkeypatch.setattr(residence, "free_memory", lambda: free)
        frames = open_clips(centred, PREPROCESS).frames
        return type(frames), frames.dtype

    assert opened(4 * size) == (torch.Tensor, torch.float32)
    assert opened(4 * size - 1) == (torch.Tensor, torch.float16)
    assert opened(2 * size) == (torch.Tensor, torch.float16)
    assert not caplog.records
    assert opened(2 * size - 1) == (HostFrames, torch.float16)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{centred.path}: ")
    assert "of free memory: read from files" in record.getMessage()
    with pytest.raises(ConfigError, match="residence is 'disk'; expected auto, memory or mapped"):
        open_clips(centred, PREPROCESS, "disk")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_small_gpu_is_fed_from_the_host(centred, monkeypatch):
    clips = open_clips(centred, PREPROCESS)
    near = place(clips, "cuda")
    assert near.frames.is_cuda
    monkeypatch.setattr(residence, "free_memory", lambda device: 0)
    far = place(clips, "cuda")
    assert isinstance(far.frames, HostFrames)
    tasks = [small_task("transformer_sl", clips=of, augment=True) for of in (near, far)]
    for step in (0, 1, 2, 7):
        one, other = (task.batch(step) for task in tasks)
        assert one.x.is_cuda
        assert equal(one, other)


# --- ahead of time -------------------------------------------------------------------------------------------------


def test_the_next_batch_is_begun_and_no_more():
    made = []

    def make(step, share):
        made.append((step, share))
        return (step, share)

    ahead = Prefetch(make, torch.device("cpu"), last=3)
    share = Share(1, 2)
    assert ahead(0) == (0, WHOLE)
    assert ahead(1) == (1, WHOLE)
    assert ahead(2, share) == (2, share), "what was begun is not what is asked for"
    assert ahead(3, share) == (3, share)
    ahead._pool.shutdown()
    assert made == [(0, WHOLE), (1, WHOLE), (2, WHOLE), (2, share), (3, share)]


def test_what_goes_wrong_ahead_of_time_is_raised_when_it_is_asked_for():
    def make(step, share):
        if step == 1:
            raise DataError("clip seven")
        return step

    ahead = Prefetch(make, torch.device("cpu"), last=5)
    assert ahead(0) == 0
    with pytest.raises(DataError, match="clip seven"):
        ahead(1)
    assert ahead(2) == 2
