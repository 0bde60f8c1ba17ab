"""One web page to look through a store: by class, group, split, and how often each part of the body was detected.

Counts and rates are of the whole store. The clips themselves would make the page of a large store too large to open, so
of such a store it holds a sample that is even over the classes, and says so.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.files import write_text
from handcraft.layouts import layout
from handcraft.render.choose import from_store
from handcraft.render.page import LEGEND, page
from handcraft.words import counted

MOST_FRAMES = 20_000  # of all clips in a page together: some ten megabytes
CHUNK = 1 << 15  # frames looked at together
OPEN_ROWS = 40  # longer tables are folded


def browse(path: Path | str, out: Path | str, *, clips: int = 300, seed: int = 0) -> str:
    """Write the page for the store at `path` to `out`, with at most `clips` clips (and `MOST_FRAMES` frames) in it.

    seed: of the sample, if not all clips fit. Returns what the page holds, in a sentence. Memory is bounded by the
    page and a few numbers a frame. `ConfigError`: `clips` below 1, or a folder at `out`; `DataError`: no store.
    """
    if clips < 1 or not 0 <= seed < 1 << 63:
        raise ConfigError(f"clips is {clips} and seed {seed}, expected at least 1 clip and a seed from 0 to 2^63 - 1")
    if Path(out).is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of the page to write")
    store = Store(path)
    rates = detection_rates(store)
    chosen = sample(store, clips, seed)
    payloads, undrawn = _payloads(store, rates, chosen)
    if not payloads:
        raise DataError(f"{store.path}: none of {len(chosen)} clips can be drawn: {undrawn[0]}")
    held = _held(store, len(payloads), len(chosen), seed)
    body = "\n".join([_summary(store, held, undrawn), _filters(store), _tables(store, rates)])
    write_text(out, page(store.path.resolve().name, body, payloads, assets=("browse.css", "browse.js")))
    return held


def detection_rates(store: Store) -> np.ndarray:
    """(N,P) float64: in what share of its frames a clip shows any landmark of each part of the layout, in its order."""
    slices = layout(store.manifest.layout).slices.values()
    seen = np.empty((int(store.frames.sum()), len(slices)), dtype=bool)
    row = 0
    for _, frames in store.parts():
        for start in range(0, len(frames), CHUNK):
            missing = np.isnan(frames[start : start + CHUNK, :, 0])
            for part, where in enumerate(slices):
                seen[row : row + len(missing), part] = ~missing[:, where].all(axis=1)
            row += len(missing)
    return np.add.reduceat(seen, store.first, axis=0, dtype=np.int64) / store.frames[:, None]


def sample(store: Store, most: int, seed: int) -> np.ndarray:
    """Places of at most `most` clips and `MOST_FRAMES` frames (one clip at least), drawn by seed.

    First one clip of each class, then a second of each, and so on, so that every class has about as many.
    """
    shuffled = np.random.default_rng(seed).permutation(len(store))
    order = shuffled[np.argsort(store.labels[shuffled], kind="stable")]
    _, first, count = np.unique(store.labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(store)) - np.repeat(first, count)
    order = order[np.argsort(rank, kind="stable")][:most]
    fitting = int((np.cumsum(store.frames[order]) <= MOST_FRAMES).sum())
    return order[: max(1, fitting)]


def _payloads(store: Store, rates: np.ndarray, chosen: np.ndarray) -> tuple[list[dict], list[str]]:
    """The clips for the page with what it filters by, and a line for each that cannot be drawn."""
    parts = [part.name.replace("_", " ") for part in layout(store.manifest.layout).parts]
    found, undrawn = [], []
    for place, clip in zip(chosen.tolist(), from_store(store, chosen), strict=True):
        try:
            payload = clip.payload()
        except DataError as error:
            undrawn.append(str(error))
            continue
        percent = [round(100 * rate) for rate in rates[place].tolist()]
        seen = " · ".join(f"{part} {rate}%" for part, rate in zip(parts, percent, strict=True))
        found.append(
            payload
            | {
                "note": f"{payload['note']}\n{store.frames[place]} frames · {seen}",
                "group": store.groups[place].item(),
                "split": store.splits[place].item(),
                "seen": percent,
            }
        )
    return found, undrawn


def _held(store: Store, drawn: int, chosen: int, seed: int) -> str:
    if chosen == len(store):
        return f"all {counted(drawn, 'clip')}" if drawn == chosen else f"{drawn:,} of {chosen:,} clips"
    classes = len(np.unique(store.labels))
    even = "a sample even over" if chosen >= classes else f"one of each of {chosen:,} of"
    return f"{drawn:,} of {len(store):,} clips, {even} the {classes:,} classes (seed {seed})"


def _summary(store: Store, held: str, undrawn: list[str]) -> str:
    manifest = store.manifest
    groups = np.unique(store.groups[store.groups != ""])
    low, high = int(store.frames.min()), int(store.frames.max())
    facts = [
        counted(len(store), "clip"),
        counted(len(store.classes), "class", "classes"),
        *([counted(len(groups), "group")] if len(groups) else []),
        f"{counted(low, 'frame')} each" if low == high else f"{low} to {high} frames each",
        f"{manifest.fps:g} frames a second" if manifest.fps else "frame rate unknown, played at 25",
        f"layout {manifest.layout}",
        f"licence {escape(manifest.licence)}" if manifest.licence else "licence unknown",
    ]
    lines = [f"<p>{' · '.join(facts)}</p>", f"<p>This page holds {held}; its counts and rates are of all clips.</p>"]
    if undrawn:
        lines.append(f"<p>{counted(len(undrawn), 'clip')} cannot be drawn. The first: {escape(undrawn[0])}</p>")
    return "\n".join([*lines, LEGEND])


def _filters(store: Store) -> str:
    """The controls that browse.js reads, and the grid that it fills."""
    parts = [part.name.replace("_", " ") for part in layout(store.manifest.layout).parts]
    chosen = "".join(f'<option value="{number}">{part}</option>' for number, part in enumerate(parts))
    return "\n".join(
        [
            '<form class="filters" id="filters">',
            _select("title", "Class", [store.classes[label] for label in np.unique(store.labels)]),
            _select("group", "Group", np.unique(store.groups).tolist()),
            _select("split", "Split", np.unique(store.splits).tolist()),
            f'<label>Detection<select name="part"><option value="">any</option>{chosen}</select></label>',
            '<label>seen in<select name="side"><option value="least">at least</option>'
            '<option value="most">at most</option></select></label>',
            '<label class="share"><output name="percent">50%</output>'
            '<input type="range" name="share" min="0" max="100" value="50" step="5"></label>',
            "</form>",
            '<section><div class="pager"><output id="count"></output><button type="button" id="play">Play all</button>'
            '<button type="button" id="previous">Previous</button><button type="button" id="next">Next</button></div>',
            '<div class="grid" id="clips"></div></section>',
        ]
    )


def _select(name: str, label: str, values: list[str]) -> str:
    """A choice among the values; none of it where there is nothing to choose."""
    if len(values) < 2:
        return ""
    options = "".join(f'<option value="={escape(value)}">{escape(value) or "none"}</option>' for value in values)
    return f'<label>{label}<select name="{name}"><option value="">all</option>{options}</select></label>'


def _tables(store: Store, rates: np.ndarray) -> str:
    classes = np.array(store.classes)[store.labels]
    found = [_table("Classes", "class", classes, store, rates)]
    if len(np.unique(store.groups)) > 1:
        found.append(_table("Groups", "group", store.groups, store, rates))
    return "\n".join(found)


def _table(title: str, what: str, values: np.ndarray, store: Store, rates: np.ndarray) -> str:
    """Clips by split and mean detection rates for each of the values that the clips (N,) have."""
    splits = np.unique(store.splits).tolist()
    parts = [part.name.replace("_", " ") for part in layout(store.manifest.layout).parts]
    head = [*(f"clips {escape(split)}".strip() for split in splits), *(f"{part} seen" for part in parts)]
    cells = "".join(f'<th class="number">{name}</th>' for name in head)
    names, where = np.unique(values, return_inverse=True)
    rows = "\n".join(_rows(names, where, splits, store, rates))
    opened = " open" if len(names) <= OPEN_ROWS else ""
    return (
        f"<details{opened}><summary><h2>{title}</h2> <span class=quiet>{len(names):,}</span></summary>"
        f'<div class="scroll"><table><thead><tr><th>{what}</th>{cells}</tr></thead><tbody>\n{rows}\n</tbody></table>'
        "</div></details>"
    )


def _rows(names: np.ndarray, where: np.ndarray, splits: list[str], store: Store, rates: np.ndarray) -> Iterator[str]:
    counts = np.zeros((len(names), len(splits)), dtype=np.int64)
    np.add.at(counts, (where, np.searchsorted(splits, store.splits)), 1)
    means = np.zeros((len(names), rates.shape[1]))
    np.add.at(means, where, rates)
    means /= counts.sum(axis=1, keepdims=True)
    for name, count, mean in zip(names.tolist(), counts.tolist(), means.tolist(), strict=True):
        numbers = "".join(f'<td class="number">{number:,}</td>' for number in count)
        shares = "".join(f'<td class="number share" style="--share:{share:.3f}">{share:.0%}</td>' for share in mean)
        yield f"<tr><td>{escape(name) or 'none'}</td>{numbers}{shares}</tr>"
