"""Toy data: repeatable, anatomically sound, shaped like a detector's output, neither trivial nor hopeless."""

import itertools
import time

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from handcraft.data.store import Store
from handcraft.data.toy import ASPECT, LAYOUT, make_toy, toy_clips
from handcraft.data.toy_body import HANDSHAPES, bend_limit, reach, rotation, unit
from handcraft.data.toy_signer import make_signer, perform
from handcraft.data.toy_signs import LIMIT, MOVEMENTS, PLACES, Sign, vocabulary
from handcraft.errors import ConfigError, DataError

HANDS = {"left": slice(33, 54), "right": slice(54, 75)}
CHAINS = [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]]
ROOTS = [(0, 5), (0, 9), (0, 13), (0, 17), (5, 9), (9, 13), (13, 17)]
UPPER = [0, 11, 12, 13, 14, 15, 16]  # nose, shoulders, elbows, wrists


def stream(number):
    return np.random.Generator(np.random.Philox(number))


def signer(number=0, left_handed=False):
    return make_signer(stream(number), left_handed)


def distance(points, first, second):
    return np.linalg.norm(points[:, first] - points[:, second], axis=-1)


@pytest.fixture(scope="module")
def default():
    """The default data set and the processor seconds it took (a busy machine stretches any other clock)."""
    start = time.process_time()
    clips = list(toy_clips())
    return clips, time.process_time() - start


def test_same_seed_same_clips_and_more_classes_or_clips_keep_them():
    first = {(name, i % 3): clip for i, (clip, name, _) in enumerate(toy_clips(4, 3, 3, seed=5))}
    again = {(name, i % 5): clip for i, (clip, name, _) in enumerate(toy_clips(6, 5, 3, seed=5))}
    other = {(name, i % 3): clip for i, (clip, name, _) in enumerate(toy_clips(4, 3, 3, seed=6))}
    for key, clip in first.items():
        np.testing.assert_array_equal(clip, again[key])
        assert clip.shape != other[key].shape or not np.array_equal(clip, other[key], equal_nan=True)


def test_shapes_ranges_and_balance(default):
    clips, _ = default
    assert len(clips) == 480
    lengths = [len(clip) for clip, _, _ in clips]
    assert min(lengths) >= 20
    assert max(lengths) <= 60
    assert np.ptp(lengths) > 25
    names, counts = np.unique([name for _, name, _ in clips], return_counts=True)
    assert len(names) == 12
    assert (counts == 40).all()
    for name in names:
        turns = np.unique([who for _, label, who in clips if label == name], return_counts=True)[1]
        assert len(turns) == 6
        assert np.ptp(turns) <= 1
    for clip, _, _ in clips:
        assert clip.shape[1:] == (LAYOUT.landmarks, 3) == (87, 3)
        assert clip.dtype == np.float32
        head_and_shoulders = np.r_[0:13, 75:87]
        assert np.isfinite(clip[:, :33]).all()
        assert np.isfinite(clip[:, 75:]).all()
        assert (clip[:, head_and_shoulders, :2] > 0).all()
        assert (clip[:, head_and_shoulders, :2] < 1).all()
        for part in HANDS.values():
            hand = clip[:, part]
            missing = np.isnan(hand)
            assert (missing.all((1, 2)) == missing.any((1, 2))).all()  # a hand is detected whole or not at all
            seen = hand[~missing.any((1, 2))]
            assert (np.abs(seen[..., :2] - 0.5) < 0.9).all()
            assert (seen[:, 0, 2] == 0).all()  # depth is relative to the wrist
            assert (np.abs(seen[..., 2]) < 0.35).all()


def test_left_and_right_are_the_signers_own(default):
    clips, _ = default
    for clip, _, _ in clips:
        middle = np.median(clip[..., 0], axis=0)
        for left, right in ((11, 12), (23, 24), (13, 14), (2, 5), (9, 10), (75 + 2, 75 + 0), (75 + 8, 75 + 4)):
            assert middle[left] > middle[right]
        assert clip[:, 75 + 1, 1].mean() < clip[:, 75 + 3, 1].mean()  # upper lip above the lower
        assert middle[[7, 8]].mean() == pytest.approx(middle[0], abs=0.1)


def test_detected_hands_hang_on_their_wrists_and_faces_on_their_noses(default):
    clips, _ = default
    unit_of = np.array([1, 1 / ASPECT])
    for clip, _, _ in clips[::5]:
        flat = clip[..., :2] * unit_of
        width = np.median(np.linalg.norm(flat[:, 11] - flat[:, 12], axis=-1))
        gaps = {
            side: np.linalg.norm(flat[:, part.start] - flat[:, wrist], axis=-1) / width
            for (side, part), wrist in zip(HANDS.items(), (15, 16), strict=True)
        }
        for side, gap in gaps.items():
            assert not (gap > 0.35).any(), side
        assert (np.linalg.norm(flat[:, 75:].mean(1) - flat[:, 0], axis=-1) / width < 0.3).all()
        assert (np.linalg.norm(flat[:, [15, 16]] - flat[:, [19, 20]], axis=-1) / width < 0.5).all()


def test_missing_hands_are_about_as_frequent_as_in_recordings(default):
    clips, _ = default
    lost = {side: [np.isnan(clip[:, part.start, 0]) for clip, _, _ in clips] for side, part in HANDS.items()}
    assert 0.15 < np.concatenate(lost["right"]).mean() < 0.40
    assert 0.45 < np.concatenate(lost["left"]).mean() < 0.75  # eight of the twelve signs are one-handed
    assert 0.25 < np.mean([missing.all() for missing in lost["left"]]) < 0.55
    assert np.mean([missing.all() for missing in lost["right"]]) < 0.06
    # runs, not single frames: most missing frames have a missing neighbour
    inner = np.concatenate([missing[1:-1] for missing in lost["right"]])
    beside = np.concatenate([missing[:-2] | missing[2:] for missing in lost["right"]])
    assert beside[inner].mean() > 0.8
    # low hands are lost more often than raised ones
    low = np.concatenate([clip[:, 16, 1] > 0.85 for clip, _, _ in clips])
    missing = np.concatenate(lost["right"])
    assert missing[low].mean() > 2 * missing[~low].mean()


@pytest.mark.parametrize("hands", ["one", "both", "alternate"])
@pytest.mark.parametrize("movement", ["rise", "stir", "nod"])
def test_bones_keep_their_lengths_and_hands_sit_on_wrists(movement, hands):
    person = signer(3)
    for number, (shape, place) in enumerate(zip(HANDSHAPES, itertools.cycle(PLACES), strict=False)):
        points = perform(stream(number), Sign(shape, place, movement, hands), person).points
        for side in (0, 1):
            np.testing.assert_allclose(distance(points, 11 + side, 13 + side), person.upper, rtol=1e-9)
            np.testing.assert_allclose(distance(points, 13 + side, 15 + side), person.fore, rtol=1e-9)
        np.testing.assert_allclose(distance(points, 11, 12), person.shoulders, rtol=1e-9)
        bones = [pair for chain in CHAINS for pair in itertools.pairwise(chain)] + ROOTS
        left, right = ([distance(points[:, part], *bone) for bone in bones] for part in HANDS.values())
        for one, other in zip(left, right, strict=True):
            assert np.ptp(one) < 1e-9
            np.testing.assert_allclose(one, other, rtol=1e-9)
        np.testing.assert_allclose(points[:, 33], points[:, 15], atol=1e-12)
        np.testing.assert_allclose(points[:, 54], points[:, 16], atol=1e-12)
        assert (points[:, [15, 16], 2] < 0.06).all()  # no hand behind the back


def test_wrists_bend_no_further_than_wrists_do():
    person = signer(1)
    for number, place in enumerate(PLACES):
        points = perform(stream(number), Sign("flat", place, "hold", "one"), person).points
        forearm, palm = unit(points[:, 16] - points[:, 14]), unit(points[:, 63] - points[:, 54])
        assert np.rad2deg(np.arccos((forearm * palm).sum(-1))).max() < 72


@pytest.mark.parametrize(
    ("shape", "straight"),
    [
        ("flat", (1, 1, 1, 1)),
        ("fist", (0, 0, 0, 0)),
        ("vee", (1, 1, 0, 0)),
        ("little", (0, 0, 0, 1)),
        ("horns", (1, 0, 0, 1)),
    ],
)
def test_handshapes_straighten_the_right_fingers(shape, straight):
    clip = perform(stream(7), Sign(shape, "side", "hold", "one"), signer(2)).points
    hand = clip[len(clip) // 2, HANDS["right"]]
    for finger, is_straight in enumerate(straight):
        knuckle, tip = hand[5 + 4 * finger], hand[8 + 4 * finger]
        further = np.linalg.norm(tip - hand[0]) > 1.25 * np.linalg.norm(knuckle - hand[0])
        assert further == bool(is_straight)


def test_a_raised_right_palm_shows_its_thumb_on_the_images_right():
    points = perform(stream(1), Sign("five", "side", "hold", "both"), signer(2)).points
    right, left = (points[len(points) // 2, HANDS[side]] for side in ("right", "left"))
    assert right[4, 0] > right[20, 0]  # palm to the camera: thumb towards the signer's midline
    assert left[4, 0] < left[20, 0]
    for hand in (right, left):
        assert hand[12, 1] < hand[0, 1]


def test_pinch_closes_the_ring():
    points = perform(stream(1), Sign("okay", "side", "hold", "one"), signer(2)).points
    hand = points[len(points) // 2, HANDS["right"]]
    assert np.linalg.norm(hand[4] - hand[8]) < 0.045
    assert np.linalg.norm(hand[4] - hand[12]) > 0.06


def test_left_handed_signers_lead_with_the_left_hand():
    sign = Sign("index", "space", "rise", "one")
    led = {left: [perform(stream(i), sign, signer(4, left)).dominant for i in range(60)] for left in (False, True)}
    assert led[False].count("left") == led[True].count("right") <= 10
    moved = perform(stream(0), sign, signer(4, True)).points
    assert np.ptp(moved[:, 15, 1]) > 3 * np.ptp(moved[:, 16, 1])
    groups = {who: [] for who in range(8)}
    for clip, _, who in toy_clips(4, 16, signers=8, seed=1):
        groups[who].append(np.ptp(clip[:, 15, 1]) > np.ptp(clip[:, 16, 1]))
    assert np.mean(groups[6]) > 0.7
    assert np.mean([move for who, moves in groups.items() if who != 6 for move in moves]) < 0.2


def test_vocabulary_is_large_unique_and_full_of_minimal_pairs():
    signs = vocabulary()
    assert len(signs) == LIMIT == len({sign.name for sign in signs})
    assert {sign.handshape for sign in signs} == set(HANDSHAPES)
    assert {sign.place for sign in signs} == set(PLACES)
    assert {sign.movement for sign in signs} == set(MOVEMENTS)
    assert {sign.hands for sign in signs} == {"one", "both", "alternate"}
    for sign in signs:
        same = [(sign.handshape == other.handshape, sign.movement == other.movement) for other in signs
                if other != sign and (other.place, other.hands) == (sign.place, sign.hands)]  # fmt: skip
        assert (True, False) in same
        assert (False, True) in same


@pytest.mark.parametrize(("one", "other"), [("rise", "fall"), ("slide", "sweep"), ("circle", "stir")])
def test_twin_movements_run_through_the_same_points_the_other_way(one, other):
    phase = np.linspace(0, 1, 101)
    forth, back = MOVEMENTS[one](phase, 2, 0.0)[0], MOVEMENTS[other](phase, 2, 0.0)[0]
    np.testing.assert_allclose(forth, back[::-1], atol=1e-12)
    assert np.abs(forth - back).max() > 1


def test_reach_and_bend_limit():
    shoulder, pole = np.zeros(3), np.array([0.0, 1.0, 0.0])
    target = np.array([[0.3, 0.1, -0.2], [2.0, 0.0, 0.0], [1e-4, 0.0, 0.0]])
    elbow, wrist = reach(shoulder, target, 0.3, 0.25, pole)
    np.testing.assert_allclose(np.linalg.norm(elbow, axis=-1), 0.3, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(wrist - elbow, axis=-1), 0.25, rtol=1e-9)
    np.testing.assert_allclose(wrist[0], target[0], atol=1e-12)
    assert wrist[1, 0] < 0.55
    assert elbow[0, 1] > wrist[0, 1]
    forearm, hand = np.array([[1.0, 0, 0]] * 2), unit(np.array([[1.0, 0.2, 0], [-1.0, 0.5, 0]]))
    bent = bend_limit(hand, forearm, np.deg2rad(60))
    np.testing.assert_allclose(bent[0], hand[0], atol=1e-12)
    np.testing.assert_allclose(bent[1], [0.5, np.sqrt(0.75), 0], atol=1e-12)
    turn = rotation(0.3, -0.2, 0.5)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation(np.pi / 2, 0, 0) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def linear_features(clip):
    """x and y of 7 pose and 42 hand points at 12 evenly spaced times, by the shoulders; missing = 0."""
    flat = clip[..., :2] * [1, 1 / ASPECT]
    middle = np.median((flat[:, 11] + flat[:, 12]) / 2, axis=0)
    width = np.median(np.linalg.norm(flat[:, 11] - flat[:, 12], axis=-1))
    times = np.linspace(0, len(clip) - 1, 12).round().astype(int)
    return np.nan_to_num((flat[times][:, UPPER + list(range(33, 75))] - middle) / width).ravel()


def linear_accuracy(clips, held_out):
    features = np.stack([linear_features(clip) for clip, _, _ in clips])
    labels, who = (np.array(column) for column in list(zip(*clips, strict=True))[1:])
    test = np.isin(who, held_out)
    pca = PCA(120, random_state=0).fit(features[~test])
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(
        pca.transform(features[~test]), labels[~test]
    )
    return model.score(pca.transform(features[test]), labels[test])


def test_recognition_is_neither_trivial_nor_hopeless(default):
    clips, _ = default
    for held_out in ((0, 1), (2, 3), (4, 5)):
        assert 0.6 <= linear_accuracy(clips, held_out) <= 0.9


def test_generation_is_fast(default):
    assert default[1] < 8  # two seconds on a core of 2024


def test_make_toy_writes_a_raw_store(tmp_path):
    make_toy(tmp_path / "toy", classes=5, clips=3, signers=2, seed=9)
    store = Store(tmp_path / "toy")
    store.verify()
    assert (store.manifest.stage, store.manifest.layout, store.manifest.coordinates) == ("raw", "holistic87", "xyz")
    assert store.manifest.aspect == pytest.approx(4 / 3)
    assert store.manifest.fps == 25
    assert store.manifest.source["seed"] == 9
    assert list(store.manifest.classes) == sorted(sign.name for sign in vocabulary()[:5])
    assert set(store.groups) == {"signer00", "signer01"}
    assert set(store.splits) == {""}
    assert len(store) == len(set(store.ids)) == 15
    for i, (clip, name, who) in enumerate(toy_clips(5, 3, 2, 9)):
        np.testing.assert_array_equal(store.landmarks(i), clip)
        assert store.manifest.classes[store.labels[i]] == name
        assert store.groups[i] == f"signer{who:02d}"
    with pytest.raises(DataError):
        make_toy(tmp_path / "toy", classes=2, clips=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": LIMIT + 1}, f"classes is {LIMIT + 1}, expected a whole number from 1 to {LIMIT}"),
        ({"classes": 0}, "classes is 0"),
        ({"clips": -1}, "clips is -1"),
        ({"signers": 0}, "signers is 0"),
        ({"seed": -3}, "seed is -3"),
        ({"clips": 2.5}, "clips is 2.5"),
        ({"classes": True}, "classes is True"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        toy_clips(**arguments)
    with pytest.raises(ConfigError, match=message):
        make_toy(tmp_path / "toy", **arguments)
    assert not list(tmp_path.iterdir())
