"""The page to look through a store: whole-store figures, an even sample, and names that stay text."""

import html
import json
import re

import numpy as np
import pytest
from drawn import HOSTILE, person, write_recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_recipe import one_line_error, run_cli

from handcraft.data import browse as module
from handcraft.data.browse import browse, detection_rates, sample
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_recorded(tmp_path_factory.mktemp("browse") / "toy", clips=4, fps=30.0, licence="<b>MIT</b>")


def clips_of(path):
    return json.loads(
        re.search(r'id="handcraft-clips">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL).group(1)
    )


def rows_of(path):
    """Cells of each table row as text, tags removed."""
    text = path.read_text(encoding="utf-8")
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    return [[html.unescape(cell) for cell in row] for row in cells]


def test_detection_rates_are_the_share_of_frames_that_show_a_part(store, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)  # so that chunks end within clips
    rates = detection_rates(store)
    for clip, landmarks in enumerate(store):
        for part, where in enumerate(layout("holistic75").slices.values()):
            shown = sum(not np.isnan(frame[where]).all() for frame in landmarks)
            assert rates[clip, part] == pytest.approx(shown / len(landmarks))
    assert rates[3].tolist() == pytest.approx([1, 1 - 9 / 15, 1]), "the left hand is lost at first"


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), most=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_sample_is_even_over_the_classes(sizes, most, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)

    class Columns:
        frames = np.full(len(labels), 10)

        def __len__(self):
            return len(labels)

    columns = Columns()
    columns.labels = labels
    chosen = sample(columns, most, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(most, len(labels))
    counts = np.bincount(labels[chosen], minlength=len(sizes))
    unfinished = counts < sizes
    if unfinished.any():
        assert counts.max() - counts[unfinished].min() <= 1
    assert sample(columns, most, seed).tolist() == chosen.tolist()


def test_a_sample_has_a_bounded_number_of_frames(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_FRAMES", 40)
    chosen = sample(store, 8, 0)
    assert 1 < len(chosen) < 4
    assert store.frames[chosen].sum() <= 40
    monkeypatch.setattr(module, "MOST_FRAMES", 1)
    assert len(sample(store, 8, 0)) == 1


def test_the_page_tells_the_whole_store_and_holds_its_clips(store, tmp_path):
    assert browse(store.path, tmp_path / "a.html") == "all 8 clips"
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "8 clips · 2 classes · 4 groups · 12 to 15 frames each · 30 frames a second" in text
    assert "licence &lt;b&gt;MIT" in text
    clips = clips_of(tmp_path / "a.html")["clips"]
    assert sorted(clip["note"].split(" ")[0] for clip in clips) == sorted(store.ids.tolist())
    last = next(clip for clip in clips if clip["note"].startswith("1-3"))
    assert (last["title"], last["group"], last["split"], last["seen"]) == ("yes", "signer3", "test", [100, 40, 100])
    rows = rows_of(tmp_path / "a.html")
    mean = 1 - (3 / 13 + 6 / 14 + 9 / 15) / 4
    assert rows[0] == ["class", "clips test", "clips train", "pose seen", "left hand seen", "right hand seen"]
    assert rows[1:3] == [[name, "1", "3", "100%", f"{mean:.0%}", "100%"] for name in ("no", "yes")]
    assert rows[-1] == ["signer3", "2", "0", "100%", "40%", "100%"]


def test_of_a_large_store_the_page_holds_a_sample_and_says_so(store, tmp_path):
    held = browse(store.path, tmp_path / "a.html", clips=4, seed=7)
    assert held == "4 of 8 clips, a sample even over the 2 classes (seed 7)"
    assert held in (tmp_path / "a.html").read_text(encoding="utf-8")
    clips = clips_of(tmp_path / "a.html")["clips"]
    assert sorted(clip["title"] for clip in clips) == ["no", "no", "yes", "yes"]
    few = browse(store.path, tmp_path / "a.html", clips=1)
    assert few == "1 of 8 clips, one of each of 1 of the 2 classes (seed 0)"


def test_clips_that_cannot_be_drawn_are_counted_and_named(tmp_path):
    lost = np.full((3, 75, 3), np.nan, "f4")
    with StoreWriter(tmp_path / "some", layout="holistic75", stage="raw", classes=["a"]) as writer:
        writer.add(person(4), id="good", label="a")
        writer.add(lost, id="lost", label="a")
    assert browse(tmp_path / "some", tmp_path / "a.html") == "1 of 2 clips"
    assert "1 clip cannot be drawn. The first: clip a (lost)" in (tmp_path / "a.html").read_text(encoding="utf-8")
    with StoreWriter(tmp_path / "none", layout="holistic75", stage="raw", classes=["a"]) as writer:
        writer.add(lost, id="lost", label="a")
    with pytest.raises(DataError, match="none of 1 clips can be drawn"):
        browse(tmp_path / "none", tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()


def test_hostile_names_stay_text_everywhere(tmp_path):
    with StoreWriter(
        tmp_path / "store", layout="holistic75", stage="raw", classes=[HOSTILE, "b"], licence=HOSTILE
    ) as writer:
        for number, label in enumerate((HOSTILE, "b")):
            writer.add(person(3), id=f"{HOSTILE}{number}", label=label, group=f"{HOSTILE}{number}", split=HOSTILE)
    browse(tmp_path / "store", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("<script") == 3
    assert "<img" not in text
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text


def test_the_command(store, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_cli("data", "browse", store.path, "--clips", 3) == 0
    assert "toy-browse.html: 3 of 8 clips" in capfd.readouterr().out
    assert len(clips_of(tmp_path / "toy-browse.html")["clips"]) == 3
    assert "clips is 0" in one_line_error(capfd, "data", "browse", store.path, "--clips", 0)
    assert "no such store" in one_line_error(capfd, "data", "browse", "absent")


def test_a_folder_is_no_page(store, tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        browse(store.path, tmp_path)


def test_one_class_and_one_group_need_no_choice(tmp_path):
    with StoreWriter(tmp_path / "store", layout="pose_hands48", stage="raw", classes=["a"]) as writer:
        writer.add(person(3, "pose_hands48"), id="1", label="a")
    browse(Store(tmp_path / "store").path, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'name="title"' not in text
    assert 'name="group"' not in text
    assert "<h2>Groups</h2>" not in text
