"""Web pages: what a clip becomes, and that nothing in a store can act on whoever opens the page."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from drawn import HOSTILE, person
from hypothesis import given, settings
from hypothesis import strategies as st

from handcraft.errors import ConfigError
from handcraft.layouts import layout
from handcraft.render.page import LEGEND, STEPS, clip_payload, page, script_json
from handcraft.render.palette import DARK, LIGHT, css_variables
from handcraft.render.skeleton import skeleton
from handcraft.render.view import view


def unpacked(payload):
    """(T,P,2) of the landmarks that a payload holds, in shoulder widths, NaN = missing."""
    name = layout(payload["layout"])
    drawn = skeleton(name).drawn
    sizes = [sum(where.start <= place < where.stop for place in drawn) for where in name.slices.values()]
    frames = [
        np.concatenate(
            [
                np.full(2 * size, np.nan) if part is None else np.array(part, dtype=float)
                for part, size in zip(frame, sizes, strict=True)
            ]
        )
        for frame in payload["frames"]
    ]
    return np.stack(frames).reshape(len(frames), -1, 2) / STEPS


@pytest.mark.parametrize("name", ["holistic75", "holistic87", "holistic543", "handcraft60"])
def test_a_payload_holds_the_drawn_landmarks_to_half_a_step(name):
    clip = person(name=name)
    found = layout(name)
    clip[2:5, found.slices["right_hand"]] = np.nan
    clip[6, found.position("left_hand", 4)] = np.nan
    payload = clip_payload(clip, name, 30, "a title", "a note", aspect=1.5)
    assert json.loads(json.dumps(payload)) == payload
    seen = view(clip, found, 1.5)
    np.testing.assert_allclose(
        unpacked(payload), seen.points[:, list(skeleton(found).drawn)], atol=0.5 / STEPS + 1e-9, equal_nan=True
    )
    np.testing.assert_allclose(np.array(payload["box"]) / STEPS, seen.box, atol=0.5 / STEPS)
    hand = [part.name for part in found.parts].index("right_hand")
    assert [frame[hand] is None for frame in payload["frames"]] == [2 <= t < 5 for t in range(12)]
    assert (payload["fps"], payload["title"], payload["note"]) == (30, "a title", "a note")
    assert clip_payload(clip, found)["fps"] is None


def test_a_glitch_does_not_grow_the_payload():
    clip = person()
    clip[3, 40, :2] = 3e38
    assert len(json.dumps(clip_payload(clip, "holistic75"))) < 1.01 * len(
        json.dumps(clip_payload(person(), "holistic75"))
    )


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self._inside = False


def test_a_page_runs_its_own_scripts_alone_and_fetches_nothing():
    clip = clip_payload(person(), "holistic75", title="x")
    text = page("a page", '<figure class="player" data-clip="0"></figure>', [clip])
    elements = Elements(text)
    policy = next(tag[1]["content"] for tag in elements.found if "Content-Security-Policy" in tag[1].values())
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    data, player = elements.scripts
    digest = base64.b64encode(hashlib.sha256(player.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert json.loads(data)["clips"] == [clip]
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:").startswith("data:")
    assert not re.search(r"url\(|@import", text)


@pytest.mark.parametrize("where", ["title", "clip title", "note"])
def test_hostile_text_stays_text(where):
    words = {name: HOSTILE if name == where else "" for name in ("title", "clip title", "note")}
    clip = clip_payload(person(), "holistic75", title=words["clip title"], note=words["note"])
    text = page(words["title"], "<p>body</p>", [clip])
    elements = Elements(text)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert "img" not in [tag for tag, _ in elements.found]
    assert json.loads(elements.scripts[0])["clips"][0]["note"] == words["note"]
    assert HOSTILE not in text


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_survives_a_script_element_and_cannot_leave_it(value):
    text = script_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_script_json_refuses_nan():
    with pytest.raises(ValueError):
        script_json(float("nan"))


def test_a_page_without_clips_has_no_script():
    text = page("plain", "<p>words</p>")
    assert len(Elements(text).scripts) == 1, "the empty data alone"
    assert html.escape("script-src 'none'") in text
    assert "noscript" not in text


def test_assets_are_inlined_and_may_run():
    text = page("browse", "", [clip_payload(person(), "holistic75")], assets=("browse.css", "browse.js"))
    elements = Elements(text)
    assert len(elements.scripts) == 3
    assert ".filters{" in text
    digest = base64.b64encode(hashlib.sha256(elements.scripts[2].encode()).digest()).decode()
    assert digest in text


def test_unknown_layouts_are_refused():
    with pytest.raises(ConfigError, match="unknown landmark layout"):
        clip_payload(person(), "nothing")


def luminance(colour):
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_is_promised(palette):
    for ground in ("ground", "stage"):
        for ink in ("text", "quiet", "accent"):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
        for side in ("left", "right", "middle"):
            assert contrast(palette[side], palette[ground]) >= 3, (side, ground)
    assert set(LIGHT) == set(DARK)
    assert all(f"--{name}:{colour}" in css_variables() for name, colour in palette.items())


def test_the_legend_names_both_sides():
    assert "signer's left" in LEGEND
    assert "signer's right" in LEGEND
