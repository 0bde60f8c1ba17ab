"""Processes to be killed: for the tests of faults.

They are forked from a server that has imported everything and has no threads: a fork of pytest's own process, whose
tests have started threads, now and then hangs. So functions and arguments are pickled: functions of a module, no
lambdas. A function gets nothing back to here but its exit code: 0 where it returned, 2 where it raised an error of the
package, whose text goes to `Forked.error`.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from handcraft import distributed
from handcraft.errors import HandcraftError, Stopped

_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["pytest", "torch.distributed", "handcraft.cli", "handcraft.engine", "handcraft.generate"])
SECONDS = 120  # until a process counts as hung; each needs a few on a quiet machine


class Forked:
    """`function(*arguments)` in a process of its own, started at once."""

    def __init__(self, function: Callable, *arguments):
        self._reads, writes = _FORK.Pipe(duplex=False)
        self.process = _FORK.Process(target=_call, args=(writes, function, arguments), daemon=True)
        self.process.start()
        writes.close()
        self._error: str | None = None

    @property
    def error(self) -> str:
        """What the function raised; "" if it returned or was killed."""
        if self._error is None:
            self._error = ""
            with contextlib.suppress(EOFError):
                self._error = self._reads.recv()
        return self._error

    def wait(self) -> int:
        """Its exit code; minus the signal's number if one ended it."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {SECONDS} seconds")
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def kill(self) -> int:
        """SIGKILL it; its exit code."""
        self.send(signal.SIGKILL)
        return self.wait()


def _call(pipe, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        function(*arguments)
    except HandcraftError as error:
        code = 143 if isinstance(error, Stopped) else 2
        pipe.send(str(error))
    except BaseException as error:
        code = 1
        pipe.send(repr(error))
    os._exit(code)


def together(count: int, folder: Path, function: Callable, *arguments) -> list[Forked]:
    """`function(*arguments)` in `count` processes that form a gloo group, as torchrun's do; `folder` is for what they
    say to find each other."""
    store = folder / f"store-{random.getrandbits(48):012x}"

    return [Forked(_join, store, rank, count, function, arguments) for rank in range(count)]


def _join(store: Path, rank: int, count: int, function: Callable, arguments: tuple) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    function(*arguments)
    distributed.leave()


def finish(processes: list[Forked]) -> None:
    """Wait for processes that must all end well."""
    for process in processes:
        assert process.wait() == 0, process.error


def lines(path: Path) -> int:
    """Number of lines in a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition: Callable[[], bool], *processes: Forked) -> None:
    """Come back when the condition holds, or all processes have ended."""
    end = time.monotonic() + SECONDS
    while not condition() and any(process.process.is_alive() for process in processes):
        assert time.monotonic() < end
        time.sleep(0.002)


def kill_repeatedly(log: Path, times: int, most: int, rng: random.Random, function: Callable, *arguments) -> int:
    """Start `function(*arguments)` `times` times and SIGKILL it each time, after it has added up to `most` lines to
    `log` and at a random moment of the next; returns how often it was killed before it had ended."""
    killed = 0
    for _ in range(times):
        process, wanted = Forked(function, *arguments), lines(log) + rng.randrange(most)
        wait_for(lambda wanted=wanted: lines(log) > wanted, process)
        time.sleep(rng.uniform(0, 0.02))
        code = process.kill()
        assert code in (0, -signal.SIGKILL), process.error
        killed += code != 0
    return killed


def readable_to_all(folder: Path) -> None:
    """Let other users into pytest's `folder`, which it makes for its own user, at whatever depth (pytest-xdist's)."""
    for place in (folder, *folder.parents):
        if "pytest-of" in str(place):
            place.chmod(0o755)
