"""The page of a run: it says what the tables say, shows what lies in the run's folder, and nothing in it can act."""

import html
import re
from html.parser import HTMLParser

import pytest
from browser import Browser
from drawn import HOSTILE
from fake_run import write_run

from handcraft.errors import DataError
from handcraft.report import effect_rows, facts, generator_rows, notes, result_rows, summary
from handcraft.report.html import html_report


def make(folder, **options) -> str:
    metrics, clips = write_run(folder, **options)
    return html_report(metrics, folder, clips)


class Page(HTMLParser):
    """What a page says: its visible words in one line, its elements, and the sections by the id of their heading."""

    def __init__(self, text):
        super().__init__()
        self.words, self.elements, self.ids, self._silent = [], [], [], 0
        self.feed(text)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self._silent += tag in ("script", "style", "head")
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self.words.append("" if tag in ("small", "b", "span", "a", "code") else " ")

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style", "head")

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)

    def count(self, tag, **attributes):
        return sum(tag == name and attributes.items() <= found.items() for name, found in self.elements)


def on_page(figure):
    """A figure of the tables as the page writes it."""
    return re.sub(r"^-(?=\d)", "\N{MINUS SIGN}", figure).replace("+-", "±")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    metrics, clips = write_run(folder)
    return metrics, Page(html_report(metrics, folder, clips))


def test_it_says_what_the_markdown_says(run):
    metrics, page = run
    assert summary(metrics) in page.text
    for rows in (result_rows(metrics), effect_rows(metrics), generator_rows(metrics)):
        assert rows
        for row in rows:
            for cell in row[:-1]:
                assert on_page(cell) in page.text
    for name, text in facts(metrics):
        assert f"{name} {text}" in page.text
    for text in notes(metrics).values():
        assert on_page(text) in page.text


def test_results_are_one_row_an_arm_with_a_dot_a_seed(run):
    _, page = run
    rails = [
        found["class"] for tag, found in page.elements if tag == "span" and found.get("class", "").startswith("rail ")
    ]
    assert rails == ["rail real", "rail real", "rail augmentation", "rail synthetic", "rail both"]
    assert page.count("b", style="left:100.0%") == 1, "0.8 is the best mean"
    dots = [found["style"] for tag, found in page.elements if tag == "i" and found["title"] == "0.7"]
    assert len(dots) == 3, "one seed of real and both of augmentation"
    assert page.count("u") == 5, "the linear model is marked in every row"


def test_every_matrix_is_there_cell_by_cell(run):
    _, page = run
    assert page.count("figure", **{"class": "matrix"}) == 5
    tips = re.findall(r"sign00\d taken for sign00\d: (\d+) of (\d+) \(", page.text)
    assert {of for _, of in tips} == {"20"}, "ten test clips a class, two seeds"
    assert sum(int(count) for count, _ in tips) == 5 * 3 * 20
    assert page.count("input", type="radio") == 5
    assert page.count("input", name="matrix-2", checked=None) == 1
    assert page.count("img") == 0


def test_curves_of_generators_and_of_every_arm(run):
    _, page = run
    assert page.count("figure", **{"class": "chart"}) == 4
    lines = [found["class"] for tag, found in page.elements if tag == "polyline"]
    twins, arms = ["forward", "reversed"], ["real", "augmentation", "synthetic", "both"]
    seeds = [f"{kind} seed" for kind in twins for _ in range(2)], [f"{kind} seed" for kind in arms for _ in range(2)]
    assert lines == [*twins, *seeds[0], *twins, *arms, "pretraining", *seeds[1], *arms]
    assert "real, step 15: 0.150" in page.text
    says = [found["aria-label"] for tag, found in page.elements if found.get("role") == "img"]
    assert says[0] == "Training loss, by step. At the end: forward 0.050, reversed 0.050."


def test_clips_of_every_class_in_pairs(run):
    _, page = run
    players = [found for tag, found in page.elements if found.get("class") == "player"]
    assert [found["data-clip"] for found in players] == list("012345")
    assert [found["data-sync"] for found in players] == [f"pair-{i // 2}" for i in range(6)]


def test_sections_are_linked(run):
    _, page = run
    links = [found["href"] for tag, found in page.elements if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_without_pretraining_nothing_is_said_of_it(tmp_path):
    page = Page(make(tmp_path, pretraining=False))
    assert "Sign by sign" not in page.text
    assert "What synthetic pretraining changed" not in page.text
    assert "#classes" not in [found["href"] for tag, found in page.elements if tag == "a"]
    assert page.count("figure", **{"class": "matrix"}) == 3
    assert page.count("figure", **{"class": "player"}) == 6, "clips were generated all the same"


def test_one_seed_claims_no_spread(tmp_path):
    page = Page(make(tmp_path, seeds=1))
    assert "One seed, so there is no spread." in page.text
    assert "too few seeds to tell; better with 1 of 1 seed" in page.text
    assert "95 %:" not in page.text
    results = page.text[page.text.index("Recognition on") : page.text.index("Real beside synthetic")]
    assert "±" not in results
    assert page.count("polyline", **{"class": "real seed"}) == 0


def test_an_interval_has_its_signs(tmp_path):
    assert "95 %: \N{MINUS SIGN}0.597 to +0.397" in Page(make(tmp_path, seeds=3)).text


def test_a_run_without_validation_has_no_validation_curves(tmp_path):
    page = Page(make(tmp_path, every=0))
    assert page.count("figure", **{"class": "chart"}) == 2
    assert "Validation top-1" not in page.text


def test_many_classes_get_a_picture_and_short_lists(tmp_path):
    page = Page(make(tmp_path, seeds=1, classes=60))
    assert page.count("rect") == 0
    pictures = [found for tag, found in page.elements if tag == "img"]
    assert len(pictures) == 5
    assert all(found["src"].startswith("data:image/png;base64,") for found in pictures)
    assert all("60 classes" in found["alt"] for found in pictures)
    shown = page.count("span", **{"class": "name"})
    assert 0 < shown <= 24
    assert f"{60 - shown} more classes are in the table below." in page.text
    assert "All 60 classes, all arms" in page.text
    assert page.count("figure", **{"class": "player"}) == 12


def test_foreign_text_stays_text(tmp_path):
    names = sorted([HOSTILE, "<b>bold</b>", "\" onload='x'"])
    source = {"path": f"/home/{HOSTILE}", "source": {}, "licence": HOSTILE}
    text = make(tmp_path, names=names, data_source=source, versions={"torch": HOSTILE})
    page, plain = Page(text), Page(make(tmp_path / "plain"))
    assert HOSTILE not in text
    assert HOSTILE in page.text
    for tag in ("script", "img", "b", "style"):
        assert page.count(tag) == plain.count(tag)
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert html.escape("script-src 'sha256-") in text


@pytest.mark.parametrize("file", ["mamba/real/log.jsonl", "mamba/pretraining/log.jsonl", "linear/confusion.csv"])
def test_a_file_that_is_missing_is_named(tmp_path, file):
    metrics, clips = write_run(tmp_path)
    (tmp_path / "seed-1" / file).unlink()
    with pytest.raises(DataError, match=file.rpartition("/")[2]):
        html_report(metrics, tmp_path, clips)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


SHOWN = "return [...document.querySelectorAll('.panel')].filter((p) => p.offsetHeight).map((p) => p.dataset.tab)"


def test_a_browser_shows_it_without_a_complaint_or_request(tmp_path, browser):
    file = tmp_path / "report.html"
    file.write_text(make(tmp_path / "run"), encoding="utf-8")
    for view in ({}, {"dark": True}, {"width": 360, "phone": True}):
        browser.open(file, **view)
        browser.wait("return document.querySelectorAll('.player canvas').length == 6")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), (
            f"{view}: wider than the screen"
        )
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(15, 19, 24)" if view.get("dark") else "rgb(255, 255, 255)"
        )
        assert browser.run(SHOWN) == ["1", "1"]
        browser.run("document.querySelector('label[for=matrix-2-3]').click()")
        assert browser.run(SHOWN) == ["1", "3"]
        before = browser.run("return document.querySelectorAll('.player')[1].dataset.frame")
        browser.keys(".player canvas", "\ue014")  # arrow to the right
        assert browser.run("return document.querySelectorAll('.player')[1].dataset.frame") == str(int(before) + 1)
        assert browser.complaints() == []
        assert browser.requests() == []
