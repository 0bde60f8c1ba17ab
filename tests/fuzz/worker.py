"""One process of the fuzzer: reads damaged inputs one after another, under limits, and says what became of each.

Jobs come as lines of JSON on standard input, `{"case": "store", "seed": 0, "first": 0, "last": 250}`. Answers are lines
of JSON: `{"number": 3}` before an input is read, `{"done": ...}` when it has been damaged, `{"outcome": ...}` after it,
and `{"finished": true}` at the end of a job. So the last line of a process that dies says on what.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from fuzz.corpus import CASES, Case
from fuzz.mutate import mutate

from handcraft.errors import HandcraftError

MEMORY = 1 << 30  # bytes of address space beyond what the libraries take: no input here is larger than 100 kB
RESIDENT = 128 << 10  # kilobytes by which memory in use may grow over one input
SECONDS = 10  # for one input
CHECKSUM = ("SHA-256", "changed since it was", "Bad CRC", "checksum", "were exported", "split hashes")
ALLOCATION = ("malloc", "allocate", "MemoryError", "out of memory")


class TooSlow(BaseException):
    """No `Exception`, so that no reader takes it for an error of its own."""


def main() -> None:
    signal.signal(signal.SIGALRM, _too_slow)
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing is to be kept, so nothing need be synced
    limited = False
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryDirectory(dir=place) as folder:
            case, place_of_valid = CASES[job["case"]], Path(folder) / "valid"
            place_of_valid.mkdir()
            case.make(place_of_valid)
            expected = _read(case, Path(folder), None)
            if _read(case, Path(folder), None) != expected:
                raise RuntimeError(f"{job['case']}: two readings of the valid input differ")
            if not limited:
                limited = _limit_memory()
            for number in range(job["first"], job["last"]):
                _say(number=number)
                outcome, detail = _examine(case, Path(folder), f"{job['seed']} {job['case']} {number}", expected)
                _say(outcome=outcome, detail=detail[:400])
        _say(finished=True)


def _examine(case: Case, folder: Path, number: str, expected: Any) -> tuple[str, str]:
    """What becomes of one damaged input, and the words of its error."""
    usual = _largest_memory(since_now=True)
    signal.alarm(SECONDS)
    try:
        outcome, detail = "equal" if _read(case, folder, number) == expected else "different", ""
    except HandcraftError as error:
        outcome, detail = "refused", str(error)
        if any(word in detail for word in CHECKSUM):
            outcome = "checksum"
        if any(word in detail for word in ALLOCATION):
            outcome = "memory"
    except MemoryError as error:
        outcome, detail = "memory", repr(error)
    except TooSlow:
        outcome, detail = "hang", ""
    except Exception as error:
        outcome, detail = "error", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    grown = _largest_memory() - usual
    return ("memory", f"{grown >> 10} MB more in use; {outcome} {detail}") if grown > RESIDENT else (outcome, detail)


def _read(case: Case, folder: Path, number: str | None) -> Any:
    """What reading a copy of the valid input gives, damaged where `number` says how."""
    copy, new = folder / "input", folder / "new"
    for path in (copy, new):
        if path.exists():
            shutil.rmtree(path)
    shutil.copytree(folder / "valid", copy)
    if number is not None:
        _say(done=mutate(copy, number))
        if case.repair is not None:
            case.repair(copy)
    return case.read(copy, new)


def _largest_memory(*, since_now: bool = False) -> int:
    """Kilobytes that this process had in use at most, since the last call with `since_now`."""
    if since_now:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _limit_memory() -> bool:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return True


def _too_slow(*_: object) -> None:
    raise TooSlow


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
