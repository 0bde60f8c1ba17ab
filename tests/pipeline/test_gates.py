"""Gates: what each measures, against a slow definition; and that what is kept depends on seed and settings alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clips import small_clips
from twins import classifier, twin

from handcraft import generate as module
from handcraft.data.clips import load_clips
from handcraft.data.window import windows
from handcraft.errors import ConfigError, DataError
from handcraft.gates import SAMPLED, Bones, Confidence, Distance, Speed, Tally, build_gates, kept
from handcraft.generate import generate
from handcraft.layouts import layout
from handcraft.predict import classify
from handcraft.render.skeleton import skeleton
from handcraft.synthesis import Synthesizer


@pytest.fixture(scope="module")
def clips():
    return small_clips()


@pytest.fixture(scope="module")
def twins(clips):
    return twin(clips, reverse=False, scale=0.1), twin(clips, reverse=True, scale=0.1)


@pytest.fixture(scope="module")
def synthesizer(clips, twins):
    return Synthesizer(*twins, clips, seed=3)


@pytest.fixture(scope="module")
def made(synthesizer):
    return synthesizer.make(torch.arange(30))


def files(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def windows_of(clips, window):
    return windows(clips, torch.arange(len(clips)), window)[0]


def distance(a, b, statistics, frames):
    """Of two windows (W,J,C): over the landmarks that both show."""
    apart = ((a[frames] - b[frames]) / statistics.std)[~(a[frames].isnan() | b[frames].isnan())]
    return float(apart.double().square().mean().sqrt())


def gates_between(clips, twins, synthesizer):
    """All four kinds, at thresholds that clips of random twins of every class pass now and then."""
    made, judge = synthesizer.make(torch.arange(90)), classifier(clips)

    def threshold(values, least=False):
        of_classes = [values[made.label == label].quantile(0.2 if least else 0.8) for label in range(3)]
        return float(min(of_classes) if least else max(of_classes))

    confidence = threshold(Confidence(judge, clips, 0.0).confidence(made), least=True)
    bones = threshold(Bones(clips, twins[0].window, 1.0).deviation(made))
    found = build_gates(
        [f"confidence:{confidence}", "distance:95", f"bones:{bones}", "speed:99"], clips, twins[0], judge
    )
    found[1].limit = threshold(found[1].distance(made))
    found[3].limit = threshold(found[3].speed(made))
    return found


def test_distance_is_to_the_nearest_real_clip_of_the_class(clips, twins, made):
    gate = Distance(clips, twins[0].window, twins[0].statistics, 90)
    real = windows_of(clips, twins[0].window)
    frames = [int(t) for t in np.linspace(0, twins[0].window.frames - 1, SAMPLED)]
    found = gate.distance(made)
    for i in (0, 1, 17):
        same = (clips.label == made.label[i]).nonzero().flatten().tolist()
        expected = min(distance(made.landmarks[i].float(), real[k], twins[0].statistics, frames) for k in same)
        assert found[i] == pytest.approx(expected, rel=1e-4)
    nearest = []
    for i in range(len(clips)):
        others = [k for k in (clips.label == clips.label[i]).nonzero().flatten().tolist() if k != i]
        nearest.append(min(distance(real[i], real[k], twins[0].statistics, frames) for k in others))
    assert gate.limit == pytest.approx(np.quantile(nearest, 0.9), rel=1e-4)
    assert torch.equal(gate.passes(made), found <= gate.limit)


def test_bones_are_compared_with_the_sources_at_the_clips_size(clips, twins, made):
    gate = Bones(clips, twins[0].window, 1.5)
    copy = made._replace(landmarks=1.3 * windows_of(clips, twins[0].window)[made.row])
    torch.testing.assert_close(gate.deviation(copy), torch.ones(30), msg="a scaled copy has its source's bones")
    arm = next(line for line in skeleton(layout(clips.layout)).lines if line.part == "pose" and len(line.points) == 3)
    elbow, wrist = arm.points[1:]
    longer = copy.landmarks.clone()
    longer[4, :, wrist] = longer[4, :, elbow] + 2 * (longer[4, :, wrist] - longer[4, :, elbow])
    found = gate.deviation(copy._replace(landmarks=longer))
    assert found[4] == pytest.approx(2, rel=1e-4)
    assert gate.passes(copy._replace(landmarks=longer)).tolist() == [i != 4 for i in range(30)]


def test_speed_is_the_fastest_landmarks(clips, twins, made):
    gate = Speed(clips, twins[0].window, 50)
    x = made.landmarks.float().numpy()
    steps = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    np.testing.assert_allclose(gate.speed(made), np.nanmax(steps, axis=(1, 2)), rtol=1e-5)
    real = np.linalg.norm(np.diff(windows_of(clips, twins[0].window).numpy(), axis=1), axis=-1)
    assert gate.limit == pytest.approx(np.quantile(np.nanmax(real, axis=(1, 2)), 0.5), rel=1e-5)
    short = made._replace(length=torch.full_like(made.length, 2))
    np.testing.assert_allclose(gate.speed(short), np.nanmax(steps[:, 0], axis=1), rtol=1e-5)


def test_confidence_is_the_classifiers_of_the_clips_own_class(clips, made, tmp_path, twins):
    judge = classifier(clips)
    gate = Confidence(judge, clips, 0.4)
    store = generate(*twins, clips, tmp_path / "s", total=30, seed=3)
    back = load_clips(store, clips.preprocess)
    expected = classify(judge, back).softmax(1)[torch.arange(30), back.label]
    torch.testing.assert_close(gate.confidence(made), expected)
    assert gate.seen_clips == judge.seen_clips


def test_what_is_kept_passes_and_depends_on_seed_and_settings_alone(clips, twins, synthesizer, tmp_path):
    def gates():
        return gates_between(clips, twins, synthesizer)

    wanted = {"per_class": 20, "seed": 3}
    store = generate(*twins, clips, tmp_path / "one", gates=gates(), **wanted)
    again = {"batch": 7, "workers": 3}
    generate(*twins, clips, tmp_path / "two", gates=gates(), **wanted, **again)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert np.bincount(store.labels).tolist() == [20] * 3
    numbers = [store.provenance_of(i)["clip_id"] for i in range(60)]
    assert len(set(numbers)) == 60
    assert [number % 60 for number in numbers] == list(range(60)), "each place has numbers of its own"
    assert max(numbers) >= 60, "some clip was replaced"
    made = synthesizer.make(torch.tensor(numbers))
    assert all(bool(gate.passes(made).all()) for gate in gates())
    for place in (i for i in range(60) if numbers[i] >= 60):
        tried = synthesizer.make(torch.arange(place, numbers[place], 60))
        passed = torch.stack([gate.passes(tried) for gate in gates()]).all(0)
        assert not passed.any(), "every earlier number of the place was rejected"
    rates = store.manifest.source["rates"]
    assert rates["made"] == sum(number // 60 + 1 for number in numbers)
    assert rates["kept"] == 60
    assert rates["made"] - rates["kept"] == sum(rates["rejected"].values())
    for name, row in rates["classes"].items():
        label = clips.classes.index(name)
        assert row["made"] == sum(number // 60 + 1 for number in numbers if number % 3 == label)
        assert row["kept"] == 20
    gates_of = store.manifest.source["gates"]
    assert [entry["gate"] for entry in gates_of] == [gate.text for gate in gates()]
    assert gates_of[0]["classifier"] == classifier(clips).sha256
    judge = replace(classifier(clips), seen_clips=("00000000000000aa",))
    seen = generate(
        *twins, clips, tmp_path / "seen", per_class=1, gates=[Confidence(judge, clips, 0.0)]
    ).manifest.seen_clips
    assert "00000000000000aa" in seen, "what taught the classifier shaped the store"


def test_the_shards_of_gated_clips_add_up(clips, twins, synthesizer, tmp_path):
    gates = gates_between(clips, twins, synthesizer)
    options = {"per_class": 20, "seed": 3, "shards": 3, "gates": gates}
    whole = generate(*twins, clips, tmp_path / "whole", **options)
    for shard in (1, 2, 0):
        assert generate(*twins, clips, tmp_path / "s", shard=shard, **options) is None
    generate(*twins, clips, tmp_path / "s", **options)
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert whole.manifest.source["rates"]["made"] > 60


def test_gates_look_with_one_thread_whatever_the_workers(clips, twins, tmp_path):
    """A matrix product of 3 threads may differ from that of one; this would be a matter of luck in the bytes."""
    seen = set()

    class Looks:
        text, seen_clips = "looks", ()

        def passes(self, made):
            seen.add(torch.get_num_threads())
            return torch.ones_like(made.label, dtype=torch.bool)

        def describe(self):
            return {}

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        generate(*twins, clips, tmp_path / "s", total=3, workers=1, gates=[Looks()])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_limits_have_five_digits(clips, twins):
    """What a store's settings say must not depend on the last bits of a product."""
    for text in ("distance:37", "speed:37"):
        (gate,) = build_gates([text], clips, twins[0])
        assert gate.limit > 0
        assert gate.limit == float(f"{gate.limit:.5g}") == gate.describe()["limit"]


def test_a_class_that_cannot_be_filled_is_named(clips, twins, tmp_path, monkeypatch):
    class Never:
        text, seen_clips = "never", ()

        def passes(self, made):
            return made.label != 1

        def describe(self):
            return {}

    with pytest.raises(DataError, match=r"class 'sign1' cannot be filled: 100 clips.*gate never; loosen"):
        generate(*twins, clips, tmp_path / "s", per_class=2, gates=[Never()])
    assert not (tmp_path / "s").exists()


def test_without_gates_nothing_is_counted_or_replaced(synthesizer):
    made, clip_id, tally = kept(synthesizer, [], range(5, 9), 100)
    assert clip_id.tolist() == [5, 6, 7, 8]
    assert made.landmarks.numpy().tobytes() == synthesizer.make(clip_id).landmarks.numpy().tobytes()
    assert Tally.rates([tally.notes()], [], synthesizer.clips.classes) == {}
    assert module.GATE_BATCH > 1


def test_what_is_no_gate_is_refused(clips, twins):
    for text in ("smile:1", "speed", "speed:", "speed:x", "speed:101", "bones:0.5", "confidence:2", "distance:nan"):
        with pytest.raises(ConfigError, match=f"gate '{text}' is none of confidence:0..1, distance:0..100"):
            build_gates([text], clips, twins[0], classifier(clips))
    with pytest.raises(ConfigError, match=r"'confidence:0\.5' needs a classifier"):
        build_gates(["confidence:0.5"], clips, twins[0])
    lonely = replace(clips.subset(range(0, 24, 8)), classes=clips.classes)
    with pytest.raises(DataError, match="no class has two real clips"):
        build_gates(["distance:50"], lonely, twins[0])
