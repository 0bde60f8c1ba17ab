"""The fuzzer: damages valid inputs of every reader and looks at what becomes of them.

    PYTHONPATH=tests python -m fuzz.run --mutations 20000       # all readers, two processes
    PYTHONPATH=tests python -m fuzz.run --case store --mutations 1000 --seed 7

Each damaged input must be read equal, refused with an error of the package's own, or caught by a checksum; a format
without checksums may give other values. Anything else is a finding, and the exit code is 1: another exception, an input
that takes for ever or ends the process, more memory than any of these inputs can need, damage that a checksum should
have caught. A finding is made again by its reader, its seed and its number.
"""

import argparse
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.corpus import CASES

SILENCE = 60  # seconds without a word from a worker, which gives an input 10 itself: it hangs in foreign code
JOB = 250  # mutations handed to a worker at a time
OUTCOMES = ("equal", "refused", "checksum", "different")


@dataclass
class Result:
    """What became of the mutations, by reader and outcome."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, case: str, seed: int, number: int, done: str, outcome: str, detail: str) -> None:
        self.counts[case, outcome] += 1
        if outcome not in OUTCOMES or (outcome == "different" and CASES[case].whole):
            self.findings.append(f"{case}, seed {seed}, number {number}: {outcome} ({done}) {detail}")

    def table(self) -> str:
        """The counts as text, a line a reader."""
        cases = [case for case in CASES if any(case == counted for counted, _ in self.counts)]
        lines = [f"{'reader':24s}" + "".join(f"{name:>11s}" for name in (*OUTCOMES, "findings"))]
        rows = {case: [self.counts[case, outcome] for outcome in OUTCOMES] for case in cases}
        rows |= {"all": [sum(column) for column in zip(*rows.values(), strict=True)]}
        for case, row in rows.items():
            found = sum(case in ("all", line.split(", seed")[0]) for line in self.findings)
            lines.append(f"{case:24s}" + "".join(f"{count:11d}" for count in (*row, found)))
        return "\n".join(lines)


def fuzz(cases: list[str], mutations: int, seed: int, processes: int) -> Result:
    """Mutations 0 to `mutations` of each of the cases."""
    result, jobs = Result(), queue.SimpleQueue()
    for first in range(0, mutations, JOB):
        for case in cases:
            jobs.put((case, first, min(first + JOB, mutations)))
    with ThreadPoolExecutor(processes) as pool:
        for ended in [pool.submit(_work, jobs, seed, result) for _ in range(processes)]:
            ended.result()
    return result


def _work(jobs: queue.SimpleQueue, seed: int, result: Result) -> None:
    """Hand one job after another to a worker; one that dies is followed by another, behind the input it died of."""
    worker = None
    while not jobs.empty():
        try:
            case, first, last = jobs.get_nowait()
        except queue.Empty:  # taken by another thread in between
            break
        while first < last:
            worker = worker or Worker()
            number, done = None, ""
            for line in worker.answers({"case": case, "seed": seed, "first": first, "last": last}):
                number, done = line.get("number", number), line.get("done", done)
                if "outcome" in line:
                    result.add(case, seed, number, done, line["outcome"], line["detail"])
                elif "died" in line:
                    if number is None:
                        raise RuntimeError(f"{case}: the worker cannot read the valid input: {line['died']}")
                    result.add(case, seed, number, done, "crash", line["died"])
                    worker = None
            first = number + 1
    if worker is not None:
        worker.end()


class Worker:
    """A process that runs `fuzz.worker`."""

    command = (sys.executable, "-m", "fuzz.worker")

    def __init__(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        self.process = subprocess.Popen(
            self.command,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def answers(self, job: dict) -> Iterator[dict]:
        """What the worker says about a job; a last answer `died` if it did not come to its end."""
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        rest = b""
        while select.select([self.process.stdout], [], [], SILENCE)[0]:
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in map(json.loads, lines):
                if "finished" in line:
                    return
                yield line
        self.end()
        self.errors.seek(0)
        yield {"died": f"exit code {self.process.returncode}: {self.errors.read()[-600:].decode(errors='replace')}"}

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=20_000, help="in all, divided among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=list(CASES), action="append", help="one reader, or several; default all")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    cases, start = options.case or list(CASES), time.monotonic()
    each = -(-options.mutations // len(cases))
    result = fuzz(cases, each, options.seed, options.processes)
    print("\n".join([result.table(), *result.findings]))
    print(f"{each * len(cases)} mutations, {len(result.findings)} findings, {time.monotonic() - start:.0f} s")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
