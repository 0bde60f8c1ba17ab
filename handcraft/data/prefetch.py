"""The next batch, made in a thread while this one is trained on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import torch

from handcraft.data.batches import Batch
from handcraft.distributed import WHOLE, Share


class Prefetch:
    """`make(step, share)`, with the same share of the following step already begun when it returns.

    Steps in order are made ahead; any other is made when it is asked for. `make` must be a pure function of its
    arguments, as batches are; it runs in a thread, and on a GPU in a stream of its own. What it raises is
    raised to whoever asks for that step.
    """

    def __init__(self, make: Callable[[int, Share], Batch], device: torch.device, last: int):
        self._make, self._last = make, last
        self._pool = ThreadPoolExecutor(1, "next-batch")
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))  # what the batches are made from is there
        self._begun: tuple[tuple[int, Share], Future] | None = None

    def __call__(self, step: int, share: Share = WHOLE) -> Batch:
        """The batch of a step from 0 to `last`."""
        begun, self._begun = self._begun, None
        future = begun[1] if begun and begun[0] == (step, share) else self._pool.submit(self._run, step, share)
        batch, done = future.result()
        if step < self._last:
            self._begun = (step + 1, share), self._pool.submit(self._run, step + 1, share)
        if done is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_event(done)
            for field in fields(batch):  # their memory is not to be reused before this stream is done with them
                getattr(batch, field.name).record_stream(current)
        return batch

    def _run(self, step: int, share: Share) -> tuple[Batch, torch.cuda.Event | None]:
        """The batch, and on a GPU the event after which it is whole."""
        if self._stream is None:
            return self._make(step, share), None
        with torch.cuda.stream(self._stream):
            return self._make(step, share), self._stream.record_event()
