"""An update that is tried again with smaller micro-batches where the device's memory is too small."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from batchwright.core.errors import DoesNotFitError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import RandomState
from batchwright.data.streams import Stream
from batchwright.training.ranks import Ranks
from batchwright.training.update import Update


@runtime_checkable
class Retried(Protocol):
    """What is needed of an engine."""

    model: nn.Module
    stream: Stream
    ranks: Ranks
    micro_batch_size: int | None

    def next_update(self) -> Update | None:
        """The next update; None where an epoch ends without another."""
        ...

    def put_back(self, update: Update) -> None:
        """An update is to be made anew."""
        ...


def step_with_retry(engine: Retried, loss: Loss) -> Update:
    """One whole update of an engine; an out-of-memory error in a forward or backward pass halves its micro-batches.

    An error in the optimizer's own step is raised as it is: parameters may have moved by then.

    Raises:
        DoesNotFitError: If not even one example fits.
    """
    while True:
        update = engine.next_update() or engine.next_update()  # an epoch may end without a last batch
        assert update is not None
        alone = engine.ranks.world_size == 1
        if alone:
            engine.stream.keep()
        before = RandomState.capture()
        buffers = [(buffer, buffer.detach().clone()) for buffer in engine.model.buffers()] if alone else []
        try:
            for batch in update:
                update.backward(loss(engine.model, batch))
            return update
        except torch.OutOfMemoryError as error:
            if not alone or update.ending:
                raise
            largest = update.largest_micro_batch
            if largest <= 1:
                raise DoesNotFitError(
                    f"one example must fit the device's memory, got an error with a micro-batch of one: {error}; use a smaller model, "
                    "shorter examples or activation checkpointing"
                ) from error
        # Outside of the handler, whose exception holds the frames and with them the tensors that did not fit.
        engine.put_back(update)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        before.restore()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        engine.micro_batch_size = math.ceil(largest / 2)
