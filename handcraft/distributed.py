"""Training in several processes: which one this is, its share of a batch, sums over all, and waiting for each other.

torchrun starts the processes and sets the environment that `joined` reads; data on a CPU travels by gloo, on GPUs by
NCCL. A process that was started alone is the first and only one, and everything here then costs nothing.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from handcraft.errors import ConfigError, TrainingError

_EXCHANGE = timedelta(minutes=30)  # for sums: all processes are at the same place, but for the first one's files
_WAIT = timedelta(days=7)  # for the first process to generate or evaluate; one that has died is noticed at once
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|process ?group|timed? ?out", re.I)
_STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
_waiting: dist.ProcessGroup | None = None

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` parts, as equal as can be, into which samples are cut in their order."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"share {self.index} of {self.count}; expected 0 to {self.count - 1}")

    def of(self, total: int) -> slice:
        """The places of this share among `total` samples; the shares of all indices cover each place once."""
        return slice(self.index * total // self.count, (self.index + 1) * total // self.count)


WHOLE = Share()


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 to `world()` - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def share() -> Share:
    """What this process takes of every batch and of every validation."""
    return Share(rank(), world())


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started with this one, until the block ends; started alone, do nothing."""
    if not all(name in os.environ for name in _STARTED) or os.environ["WORLD_SIZE"] == "1" or dist.is_initialized():
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_EXCHANGE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot join the others ({error}); start all "
            "with torchrun, and see that this machine reaches MASTER_ADDR"
        ) from None
    yield
    # After an error the others may be anywhere; they notice that this process has ended.
    leave()


def leave() -> None:
    """Part from the other processes."""
    global _waiting
    _waiting = None
    dist.destroy_process_group()


def device(name: str) -> torch.device:
    """The device that `train.device` means to this process: on a GPU machine each takes the GPU of its LOCAL_RANK."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not found):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(f"train.device is {name!r}; expected auto, cpu or cuda")
    if not found:
        raise ConfigError("train.device is cuda, but torch sees no GPU here; set it to auto or cpu")
    local = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else torch.cuda.current_device()
    if local >= found:
        raise ConfigError(
            f"process {local} of this machine has no GPU of its own, torch sees {found}; start torchrun with "
            f"--nproc-per-node={found}, or set train.device to cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def total(tensor: Tensor) -> Tensor:
    """The sum of all processes' `tensor`, which has one shape and dtype everywhere; `tensor` itself in one process."""
    if world() == 1:
        return tensor
    summed = tensor.clone()
    with lost_peers():
        dist.all_reduce(summed, group=None if summed.is_cuda else _control())
    return summed


def gather(tensor: Tensor) -> list[Tensor]:
    """Every process's CPU tensor `tensor`, of one shape and dtype everywhere, in the order of their ranks."""
    if world() == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(world())]
    with lost_peers():
        dist.all_gather(found, tensor, group=_control())
    return found


def on_first(function: Callable[[], Result]) -> Result:
    """Call `function` in the first process while the others wait, and return its (picklable) result in all.

    An error is raised as it is in the first process, and as a `TrainingError` that quotes it in the others.
    """
    if world() == 1:
        return function()
    answer: list = [None, None]  # the error's text, the result
    failure = None
    if is_first():
        try:
            answer[1] = function()
        except Exception as error:  # passed on below, when the others know
            failure = error
            answer[0] = f"{type(error).__name__}: {error}"
    with lost_peers():
        dist.broadcast_object_list(answer, src=0, group=_control())
    if failure is not None:
        raise failure
    if answer[0] is not None:
        raise TrainingError(f"the first process of this training failed: {answer[0]}")
    return answer[1]


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Turn what torch raises when another process is gone into a `TrainingError` that says so."""
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainingError(
            f"process {rank()} of {world()} lost contact with another one, which was killed or failed ({reason:.200}); "
            "look for its message. The same command continues from the last checkpoint (`handcraft train` with "
            "--resume)"
        ) from None


def _control() -> dist.ProcessGroup:
    """The group for tensors on the CPU and for waiting; all processes come here in the same order."""
    global _waiting
    if _waiting is None:
        _waiting = dist.new_group(backend="gloo", timeout=_WAIT)
    return _waiting
