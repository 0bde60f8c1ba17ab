"""The report's numbers, with answers known beforehand."""

import io

import pytest
from fake_run import figures
from rich.console import Console

from handcraft.report import (
    EFFECT_HEAD,
    HEAD,
    arm_name,
    changes,
    effect_rows,
    generator_rows,
    interval,
    markdown,
    result_rows,
    spread,
    table,
    verdict,
)


def test_spread_is_mean_and_sample_deviation():
    assert spread([0.5, 0.7]) == "0.600 +- 0.141"  # sqrt(2 * 0.1^2 / 1)
    assert spread([1.0, 2.0, 3.0, 4.0], digits=2) == "2.50 +- 1.29"  # sqrt(5/3)
    assert spread([0.25]) == "0.250"
    assert spread([]) == "-"
    assert spread([0.5, None]) == "-"


def test_a_row_for_each_arm_over_its_seeds():
    found = result_rows(figures())
    assert found[:2] == [
        ("linear model", "real", "0.500 +- 0.000", "1.000 +- 0.000", "0.250 +- 0.000", "2"),
        ("Mamba-SL", "real", "0.600 +- 0.141", "1.000 +- 0.000", "0.300 +- 0.071", "2"),
    ]
    assert found[-1] == (
        "Mamba-SL",
        "real + augmentation + synthetic pretraining",
        "0.800 +- 0.000",
        "1.000 +- 0.000",
        "0.400 +- 0.000",
        "2",
    )
    assert len(found) == 5
    assert result_rows(figures(seeds=1))[1] == ("Mamba-SL", "real", "0.500", "1.000", "0.250", "1")


def test_effects_are_changes_of_the_same_seed():
    without, synthetic = "real", "real + augmentation"
    found = effect_rows(figures(seeds=3))
    # 0.5, 0.7 and 0.9 without, 0.6 with: changes +0.1, -0.1 and -0.3; t(0.975, 2) * 0.2 / sqrt(3) = 0.497
    assert found[0][:5] == ("Mamba-SL", without, "0.700 +- 0.200", "0.600 +- 0.000", "-0.100 +- 0.200")
    assert found[0][5:] == ("-0.597 to +0.397", "1 of 3 seeds", "within the spread")
    assert found[1][:5] == ("Mamba-SL", synthetic, "0.700 +- 0.000", "0.800 +- 0.000", "+0.100 +- 0.000")
    assert found[1][5:] == ("+0.100 to +0.100", "3 of 3 seeds", "gain")
    assert effect_rows(figures(seeds=1))[0][4:] == ("+0.100", "-", "1 of 1 seed", "too few seeds to tell")
    assert effect_rows(figures(pretraining=False)) == []


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([0.1, 0.11, 0.1], "gain"),
        ([-0.1, -0.11, -0.1], "loss"),
        ([0.1, 0.2, 0.1], "within the spread"),  # 2.3 standard deviations: three seeds ask for 2.5
        ([0.1, 0.2, 0.1, 0.2, 0.1], "gain"),
        ([0.0, 0.0, 0.0], "within the spread"),
        ([0.3, 0.3], "too few seeds to tell"),
        ([0.3], "too few seeds to tell"),
    ],
)
def test_verdict(found, word):
    assert verdict(found) == word


def test_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])  # t(0.975, 4) = 2.776, standard error sqrt(2.5 / 5)
    assert (low, high) == pytest.approx((3 - 2.7764 * 0.5**0.5, 3 + 2.7764 * 0.5**0.5), abs=1e-4)
    assert interval([0.1, 0.2]) is None


def test_changes_pair_the_values_in_order():
    assert changes([0.5, 0.75], [1.0, 0.5]) == [0.5, -0.25]


def test_arms_in_words():
    assert arm_name("none", False) == "real"
    assert arm_name("none", True) == "real + augmentation"
    assert arm_name("synthetic", False) == "real + synthetic pretraining"


def test_generators_beside_the_predictors_that_learn_nothing():
    assert generator_rows(figures()) == [
        ("CMLPe, both twins", "1.500 +- 0.707", "4.000 +- 0.000", "", ""),
        # shares 0.5, 0.75, 0.75, 0.75
        ("repeat last", "3.000 +- 1.414", "8.000 +- 0.000", "0.688 +- 0.125", "0.250 +- 0.000"),
    ]
    assert generator_rows(figures(generators=[])) == []


def test_markdown_says_what_was_measured_on_what():
    text = markdown(figures())
    assert text.startswith("# handcraft run: tiny\n\nTiny. 36 clips of 2 classes; 2 seeds; 12 s on 1 thread.\n")
    lines = text.splitlines()
    assert f"| {' | '.join(HEAD)} |" in lines
    assert "| Mamba-SL | real | 0.600 +- 0.141 | 1.000 +- 0.000 | 0.300 +- 0.071 | 2 |" in lines
    assert f"| {' | '.join(EFFECT_HEAD)} |" in lines
    assert (
        "Jump at the splice: 0.200 +- 0.000 in generated clips, 0.100 +- 0.000 in real ones at the same place." in lines
    )
    assert "- mpjpe: `mpjpe|v1`" in lines
    assert "- Data: signs, hash fedcba9876543210." in lines
    assert "- Licence: not stated." in lines
    assert "- Held-out groups: x." in lines
    assert "- Seed 1: 20 train (0123456789ab), 4 valid (0123456789ab), 12 test (0123456789ab)." in lines
    assert "- Machine: Abacus 9000, 2 cores, 8 GB; Linux 6.1 x86_64." in lines
    assert "- Versions: torch 9.9." in lines
    cells = {line.count("|") for line in lines if line.startswith("| Mamba-SL | real")}
    assert cells == {len(HEAD) + 1, len(EFFECT_HEAD) + 1}


def test_markdown_of_one_seed_without_pretraining():
    text = markdown(figures(seeds=1, pretraining=False))
    assert "One seed, so there is no spread." in text
    assert "+-" not in text.split("## Generators")[0]
    assert "What synthetic pretraining changed" not in text


def test_markdown_of_a_draw_without_description():
    text = markdown(figures(clips_per_class=5, recipe={"name": "tiny", "description": ""}))
    assert "\n36 clips of 2 classes, 5 training clips a class drawn by seed; 2 seeds" in text


def test_foreign_names_are_no_markup():
    source = {"path": "/home/<b>", "source": {}, "licence": "*|*"}
    text = markdown(figures(data_source=source))
    assert "- Data: \\<b\\>, hash" in text
    assert "- Licence: \\*\\|\\*." in text


def test_table_fits_a_terminal_of_80_columns():
    found = table(figures())
    assert [column.header for column in found.columns] == list(HEAD[:3])
    rows = list(zip(*(column.cells for column in found.columns), strict=True))
    assert rows == [row[:3] for row in result_rows(figures())]
    assert found.title == "tiny: test split, 2 seeds"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(found)
    assert "real + augmentation + synthetic pretraining   0.800 +- 0.000" in console.export_text()
