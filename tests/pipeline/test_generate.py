"""Generation: which clip comes from where, byte for byte, whatever the batch; and what is refused."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clips import RECIPES, small_clips
from twins import classifier, twin

import handcraft
from handcraft.checkpoint import save
from handcraft.config import AugmentConfig, PreprocessConfig, WindowConfig
from handcraft.data import frame_file
from handcraft.data.augment import augment, sub_windows
from handcraft.data.clips import load_clips
from handcraft.data.statistics import Statistics
from handcraft.data.store import hex_digests, split_hash
from handcraft.data.window import windows
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.generate import generate
from handcraft.kernels import cmlpe_generate, dispatch, philox
from handcraft.synthesis import sources


@pytest.fixture(scope="module")
def clips():
    return small_clips()


@pytest.fixture(scope="module")
def twins(clips):
    return twin(clips, reverse=False), twin(clips, reverse=True)


def files(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_any_batch_size_and_number_of_workers_writes_the_same_bytes(clips, twins, tmp_path):
    for batch, workers in ((1, 1), (7, 3), (64, 2), (1000, None)):
        generate(*twins, clips, tmp_path / str(batch), total=100, seed=5, batch=batch, workers=workers)
    first = files(tmp_path / "1")
    assert len(first) == 3
    for batch in (7, 64, 1000):
        assert files(tmp_path / str(batch)) == first


def test_clip_i_is_the_same_in_a_smaller_store_and_another_with_another_seed(clips, twins, tmp_path):
    large = generate(*twins, clips, tmp_path / "large", total=30, seed=5)
    small = generate(*twins, clips, tmp_path / "small", total=11, seed=5)
    other = generate(*twins, clips, tmp_path / "other", total=11, seed=6)
    assert small.ids.tolist() == large.ids[:11].tolist()
    for i in range(11):
        assert small.landmarks(i).tobytes() == large.landmarks(i).tobytes()
        assert other.landmarks(i).tobytes() != large.landmarks(i).tobytes()


def test_a_clip_is_both_halves_of_its_source_generated_with_its_class(clips, twins, tmp_path):
    forward, reversed = twins
    store = generate(forward, reversed, clips, tmp_path / "s", total=20, seed=3, missing="none")
    for i in (0, 7, 19):
        made = store.provenance_of(i)
        source = int(np.flatnonzero(clips.ids == made["source"])[0])
        assert store.labels[i] == i % 3 == clips.label[source]
        assert made["source_digest"] == f"{clips.digest[source]:016x}"
        assert made["source_frames"] == clips.length[source]
        assert (made["forward"], made["reversed"]) == (forward.sha256, reversed.sha256)
        assert (made["seed"], made["clip_id"]) == (3, i)
        window, _ = windows(clips, torch.tensor([source]), forward.window)
        x = forward.statistics.standardise(window).flatten(2)
        with torch.no_grad():
            halves = []
            for checkpoint, stream in ((reversed, philox.STREAM_REVERSED), (forward, philox.STREAM_FORWARD)):
                config = checkpoint.config
                noise = config.noise * philox.normal(3, torch.tensor([i]), stream, config.blocks, config.embedding)
                context = x.flip(1)[:, :8] if checkpoint.reverse else x[:, :8]
                half = checkpoint.model(context, torch.tensor([i % 3]), noise)
                halves.append(half.flip(1) if checkpoint.reverse else half)
        expected = forward.statistics.unstandardise(torch.cat(halves, 1).unflatten(-1, (48, 2)))[0]
        np.testing.assert_allclose(store.landmarks(i), expected.numpy(), rtol=2e-3, atol=2e-3)
        assert (expected - window[0]).abs().nanmedian() > 0.01, "the clip is no copy of its source"


def test_digests_are_of_what_decides_a_clip(clips, twins, tmp_path):
    def store(name, total=9, **options):
        return generate(*twins, clips, tmp_path / name, total=total, **({"seed": 5} | options))

    large = store("large", 30)
    assert len(set(large.digests.tolist())) == 30
    for name, total, batch in (("small", 9, 2), ("again", 9, 9)):
        assert store(name, total, batch=batch).digests.tolist() == large.digests[:9].tolist()
    named = {
        "forward": twins[0].sha256,
        "reversed": twins[1].sha256,
        "seed": 5,
        "noise": twins[0].config.noise,
        "missing": "source",
        "vary": True,
        "source_clips": split_hash(clips.digest),
        "device": "cpu",
        "backend": dispatch.select("cmlpe_generate", "auto", torch.empty(0), M=8, D=96),
        "versions": {"handcraft": handcraft.__version__, "torch": torch.__version__},
    }
    assert {name: large.manifest.source[name] for name in named} == named
    text = json.dumps(named, sort_keys=True, separators=(",", ":")).encode() + (7).to_bytes(8, "little")
    assert int(large.digests[7]) == int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    for options in ({"seed": 6}, {"missing": "none"}, {"vary": False}):
        other = store("-".join(options), **options)
        assert not set(other.digests.tolist()) & set(large.digests.tolist())


def test_clips_without_anything_random_have_the_digest_of_their_source(clips, tmp_path):
    recipe = replace(RECIPES["cmlpe"], model=replace(RECIPES["cmlpe"].model, noise=0.0))
    twins = [twin(clips, reverse=reverse, recipe=recipe) for reverse in (False, True)]
    store = generate(*twins, clips, tmp_path / "s", total=60, seed=1, vary=False)
    content = [store.landmarks(i).tobytes() for i in range(60)]
    assert len(set(content)) < 60
    for i in range(60):
        for k in range(i):
            assert (store.digests[i] == store.digests[k]) == (content[i] == content[k])


def test_a_store_is_not_continued_by_another_backend(clips, twins, tmp_path, monkeypatch):
    """Its bytes differ in rounding, so the store would be neither this one's nor the other's."""
    options = {"total": 30, "seed": 5, "shards": 3}
    if dispatch.select("cmlpe_generate", "auto", torch.empty(0), M=8, D=96) == "reference":
        pytest.skip("there is no other backend here")
    generate(*twins, clips, tmp_path / "s", shard=0, **options)
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    with pytest.raises(DataError, match=r'other settings: backend was "cpu", now it is "reference"; go on with those'):
        generate(*twins, clips, tmp_path / "s", shard=1, **options)


def test_parts_of_known_size_are_not_read_again(tmp_path, monkeypatch):
    """Also where clips are as long as their sources, for which those must be looked up."""
    clips, read = small_clips(lengths=(10, 20)), []
    monkeypatch.setattr(frame_file, "sha256_file", lambda path: read.append(path) or "0" * 64)
    recipe = replace(RECIPES["cmlpe"], window=replace(RECIPES["cmlpe"].window, mode="wrap"))
    twins = [twin(clips, reverse=reverse, recipe=recipe) for reverse in (False, True)]
    store = generate(*twins, clips, tmp_path / "s", total=30, shards=2)
    assert len(set(store.frames.tolist())) > 1
    assert not read


def test_sources_are_varied_as_the_generators_training_was(clips, tmp_path):
    """The same source gives other clips; the variation is the checkpoint's, keyed by the clip and not by the batch."""
    config = AugmentConfig(rotation=20, scale=0.2, subwindow=0.6)
    recipe = replace(RECIPES["cmlpe"], augment=config)
    twins = [twin(clips, reverse=reverse, recipe=recipe) for reverse in (False, True)]
    one = replace(clips.subset(range(0, 24, 8)), classes=clips.classes)  # a clip a class
    options = {"total": 30, "seed": 4, "missing": "none"}
    varied = generate(*twins, one, tmp_path / "varied", batch=30, **options)
    generate(*twins, one, tmp_path / "again", batch=7, **options)
    plain = generate(*twins, one, tmp_path / "plain", vary=False, **options)
    assert files(tmp_path / "varied") == files(tmp_path / "again")
    assert (varied.manifest.source["vary"], plain.manifest.source["vary"]) == (True, False)
    i, label = 4, 1
    begin, span = sub_windows(one.length[[label]], config, twins[0].window, 4, torch.tensor([i]))
    window, _ = windows(one, torch.tensor([label]), twins[0].window, begin, span)
    window = augment(window, config, 4, torch.tensor([i]))
    expected = cmlpe_generate(
        *(checkpoint.model.params() for checkpoint in twins),
        window.flatten(2),
        torch.tensor([0]),
        torch.tensor([label]),
        torch.tensor([i]),
        seed=4,
        noise=twins[0].config.noise,
        mean=twins[0].statistics.mean.flatten(),
        std=twins[0].statistics.std.flatten(),
    )
    np.testing.assert_allclose(varied.landmarks(i), expected[0].unflatten(-1, (48, 2)), rtol=2e-3, atol=2e-3)
    spread = [np.std([store.landmarks(i) for i in range(1, 30, 3)], axis=0).mean() for store in (varied, plain)]
    assert spread[0] > 2 * spread[1], "varied sources must make the clips more different than noise alone does"


def test_sources_are_balanced_pure_functions_and_reach_every_clip(clips):
    clip_id = torch.arange(600)
    label, row = sources(clips, clip_id, 9)
    assert label.bincount().tolist() == [200, 200, 200]
    assert torch.equal(clips.label[row], label)
    assert row.unique().tolist() == list(range(len(clips)))
    again = sources(clips, clip_id[123:124], 9)
    assert (again[0].item(), again[1].item()) == (label[123].item(), row[123].item())
    assert not torch.equal(sources(clips, clip_id, 10)[1], row)
    word = philox.words(9, clip_id, philox.STREAM_SOURCE, 0, 1)[:, 0, 0]
    assert torch.equal(row, 8 * label + ((word * 8) >> 32)), "eight clips a class, in order"


def test_what_the_source_misses_is_missing_in_the_same_frames(clips, twins, tmp_path):
    store = generate(*twins, clips, tmp_path / "s", total=60, seed=1)
    plain = generate(*twins, clips, tmp_path / "plain", total=60, seed=1, missing="none")
    seen = 0
    for i in range(60):
        source = int(np.flatnonzero(clips.ids == store.provenance_of(i)["source"])[0])
        missing = windows(clips, torch.tensor([source]), twins[0].window)[0][0].isnan().numpy()
        made = store.landmarks(i)
        assert (np.isnan(made) == missing).all()
        assert made[~missing].tobytes() == plain.landmarks(i)[~missing].tobytes()
        assert not np.isnan(plain.landmarks(i)).any()
        seen += missing.any() and not missing.all()
    assert seen > 5


def test_the_store_says_what_it_is_and_reads_back_as_training_clips(clips, twins, tmp_path):
    forward, reversed = twins
    reversed = replace(reversed, seen_clips=("00000000000000ff",))
    # the sources need not be the very clips that the generators were trained on
    sources = replace(clips, digest=clips.digest + np.uint64(1))
    store = generate(forward, reversed, sources, tmp_path / "s", per_class=4, seed=2)
    manifest = store.manifest
    assert (manifest.stage, manifest.layout, manifest.coordinates) == ("centred", "pose_hands48", "xy")
    assert manifest.classes == clips.classes
    assert store.dtype == np.float16
    assert len(store) == 12
    assert set(store.splits) == {"train"}
    assert set(manifest.seen_clips) == {
        *hex_digests(clips.digest),
        *hex_digests(sources.digest),
        "00000000000000ff",
    }
    assert manifest.source["seed"] == 2
    assert manifest.source["forward"] == forward.sha256
    assert manifest.source["reversed"] == reversed.sha256
    store.verify()
    back = load_clips(store, clips.preprocess)
    assert set(back.length.tolist()) == {16}
    assert len(back.train()) == 12
    with pytest.raises(DataError, match="signature"):
        load_clips(store, PreprocessConfig(coordinates="xy", fill=3))


@pytest.mark.parametrize("mode", ["wrap", "zero"])
def test_padded_windows_give_clips_of_the_sources_length(mode, tmp_path):
    clips = small_clips(lengths=(9, 23), missing=False)
    recipe = replace(RECIPES["cmlpe"], window=WindowConfig(frames=16, mode=mode))
    store = generate(*(twin(clips, reverse=r, recipe=recipe) for r in (False, True)), clips, tmp_path / "s", total=30)
    lengths = [min(16, store.provenance_of(i)["source_frames"]) for i in range(30)]
    assert store.frames.tolist() == lengths
    assert len(set(lengths)) > 3
    assert not any(np.isnan(clip).any() for clip in store)


def test_an_interrupted_run_leaves_nothing_and_does_not_stop_the_next(clips, twins, tmp_path, monkeypatch):
    calls = []

    def stop_later(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cmlpe_generate(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("handcraft.synthesis.cmlpe_generate", stop_later)
        with pytest.raises(KeyboardInterrupt):
            generate(*twins, clips, tmp_path / "s", total=100, batch=10)
    assert 3 <= len(calls) < 10, "batches that were begun end, no other begins"
    assert not (tmp_path / "s").exists()
    assert len(generate(*twins, clips, tmp_path / "s", total=10)) == 10
    before = files(tmp_path / "s")
    with pytest.raises(DataError, match=r"exists|already"):
        generate(*twins, clips, tmp_path / "s", total=20)
    assert files(tmp_path / "s") == before


def test_checkpoints_are_read_from_disk_and_their_hash_is_recorded(clips, twins, tmp_path):
    paths = [save(tmp_path / name, checkpoint) for name, checkpoint in zip(("f", "r"), twins, strict=True)]
    store = generate(tmp_path / "f", tmp_path / "r", clips, tmp_path / "s", total=5)
    same = generate(*twins, clips, tmp_path / "t", total=5)
    assert [a.tobytes() for a in store] == [b.tobytes() for b in same]
    for name, path in zip(("forward", "reversed"), paths, strict=True):
        digest = json.loads((path / "config.json").read_text())["sha256"]["model.safetensors"]
        assert store.provenance_of(0)[name] == store.manifest.source[name] == digest


def test_what_does_not_belong_together_is_refused_before_anything_is_written(clips, twins, tmp_path):
    forward, reversed = twins
    shifted = Statistics(forward.statistics.mean + 1, forward.statistics.std)
    other_model = replace(reversed.config, embedding=16)
    cases = [
        (reversed, forward, clips, "is the reversed generator, expected the forward"),
        (forward, forward, clips, "is the forward generator, expected the reversed"),
        (classifier(clips), reversed, clips, "holds a transformer_sl; give the forward generator"),
        (forward, replace(reversed, classes=("sign0", "sign1", "x")), clips, "only in the second: x"),
        (forward, replace(reversed, layout="handcraft60"), clips, "landmark layout"),
        (forward, replace(reversed, preprocess=PreprocessConfig()), clips, "preprocessing"),
        (forward, replace(reversed, window=WindowConfig(frames=16, mode="zero")), clips, "window"),
        (forward, replace(reversed, config=other_model), clips, "model"),
        (forward, replace(reversed, augment=AugmentConfig(rotation=1)), clips, "augmentation"),
        (forward, replace(reversed, statistics=shifted), clips, "statistics differ"),
        (forward, reversed, replace(clips, classes=("sign0", "sign1", "sign3")), "only in the first: sign2"),
        (forward, reversed, replace(clips, layout="handcraft60"), "landmark layout"),
        (forward, reversed, replace(clips, preprocess=PreprocessConfig(coordinates="xy", fill=1)), "preprocessing"),
    ]
    for one, other, data, words in cases:
        with pytest.raises(CheckpointError, match=words):
            generate(one, other, data, tmp_path / "s", total=3)
    with pytest.raises(DataError, match="1 of 3 classes have no clip to generate from: sign1"):
        generate(forward, reversed, clips.subset(clips.label != 1), tmp_path / "s", total=3)
    for options in ({}, {"total": 3, "per_class": 1}, {"total": 0}, {"total": 3, "batch": 0}, {"total": 3, "seed": -1}):
        with pytest.raises(ConfigError):
            generate(forward, reversed, clips, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_progress_shows_clips_a_second(clips, twins, tmp_path, capfd):
    generate(*twins, clips, tmp_path / "s", total=8, progress=True)
    assert "clip/s" in capfd.readouterr().err
    generate(*twins, clips, tmp_path / "t", total=8, progress=False)
    assert capfd.readouterr().err == ""


KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from handcraft import generate as module
from handcraft.data.part import PartFiles
from small_clips import small_clips
from twins import twin

close = PartFiles.close
def told(part, *args):
    print(part.name, flush=True)  # who reads it kills us: before, while or after the part gets its name
    return close(part, *args)
PartFiles.close = told
clips = small_clips()
module.generate(*(twin(clips, reverse=reverse) for reverse in (False, True)), clips, sys.argv[1], total=90, seed=5,
                batch=10, shards=6)
"""


def test_a_killed_run_is_continued_after_its_last_whole_part(clips, twins, tmp_path, capfd):
    """Killed twice, at moments that nobody chose."""
    generate(*twins, clips, tmp_path / "whole", total=90, seed=5, shards=6)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), str(Path(__file__).parent.parent)]
    for last in ("part-00002", "part-00004"):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert last in (line.strip() for line in run.stdout)  # stops reading at that line
            run.kill()
            run.wait(timeout=30)
        assert (tmp_path / "s" / "part-00001").exists()
        assert not (tmp_path / "s" / "manifest.json").exists()
    capfd.readouterr()
    with pytest.raises(DataError, match="other settings: seed was 5, now it is 6"):
        generate(*twins, clips, tmp_path / "s", total=90, seed=6, shards=6)
    generate(*twins, clips, tmp_path / "s", total=90, seed=5, shards=6, progress=True)
    assert "90/90" in capfd.readouterr().err, "what was there already counts as done"
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_shards_divide_the_clips_evenly_and_are_checked(clips, twins, tmp_path):
    store = generate(*twins, clips, tmp_path / "s", total=10, shards=4)
    assert [part.clips for part in store.manifest.parts] == [2, 3, 2, 3]
    assert store.ids.tolist() == [f"s0-{i:09d}" for i in range(10)]
    for options, words in (
        ({"shards": 11}, "shards is 11 for 10 clips; expected 1 to 10"),
        ({"shards": 0}, "shards is 0"),
        ({"shard": 0}, "shards is not given"),
        ({"shards": 2, "shard": 2}, "shard is 2; expected 0 to 1"),
        ({"workers": 0}, "workers 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            generate(*twins, clips, tmp_path / "t", total=10, **options)
    assert not (tmp_path / "t").exists()
