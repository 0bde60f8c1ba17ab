"""Self-contained web pages with clips that play: one file, no network, nothing of a store is ever run.

A page is text that the caller wrote (`body`) and clips as data. Names in a store come from anywhere, so a caller puts
them through `html.escape`; the clips' own titles and notes are escaped here. As a second wall every page carries a
content security policy: only the scripts of this package run (by hash), and nothing is fetched from anywhere.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from handcraft.layouts import Layout
from handcraft.layouts import layout as find_layout
from handcraft.render.palette import css_variables
from handcraft.render.skeleton import SIDES, WIDTH, skeleton
from handcraft.render.view import View, view

STEPS = 250  # steps a shoulder width: a quarter of a pixel on a canvas of 300 pixels
_WORDS = "".join(f'<span class="{side}">{words}</span>' for side, words in SIDES.items())
LEGEND = f'<p class="legend">{_WORDS}</p>'
"""HTML that says what the colours of the clips mean, for `body`."""


def clip_payload(
    landmarks: np.ndarray,
    layout: Layout | str,
    fps: float | None = None,
    title: str = "",
    note: str = "",
    *,
    aspect: float | None = None,
) -> dict[str, Any]:
    """A clip as plain values for `page`: what is drawn of it, as whole numbers, with null for what is missing.

    landmarks (T,J,C), C 2 or 3, NaN = missing, raw or preprocessed; `aspect` (width / height) belongs to raw ones, see
    `view`. fps: None (unknown) plays at 25. title and note: plain text, shown under the clip.

    Keys: layout, fps, title, note, box (left, top, right, bottom) and frames: for each frame a list with, for each part
    of the layout, null where none of its drawn landmarks was detected, else x, y, x, y, ... in steps of 1/250 shoulder
    width (null, null for a missing one). Raises what `view` raises.
    """
    layout = find_layout(layout) if isinstance(layout, str) else layout
    return as_payload(view(landmarks, layout, aspect), layout, fps, title, note)


def as_payload(seen: View, layout: Layout, fps: float | None, title: str, note: str) -> dict[str, Any]:
    """`clip_payload` of a clip that is on the drawing plane already."""
    steps = np.round(seen.points * STEPS)
    parts = [steps[:, places] for places in _drawn_by_part(layout)]
    return {
        "layout": layout.name,
        "fps": None if fps is None else float(fps),
        "title": title,
        "note": note,
        "box": [round(side * STEPS) for side in seen.box],
        "frames": [[_numbers(part[frame]) for part in parts] for frame in range(len(seen))],
    }


def page(title: str, body: str, clips: Sequence[dict[str, Any]] = (), *, assets: Sequence[str] = ()) -> str:
    """One HTML document, whole in itself.

    title: plain text, the page's heading and the tab's name. body: HTML under the heading, trusted: its writer has
    escaped what came from outside, and put `LEGEND` where it says what the colours mean. clips: payloads; each
    `<figure class="player" data-clip="N"></figure>` in `body` shows clip N, to be played, scrubbed and stepped through.
    Figures with the same `data-sync` share a clock (clips of different length are stretched to one) and are drawn at
    one scale; side by side in a `<div class="players">` they also share the controls. `data-strips` adds a row for each
    part of the layout, when in the clip it was detected; with the value `bars` without words.
    assets: names of further files of `handcraft/render/assets`, `.css` or `.js`, to be inlined; a script runs after
    the player's and finds it as `handcraft.mount(figure)`. The page itself uses one id, `handcraft-clips`.
    """
    styles = [css_variables(), *(_asset(name) for name in ("page.css", "player.css", *assets) if name.endswith(".css"))]
    scripts = [_asset(name) for name in ("player.js", *assets) if name.endswith(".js")] if clips or assets else []
    layouts = dict.fromkeys(clip["layout"] for clip in clips)
    data = {"layouts": {name: _drawing(find_layout(name)) for name in layouts}, "clips": list(clips)}
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash_source, scripts)) or chr(39) + 'none' + chr(39)}",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    heading = html.escape(title)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{heading}</title>",
            f"<style>{''.join(styles)}</style></head>",
            f"<body><main><h1>{heading}</h1>",
            *(["<noscript><p>The clips on this page need JavaScript to be drawn.</p></noscript>"] if clips else []),
            body,
            "</main>",
            f'<script type="application/json" id="handcraft-clips">{script_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
            "",
        ]
    )


def script_json(value: Any) -> str:
    """JSON that can stand in a `<script>` element whatever the texts in it say; NaN is refused (`ValueError`)."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _drawn_by_part(layout: Layout) -> list[list[int]]:
    """For each part of the layout the places of its drawn landmarks."""
    drawn = skeleton(layout).drawn
    return [[place for place in drawn if where.start <= place < where.stop] for where in layout.slices.values()]


def _drawing(layout: Layout) -> dict[str, Any]:
    """A layout's skeleton for the player: points of each part, and lines through their places in that order."""
    parts = _drawn_by_part(layout)
    at = {place: number for number, place in enumerate(place for part in parts for place in part)}
    lines = [
        {"side": line.side, "width": WIDTH[line.part], "points": [at[place] for place in line.points]}
        for line in skeleton(layout).lines
    ]
    return {"names": list(layout.slices), "parts": [len(part) for part in parts], "steps": STEPS, "lines": lines}


def _numbers(part: np.ndarray) -> list[int | None] | None:
    """(P,2) whole numbers or NaN -> a flat list, None if all are missing."""
    missing = np.isnan(part[:, 0])
    if missing.all():
        return None
    return [None if value != value else int(value) for value in part.ravel().tolist()]


def _asset(name: str) -> str:
    return (resources.files("handcraft.render") / "assets" / name).read_text(encoding="utf-8")


def _hash_source(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
