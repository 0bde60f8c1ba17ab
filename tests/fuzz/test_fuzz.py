"""2,000 damaged inputs of all readers (`make fuzz` tries ten times as many), and the fuzzer itself: it must find what
it is there to find."""

import contextlib
import sys
from pathlib import Path

import pytest
from fuzz import corpus, run, worker
from fuzz.mutate import mutate

from handcraft.errors import DataError

MUTATIONS = 2000

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="measures the memory of a reader through Linux's /proc"
)


def test_damaged_inputs_are_read_equal_refused_or_caught():
    cases = list(corpus.CASES)
    result = run.fuzz(cases, -(-MUTATIONS // len(cases)), seed=0, processes=1)
    print(result.table())
    assert not result.findings, "\n".join(result.findings)
    assert result.counts.total() >= MUTATIONS
    for case in cases:
        assert result.counts[case, "refused"] + result.counts[case, "checksum"], case
    assert not any(result.counts[case, "different"] for case in cases if corpus.CASES[case].whole)


def test_a_mutation_is_a_function_of_its_number(tmp_path):
    def damaged(folder: Path, number: int) -> tuple[str, list]:
        folder.mkdir()
        corpus.make_table(folder)
        done = mutate(folder, str(number))
        return done, [(path.name, path.read_bytes() if path.is_file() else None) for path in folder.iterdir()]

    kinds = set()
    for number in range(60):
        first = damaged(tmp_path / f"{number}", number)
        assert first == damaged(tmp_path / f"{number} again", number)
        kinds.add(first[0].split(": ")[1].split(" ")[0])
    assert {"flip", "cut", "insert"} < kinds


def test_fingerprints_tell_values_apart():
    values = [1, 1.0, True, "1", None, [1], (1, 2), [1, 2, 3], {"a": 1}, {"a": 2}, {"b": 1}, [[1], 2], [1, [2]]]
    assert len({corpus.fingerprint(value) for value in values}) == len(values)
    assert corpus.fingerprint({"a": 1, "b": 2}) == corpus.fingerprint({"b": 2, "a": 1})
    one, other = corpus.frames(0, 4, 8), corpus.frames(0, 4, 8)
    assert corpus.fingerprint(one) == corpus.fingerprint(other)
    other[0, 0, 0] += 1e-6
    assert corpus.fingerprint(one) != corpus.fingerprint(other)


def readers(folder: Path) -> dict:
    """What a reader may do wrong -> a reader that does it, and what the fuzzer must call it."""

    def endless(_: Path, __: Path) -> None:
        while True:
            with contextlib.suppress(Exception):  # as a careless reader would
                sum(range(1 << 20))

    def hungry(_: Path, __: Path) -> bytes:
        return b"x" * (300 << 20)

    def greedy(_: Path, __: Path) -> bytes:
        return bytearray(1 << 62)

    def careless(_: Path, __: Path) -> None:
        raise KeyError("manifest")

    def good(_: Path, __: Path) -> None:
        raise DataError("x: no store")

    def allocating(_: Path, __: Path) -> None:
        raise DataError("x: malloc of size 99999999999 failed")

    return {
        "hang": endless,
        "memory": hungry,
        "memory ": greedy,
        "memory  ": allocating,
        "error": careless,
        "refused": good,
        "different": lambda *_: 7,
        "equal": lambda *_: 1,
    }


@pytest.mark.parametrize("expected", list(readers(Path())))
def test_what_a_reader_does_wrong_is_seen(tmp_path, monkeypatch, expected):
    (tmp_path / "valid").mkdir()
    corpus.make_table(tmp_path / "valid")
    if expected == "hang":
        monkeypatch.setattr(worker, "SECONDS", 1)
    worker.signal.signal(worker.signal.SIGALRM, worker._too_slow)
    case = corpus.Case(corpus.make_table, readers(tmp_path)[expected], whole=True)
    outcome, detail = worker._examine(case, tmp_path, "0", 1)
    assert outcome == expected.strip(), detail
    found = run.Result()
    found.add("store", 0, 3, "flip at 3", outcome, detail)
    assert bool(found.findings) == (outcome not in ("refused", "equal"))


DYING = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    for number in range(job["first"], job["last"]):
        print(json.dumps({"number": number}), json.dumps({"done": "a.npy: flip"}), sep="\\n", flush=True)
        if number in (0, 3):
            sys.stderr.write("Aborted")
            os.abort()
        print(json.dumps({"outcome": "refused", "detail": ""}), flush=True)
    print(json.dumps({"finished": True}), flush=True)
"""


def test_a_worker_that_dies_is_reported_and_followed_by_another(monkeypatch):
    monkeypatch.setattr(run.Worker, "command", (sys.executable, "-c", DYING))
    result = run.fuzz(["npy"], 6, seed=0, processes=1)
    assert len(result.findings) == 2
    for number, line in zip((0, 3), result.findings, strict=True):
        assert line.startswith(f"npy, seed 0, number {number}: crash (a.npy: flip) exit code -6: ")
        assert "Aborted" in line
    assert result.counts == {("npy", "refused"): 4, ("npy", "crash"): 2}
    assert "npy                               0          4          0          0          2" in result.table()


def test_a_worker_that_says_nothing_is_ended(monkeypatch):
    monkeypatch.setattr(run.Worker, "command", (sys.executable, "-c", DYING.replace("os.abort()", "sys.stdin.read()")))
    monkeypatch.setattr(run, "SILENCE", 1)
    assert [line.split(" (")[0] for line in run.fuzz(["npy"], 2, seed=0, processes=1).findings] == [
        "npy, seed 0, number 0: crash"
    ]
