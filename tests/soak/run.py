"""The soak test: import, generate and train over and over, killed at random moments, for as long as one likes.

    PYTHONPATH=tests python -m soak.run --minutes 20 --kills 50

Two processes work side by side. One does the same cycle again and again and is left alone: its memory must stay flat.
The other is killed by SIGKILL at random moments of all stages, started again, and must in the end have left the same
bytes as an undisturbed cycle. `OUT/soak.json` and `OUT/soak.png` say how it went; the exit code is 1 if a result
differs, a process fails or memory grows.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from killing import Forked, wait_for
from soak.cycle import STAGES, Cycle, contents, mark
from soak.memory import Memory, plot, trend

from handcraft.files import write_json
from handcraft.machine import machine, versions

KILLS_A_ROUND = 5
FAILURES = 5  # after which it is enough


@dataclass
class Outcome:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    """By the stage that was hit."""
    rounds: int = 0
    """Cycles that were killed, continued, finished and compared."""
    cycles: int = 0
    """Of the process that was left alone, all compared."""
    failures: list[str] = field(default_factory=list)
    memory: dict[str, dict] = field(default_factory=dict)
    """Name of each process -> its `trend`."""
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.failures and all(found["flat"] for found in self.memory.values())


def soak(folder: Path, minutes: float, kills: int, seed: int, size: float = 1.0) -> Outcome:
    """Work in `folder`, which is empty, for at least `minutes`, until `kills` processes were killed."""
    outcome, rng, cycle = Outcome(), random.Random(seed), Cycle(folder, size)
    expected, seconds = _whole(cycle, folder / "whole")
    steady = Forked(_steadily, cycle, folder / "steady", expected)
    start = time.monotonic()
    with Memory({"left alone": steady.process.pid, "supervisor": os.getpid()}) as memory:
        while len(outcome.failures) < FAILURES:
            passed = (time.monotonic() - start) / 60
            due = kills if passed >= minutes else min(kills, 1 + int(kills * passed / minutes))  # spread over the time
            left = kills - outcome.kills.total()
            if passed >= minutes and left <= 0:
                break
            wanted = min(KILLS_A_ROUND, left, max(0, due - outcome.kills.total()))
            if wanted or passed >= minutes:
                _round(cycle, folder / "killed", expected, seconds, wanted, rng, outcome)
            else:
                time.sleep(1)
            if not steady.process.is_alive():
                outcome.failures.append(f"the process left alone: {steady.error or 'ended'}")
                break
    steady.kill()
    counted = folder / "steady.cycles"
    outcome.cycles = int(counted.read_text()) if counted.exists() else 0
    outcome.samples = {name: found for name, found in memory.samples.items() if found}
    outcome.memory = {name: trend(found) for name, found in outcome.samples.items()}
    return outcome


def _whole(cycle: Cycle, out: Path) -> tuple[dict[str, str], dict[str, float]]:
    """What an undisturbed cycle leaves, and the seconds of its stages."""
    process, began, stage = Forked(cycle, out), {}, mark(out)

    def ended() -> bool:
        if stage.exists():
            name, since = stage.read_text().split()
            began.setdefault(name, float(since))
        return False

    wait_for(ended, process)
    assert process.wait() == 0, process.error
    times = [began[name] for name in STAGES] + [time.monotonic()]
    return contents(out), {name: times[i + 1] - times[i] for i, name in enumerate(STAGES)}


def _steadily(cycle: Cycle, out: Path, expected: dict[str, str]) -> None:
    """Cycle after cycle until the process is killed; an `AssertionError` ends it if one leaves something else."""
    count = 0
    while True:
        cycle(out)
        assert contents(out) == expected, f"cycle {count} left {_difference(contents(out), expected)}"
        shutil.rmtree(out)
        count += 1
        out.with_name("steady.cycles").write_text(str(count))


def _round(
    cycle: Cycle, out: Path, expected: dict, seconds: dict[str, float], kills: int, rng: random.Random, outcome: Outcome
) -> None:
    """One cycle, killed up to `kills` times on its way, finished, and compared."""
    hit = []
    for _ in range(kills):
        stage, process, file = rng.choice(STAGES), Forked(cycle, out), mark(out)
        wait_for(lambda stage=stage, file=file: file.exists() and file.read_text().startswith(stage), process)
        time.sleep(rng.uniform(0, seconds[stage]))
        code = process.kill()
        if code != -signal.SIGKILL:  # it was quicker
            if code:
                outcome.failures.append(f"after kills in {hit}: {process.error}")
            break
        hit.append(file.read_text().split()[0])
        outcome.kills[hit[-1]] += 1
    process = Forked(cycle, out)
    code = process.wait()
    if code:
        outcome.failures.append(f"after kills in {hit}: ended with {code}: {process.error}")
    elif contents(out) != expected:
        outcome.failures.append(f"after kills in {hit}: {_difference(contents(out), expected)}")
    outcome.rounds += 1
    shutil.rmtree(out)
    mark(out).unlink()


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return f"other files than an undisturbed cycle: {', '.join(names[:5])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, help="of the moments; another one each time if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out, prefix="work-") as folder:
        outcome = soak(Path(folder), args.minutes, args.kills, seed)
    found = {
        "good": outcome.good,
        "minutes": args.minutes,
        "seed": seed,
        "kills": dict(outcome.kills),
        "rounds": outcome.rounds,
        "cycles": outcome.cycles,
        "failures": outcome.failures,
        "memory": outcome.memory,
    }
    print(json.dumps(found, indent=1))
    write_json(
        args.out / "soak.json", found | {"machine": machine(), "versions": versions(), "samples": outcome.samples}
    )
    if outcome.samples:
        plot(outcome.samples, args.out / "soak.png")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
