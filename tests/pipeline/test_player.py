"""Pages in a real browser: clips play, scrub and obey the keyboard, filters filter, and nothing is fetched."""

import numpy as np
import pytest
from browser import Browser
from drawn import HOSTILE, person, write_recorded

from handcraft.data.browse import browse
from handcraft.render.page import LEGEND, clip_payload, page
from handcraft.render.palette import DARK, LIGHT

PIXELS = "return document.querySelectorAll('canvas')[arguments[0] ?? 0].toDataURL()"
FRAMES = "return [...document.querySelectorAll('figure')].map((figure) => Number(figure.dataset.frame))"
LEFT, RIGHT, HOME, END = "\ue012", "\ue014", "\ue011", "\ue010"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page with a clip of 12 frames, a pair of 12 and 6 frames, and two that share a clock from afar."""
    folder = tmp_path_factory.mktemp("pages")
    clips = [clip_payload(person(12), "holistic75", 20, HOSTILE, HOSTILE)]
    clips += [clip_payload(person(frames), "holistic75", 20, f"{frames} frames") for frames in (12, 6)]
    lost = person(4)
    lost[2, 54:] = np.nan  # the right hand
    clips += [clip_payload(lost, "holistic75"), clip_payload(person(4), "holistic75")]
    figures = [
        f'<figure class="player" data-clip="{number}" {sync}></figure>'
        for number, sync in enumerate(
            ["", 'data-sync="pair"', 'data-sync="pair"', 'data-sync="far"', 'data-sync="far"']
        )
    ]
    body = f'{LEGEND}{figures[0]}<div class="players">{figures[1]}{figures[2]}</div>{figures[3]}<p>far</p>{figures[4]}'
    (folder / "a.html").write_text(page("A page", body, clips), encoding="utf-8")
    return folder


@pytest.fixture
def shown(chromium, pages):
    chromium.open(pages / "a.html")
    chromium.wait("return document.querySelector('canvas').width")
    yield chromium
    assert chromium.complaints() == []
    assert chromium.requests() == []


def test_clips_wait_at_their_middle_frame(shown):
    assert shown.run(FRAMES) == [6, 6, 3, 2, 2]
    assert shown.run("return document.querySelectorAll('.controls').length") == 4, "the pair has one bar"
    assert shown.run("return document.querySelector('output').value") == "7 / 12"


def test_a_click_plays_and_stops_in_a_circle(shown):
    before = shown.run(PIXELS)
    shown.run("document.querySelector('.controls button').click()")
    assert shown.run("return document.querySelector('.controls button').ariaLabel") == "Pause"
    shown.wait("return Number(document.querySelector('figure').dataset.frame) > 7")
    assert shown.run(PIXELS) != before
    shown.wait("return Number(document.querySelector('figure').dataset.frame) < 5")
    shown.run("document.querySelector('canvas').click()")
    stopped = shown.run(FRAMES)[0]
    shown.run("return new Promise((done) => setTimeout(done, 150))")
    assert shown.run(FRAMES)[0] == stopped
    assert shown.run(FRAMES)[1:] == [6, 3, 2, 2], "other clocks stood still"


def test_it_plays_at_the_clips_frame_rate_and_speed(shown):
    elapsed = """
        const clock = window.handcraft.clock(document.querySelector('figure'));
        const bar = document.querySelector('.controls');
        bar.querySelector('select').value = arguments[0];
        bar.querySelector('select').dispatchEvent(new Event('change'));
        clock.seek(0);
        clock.play();
        clock.advance(1000);
        clock.advance(1250);
        clock.pause();
        return clock.frame;"""
    assert shown.run(elapsed, "1") == 5, "20 frames a second for a quarter of one"
    assert shown.run(elapsed, "0.5") == 2
    assert shown.run(elapsed, "2") == 10


def test_scrubbing_changes_the_frame_and_the_picture(shown):
    pictures = []
    for frame in (0, 5, 11):
        shown.run(
            "const slider = document.querySelector('input'); slider.value = arguments[0];"
            "slider.dispatchEvent(new Event('input', {bubbles: true}))",
            frame,
        )
        assert shown.run(FRAMES)[0] == frame
        assert shown.run("return document.querySelector('output').value") == f"{frame + 1} / 12"
        pictures.append(shown.run(PIXELS))
    assert len(set(pictures)) == 3


def test_the_keyboard_plays_and_steps(shown):
    shown.keys("canvas", HOME)
    assert shown.run(FRAMES)[0] == 0
    shown.keys("canvas", RIGHT, RIGHT, RIGHT, LEFT)
    assert shown.run(FRAMES)[0] == 2
    shown.keys("canvas", END, RIGHT)
    assert shown.run(FRAMES)[0] == 11, "the end is the end"
    shown.keys("canvas", " ")
    shown.wait("return Number(document.querySelector('figure').dataset.frame) < 9")
    shown.keys("input", " ")
    assert shown.run("return document.querySelector('.controls button').ariaLabel") == "Play"
    shown.keys("input", HOME, RIGHT)
    assert shown.run(FRAMES)[0] == 1, "the slider's own keys"
    shown.keys(".controls button", " ")
    assert shown.run("return document.querySelector('.controls button').ariaLabel") == "Pause"
    shown.keys("canvas", LEFT)
    assert shown.run("return document.querySelector('.controls button').ariaLabel") == "Play", "a step stops"


def test_figures_of_one_clock_move_together_and_shorter_ones_are_stretched(shown):
    slide = (
        "const slider = document.querySelectorAll('input')[arguments[0]]; slider.value = arguments[1];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    for frame, other in ((0, 0), (4, 2), (11, 5)):
        shown.run(slide, 1, frame)
        assert shown.run(FRAMES)[1:3] == [frame, other]
    shown.run(slide, 2, 1)
    assert shown.run(FRAMES)[3:] == [1, 1]
    assert shown.run("return document.querySelectorAll('input')[3].value") == "1"


COLOURS = """
    const canvas = document.querySelectorAll('canvas')[arguments[0]];
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const found = {};
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] < 255) continue;
      const colour = '#' + [0, 1, 2].map((c) => data[at + c].toString(16).padStart(2, '0')).join('');
      found[colour] = (found[colour] ?? 0) + 1;
    }
    return found;"""


def test_what_is_far_out_of_sight_takes_no_memory(shown):
    width = "return document.querySelectorAll('canvas')[arguments[0]].width"
    shown.wait(width.replace("arguments[0]", "0"))
    assert shown.run(width, 4) == 0
    shown.run("document.querySelectorAll('canvas')[4].scrollIntoView()")
    shown.wait(width.replace("arguments[0]", "4"))
    shown.wait(width.replace("arguments[0]", "0") + " === 0")


def test_left_and_right_have_their_colours_and_a_missing_hand_is_not_drawn(shown):
    shown.run("dispatchEvent(new Event('beforeprint'))")  # draws also what is out of sight
    whole, lost = (shown.run(COLOURS, number) for number in (4, 3))
    assert whole[LIGHT["left"]] > 500
    assert whole[LIGHT["middle"]] > 500
    assert whole[LIGHT["right"]] - lost[LIGHT["right"]] > 100
    assert abs(whole[LIGHT["left"]] - lost[LIGHT["left"]]) < 50


def test_strips_say_when_each_part_was_detected(chromium, tmp_path):
    clip = person(10)
    clip[4:, 54:] = np.nan  # the right hand
    body = '<figure class="player" data-clip="0" data-strips></figure>'
    (tmp_path / "a.html").write_text(page("Strips", body, [clip_payload(clip, "holistic75")]), encoding="utf-8")
    chromium.open(tmp_path / "a.html")
    chromium.wait("return document.querySelector('canvas').width")
    words = chromium.run("return [...document.querySelectorAll('.strips > span')].map((cell) => cell.textContent)")
    assert words == ["pose", "", "100%", "left hand", "", "100%", "right hand", "", "40%"]
    bars = chromium.run(
        "return [...document.querySelectorAll('.bar')].map((bar) => getComputedStyle(bar).backgroundImage)"
    )
    orange = "rgb({}, {}, {})".format(*bytes.fromhex(LIGHT["right"][1:]))
    assert bars[2].replace("rgba(0, 0, 0, 0)", "none") == (
        f"linear-gradient(90deg, {orange} 0%, {orange} 40%, none 40%, none 100%)"
    )
    assert chromium.complaints() == []


def test_a_page_follows_the_readers_dark_system(chromium, pages):
    chromium.open(pages / "a.html", dark=True)
    chromium.wait("return document.querySelector('canvas').width")
    found = chromium.run(COLOURS, 0)
    assert DARK["left"] in found
    assert LIGHT["left"] not in found
    ground = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == f"rgb({', '.join(str(int(DARK['ground'][at : at + 2], 16)) for at in (1, 3, 5))})"


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_pair_stays_a_pair(chromium, pages):
    chromium.open(pages / "a.html", width=360, height=700, phone=True)
    assert chromium.run("return document.documentElement.scrollWidth") <= 360
    tops = chromium.run("return [...document.querySelectorAll('.players canvas')].map((c) => c.offsetTop)")
    assert tops[0] == tops[1]
    small = chromium.run("return Math.min(...[...document.querySelectorAll('button')].map((b) => b.offsetHeight))")
    assert small >= 32, "large enough for a thumb"


def test_hostile_text_is_shown_and_nothing_of_it_runs(shown):
    caption = shown.run("return document.querySelector('figcaption').innerText")
    assert caption.split("\n") == [HOSTILE, HOSTILE]
    assert shown.run("return document.querySelectorAll('img').length") == 0


def test_the_policy_stops_a_script_that_got_into_the_body(chromium, tmp_path):
    body = '<script>document.title = "owned"</script><img src="http://example.invalid/x.png">'
    (tmp_path / "a.html").write_text(page("safe", body), encoding="utf-8")
    chromium.open(tmp_path / "a.html")
    assert chromium.run("return document.title") == "safe"
    assert len(chromium.complaints()) >= 2


@pytest.fixture(scope="module")
def browsing(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse")
    write_recorded(folder / "toy", classes=(HOSTILE, "no", "yes"), clips=10)
    browse(folder / "toy", folder / "a.html")
    chromium.open(folder / "a.html")
    yield chromium
    assert chromium.complaints() == []
    assert chromium.requests() == []


CHOOSE = """
    const form = document.getElementById('filters');
    for (const [name, value] of Object.entries(arguments[0])) form.elements[name].value = value;
    form.dispatchEvent(new Event('input', {bubbles: true}));
    return [...document.querySelectorAll('#clips figure')].map((figure) => figure.innerText);"""
ALL = {"title": "", "group": "", "split": "", "part": "", "side": "least", "share": "50"}


def test_browsing_filters_by_class_group_split_and_detection(browsing):
    assert len(browsing.run(CHOOSE, ALL)) == 24, "a screenful"
    assert browsing.run("return document.getElementById('count').value") == "1 to 24 of 30 clips"
    found = browsing.run(CHOOSE, ALL | {"title": f"={HOSTILE}"})
    assert len(found) == 10
    assert all(text.startswith(HOSTILE) for text in found)
    assert len(browsing.run(CHOOSE, ALL | {"group": "=signer3"})) == 3
    assert len(browsing.run(CHOOSE, ALL | {"split": "=test", "title": "=yes"})) == 1
    # The left hand of clip k is lost in the first 3k of its 12 + k frames: under half are left from k = 3 on.
    assert len(browsing.run(CHOOSE, ALL | {"part": "1", "title": "=no"})) == 3
    assert len(browsing.run(CHOOSE, ALL | {"part": "1", "title": "=no", "side": "most"})) == 7
    assert len(browsing.run(CHOOSE, ALL | {"part": "0", "side": "most", "share": "95"})) == 0
    assert browsing.run("return document.getElementById('count').value") == "No clip fits these filters."
    assert browsing.run("return document.querySelectorAll('img').length") == 0


def test_browsing_turns_pages_and_plays_all_of_one(browsing):
    browsing.run(CHOOSE, ALL)
    first = browsing.run("return document.querySelector('#clips figure').innerText")
    browsing.run("document.getElementById('next').click()")
    assert browsing.run("return document.getElementById('count').value") == "25 to 30 of 30 clips"
    assert browsing.run("return document.getElementById('next').disabled")
    assert browsing.run("return document.querySelector('#clips figure').innerText") != first
    before = browsing.run(FRAMES)
    browsing.run("document.getElementById('play').click()")
    browsing.wait(f"return ({FRAMES.removeprefix('return ')}).every((frame, at) => frame !== {before}[at])")
    browsing.run("document.getElementById('play').click()")
    browsing.run("document.getElementById('previous').click()")
    assert browsing.run("return document.querySelector('#clips figure').innerText") == first
