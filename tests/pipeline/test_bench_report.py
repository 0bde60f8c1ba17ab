"""benchmarks/report.py: the table and the plot of a run, and that a run of the benchmarks gives it what it needs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handcraft.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
WORK = {"bytes": 2 * 10**9, "matrix_flops": 5 * 10**9, "fmas": 10**9, "exps": 0}
CEILINGS = {"copy": 2e10, "gemm_float32": 1e11, "gemm_bfloat16": 4e11, "fma": 5e10, "exp": 1e9}


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("bench_report", BENCHMARKS / "report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def entry(provider: str, median: float, **changes) -> dict:
    info = {"op": "cmlpe", "mode": "forward", "shape": "B1000", "dtype": "float32", "provider": provider}
    info |= {"baseline": "reference", "items": 1000, "unit": "windows", "work": WORK, "auto": "cpu"}
    info |= changes
    return {"group": f"{info['op']} {info['shape']}", "stats": {"median": median}, "extra_info": info}


def run(*entries: dict) -> dict:
    return {
        "benchmarks": list(entries),
        "ceilings": dict(CEILINGS),
        "machine_info": {
            "device_name": "a CPU",
            "threads": 2,
            "python_version": "3.11.9",
            "versions": {"torch": "2.13.0", "triton": None},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-11-22T08:00:00",
    }


@pytest.fixture
def three() -> dict:
    return run(entry("reference", 0.5), entry("compile", 0.25), entry("cpu", 0.125))


def test_ratios_and_ceiling(report, three):
    eager, compiled, cpu = report.rows(three)
    assert (eager.rate, eager.eager, eager.compiled) == (2000, None, 0.5)
    assert (compiled.eager, compiled.compiled) == (2, None)
    assert (cpu.eager, cpu.compiled, cpu.picked) == (4, 2, True)
    # the copy needs 0.1 s, the products 0.05 s, the other multiply-adds 0.02 s
    assert cpu.resource == "copy"
    assert cpu.ceiling == pytest.approx(0.1 / 0.125)
    assert cpu.others == pytest.approx({"gemm": 0.05 / 0.125, "fma": 0.02 / 0.125})
    assert list(cpu.others) == ["gemm", "fma"]
    assert not eager.picked


def test_resource_follows_the_dtype_and_the_work(report):
    products = {"bytes": 0, "matrix_flops": 10**10, "fmas": 0, "exps": 0}
    exps = {"bytes": 1, "matrix_flops": 0, "fmas": 10**9, "exps": 10**9}
    nothing = dict.fromkeys(WORK, 0)
    found = report.rows(
        run(
            entry("reference", 1.0, work=products, shape="a"),
            entry("reference", 1.0, work=products, shape="b", dtype="bfloat16"),
            entry("reference", 4.0, work=exps, shape="c"),
            entry("reference", 1.0, work=nothing, shape="d"),
        )
    )
    assert [(row.resource, row.ceiling) for row in found] == [
        ("gemm", pytest.approx(0.1)),
        ("gemm", pytest.approx(0.025)),
        ("exp", pytest.approx(0.25)),
        ("", None),
    ]


def test_other_baselines_and_the_faster_compile(report):
    found = report.rows(
        run(
            entry("loop", 1.0, baseline="loop"),
            entry("reference", 0.25, baseline="loop"),
            entry("compile", 0.5, baseline="loop"),
            entry("compile_graph", 0.4, baseline="loop"),
        )
    )
    assert [row.eager for row in found] == [None, 4, 2, 2.5]
    assert [row.compiled for row in found] == [0.4, 1.6, None, None]


def test_a_run_of_chosen_cases_has_no_ratio_to_what_was_not_run(report):
    (row,) = report.rows(run(entry("cpu", 0.5)))
    assert (row.eager, row.compiled) == (None, None)


def test_markdown(report, three):
    text = report.markdown(three)
    assert "a CPU, 2 CPU threads; Python 3.11.9, torch 2.13.0; commit 0123456789ab with uncommitted changes" in text
    assert "gemm_float32 100 G/s" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    first = "| cmlpe forward | B1000 float32 | "
    assert lines[2] == first + "reference | 500 | 2,000 windows/s |  | 0.50 | 20 % copy (gemm 10, fma 4) |"
    assert lines[4] == first + "cpu* | 125 | 8,000 windows/s | 4.00 | 2.00 | 80 % copy (gemm 40, fma 16) |"
    assert len({line.count("|") for line in lines}) == 1
    assert "torch.compile is faster" not in text


def test_a_pick_that_loses_to_torch_compile_is_named(report):
    text = report.markdown(run(entry("compile", 0.25), entry("cpu", 0.5)))
    assert "**cmlpe forward B1000 float32: `auto` picks cpu, torch.compile is faster.**" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_numbers(report, value, text):
    assert report._number(value) == text


def test_files(report, three, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(three))
    assert report.main([str(path)]) == 0
    assert (tmp_path / "run.md").read_text() == report.markdown(three)
    assert report.markdown(three) in capsys.readouterr().out
    png = (tmp_path / "run.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 5000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "run.md", "run.png"]


def test_plot_of_a_run_without_anything_to_compare(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(run(entry("reference", 0.5)), tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "not readable as JSON"),
        ("[]", "not a run of these benchmarks"),
        ('{"benchmarks": [{"group": "a", "stats": {"median": 1}}], "ceilings": {}}', "'extra_info'"),
        ('{"benchmarks": []}', "'ceilings'"),
    ],
)
def test_bad_files(report, tmp_path, capsys, content, message):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert report.main([str(path), "--no-plot"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("run.json") == 1
    assert not (tmp_path / "run.md").exists()


def test_rows_name_what_is_missing(report, three):
    del three["ceilings"]["copy"]
    with pytest.raises(DataError, match="copy"):
        report.rows(three)


def benchmarks(*options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "benchmarks/", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    # PYTEST_*: as a worker of pytest-xdist the benchmarks would refuse to time anything
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "HANDCRAFT_BACKEND" and not name.startswith("PYTEST_")
    }
    return subprocess.run([*command, *options], cwd=ROOT, env=kept | environment, capture_output=True, text=True)


def test_a_real_run(report, tmp_path):
    pytest.importorskip("pytest_benchmark")
    path = tmp_path / "run.json"
    chosen = ("-k", "bench_block_forward", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1", "--threads=1")
    done = benchmarks(*chosen, f"--benchmark-json={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(path.read_text())
    (row, *_) = report.rows(made)
    assert (row.op, row.provider, row.unit) == ("adaln_mlp forward", "reference", "windows")
    assert row.ceiling > 0
    machine = made["machine_info"]
    assert machine["threads"] == 1
    assert machine["versions"]["torch"]
    assert "node" not in machine
    assert "data" not in made["benchmarks"][0]["stats"]
    assert set(made["ceilings"]) == set(CEILINGS)
    assert "adaln_mlp forward" in report.markdown(made)


def test_a_forced_backend_is_refused():
    pytest.importorskip("pytest_benchmark")
    done = benchmarks("--collect-only", HANDCRAFT_BACKEND="reference")
    assert done.returncode == 4
    assert "HANDCRAFT_BACKEND is set" in done.stderr
