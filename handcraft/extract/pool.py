"""Clips extracted by processes of their own, each result kept in a file: what is done stays done.

Processes are spawned, never forked (MediaPipe's threads do not survive a fork), and each works on one clip at a time,
so that one that dies costs its clip and nothing else.
"""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal, NamedTuple

from handcraft.errors import ConfigError, DataError, HandcraftError
from handcraft.extract.kept import Task, save
from handcraft.extract.landmarker import Detector, Settings
from handcraft.extract.worker import extract_clip

REPORT_EVERY = 0.5  # seconds between a process's words on how many frames it has done
LAST_WORDS = 2000  # bytes of a dead process's own output that are searched for its last line


class Event(NamedTuple):
    """Something that happened to the task of this number: frames done, the clip done, or why it failed."""

    kind: Literal["frames", "done", "failed"]
    task: int
    frames: int = 0
    reason: str = ""


def run_tasks(
    tasks: Sequence[Task], settings: Settings, workers: int, folder: Path, detector: Detector | None = None
) -> Iterator[Event]:
    """Work on the tasks with so many processes, which write what they have to say into `folder`.

    Each task ends with one event `done`, its file then being whole, or `failed`. `ConfigError` or `DataError`: the
    detector cannot run, or results cannot be kept. However the loop over the events ends, so do the processes.
    """
    context = multiprocessing.get_context("spawn")
    waiting, idle, busy = deque(range(len(tasks))), [], {}
    try:
        while waiting or busy:
            idle = [entry for entry in idle if entry[1].is_alive()]
            while waiting and len(busy) < workers:
                mine, process, log = idle.pop() if idle else _start(context, settings, folder, detector)
                number = waiting.popleft()
                busy[mine] = number, process, log
                with suppress(OSError):  # one that died while idle: the end of its pipe says so below
                    mine.send(tasks[number])
            for mine in wait(list(busy)):
                number, process, log = busy[mine]
                try:
                    kind, value = mine.recv()
                except (EOFError, OSError):
                    del busy[mine]
                    mine.close()
                    process.join()
                    yield Event(
                        "failed", number, reason=f"{tasks[number].source.path}: {_obituary(process.exitcode, log)}"
                    )
                    continue
                if kind == "frames":
                    yield Event("frames", number, frames=value)
                    continue
                if kind == "fatal":
                    raise value
                del busy[mine]
                idle.append((mine, process, log))
                yield Event("done", number, frames=value) if kind == "done" else Event("failed", number, reason=value)
    finally:
        for process in [entry[1] for entry in (*busy.values(), *idle)]:
            process.terminate()
            process.join()


def outcome(
    task: Task, settings: Settings, detector: Detector | None, on_frame: Callable[[], None]
) -> tuple[Literal["done", "failed", "fatal"], str | HandcraftError]:
    """Extract a clip and keep its result: done; failed, and why; or fatal, and the error, where no clip would do."""
    try:
        extracted = extract_clip(task.source, settings, detector=detector, on_frame=on_frame)
    except ConfigError as error:
        return "fatal", error
    except HandcraftError as error:
        return "failed", str(error)
    except Exception as error:  # whatever the detector raises costs this clip alone
        return "failed", f"{task.source.path}: {type(error).__name__}: {error}"
    try:
        save(extracted, task)
    except OSError as error:
        return "fatal", DataError(f"{task.file}: {error.strerror or error}; what is done so far is kept")
    return "done", ""


def _start(context, settings: Settings, folder: Path, detector: Detector | None):
    """A new process: our end of its pipe, itself, and the file it writes to."""
    mine, its = context.Pipe()
    log = folder / f"{time.monotonic_ns()}.log"
    process = context.Process(target=_work, args=(its, settings, detector, log), daemon=True)
    process.start()
    its.close()
    return mine, process, log


def _work(pipe: Connection, settings: Settings, detector: Detector | None, log: Path) -> None:
    """The life of a process: tasks in, words on frames and results out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a Ctrl-C means
    with open(log, "wb") as file:  # the libraries' own words, which would drown the progress
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        with suppress(BrokenPipeError):  # the parent is gone; what is kept is kept
            pipe.send(_result(task, settings, detector, pipe))


def _result(task: Task, settings: Settings, detector: Detector | None, pipe: Connection) -> tuple[str, object]:
    done, told, said = 0, 0, time.monotonic()

    def count() -> None:
        nonlocal done, told, said
        done += 1
        if time.monotonic() - said > REPORT_EVERY:
            pipe.send(("frames", done - told))
            told, said = done, time.monotonic()

    kind, value = outcome(task, settings, detector, count)
    return kind, done - told if kind == "done" else value


def _obituary(code: int | None, log: Path) -> str:
    """Why a process ended, as far as can be told."""
    how = f"ended with code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            how = f"was ended by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -9 else "")
    lines = log.read_bytes()[-LAST_WORDS:].decode("utf-8", "replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"the process that worked on it {how}" + (f"; its last words: {last[:200]}" if last else "")
