"""Folders and files that a process holds against others. What it holds the kernel lets go of when it ends, in whatever
way, SIGKILL included."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this platform
    fcntl = None


@contextlib.contextmanager
def held(path: Path, refusal: Exception | None, *, shared: bool = False) -> Iterator[bool]:
    """Hold `path`, a folder or a file that is there, for this process alone, or for all those that share it.

    refusal: raised where another process has it; None: wait until it lets go.

    Gives whether it is held. It is not on a platform or a file system without locks: keeping two processes apart is
    then their user's own care.
    """
    if fcntl is None:
        yield False
        return
    # Network file systems lock what can be written; a folder never can.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if refusal is None else fcntl.LOCK_NB)
        try:
            fcntl.flock(handle, how)
            found = True
        except BlockingIOError:
            raise refusal from None
        except OSError:
            found = False
        yield found
    finally:
        os.close(handle)
