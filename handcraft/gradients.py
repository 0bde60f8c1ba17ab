"""The loss and the gradients of one training batch: where the model runs, how the batch is cut, what is added up.

Every process takes an equal share of the batch, and cuts it into pieces where it is to accumulate. What a loss is
divided by is summed over all pieces first, so that the pieces' losses and gradients add up to those of the whole batch,
to rounding, whatever the number of processes and pieces. Cut into one piece, nothing is added and nothing changes.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from handcraft import distributed
from handcraft.config import TrainConfig
from handcraft.data.batches import Batch
from handcraft.distributed import Share
from handcraft.errors import ConfigError, TrainingError

_WARM_UP = 3  # runs before a graph is recorded, in which libraries allocate and choose what they must not while it is


class Gradients:
    """Computes the batches of `task` (`handcraft.engine.Task`) as its `config` says.

    `network` is what a task calls in its model's place while it is trained. `ConfigError`: settings that this machine,
    this number of processes or this batch cannot have.
    """

    def __init__(self, task):
        config, self.task = task.config, task
        self.device = next(task.model.parameters()).device
        self.share, self.pieces = distributed.share(), config.accumulate
        _check(config, self.share.count, self.device)
        self.parameters = list(task.model.parameters())
        network: Callable[..., Tensor] = task.model
        if config.compile:
            network = torch.compile(network, dynamic=False)  # batches are all of one size, but for a last share
        self.parallel = None
        if self.share.count > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            network = self.parallel = DistributedDataParallel(network, devices, gradient_as_bucket_view=True)
        self.network = _in_bf16(network, self.device.type) if config.precision == "bf16" else network
        self.run, self.replayed = self._piece, config.cuda_graph

    def __call__(self, step: int) -> Tensor:
        """Add the gradients of batch `step` to the parameters' `grad`; return this process's share of the loss, ()."""
        batch = self.task.batch(step, self.share)
        if self.share.count == self.pieces == 1 and not self.replayed:
            return self._piece(batch)
        weights = distributed.total(self.task.weights(batch))
        pieces = [batch.take(Share(i, self.pieces).of(len(batch))) for i in range(self.pieces)]
        if self.replayed and self.run == self._piece:
            self.run = Replay(self._piece, pieces[0], weights, self.parameters)
        found = []
        for piece in pieces:
            alone = self.parallel is not None and len(found) < self.pieces - 1  # gradients travel with the last piece
            with self.parallel.no_sync() if alone else contextlib.nullcontext():
                found.append(self.run(piece, weights))
        return torch.stack(found).sum()

    def clear(self) -> None:
        """Make the gradients zero."""
        if self.replayed:  # a graph writes to the addresses that it was recorded with
            torch._foreach_zero_([parameter.grad for parameter in self.parameters])
            return
        for parameter in self.parameters:
            parameter.grad = None

    def _piece(self, piece: Batch, weights: Tensor | None = None) -> Tensor:
        loss = self.task.batch_loss(piece, weights)
        # DistributedDataParallel averages the processes' gradients; shares of a loss are to be added.
        (loss if self.parallel is None else loss * self.share.count).backward()
        return loss.detach()


class Replay:
    """`run(batch, weights)`, which adds to the gradients of `parameters` and returns a loss, as one CUDA graph.

    A graph repeats kernels with their addresses: batches, all of the first one's shape, are copied to where it read
    from, and gradients are added where they lay. torch's random numbers go on from replay to replay.
    """

    def __init__(
        self, run: Callable[[Batch, Tensor], Tensor], batch: Batch, weights: Tensor, parameters: list[nn.Parameter]
    ):
        self.batch = Batch(*(getattr(batch, field.name).clone() for field in fields(Batch)))
        self.weights = weights.clone()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        devices = [batch.x.device] if batch.x.is_cuda else []
        with torch.random.fork_rng(devices=devices):  # the runs before the first replay draw numbers too
            self.replay = record(lambda: run(self.batch, self.weights))
        torch._foreach_zero_([parameter.grad for parameter in parameters])

    def __call__(self, batch: Batch, weights: Tensor) -> Tensor:
        for field in fields(Batch):
            getattr(self.batch, field.name).copy_(getattr(batch, field.name))
        self.weights.copy_(weights)
        return self.replay().clone()


def record(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A function that repeats what `run` did on the GPU, and returns the tensor that it returned, refilled."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be making the next batch
        found = run()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


@contextlib.contextmanager
def compile_errors(name: str) -> Iterator[None]:
    """Turn what torch.compile raises into a `TrainingError` that says how to do without it."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingError(
            f"{name}: torch.compile cannot compile the model ({reason:.300}); set train.compile to false, or give it "
            "what it lacks (on a CPU, a C++ compiler)"
        ) from error


def _in_bf16(network: Callable[..., Any], device: str) -> Callable[..., Any]:
    """`network` under autocast; what it returns, a tensor or several, is fp32."""

    def call(*inputs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            found = network(*inputs)
        return tuple(tensor.float() for tensor in found) if isinstance(found, tuple) else found.float()

    return call


def _check(config: TrainConfig, processes: int, device: torch.device) -> None:
    if config.accumulate < 1:
        raise ConfigError(f"train.accumulate is {config.accumulate}; expected at least 1")
    pieces = processes * config.accumulate
    if config.batch < pieces:
        raise ConfigError(
            f"train.batch is {config.batch}; expected at least {pieces}, one clip for each of {processes} processes "
            f"times {config.accumulate} pieces (train.accumulate)"
        )
    if not config.cuda_graph:
        return
    if device.type != "cuda":
        raise ConfigError(f"train.cuda_graph needs a GPU, and the model is on the {device.type}; set it to false")
    if processes > 1:
        raise ConfigError(f"train.cuda_graph works in one process, and {processes} train together; set it to false")
    if config.batch % config.accumulate:
        raise ConfigError(
            f"train.batch is {config.batch}; with train.cuda_graph, expected a multiple of train.accumulate "
            f"({config.accumulate}), since a graph is of one size"
        )
