"""What happens inside `BatchEngine` around each update: how it is cut into micro-batches, its step, and what follows from it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.data.streams import Stream
from batchwright.planning.example_clock import ExampleClock
from batchwright.training.batch_choice import BatchChoice
from batchwright.training.counts import Counts
from batchwright.training.gradient_noise import step_weights
from batchwright.training.gradient_step import finish_gradient, optimizer_step
from batchwright.training.ranks import Ranks
from batchwright.training.split import micro_batch_sizes
from batchwright.training.step_guard import StepGuard
from batchwright.training.step_noise import Gatherer, StepStatistics
from batchwright.training.update import Update


class EngineSteps:
    """What an update asks of its engine; `BatchEngine` fills in the attributes, which it describes."""

    model: nn.Module
    optimizer: Optimizer
    stream: Stream
    ranks: Ranks
    choice: BatchChoice
    gatherer: Gatherer
    guard: StepGuard
    counts: Counts
    clock: ExampleClock | None
    scaler: Any
    micro_batch_size: int | None
    max_grad_norm: float | None
    noise_batch_size: int | None
    seed: int
    before_step: Callable[[Update], None] | None
    noise_every: int
    drops: bool
    update: Update | None

    def sizes(self) -> tuple[list[int], bool]:
        """Examples of each micro-batch of this rank, and whether the gradients of the micro-batches are measured."""
        split = partial(
            micro_batch_sizes,
            self.stream.share,
            largest_share=self.stream.largest_share,
            micro_batch_size=self.micro_batch_size,
            keep_number=self.ranks.sharded,
        )
        if self.gatherer.active and (self.counts.num_steps + 1) % self.noise_every == 0:
            sizes = split(min_parts=self.gatherer.min_parts, even=self.gatherer.even)
            if sizes is not None:
                return sizes, True
        sizes = split()
        assert sizes is not None
        return sizes, False

    def begin(self, update: Update) -> None:
        """An update is begun by its loop."""
        self.guard.begin()
        self.optimizer.zero_grad(set_to_none=True)
        if update.measured:
            self.gatherer.begin(update.num_micro_batches)

    def loop_left(self, update: Update) -> None:
        """The loop over an update's micro-batches is over, or was left."""
        self.guard.leave()

    def check_kept(self, update: Update) -> None:
        """A further micro-batch of an update is about to add its gradient."""
        # A measured step takes each micro-batch's gradient apart, and a sharded model keeps what is not reduced elsewhere.
        if not update.measured and not self.ranks.sharded:
            self.guard.check_kept()

    def noise_of(self, update: Update) -> Tensor | None:
        """Weights of this rank's examples of an update; None without noise."""
        if self.noise_batch_size is None or update.batch_size <= self.noise_batch_size:
            return None
        step = self.counts.num_updates
        if self.ranks.world_size == 1 and self.stream.num_examples is not None:
            return step_weights(update.batch_size, self.noise_batch_size, seed=self.seed, step=step)
        # How many examples there are is known only at the end, or in parts: weights that are independent hold for any number.
        return step_weights(
            update.batch_size,
            self.noise_batch_size,
            seed=self.seed,
            step=step,
            rank=self.ranks.rank,
            kind="normal",
        )

    def end(self, update: Update) -> None:
        """All gradients of an update are there: put them right, step, and choose what comes next."""
        num_examples = self._count(update)
        if self.drops and num_examples < update.batch_size:
            self.leave_out(update)
            return
        factor, total_weight = update.normalisation(num_examples)
        statistics = StepStatistics()
        if update.measured:
            loss_scale = self.scaler.get_scale() if self.scaler is not None else 1.0
            statistics = self.gatherer.end(
                local_weight=update.local_weight,
                total_weight=float(total_weight),
                num_examples=num_examples,
                scale=float(factor) / loss_scale,
            )
        update.grad_norm = finish_gradient(
            self.ranks.parameters,
            self.optimizer,
            scaler=self.scaler,
            factor=factor,
            max_grad_norm=self.max_grad_norm,
        )
        if self.before_step is not None:
            self.before_step(update)
        with self.guard.own_step():
            update.stepped = optimizer_step(self.optimizer, self.scaler)
        self.counts.num_steps += update.stepped
        loss = update.mean_over_ranks() if "loss" in self.choice.needs else None
        if isinstance(total_weight, Tensor):
            self.counts.add_weight(total_weight, num_examples)
        self._finish(update, num_examples)
        if update.stepped:
            self.choice.after_step(
                step=self.counts.num_steps,
                num_examples=self.counts.num_examples,
                epoch=self.stream.epoch,
                statistics=statistics,
                loss=loss,
                num_tokens=self.counts.tokens() if "num_tokens" in self.choice.needs else None,
            )

    def _count(self, update: Update) -> int:
        """Examples of an update on all ranks."""
        if self.stream.num_examples is not None:
            return update.batch_size
        return int(self.ranks.sum(torch.tensor(update.num_examples, device=self.ranks.device)))

    def _finish(self, update: Update, num_examples: int) -> None:
        self.counts.num_updates += 1
        self.counts.num_examples += num_examples
        self.stream.commit()
        if self.stream.num_examples is None and not self.ranks.all_have(self.stream.has_more):
            self.stream.next_epoch()
        if self.clock is not None:
            self.clock.advance(num_examples)
        update.close(num_examples)
        self.update = None

    def leave_out(self, update: Update) -> None:
        """Drop the gradients of an update, and count its examples as used."""
        self.guard.leave()
        if update.measured:
            self.gatherer.abandon()
        self.optimizer.zero_grad(set_to_none=True)
        while self.stream.num_examples is None and not self.stream.exhausted:
            update.count(self.stream.take(self.micro_batch_size or self.stream.share)[1])
        self._finish(update, self._count(update))

    def put_back(self, update: Update) -> None:
        """An update is to be made anew from its beginning: drop its gradients, and have its examples come again."""
        self.guard.leave()
        if update.measured:
            self.gatherer.abandon()
        self.optimizer.zero_grad(set_to_none=True)
        self.stream.rewind()
        self.update = None
