"""The card of a store says what is in it, for recorded and for synthetic clips, and shows foreign text as it is."""

import json

import numpy as np
import pytest
from tiny_recipe import run_cli, write_toy

from handcraft.data import card
from handcraft.data.card import make_card, to_markdown, write_card
from handcraft.data.store import Store, StoreWriter, split_hash
from handcraft.errors import DataError
from handcraft.layouts import layout

LAYOUT = "pose_hands48"
SLICES = layout(LAYOUT).slices


def write(path, count=6, *, classes=("no", "yes"), provenance=lambda i: None, frames=lambda i: 4 + i, **options):
    """A store of `count` clips: the first half train by ann, the rest test by bob, classes in turn; the left hand of
    the first clip was never seen, its right wrist in its first frame was not."""
    options = {"layout": LAYOUT, "stage": "raw", "coordinates": "xy"} | options
    with StoreWriter(path, classes=classes, part_clips=4, **options) as out:
        for i in range(count):
            clip = np.random.default_rng(i).normal(size=(frames(i), 48, 2)).astype("f4")
            if i == 0:
                clip[:, SLICES["left_hand"]] = np.nan
                clip[0, SLICES["pose"].start + 2] = np.nan
            train = i < count // 2
            out.add(
                clip,
                id=f"c{i}",
                label=i % len(classes),
                group="ann" if train else "bob",
                split="train" if train else "test",
                provenance=provenance(i),
            )
    return path


def generated(path, **options):
    """A store as `handcraft generate` describes it: clips c0 and c1 from r0, c2 and c3 from r2, the others unnamed."""

    def provenance(i):
        return {"source": f"r{i // 2 * 2}", "source_digest": "00000000000000aa", "clip_id": i} if i < 4 else None

    source = {"command": "generate", "forward": "f" * 64, "reversed": "e" * 64, "seed": 3, "noise": 0.1, "vary": True}
    seen = ("00000000000000aa", "00000000000000bb")
    return write(path, provenance=provenance, source=source, seen_clips=seen, **options)


def rows_of(text, start):
    """Cells of the table rows that begin with the cell `start`."""
    found = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found]


def test_a_recorded_store(tmp_path):
    path = write(tmp_path / "mine", fps=20.0, licence="CC BY 4.0", aspect=1.5, source={"command": "import-arrays"})
    store, found = Store(path), make_card(path)
    rows = 4 + 5 + 6 + 7 + 8 + 9
    assert (found["name"], found["kind"], found["licence"]) == ("mine", "recorded", "CC BY 4.0")
    assert (found["seed"], found["generator"], found["sources"]) == (None, None, [])
    assert found["made_by"] == {"command": "import-arrays"}
    assert found["format"] == {
        "stage": "raw",
        "layout": LAYOUT,
        "coordinates": "xy",
        "dtype": "float32",
        "fps": 20.0,
        "aspect": 1.5,
        "preprocessing": None,
    }
    size = found["size"]
    assert (size["clips"], size["frames"], size["seconds"]) == (6, rows, rows / 20)
    assert size["frames_a_clip"] == {"min": 4, "median": 6, "max": 9}
    assert size["bytes"] == sum(file.stat().st_size for file in path.rglob("part-*/*"))
    assert found["classes"] == {"no": {"test": 1, "train": 2}, "yes": {"test": 2, "train": 1}}
    seen = {rate["part"]: (rate["points"], rate["frames"], rate["landmarks"]) for rate in found["detection"]}
    assert seen["right_hand"] == (21, 1.0, 1.0)
    assert seen["left_hand"] == pytest.approx((21, 1 - 4 / rows, 1 - 4 / rows))
    assert seen["pose"] == pytest.approx((6, 1.0, 1 - 1 / (6 * rows)))
    assert found["splits"]["train"] == {
        "clips": 3,
        "classes": 2,
        "groups": ["ann"],
        "hash": store.manifest.split_hashes["train"],
    }
    assert found["hashes"]["clips"] == split_hash(store.digests)
    assert found["hashes"]["files"] == {
        f"{part.name}/{name}": digest for part in store.manifest.parts for name, digest in part.sha256.items()
    }
    assert len(found["hashes"]["files"]) == 4
    assert found["problems"] == []


def test_its_markdown(tmp_path):
    text = to_markdown(make_card(write(tmp_path / "mine", fps=20.0, licence="CC BY 4.0", source={"a_b": {"c": 1}})))
    assert text.startswith("# mine\n\n6 recorded clips of 2 classes.\n")
    assert rows_of(text, "licence") == [["licence", "CC BY 4.0"]]
    assert rows_of(text, "frames") == [["frames", "39; 4 to 9 a clip, median 6"]]
    assert rows_of(text, "frames a second") == [["frames a second", "20.0"]]
    assert rows_of(text, "a_b") == [["a_b", '{"c": 1}']]
    assert rows_of(text, "left hand") == [["left hand", "21", "89.7%", "89.7%"]]
    assert rows_of(text, "yes") == [["yes", "2", "1", "3"]]
    assert "- Groups of test: bob" in text
    assert "- No problem found" in text
    assert "Source clips" not in text


def test_what_the_store_does_not_say_is_called_unknown(tmp_path):
    text = to_markdown(make_card(write(tmp_path / "mine", frames=lambda i: 5)))
    assert rows_of(text, "licence")[0][1].startswith("not stated")
    assert rows_of(text, "duration") == [["duration", "not known"]]
    assert rows_of(text, "frames") == [["frames", "30; 5 a clip"]]
    assert "The store does not say." in text


def test_a_synthetic_store_names_the_source_of_every_clip(tmp_path):
    found = make_card(generated(tmp_path / "made", stage="centred", preprocessing="preprocess/1", dtype="f2"))
    assert (found["kind"], found["seed"]) == ("synthetic", 3)
    assert found["sources"] == [
        {"source": f"r{i}", "digest": "00000000000000aa", "clips": [f"c{i}", f"c{i + 1}"]} for i in (0, 2)
    ]
    assert found["generator"] == {
        "forward": "f" * 64,
        "reversed": "e" * 64,
        "noise": 0.1,
        "missing": None,
        "vary": True,
        "seen_clips": {"clips": 2, "hash": split_hash([0xAA, 0xBB])},
    }
    text = to_markdown(found)
    assert "4 synthetic clips come from 2 recorded ones, 2 to 2 from each; 2 clips name no source" in text
    assert f"trained on 2 clips (hash {split_hash([0xAA, 0xBB])})" in text
    assert rows_of(text, "r2") == [["r2", "2"]]
    assert rows_of(text, "preprocessing") == [["preprocessing", "preprocess/1"]]
    assert rows_of(text, "seed") == [["seed", "3"]]


def test_the_markdown_of_a_large_store_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "SHOWN", 4)
    monkeypatch.setattr(card, "SHOWN_SOURCES", 2)
    names = [f"sign{i:02d}" for i in range(9)]
    path = write(tmp_path / "made", 20, classes=names, provenance=lambda i: {"source": f"r{i % 7}"})
    found = make_card(path)
    text = to_markdown(found)
    assert [name for name in names if rows_of(text, name)] == ["sign00", "sign01", "sign07", "sign08"]
    assert "The 2 largest and the 2 smallest" in text
    assert [name for name in (f"r{i}" for i in range(7)) if rows_of(text, name)] == ["r0", "r1"]
    assert (len(found["classes"]), sum(len(entry["clips"]) for entry in found["sources"])) == (9, 20)


def test_foreign_text_is_shown_as_it_is(tmp_path):
    evil = "</td><script>alert(1)</script>|*"
    shown = r"\</td\>\<script\>alert(1)\</script\>\|\*"
    path = write(tmp_path / "mine", classes=(evil, "yes"), licence=evil, source={evil: evil, "long": "x" * 999})
    text = to_markdown(make_card(path))
    assert f"| licence | {shown} |" in text
    assert f"| {shown} | {shown} |" in text
    assert f"| {shown} | 1 | 2 | 3 |" in text
    assert max(map(len, text.splitlines())) < 300


def test_problems_of_the_store_are_on_its_card(tmp_path):
    path = write(tmp_path / "mine", classes=("no", "yes", "zebra"), count=2)
    text = to_markdown(make_card(path))
    assert "- Problem: 1 classes have no clip: zebra" in text
    assert "No problem found" not in text


def test_damage_is_named_without_the_folder_it_lies_in(tmp_path):
    path = write(tmp_path / "mine")
    frames = bytearray((path / "part-00000" / "landmarks.npy").read_bytes())
    frames[-9] ^= 1
    (path / "part-00000" / "landmarks.npy").write_bytes(frames)
    card = make_card(path)
    assert card["problems"][0].startswith("part-00000/landmarks.npy: its SHA-256 ")
    assert str(tmp_path) not in to_markdown(card)


def test_files_are_written_and_agree(tmp_path):
    path = generated(tmp_path / "made")
    markdown, data = write_card(path, tmp_path / "new" / "folder")
    assert [file.name for file in (markdown, data)] == ["card.md", "card.json"]
    assert json.loads(data.read_text()) == make_card(path)
    assert markdown.read_text() == to_markdown(make_card(path))


def test_the_command(tmp_path, capfd):
    store = write_toy(tmp_path / "toy")
    assert run_cli("data", "card", store) == 0
    assert capfd.readouterr().out.startswith("# toy\n\n36 recorded clips of 3 classes.\n")
    assert run_cli("data", "card", store, "--out", tmp_path / "card") == 0
    assert capfd.readouterr().out.split() == [str(tmp_path / "card" / name) for name in ("card.md", "card.json")]
    with pytest.raises(DataError, match="no such store"):
        make_card(tmp_path / "absent")


def test_what_gates_rejected_is_a_table_of_its_own(tmp_path):
    def row(made, kept, bones):
        return {"made": made, "kept": kept, "rejected": {"bones:2": bones, "speed:99": made - kept - bones}}

    rates = row(1500, 1000, 400) | {"classes": {"little": row(500, 490, 5), "much": row(1000, 510, 395)}}
    write(tmp_path / "s", source={"command": "generate", "rates": rates})
    card = make_card(tmp_path / "s")
    assert card["made_by"]["rates"] == rates
    text = to_markdown(card)
    lines = text[text.index("## Gates") :].splitlines()
    assert lines[4:9] == [
        "| class | made | kept | bones:2 | speed:99 |",
        "| --- | --- | --- | --- | --- |",
        "| all classes | 1,500 | 1,000 | 400 | 100 |",
        "| much | 1,000 | 510 | 395 | 95 |",
        "| little | 500 | 490 | 5 | 5 |",
    ]
    assert "| rates |" not in text
    for odd in (None, [1], {"rejected": {"a": 1}}, {"rejected": {}, "classes": {"x": None}}):
        assert "## Gates" not in to_markdown(card | {"made_by": {"rates": odd}})
