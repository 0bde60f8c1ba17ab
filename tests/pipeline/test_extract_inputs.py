"""Which clips there are, from folders of many shapes and from tables."""

import os
import subprocess
import sys

import pytest
from permissions import held_back

from handcraft.errors import DataError
from handcraft.extract.inputs import UNLABELLED, find_clips, read_table


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def described(found):
    return [(clip.id, clip.label, clip.name) for clip in found.clips]


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_folders_are_classes_and_numbers_decide_the_order(tmp_path):
    files(tmp_path, "b/clip10.mp4", "b/clip9.MOV", "a/x.webm", "a/notes.txt", "a/.hidden.mp4", ".git/x.mp4")
    found = find_clips([tmp_path])
    assert described(found) == [
        ("a-x", "a", "a/x.webm"),
        ("b-clip9", "b", "b/clip9.MOV"),
        ("b-clip10", "b", "b/clip10.mp4"),
    ]
    assert all(clip.path.is_file() for clip in found.clips)
    assert found.unreadable == found.notes == ()


def test_folders_of_images_are_clips_wherever_a_video_may_be(tmp_path):
    files(tmp_path, "sign/one/1.jpg", "sign/one/2.JPG", "sign/two/1.png", "sign/three.mp4", "loose/1.jpg")
    found = find_clips([tmp_path])
    assert described(found) == [
        ("loose", UNLABELLED, "loose"),
        ("sign-three", "sign", "sign/three.mp4"),
        ("sign-one", "sign", "sign/one"),
        ("sign-two", "sign", "sign/two"),
    ]
    assert described(find_clips([tmp_path / "loose"])) == [("loose", UNLABELLED, "loose")]


def test_videos_without_a_folder_of_their_own_have_no_label(tmp_path):
    files(tmp_path, "x.mp4", "y.mp4", "a/z.mp4")
    found = find_clips([tmp_path])
    assert described(found)[:2] == [("x", UNLABELLED, "x.mp4"), ("y", UNLABELLED, "y.mp4")]
    assert found.notes == ("2 clips without a label: class 'unlabelled'",)
    assert described(find_clips([tmp_path / "x.mp4", tmp_path / "a"])) == [
        ("x", UNLABELLED, "x.mp4"),
        ("z", UNLABELLED, "z.mp4"),
    ]


def test_an_image_beside_videos_does_not_hide_them(tmp_path):
    files(tmp_path, "overview.png", "loose.mp4", "a/preview.jpg", "a/x.mp4", "b/preview.jpg", "b/y/1.jpg")
    found = find_clips([tmp_path])
    assert described(found) == [("loose", UNLABELLED, "loose.mp4"), ("a-x", "a", "a/x.mp4"), ("b-y", "b", "b/y")]
    said = "passed over, being neither DIR/SIGN/CLIP nor DIR/CLIP: overview.png, a/preview.jpg, b/preview.jpg"
    assert found.notes[0] == said


def test_videos_that_lie_deeper_are_said_to_be_passed_over(tmp_path):
    files(tmp_path, "a/x.mp4", "a/more/y.mp4", "b/c/d/z.mp4")
    found = find_clips([tmp_path])
    assert described(found) == [("a-x", "a", "a/x.mp4")]
    assert found.notes == ("passed over, being neither DIR/SIGN/CLIP nor DIR/CLIP: a/more, b/c",)


def test_an_empty_folder_is_a_note_and_not_a_failure(tmp_path):
    files(tmp_path, "a/x.mp4", "docs/readme.txt")
    found = find_clips([tmp_path])
    assert described(found) == [("a-x", "a", "a/x.mp4")]
    assert found.notes == ("no clip in 1 folder: docs",)


def test_a_folder_that_cannot_be_read_is_a_line_and_the_rest_goes_on(tmp_path, monkeypatch):
    files(tmp_path, "a/x.mp4", "b/y.mp4")
    listed = os.listdir

    def denied(path):
        if os.path.basename(path) == "b":  # permissions do not hold root back
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", denied)
    monkeypatch.setattr("pathlib.Path.iterdir", lambda path: (path / name for name in denied(path)))
    found = find_clips([tmp_path])
    assert described(found) == [("a-x", "a", "a/x.mp4")]
    assert len(found.unreadable) == 1
    assert "b: not a folder that can be read (Permission denied)" in found.unreadable[0]
    with pytest.raises(DataError, match="Permission denied"):
        find_clips([tmp_path / "b"])


LOOK = "import sys; from handcraft.extract.inputs import find_clips; print(find_clips(sys.argv[1:]).unreadable)"


def test_a_folder_without_permission(tmp_path):
    files(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "b").chmod(0)
    try:
        said = subprocess.check_output([sys.executable, "-c", LOOK, tmp_path], text=True, preexec_fn=held_back)
    finally:
        (tmp_path / "b").chmod(0o700)
    assert said == f"('{tmp_path}/b: not a folder that can be read (Permission denied)',)\n"


def test_ids_must_differ(tmp_path):
    files(tmp_path, "one/a/x.mp4", "two/a/x.mp4")
    with pytest.raises(DataError, match=r"would both have the id 'a-x'; .* column id"):
        find_clips([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("inputs", [["absent.mp4"], ["empty"], []])
def test_nothing_to_extract_is_an_error(tmp_path, inputs):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no such|nothing to extract"):
        find_clips([tmp_path / name for name in inputs])


def test_a_table_says_everything(tmp_path):
    files(tmp_path, "v/long.mp4", "v/other.mp4")
    path = table(
        tmp_path / "labels.csv",
        "path,label,signer,start,end,split,id",
        "v/long.mp4,hello,anna,1.5,2.75,train,",
        "v/long.mp4,bye,anna,3,,test,",
        "v/other.mp4,hello,,,,,chosen",
    )
    first, second, third = read_table(path)
    assert (first.id, first.label, first.signer, first.start, first.end) == ("v-long", "hello", "anna", 1.5, 2.75)
    assert (first.split, first.name, first.path) == ("train", "v/long.mp4", tmp_path / "v/long.mp4")
    assert (second.id, second.start, second.end, second.split) == ("v-long-2", 3.0, None, "test")
    assert (third.id, third.signer, third.start, third.end) == ("chosen", "", None, None)
    assert find_clips([path]).clips == (first, second, third)
    assert find_clips([], path).clips == (first, second, third)


def test_spaces_around_a_cell_make_no_new_class_and_odd_columns_are_said(tmp_path):
    files(tmp_path, "a.mp4", "b c.mp4")
    path = table(tmp_path / "l.csv", "path,label,Signer,start,gloss", " a.mp4,hello ,anna, 1 ,x", "b c.mp4, hello,, ,")
    found = find_clips([], path)
    assert described(found) == [("a", "hello", "a.mp4"), ("b c", "hello", "b c.mp4")]
    assert [clip.start for clip in found.clips] == [1.0, None]
    assert found.notes == ("l.csv: columns that are not used: Signer, gloss",)


def test_a_table_beside_a_folder_is_relative_to_it_and_leaves_the_rest_out(tmp_path):
    videos = files(tmp_path / "videos", "a/x.mp4", "a/y.mp4", "loose.mp4")
    path = table(tmp_path / "labels.csv", "path,label", "loose.mp4,hello")
    found = find_clips([videos], path)
    assert described(found) == [("loose", "hello", "loose.mp4")]
    assert found.notes == ("left out: 2 clips that labels.csv does not list: a/x.mp4, a/y.mp4",)
    with pytest.raises(DataError, match="and no other"):
        find_clips([videos, videos], path)
    with pytest.raises(DataError, match="and no other"):
        find_clips([videos / "loose.mp4"], path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x.mp4,,,", "has no label"),
        ("x.mp4,  ,,", "has no label"),
        ("x.mp4,hello,2,1", "starts at 2 s and ends at 1 s"),
        ("x.mp4,hello,,0", "starts at 0 s and ends at 0 s"),
        ("x.mp4,hello,soon,", "'soon'; expected seconds"),
        ("x.mp4,hello,-1,", "'-1'; expected seconds"),
        ("x.mp4,hello,nan,", "'nan'; expected seconds"),
        ("../x.mp4,hello,,", "no path inside of a folder"),
        ("/etc/x.mp4,hello,,", "no path inside of a folder"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, line, words):
    path = table(tmp_path / "labels.csv", "path,label,start,end", line)
    with pytest.raises(DataError, match=words) as raised:
        read_table(path)
    assert str(path) in str(raised.value)


def test_a_table_needs_its_columns_and_a_line(tmp_path):
    with pytest.raises(DataError, match="no column 'label'"):
        read_table(table(tmp_path / "a.csv", "path,sign", "x.mp4,a"))
    with pytest.raises(DataError, match="lists no clip"):
        read_table(table(tmp_path / "b.csv", "path,label"))
    with pytest.raises(DataError, match="no such file"):
        find_clips([], tmp_path / "absent.csv")
