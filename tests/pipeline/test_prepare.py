"""From small copies of the downloads to stores that the paper's recipes take; a detector without models stands in."""

import pytest
from downloads import INCLUDE_CLIPS, display_folder, include_folder, include_lists
from grey_detector import Grey
from lsfb_folder import lsfb_folder
from tiny_recipe import one_line_error, run_cli

from handcraft.data.clips import load_clips
from handcraft.data.merge import merge_stores
from handcraft.data.prepare import Expected, at_least, prepare, rule_lines
from handcraft.data.prepare_display import list_display
from handcraft.data.prepare_include import list_include
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.extract import landmarker
from handcraft.extract.landmarker import Settings
from handcraft.extract.worker import ClipSource
from handcraft.partition import partition
from handcraft.recipe import check_recipe, load_recipe

SETTINGS = Settings(keep="holistic87")


def clips_of(counts):
    """counts: (sign, split) -> clips."""
    return [ClipSource(None, "", sign, split=split) for (sign, split), count in counts.items() for _ in range(count)]


def test_only_clips_to_train_with_count():
    clips = clips_of({("a", "train"): 3, ("a", "test"): 1, ("b", "train"): 2, ("b", "test"): 9, ("c", "test"): 4})
    kept = at_least(clips, 3)
    assert [(clip.label, clip.split) for clip in kept] == [("a", "train")] * 3 + [("a", "test")]
    assert list(rule_lines(clips, kept, 3)) == [
        "left out: 15 clips of 2 signs with fewer than 3 clips to train with: b, c"
    ]
    assert not list(rule_lines(clips, clips, 3))


def test_without_marks_all_clips_count():
    clips = clips_of({("a", ""): 3, ("b", ""): 2})
    assert {clip.label for clip in at_least(clips, 3)} == {"a"}


def test_figures_are_compared():
    expected = Expected("signs", 1728, "the paper")
    assert expected.compared(1728) == "signs: 1,728, as expected (the paper)"
    assert expected.compared(1727) == "signs: 1,727, fewer than the 1,728 expected (the paper)"
    assert expected.compared(1729) == "signs: 1,729, more than the 1,728 expected (the paper)"


def test_include(tmp_path):
    folder = include_folder(tmp_path / "include", frames=4)
    (folder / INCLUDE_CLIPS[1]).write_text("no video")
    include_lists(
        folder / "train_test_paths", train=INCLUDE_CLIPS[:3], val=INCLUDE_CLIPS[4:5], test=INCLUDE_CLIPS[3:6:2]
    )
    told = []
    options = {"least": 1, "name": "INCLUDE", "say": told.append, "detector": Grey, "licence": "CC BY 4.0"}
    summary = prepare(list_include(folder), tmp_path / "store", SETTINGS, **options)
    assert told[0].startswith("videos: 7, fewer than")
    assert summary.exit_code == 1
    assert len(summary.failed) == 1
    assert "MVI_5178.MOV" in summary.failed[0]

    store = Store(tmp_path / "store")
    assert dict(zip(store.ids.tolist(), store.splits.tolist(), strict=True)) == {
        "Adjectives-loud-MVI_5177": "train",
        "Adjectives-short-MVI_5177": "test",
        "Adjectives-short-extra-MVI_5177": "train",
        "Animals-Bird-Extra-MVI_3042": "test",
        "Animals-Bird-MVI_5177": "train",
    }
    assert [store.classes[label] for label in store.labels] == ["loud", "short", "short", "Bird", "Bird"]
    assert store.provenance_of(0)["file"] == INCLUDE_CLIPS[0]
    assert store.manifest.source["dataset"] == "INCLUDE"
    assert store.manifest.fps == 25.0
    recipe = load_recipe("include")
    check_recipe(recipe)
    clips = load_clips(store, recipe.preprocess)
    split = partition(clips, seed=0)
    assert split.how == "the data's own split"
    assert sorted(clips.ids[split.test]) == ["Adjectives-short-MVI_5177", "Animals-Bird-Extra-MVI_3042"]

    again = prepare(list_include(folder), tmp_path / "store", SETTINGS, **options)
    assert (again.clips, again.known, len(again.failed)) == (0, 5, 1)


def test_display(tmp_path):
    folder = display_folder(tmp_path / "display", frames=3)
    summary = prepare(
        list_display(folder),
        tmp_path / "store",
        SETTINGS,
        least=1,
        name="DiSPLaY",
        say=lambda line: None,
        detector=Grey,
    )
    assert summary.exit_code == 0
    store = Store(tmp_path / "store")
    assert len(store) == 8
    assert store.frames.tolist() == [3] * 8
    assert store.manifest.fps == 25.0
    assert store.groups.tolist() == ["Performer_01", "Performer_01", "Performer_02", "Performer_02"] * 2
    recipe = load_recipe("display")
    check_recipe(recipe)
    split = partition(load_clips(store, recipe.preprocess), seed=0, test_share=0.5)
    assert len(split.test_groups) == 1


def test_the_commands(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(landmarker._BACKENDS, "holistic", "grey_detector:Grey")
    include, display, lsfb = tmp_path / "include", tmp_path / "display", tmp_path / "lsfb"
    include_lists(tmp_path / "lists", train=INCLUDE_CLIPS[:2], test=INCLUDE_CLIPS[3:4])
    include_folder(include, INCLUDE_CLIPS[:4], frames=3)
    words = ("--lists", tmp_path / "lists", "--min-clips", 2, "--licence", "CC0", "--keep", "holistic75")
    assert run_cli("data", "prepare", "include", include, tmp_path / "i", *words) == 0
    store = Store(tmp_path / "i")
    assert (store.ids.tolist(), store.manifest.layout) == (
        ["Adjectives-loud-MVI_5177", "Adjectives-loud-MVI_5178"],
        "holistic75",
    )
    assert "left out: 1 clip of 1 sign with fewer than 2 clips to train with: short" in capfd.readouterr().out
    display_folder(display, signs=1, performers=1, frames=2)
    assert run_cli("data", "prepare", "display", display, tmp_path / "d", "--shard", "2/2") == 0
    assert Store(tmp_path / "d").ids.tolist() == ["Sign_01_Performer_01_2"]
    lsfb_folder(lsfb)
    words = ("--min-clips", 2, "--max-frames", 8, "--keep", "holistic75")
    assert run_cli("data", "prepare", "lsfb", lsfb, tmp_path / "l", *words) == 0
    assert Store(tmp_path / "l").classes == ("SIGN-0",)
    assert "clips: 6, fewer than the 120,739 expected" in capfd.readouterr().out
    for name in ("include", "display", "lsfb"):
        assert str(tmp_path / "lists") in one_line_error(
            capfd, "data", "prepare", name, tmp_path / "lists", tmp_path / "x"
        )


def test_a_rate_that_is_given_wins(tmp_path):
    folder = display_folder(tmp_path / "display", signs=1, performers=1, frames=2)
    settings = Settings(keep="holistic75", image_fps=30.0)
    options = {"least": 1, "name": "DiSPLaY", "say": lambda line: None, "detector": Grey}
    prepare(list_display(folder), tmp_path / "store", settings, **options)
    assert Store(tmp_path / "store").manifest.fps == 30.0


def test_nothing_left(tmp_path):
    listing = list_include(include_folder(tmp_path / "include"))
    with pytest.raises(DataError, match="no sign has 5 clips to train with"):
        prepare(listing, tmp_path / "store", SETTINGS, least=5, name="INCLUDE", say=lambda line: None, detector=Grey)
    assert [path.name for path in tmp_path.iterdir()] == ["include"]


def test_parts_of_a_data_set_merge_into_the_whole(tmp_path):
    listing = list_display(display_folder(tmp_path / "display", performers=1, frames=2))
    options = {"least": 1, "name": "DiSPLaY", "say": lambda line: None, "detector": Grey}
    prepare(listing, tmp_path / "whole", SETTINGS, **options)
    for part in ("1/3", "2/3", "3/3"):
        prepare(listing, tmp_path / f"part-{part[0]}", SETTINGS, shard=part, **options)
    merge_stores([tmp_path / f"part-{number}" for number in (2, 3, 1)], tmp_path / "merged")
    for file in ("manifest.json", "part-00000/clips.parquet", "part-00000/landmarks.npy"):
        assert (tmp_path / "merged" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
