"""What a study's report says of known rows, as Markdown and as a page."""

import json

import pytest
from browser import Browser

from handcraft.studies.page import page_of
from handcraft.studies.report import caution, generator_rows, markdown, origin, result_rows, terminal


def rows(values, **label):
    return [{**label, "seed": seed, "top1": value} for seed, value in enumerate(values)]


KNOWN = {
    "study": "s",
    "question": "q?",
    "against": {"a": "", "b": "a"},
    "between": "settings",
    "settings": ["a", "b"],
    "clips_per_class": 5,
    "seeds": 3,
    "versions": {"torch": "2"},
    "rows": rows([0.5, 0.6, 0.7], setting="a", model="mamba", pretrained=False, augmented=False)
    + rows([0.6, 0.71, 0.8], setting="b", model="mamba", pretrained=True, augmented=False),
    "generators": [{"setting": "a", "seed": seed, "mpjpe": 0.125, "mpjpe_last": 0.2} for seed in range(3)]
    + [
        {
            "setting": "b",
            "seed": s,
            "mpjpe": 0.1 + 0.01 * s,
            "frechet": 30.0 + s,
            "floor": {"frechet": 12.5},
            "training": {"frechet": 22.25},
        }
        for s in range(3)
    ],
}


def test_the_report_compares_seed_by_seed_with_the_baseline():
    first, second = result_rows(KNOWN)
    assert first == ("a", "Mamba-SL", "real", "0.600 +- 0.100", "", "", "compared with")
    assert second[3:] == ("0.703 +- 0.100", "+0.103 +- 0.006", "+0.089 to +0.118", "gain")
    assert list(generator_rows(KNOWN)) == [
        ("MPJPE", "a", "0.125 +- 0.000", "", "", "", "", "compared with"),
        ("MPJPE", "b", "0.110 +- 0.010", "", "", "-0.015 +- 0.010", "-0.040 to +0.010", "within the spread"),
        ("MPJPE in the last frame", "a", "0.200 +- 0.000", "", "", "", "", "compared with"),
        ("Fréchet distance of poses", "b", "31.0 +- 1.0", "12.5", "22.2", "", "", ""),
    ]
    assert caution(KNOWN).startswith("Of 2 intervals about 0.1 would")
    assert caution(KNOWN | {"rows": [], "generators": []}) == ""
    for text in (markdown(KNOWN), page_of(KNOWN)):
        assert caution(KNOWN) in text
        for wanted in (
            "-0.040 to +0.010",
            "+0.089 to +0.118",
            "31.0 +- 1.0",
            "12.5",
            "22.2",
            "5 training clips a class",
        ):
            assert wanted in text


def test_a_terminal_shows_a_line_a_setting():
    assert terminal(KNOWN).splitlines() == [
        'q? 3 seeds, 5 training clips a class, drawn by seed; compared seed by seed: each setting with "a".',
        "Each line: mean and deviation over the seeds, 95 % interval of the change.",
        "",
        "Mamba-SL, trained on real",
        "  a  0.600 +- 0.100    compared with",
        "",
        "Mamba-SL, trained on real + synthetic pretraining",
        "  b  0.703 +- 0.100  +0.089 to +0.118  higher",
        "",
        "MPJPE",
        "  a  0.125 +- 0.000                    compared with",
        "  b  0.110 +- 0.010  -0.040 to +0.010  within the spread",
    ]
    renamed = json.loads(json.dumps(KNOWN).replace('"frechet"', '"frechet_judged"'))
    assert "Fréchet distance (test clips 12.5, training clips 22.2)" in terminal(renamed)


def test_the_report_says_how_a_study_was_made():
    made = KNOWN | {"command": "handcraft study s --data 'my clips'", "seconds": 90.0, "cpu_seconds": 60.0}
    made["data"] = {"clips": 1740, "hash": "0123456789abcdef", "path": "my clips"}
    found = dict(origin(made))
    assert found["Command"] == made["command"]
    assert found["Time"].startswith("1.5 minutes, 1.0 of CPU")
    assert found["Data"] == "1,740 clips, 0123456789ab"
    assert "`handcraft study s --data 'my clips'`" in markdown(made)
    assert "1.5 minutes" in page_of(made)
    assert set(dict(origin(KNOWN))) == {"Versions"}


def test_a_setting_without_what_it_is_compared_with_is_not_called_that():
    alone = KNOWN | {"rows": KNOWN["rows"][3:], "settings": ["b"], "generators": []}
    assert [row[3:] for row in result_rows(alone)] == [("0.703 +- 0.100", "", "", "")]


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / "browser")
    yield found
    found.close()


def test_the_plots_of_a_study_can_be_read_on_a_phone(browser, tmp_path):
    long = "spread evenly, sub-windows of 80 %, and more of it"
    study = json.loads(json.dumps(KNOWN).replace('"b"', json.dumps(long)))
    (tmp_path / "report.html").write_text(page_of(study))
    for width, phone in ((390, True), (1000, False)):
        browser.open(tmp_path / "report.html", width=width, phone=phone)
        assert not browser.complaints()
        assert browser.run("return document.documentElement.scrollWidth") <= width
        rails = browser.run(
            "return [...document.querySelectorAll('.rail')].map(r => [r.offsetWidth, r.querySelectorAll('i').length])"
        )
        assert len(rails) == 6
        assert all(wide > 150 and dots == 3 for wide, dots in rails), rails


def test_a_study_between_arms_compares_within_the_setting():
    arms = KNOWN | {"between": "arms", "rows": [row | {"setting": "a"} for row in KNOWN["rows"]]}
    real, pretrained = result_rows(arms)
    assert real[-1] == "compared with"
    assert pretrained[-1] == "gain"


def test_the_page_escapes_names():
    assert "<script>alert" not in page_of(KNOWN | {"question": "<script>alert(1)</script>"})
