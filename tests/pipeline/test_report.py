"""The report's numbers, with answers known beforehand."""

import io

from rich.console import Console

from handcraft.report import HEAD, arm_name, generator_rows, markdown, result_rows, spread, table


def row(model, seed, top1, pretraining="none", augmentation=False):
    scores = {"top1": top1, "top5": 1.0, "top1_macro": top1 / 2}
    return {"model": model, "pretraining": pretraining, "augmentation": augmentation, "seed": seed, **scores}


def generator(seed, mpjpe):
    margin = {"share": 0.5 + seed / 4, "median": 0.25, "worst": 1.0}
    baseline = {
        "mpjpe": 2 * mpjpe,
        "frame_error": 8.0,
        "forward": {"margin": margin},
        "reversed": {"margin": {**margin, "share": 0.75}},
    }
    return {
        "seed": seed,
        "mpjpe": mpjpe,
        "frame_error": 4.0,
        "baselines": {"repeat_last": baseline},
        "splice_jump": {"generated": 0.2, "real": 0.1},
        "signatures": {"mpjpe": "mpjpe|v1"},
    }


def figures(seeds=2, **changes):
    split = {name: {"clips": size, "hash": "0123456789abcdef"} for name, size in SIZES.items()}
    rows = []
    for seed in range(seeds):
        rows.append(row("linear", seed, 0.5))
        rows.append(row("mamba_sl", seed, 0.5 + 0.2 * seed))
        rows.append(row("mamba_sl", seed, 0.8, "synthetic", True))
    return {
        "rows": rows,
        "generators": [generator(seed, 1.0 + seed) for seed in range(seeds)],
        "recipe": {"name": "tiny", "description": "Tiny"},
        "clips_per_class": None,
        "data": {"clips": 36, "classes": ["a", "b"]},
        "seeds": seeds,
        "seconds": 12.3,
        "threads": 2,
        "splits": {str(seed): {"how": "whole groups held out", "test_groups": ["x"], **split} for seed in range(seeds)},
        "versions": {"torch": "9.9"},
    } | changes


SIZES = {"train": 20, "valid": 4, "test": 12}


def test_spread_is_mean_and_sample_deviation():
    assert spread([0.5, 0.7]) == "0.600 +- 0.141"  # sqrt(2 * 0.1^2 / 1)
    assert spread([1.0, 2.0, 3.0, 4.0], digits=2) == "2.50 +- 1.29"  # sqrt(5/3)
    assert spread([0.25]) == "0.250"
    assert spread([]) == "-"
    assert spread([0.5, None]) == "-"


def test_a_row_for_each_arm_over_its_seeds():
    assert result_rows(figures()) == [
        ("linear", "real", "0.500 +- 0.000", "1.000 +- 0.000", "0.250 +- 0.000", "2"),
        ("mamba_sl", "real", "0.600 +- 0.141", "1.000 +- 0.000", "0.300 +- 0.071", "2"),
        (
            "mamba_sl",
            "real + augmentation + synthetic pretraining",
            "0.800 +- 0.000",
            "1.000 +- 0.000",
            "0.400 +- 0.000",
            "2",
        ),
    ]
    assert result_rows(figures(seeds=1))[1] == ("mamba_sl", "real", "0.500", "1.000", "0.250", "1")


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
    assert text.startswith("# tiny\n\nTiny. 36 clips of 2 classes; 2 seeds; 12 s on 2 threads.\n")
    lines = text.splitlines()
    assert f"| {' | '.join(HEAD)} |" in lines
    assert "| mamba_sl | real | 0.600 +- 0.141 | 1.000 +- 0.000 | 0.300 +- 0.071 | 2 |" in lines
    assert (
        "Jump at the splice: 0.200 +- 0.000 in generated clips, 0.100 +- 0.000 in real ones at the same place." in lines
    )
    assert "- mpjpe: `mpjpe|v1`" in lines
    assert "- Held-out groups: x." in lines
    assert "- Seed 1: 20 train (0123456789ab), 4 valid (0123456789ab), 12 test (0123456789ab)." in lines
    assert "- Versions: torch 9.9." in lines
    cells = {line.count("|") for line in lines if line.startswith("| ") and "mamba" in line}
    assert cells == {len(HEAD) + 1}


def test_markdown_of_a_draw_without_description():
    text = markdown(figures(clips_per_class=5, recipe={"name": "tiny", "description": ""}))
    assert "\n36 clips of 2 classes, 5 training clips a class drawn by seed; 2 seeds" in text


def test_table_fits_a_terminal_of_80_columns():
    found = table(figures())
    assert [column.header for column in found.columns] == list(HEAD[:3])
    rows = list(zip(*(column.cells for column in found.columns), strict=True))
    assert rows == [row[:3] for row in result_rows(figures())]
    assert found.title == "tiny: test split, 2 seeds"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(found)
    assert "real + augmentation + synthetic pretraining   0.800 +- 0.000" in console.export_text()
