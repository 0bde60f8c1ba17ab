"""The commands under torchrun itself. One training in two processes is part of every `make test`; the rest, and
torch.compile with its code generator, take minutes: `make test-scale`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import lines
from small_clips import small_recipe, small_task
from tiny_recipe import YAML, run_cli, write_recipe, write_toy

from handcraft.engine import train
from handcraft.files import read_json
from handcraft.tracking import LOG

scale = pytest.mark.skipif(not os.environ.get("HANDCRAFT_SCALE"), reason="takes minutes: make test-scale")
SECONDS = 600
LONG = 300  # steps of a training that is to be hit while it runs


def torchrun(count: int, *words, **options) -> subprocess.Popen:
    """`torchrun -m handcraft WORDS` with `count` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.Popen(
        [*command, "-m", "handcraft", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, what it printed, and its messages."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / LOG).open()]


def workers(process: subprocess.Popen) -> list[int]:
    """Process ids of torchrun's processes, by rank."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with open(f"/proc/{child}/environ", "rb") as file:
            rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", file.read())
        if rank:
            found[int(rank.group(1))] = int(child)
    return [found[rank] for rank in sorted(found)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A toy store and a recipe whose batches are no multiple of 2 or 3."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_recipe(folder, YAML.replace("batch: 8", "batch: 7"))
    write_toy(folder / "toy")
    return folder


def generator(place: Path, out: str, *words) -> tuple:
    data = ("--data", place / "toy", "--out", place / out, "--twin", "forward")
    return ("train", "generator", place / "tiny.yaml", *data, *words)


def test_two_processes_train_as_one(place):
    code, out, err = ended(torchrun(2, *generator(place, "two")))
    assert code == 0, err
    assert out.count("forward: 8 steps, best checkpoint") == 1  # the first process prints, the other does not
    assert run_cli(*generator(place, "one")) == 0
    assert losses(place / "two/forward") == pytest.approx(losses(place / "one/forward"), rel=1e-5)


@scale
def test_three_processes_train_as_one(place):
    code, _, err = ended(torchrun(3, *generator(place, "three", "--recipe.generator.train.accumulate", 2)))
    assert code == 0, err
    assert run_cli(*generator(place, "alone")) == 0
    assert losses(place / "three/forward") == pytest.approx(losses(place / "alone/forward"), rel=1e-5)


@scale
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_and_the_same_command_continues(place, victim):
    words = generator(place, f"killed{victim}", "--resume", "--recipe.generator.train.steps", LONG)
    process, log = torchrun(2, *words), place / f"killed{victim}/forward" / LOG
    while lines(log) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(workers(process)[victim], signal.SIGKILL)
    code, _, err = ended(process)
    assert code != 0
    assert "lost contact with another one, which was killed or failed" in err
    assert "Signal 9 (SIGKILL)" in err  # torchrun's own summary
    reached = lines(log)
    assert reached < LONG
    code, _, err = ended(torchrun(2, *words))
    assert code == 0, err
    assert losses(log.parent) == pytest.approx(losses_alone(place), rel=1e-3)


def losses_alone(place: Path) -> list[float]:
    if not (place / "undisturbed").exists():
        assert run_cli(*generator(place, "undisturbed", "--recipe.generator.train.steps", LONG)) == 0
    return losses(place / "undisturbed/forward")


@scale
def test_sigterm_to_torchrun_saves(place):
    """As from a scheduler whose time is up."""
    words = generator(place, "stopped", "--recipe.generator.train.steps", LONG)
    process, log = torchrun(2, *words), place / "stopped/forward" / LOG
    while lines(log) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.terminate()
    code, _, err = ended(process)
    assert code != 0
    assert f"stopped by SIGTERM after {lines(log)} of {LONG} steps" in err
    code, _, err = ended(torchrun(2, *words, "--resume"))
    assert code == 0, err
    assert losses(log.parent) == pytest.approx(losses_alone(place), rel=1e-3)


@scale
def test_a_whole_recipe_in_two_processes(place):
    words = ("run", place / "tiny.yaml", "--data", place / "toy", "--seeds", 1)
    code, out, err = ended(torchrun(2, *words, "--out", place / "run2"))
    assert code == 0, err
    assert out.count("report: ") == 1
    assert run_cli(*words, "--out", place / "run1") == 0
    found, expected = (read_json(place / name / "metrics.json")["rows"] for name in ("run2", "run1"))
    names = ("model", "pretraining", "augmentation", "clips")
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["top1"] == pytest.approx(other["top1"], abs=0.2)  # a clip near a border may fall on its other side


@scale
@pytest.mark.parametrize("kind", ["cmlpe", "transformer_sl", "mamba_sl"])
def test_compiled_by_inductor_a_model_trains_the_same(tmp_path, kind):
    for compile in (False, True):
        train(small_task(kind, recipe=small_recipe(kind, compile=compile)), tmp_path / str(compile))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-4)
