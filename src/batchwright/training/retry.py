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

ONE_MUST_FIT = (
    "one example must fit the device's memory, got an out-of-memory error with a micro-batch of one; use a smaller model, shorter "
    "examples or activation checkpointing"
)


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
    """One whole update of an engine; an out-of-memory error in a forward or backward pass of any rank halves the micro-batches of all.

    An error in the optimizer's own step is raised as it is: parameters may have moved by then.

    Raises:
        DoesNotFitError: If not even one example fits.
        RankError: If the loss raised an error on another rank.
    """
    ranks = engine.ranks
    while True:
        update = engine.next_update() or engine.next_update()  # an epoch may end without a last batch
        assert update is not None
        if ranks.sharded:
            for batch in update:
                update.backward(loss(engine.model, batch))
            return update
        engine.stream.keep()
        before = RandomState.capture()
        buffers = [(buffer, buffer.detach().clone()) for buffer in engine.model.buffers()]
        ranks.hold_back()
        failed, found = 0, None
        try:
            for batch in update.micro_batches():
                update.backward(loss(engine.model, batch))
        except torch.OutOfMemoryError:
            # Of the error nothing is kept: it holds the frames, and with them the tensors that did not fit.
            failed = update.largest_micro_batch
        except Exception as error:
            found = error
        try:
            missing = ranks.whole and any(parameter.grad is None for parameter in ranks.parameters)
            settled = ranks.host.settle(found, failed_size=failed, missing=missing)
        finally:
            ranks.let_go()
        if not settled.failed_size:
            ranks.reduce(missing=settled.missing)
            update.finish()
            return update
        if settled.failed_size == 1:
            raise DoesNotFitError(ONE_MUST_FIT)
        engine.put_back(update)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        before.restore()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        engine.micro_batch_size = math.ceil(settled.failed_size / 2)
