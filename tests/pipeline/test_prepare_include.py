"""INCLUDE as downloaded: which clips there are, what they are called, and what the official lists say of them."""

import pytest
from downloads import INCLUDE_CLIPS, include_folder, include_lists, include_tables

from handcraft.data.prepare_include import list_include
from handcraft.errors import DataError

TRAIN, VAL, TEST = INCLUDE_CLIPS[:3], INCLUDE_CLIPS[3:4], INCLUDE_CLIPS[4:6]


def test_every_video_has_an_id_and_its_sign(tmp_path):
    listing = list_include(include_folder(tmp_path))
    assert {clip.id: clip.label for clip in listing.clips} == {
        "Adjectives-loud-MVI_5177": "loud",
        "Adjectives-loud-MVI_5178": "loud",
        "Adjectives-short-MVI_5177": "short",
        "Adjectives-short-extra-MVI_5177": "short",
        "Animals-Bird-Extra-MVI_3042": "Bird",
        "Animals-Bird-MVI_5177": "Bird",
        "Days_and_Time-Second (Number)-MVI_0001": "Second (Number)",
    }
    assert [clip.id for clip in listing.clips] == sorted(clip.id for clip in listing.clips)
    for clip in listing.clips:
        assert clip.path == tmp_path / clip.name
        assert clip.path.is_file()
        assert clip.split == ""
        assert clip.signer == ""


def test_the_count_is_compared_with_what_is_known(tmp_path):
    notes = list_include(include_folder(tmp_path)).notes
    assert notes[0] == "videos: 7, fewer than the 4,284 expected (Zenodo record 4010759)"
    assert notes[1] == "signs: 4, fewer than the 262 expected (the same)"
    assert "no official lists" in notes[2]


def test_archives_unpacked_each_in_its_own_folder(tmp_path):
    for clip in INCLUDE_CLIPS:
        include_folder(tmp_path / "archive" / f"{clip.split('/')[0]}_1of8", [clip])
    include_folder(tmp_path / "__MACOSX", ["Adjectives/1. loud/._MVI_5177.MOV"])
    (tmp_path / "notes.MOV").touch()
    (tmp_path / "Adjectives_pdf").mkdir()
    listing = list_include(tmp_path)
    assert len(listing.clips) == 7
    assert [clip.id for clip in listing.clips] == [
        clip.id for clip in list_include(include_folder(tmp_path / "b")).clips
    ]


@pytest.mark.parametrize("write", [include_lists, include_tables])
def test_official_lists_mark_the_clips(tmp_path, write):
    folder = include_folder(tmp_path / "include")
    lists = write(tmp_path / "lists", train=TRAIN, val=VAL, test=[*TEST, "Animals/4. Bird/MVI_9999.MOV"])
    listing = list_include(folder, lists)
    assert {clip.id: clip.split for clip in listing.clips} == {
        "Adjectives-loud-MVI_5177": "train",
        "Adjectives-loud-MVI_5178": "train",
        "Adjectives-short-extra-MVI_5177": "train",
        "Adjectives-short-MVI_5177": "train",
        "Animals-Bird-MVI_5177": "test",
        "Animals-Bird-Extra-MVI_3042": "test",
    }
    said = "\n".join(listing.notes)
    assert "clips in the official lists: 7, fewer than the 4,292 expected" in said
    assert "but not here: 1 video: Animals/4. Bird/MVI_9999" in said
    assert "no list names them: 1 video: Days_and_Time/Second (Number)/MVI_0001" in said


def test_lists_are_found_beside_the_videos(tmp_path):
    include_lists(include_folder(tmp_path) / "train_test_paths", train=TRAIN, test=TEST)
    assert {clip.split for clip in list_include(tmp_path).clips} == {"train", "test"}


@pytest.mark.parametrize(
    ("line", "word"),
    [("../../etc/passwd", "no path inside"), ("loud/MVI_1.MOV", "expected CATEGORY"), (TRAIN[0], "twice")],
)
def test_a_list_that_is_none(tmp_path, line, word):
    folder = include_folder(tmp_path / "include")
    lists = include_lists(tmp_path / "lists", train=TRAIN, test=[line])
    with pytest.raises(DataError, match=word):
        list_include(folder, lists)


def test_a_list_that_is_missing(tmp_path):
    folder = include_folder(tmp_path / "include")
    lists = include_lists(tmp_path / "lists", train=TRAIN, test=TEST)
    (lists / "include_val.txt").unlink()
    with pytest.raises(DataError, match=r"include_val\.txt: no such file"):
        list_include(folder, lists)
    (lists / "include_val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not readable as text"):
        list_include(folder, lists)


def test_lists_of_other_clips(tmp_path):
    folder = include_folder(tmp_path / "include")
    lists = include_lists(tmp_path / "lists", train=["Seasons/63. Winter/MVI_1.MOV"])
    with pytest.raises(DataError, match="names none of the 7 videos"):
        list_include(folder, lists)


def test_no_such_download(tmp_path):
    with pytest.raises(DataError, match="not a folder that can be read"):
        list_include(tmp_path / "nothing")
    include_folder(tmp_path, ["loud/MVI_1.MOV", "Adjectives/MVI_2.MOV"])
    with pytest.raises(DataError, match="no video in a folder of a category"):
        list_include(tmp_path)


def test_a_clip_that_is_there_twice(tmp_path):
    include_folder(tmp_path / "a", INCLUDE_CLIPS[:1])
    include_folder(tmp_path / "b", INCLUDE_CLIPS[:1])
    with pytest.raises(DataError, match="are the same clip"):
        list_include(tmp_path)


def test_two_folders_of_one_sign(tmp_path):
    include_folder(tmp_path, ["Adjectives/1. loud/MVI_1.MOV", "Home/2. Loud/MVI_1.MOV"])
    with pytest.raises(DataError, match=r"Adjectives/1\. loud and Home/2\. Loud are folders of one sign"):
        list_include(tmp_path)


def test_two_places_that_would_share_an_id(tmp_path):
    include_folder(tmp_path, ["Home/2. Fan/a-b.MOV", "Home/2. Fan/a/b.MOV"])
    with pytest.raises(DataError, match="ids must differ"):
        list_include(tmp_path)


def test_links_are_refused(tmp_path):
    folder = include_folder(tmp_path / "include")
    (folder / "Animals" / "5. Cat").symlink_to(tmp_path)
    with pytest.raises(DataError, match="symbolic link"):
        list_include(folder)
