"""The card of a store: what one should know before using it, as JSON for programs and as Markdown for people.

Everything in it is read from the store: nothing is asked for, and nothing is left to be filled in by hand. What a store
does not say (a licence, the frame rate) the card names as unknown.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from handcraft.data.check import check_store
from handcraft.data.store import Store, split_hash
from handcraft.files import write_json, write_text
from handcraft.markdown import escape, table
from handcraft.words import counted

MARKDOWN, JSON = "card.md", "card.json"
SHOWN = 40  # classes, or groups of a split, that the Markdown lists; the JSON has all
SHOWN_SOURCES = 10
RATES = "rates"  # field of a generated store's source: what its gates rejected, which has a section of its own
_LONGEST = 200  # characters of a foreign value in the Markdown


def make_card(path: Path | str) -> dict[str, Any]:
    """Everything about the store at `path`, as plain values for JSON. Reads the whole store once, in chunks.

    name; kind (`synthetic` where clips name the clip they were generated from, else `recorded`); licence; made_by (the
    manifest's source); seed; generator (None for recorded clips); format; size (bytes on disk, seconds where the frame
    rate is known); classes (name -> split -> clips, "" = no split); detection (by part: share of frames in which it was
    seen, and of its landmarks); splits (clips, classes, groups and `split_hash` of each); hashes (of all clips, and the
    SHA-256 of each file); problems and notes of `check_store`; sources (each clip that synthetic ones
    come from: source, digest, and the ids of those clips).
    `DataError` if the store cannot be opened.
    """
    found, store = check_store(path), Store(path)
    manifest, source = store.manifest, store.manifest.source
    sources = _sources(store)
    files = {f"{part.name}/{name}": digest for part in manifest.parts for name, digest in part.sha256.items()}
    low, middle, high = found.frames
    return {
        "name": store.path.resolve().name,
        "kind": "synthetic" if sources else "recorded",
        "licence": manifest.licence,
        "made_by": dict(source),
        "seed": source.get("seed"),
        "generator": _generator(store) if sources else None,
        "format": {
            "stage": manifest.stage,
            "layout": manifest.layout,
            "coordinates": manifest.coordinates,
            "dtype": store.dtype.name,
            "fps": manifest.fps,
            "aspect": manifest.aspect,
            "preprocessing": manifest.preprocessing,
        },
        "size": {
            "clips": len(store),
            "frames": manifest.rows,
            "frames_a_clip": {"min": low, "median": middle, "max": high},
            "seconds": manifest.rows / manifest.fps if manifest.fps else None,
            "bytes": sum((store.path / name).stat().st_size for name in files),
        },
        "classes": found.classes,
        "detection": [
            {"part": rate.name, "points": rate.points, "frames": 1 - rate.frames, "landmarks": 1 - rate.landmarks}
            for rate in found.parts
        ],
        "splits": {
            split: {
                "clips": sum(counts.get(split, 0) for counts in found.classes.values()),
                "classes": sum(counts.get(split, 0) > 0 for counts in found.classes.values()),
                "groups": list(found.groups.get(split, ())),
                "hash": split_hash(store.digests[store.splits == split]),
            }
            for split in sorted(set(store.splits.tolist()))
        },
        "hashes": {"clips": split_hash(store.digests), "files": files},
        "problems": list(found.problems),
        "notes": list(found.notes),
        "sources": sources,
    }


def write_card(path: Path | str, out: Path | str) -> list[Path]:
    """Write the card of the store at `path` into the folder `out`, as `card.md` and `card.json`; returns both files."""
    card, files = make_card(path), [Path(out) / MARKDOWN, Path(out) / JSON]
    write_text(files[0], to_markdown(card))
    write_json(files[1], card)
    return files


def to_markdown(card: dict[str, Any]) -> str:
    """The card for people: all of `make_card` but long lists, of which some are shown."""
    size, splits = card["size"], card["splits"]
    lines = [
        f"# {escape(card['name'])}",
        "",
        f"{counted(size['clips'], card['kind'] + ' clip')} of {counted(len(card['classes']), 'class', 'classes')}.",
        "",
        *table(("", ""), _facts(card)),
        "",
        "## Where it comes from",
        "",
        *_origin_lines(card["made_by"]),
        "",
        *_generator_lines(card),
        *_gate_lines(card["made_by"].get(RATES)),
        "## Detection",
        "",
        *table(
            ("part", "landmarks", "frames with it", "landmarks seen"),
            [
                (_words(rate["part"]), str(rate["points"]), f"{rate['frames']:.1%}", f"{rate['landmarks']:.1%}")
                for rate in card["detection"]
            ],
        ),
        "",
        "## Splits and groups",
        "",
        *table(
            ("split", "clips", "classes", "groups", "hash"),
            [
                (
                    _split(name),
                    *(f"{n:,}" for n in (split["clips"], split["classes"], len(split["groups"]))),
                    split["hash"],
                )
                for name, split in splits.items()
            ],
        ),
        "",
        *(
            f"- Groups of {_split(name)}: {_listed(split['groups'])}"
            for name, split in splits.items()
            if split["groups"]
        ),
        "",
        "## Classes",
        "",
        *_class_lines(card),
        "",
        "## Checks",
        "",
        *(f"- Problem: {escape(text)}" for text in card["problems"]),
        *(f"- Note: {escape(text)}" for text in card["notes"]),
        *([] if card["problems"] else ["- No problem found: checksums, landmarks, duplicates, split leaks."]),
        "",
        "## Hashes",
        "",
        *table(
            ("of", "hash"), [("all clips, in any order", card["hashes"]["clips"]), *card["hashes"]["files"].items()]
        ),
    ]
    return "\n".join(lines) + "\n"


def _origin_lines(made_by: dict[str, Any]) -> list[str]:
    if not made_by:
        return ["The store does not say."]
    rows = [(escape(name), _shown(value, "not known")) for name, value in made_by.items() if name != RATES]
    return table(("", ""), rows)


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """Licence, size and form, a row each."""
    size, form = card["size"], card["format"]
    low, middle, high = size["frames_a_clip"].values()
    a_clip = f"{low} a clip" if low == high else f"{low} to {high} a clip, median {middle}"
    raw = form["stage"] == "raw"
    return [
        ("licence", _shown(card["licence"], "not stated: ask whoever made the data before you share it")),
        ("frames", f"{size['frames']:,}; {a_clip}"),
        ("frames a second", _shown(form["fps"], "not known")),
        ("duration", f"{size['seconds'] / 60:,.1f} minutes" if size["seconds"] else "not known"),
        ("on disk", f"{size['bytes'] / 1e6:,.1f} MB, {form['dtype']}"),
        ("landmarks", f"{form['layout']}, {form['coordinates']}"),
        ("stage", "raw: as the detector gave them" if raw else "centred: preprocessed"),
        *(
            [("width / height of the pictures", _shown(form["aspect"], "not known"))]
            if raw
            else [("preprocessing", _shown(form["preprocessing"], "not known"))]
        ),
    ]


def _sources(store: Store) -> list[dict[str, Any]]:
    """The clips that others name as their source, each with those: a text a clip, as there may be a million of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for clip, id in enumerate(store.ids.tolist()):
        made_from = store.provenance_of(clip)
        if "source" in made_from:
            source = str(made_from["source"]), str(made_from.get("source_digest", ""))
            found.setdefault(source, []).append(id)
    return [{"source": source, "digest": digest, "clips": clips} for (source, digest), clips in found.items()]


def _generator(store: Store) -> dict[str, Any]:
    """Both generators' weights (SHA-256), how they were used, and what they had seen."""
    manifest = store.manifest
    named = {name: manifest.source.get(name) for name in ("forward", "reversed", "noise", "missing", "vary")}
    seen = [int(digest, 16) for digest in manifest.seen_clips]
    return {**named, "seen_clips": {"clips": len(seen), "hash": split_hash(seen)}}


def _generator_lines(card: dict[str, Any]) -> list[str]:
    """What the synthetic clips were generated from; nothing for recorded ones."""
    if card["generator"] is None:
        return []
    sources: Counter[str] = Counter()
    for entry in card["sources"]:
        sources[entry["source"]] += len(entry["clips"])
    seen, named = card["generator"]["seen_clips"], sources.total()
    most, unnamed = sources.most_common(SHOWN_SOURCES), card["size"]["clips"] - named
    return [
        "## Source clips",
        "",
        f"{named:,} synthetic clips come from {len(sources):,} recorded ones, "
        f"{min(sources.values()):,} to {max(sources.values()):,} from each"
        + (f"; {unnamed:,} clips name no source" if unnamed else "")
        + f". Their generators were trained on {seen['clips']:,} clips (hash {seen['hash']}), so nothing that learns "
        f"from this store may be tested on those. `{JSON}` lists the source of every clip.",
        "",
        *([f"The {len(most)} used most:", ""] if len(sources) > len(most) else []),
        *table(("source clip", "synthetic clips"), [(escape(name), str(count)) for name, count in most]),
        "",
    ]


def _gate_lines(rates: Any) -> list[str]:
    """How many generated clips each gate rejected, in all and of the classes that lost most; nothing without gates."""
    try:
        gates = list(rates["rejected"])
        classes = sorted(rates["classes"].items(), key=lambda entry: entry[1]["kept"] - entry[1]["made"])
        rows = [
            (escape(name), *(f"{n:,}" for n in (row["made"], row["kept"], *(row["rejected"][gate] for gate in gates))))
            for name, row in [("all classes", rates), *classes[:SHOWN]]
        ]
    except (KeyError, TypeError, AttributeError, ValueError):
        return []  # no gates, or a store that somebody else made
    return [
        "## Gates",
        "",
        "Clips that were generated and rejected; the columns of the gates count the first that rejected a clip."
        + (f" Of {len(classes)} classes those that lost most; `{JSON}` has all." if len(classes) > SHOWN else ""),
        "",
        *table(("class", "made", "kept", *map(escape, gates)), rows),
        "",
    ]


def _class_lines(card: dict[str, Any]) -> list[str]:
    """Clips by class and split; of many classes the largest and the smallest."""
    classes, splits = card["classes"], list(card["splits"])
    rows = [
        (escape(name), *(f"{counts.get(split, 0):,}" for split in splits), f"{sum(counts.values()):,}")
        for name, counts in classes.items()
    ]
    head = ("class", *map(_split, splits), "all")
    if len(rows) <= SHOWN:
        return table(head, rows)
    order = sorted(range(len(rows)), key=lambda at: -sum(list(classes.values())[at].values()))
    half = SHOWN // 2
    shown = [rows[at] for at in order[:half] + order[-half:]]
    return [f"The {half} largest and the {half} smallest; `{JSON}` has all.", "", *table(head, shown)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _split(name: str) -> str:
    return escape(name) or "no split"


def _listed(names: list[str]) -> str:
    """Names in a line, the first of many."""
    more = f" and {len(names) - SHOWN} more, listed in `{JSON}`" if len(names) > SHOWN else ""
    return ", ".join(map(escape, names[:SHOWN])) + more


def _shown(value: Any, otherwise: str) -> str:
    """A foreign value in one short line."""
    if value is None:
        return otherwise
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
