"""`BatchEngine`: batches whose size changes, for people who keep their own training loop."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from batchwright.adapt import Controller, Decision, Fixed
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.core.statistics import Interval
from batchwright.data.map_stream import Collate
from batchwright.data.streams import make_stream
from batchwright.planning.example_clock import ExampleClock
from batchwright.training.batch_choice import BatchChoice
from batchwright.training.counts import Counts
from batchwright.training.engine_state import load_state, save_state
from batchwright.training.engine_steps import EngineSteps
from batchwright.training.follow import Follower
from batchwright.training.ranks import ranks_of
from batchwright.training.retry import step_with_retry
from batchwright.training.step_guard import StepGuard
from batchwright.training.step_noise import Gatherer, StepStatistics
from batchwright.training.update import Update


class BatchEngine(EngineSteps):
    """Optimizer steps of the right batch size, each made of as many micro-batches as it needs; one pass over it is an epoch.

    Accumulation, its exact weights, loss scaling, clipping, the optimizer's step, the noise statistics that a policy asks for, its
    decision, and the learning rate, momentum, beta2 and weight decay that belong to a new batch size happen inside; the model, its
    forward pass, its loss and everything between two steps remain the user's. The model may be wrapped in
    `DistributedDataParallel`, by ``fully_shard`` or by `torch.compile`.

    Args:
        model: The model, its wrapper included.
        optimizer: With the settings that are right at ``batch_size``.
        dataset: Map-style, an iterable of examples, or a DataLoader whose batches are cut anew. Of a map-style data set each rank gets
            its part; what is iterable must give each rank its own examples.
        policy: Batch-size controller; fixed where left out.
        batch_size: Examples in the first optimizer step, on all ranks together. Where left out, one micro-batch on each rank, or the
            batches of the DataLoader.
        micro_batch_size: Most examples in one forward pass of a rank; a rank's whole part of a step where left out.
        max_grad_norm: Gradients are clipped to this norm; None for no clipping.
        noise_batch_size: Multiplicative noise gives gradients the covariance of a batch of this size (`training.gradient_noise`), with
            any policy that measures no gradients. Exactly so in one process with a map-style data set; else the weights are
            independent, and add a little along the mean gradient.
        scaler: `torch.amp.GradScaler` for fp16. A step whose gradients overflow is not made: its examples count as used, and the policy
            does not see it.
        clock: Drives the learning rate by examples; then no scheduler is to be stepped by the loop.
        optimizer_rules: ``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``: whose rules the settings follow; by the optimizer's class
            where left out.
        rules: Names of rules by the keywords of `planning.batch_change`: ``rule``, ``momentum_rule``, ``beta2_rule``,
            ``weight_decay_rule``; the optimizer's own where left out. A policy that names the lr itself moves nothing else.
        noise_every: Optimizer steps between two measured ones, where the policy asks for measurements. A measured step that needs no
            accumulation is made of two micro-batches.
        seed: Of the order of the examples, and of the random numbers of workers.
        shuffle: Whether a map-style data set comes in a fresh random order each epoch; else in its own.
        last: What becomes of an epoch's last batch when it is not whole: used as it is (``short``), filled up from the next epoch
            (``wrap``, map-style alone), or left out (``drop``).
        collate_fn: Makes a batch of a list of examples; as of `DataLoader`.
        num_workers: Processes that fetch ahead; as of `DataLoader`.
        pin_memory: As of `DataLoader`.
        device: Where batches are moved; to the model's where left out, and nowhere with ``"none"``.
        before_step: Called with the update when its gradient is whole and unscaled and clipped, before the optimizer's step.

    Attributes:
        micro_batch_size: Most examples in one forward pass of a rank.
        ranks: The processes.
        stream: The examples of this rank.
        choice: What chooses the next batch size.
        gatherer: Of the gradient's statistics.
        counts: What has been used so far.
        guard: Against steps that the loop makes beside the engine's.

    Raises:
        InputError: If an argument breaks a rule, or the policy needs what the engine does not measure.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> dataset = torch.utils.data.TensorDataset(torch.randn(100, 3), torch.randn(100))
        >>> engine = BatchEngine(model, optimizer, dataset, batch_size=32, micro_batch_size=10)
        >>> for update in engine:
        ...     for x, y in update:
        ...         update.backward((model(x).squeeze(1) - y).square())
        >>> engine.num_steps, engine.num_examples, engine.epoch
        (4, 100, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        dataset: Any,
        *,
        policy: Controller | None = None,
        batch_size: int | None = None,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = None,
        noise_batch_size: int | None = None,
        scaler: Any = None,
        clock: ExampleClock | None = None,
        optimizer_rules: str | None = None,
        rules: Mapping[str, str] | None = None,
        noise_every: int = 4,
        seed: int = 0,
        shuffle: bool = True,
        last: str = "short",
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        device: str | torch.device | None = None,
        before_step: Callable[[Update], None] | None = None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.clock = model, optimizer, scaler, clock
        self.ranks = ranks_of(model)
        if micro_batch_size is not None:
            check_int("micro_batch_size", micro_batch_size, at_least=1)
        self.micro_batch_size = micro_batch_size
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, above=0.0)
        self.max_grad_norm, self.before_step = max_grad_norm, before_step
        if noise_batch_size is not None:
            check_int("noise_batch_size", noise_batch_size, at_least=1)
        self.noise_batch_size, self.seed = noise_batch_size, seed
        self.noise_every = check_int("noise_every", noise_every, at_least=1)
        per_rank = micro_batch_size or getattr(dataset, "batch_size", None)
        first = batch_size if batch_size is not None else per_rank and per_rank * self.ranks.world_size
        if first is None:
            raise InputError(
                "batch_size must be given where there is no micro_batch_size, got neither; give the examples of a step"
            )
        check_int("batch_size", first, at_least=1)
        self.ranks.check_same("batch_size", first)
        if self.ranks.sharded:  # every rank must make as many passes
            self.ranks.check_same("micro_batch_size", micro_batch_size or 0)
        self.drops = last == "drop"
        self.stream = make_stream(
            dataset,
            seed=seed,
            shuffle=shuffle,
            last=last,
            collate_fn=collate_fn,
            num_workers=num_workers,
            chunk_size=micro_batch_size or math.ceil(first / self.ranks.world_size),
            pin_memory=pin_memory,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        self.device = None if device == "none" else torch.device(device or self.ranks.device)
        follower = Follower(optimizer, base_batch_size=first, clock=clock, name=optimizer_rules, rules=rules)
        self.choice = BatchChoice(
            policy or Fixed(),
            optimizer,
            follower,
            batch_size=first,
            num_train=self.stream.num_examples,
            name=optimizer_rules,
        )
        self.gatherer = Gatherer(self.ranks, self.choice.needs, separate=True)
        if noise_batch_size is not None and self.gatherer.active:
            raise InputError(
                f"noise_batch_size must go with a policy that does not measure the gradient, got {type(policy).__name__}, which "
                "would measure the noise that is put in; take a fixed batch size or a schedule"
            )
        self.counts = Counts()
        self.guard = StepGuard(optimizer, self.ranks.parameters)
        self.update: Update | None = None
        self.choice.after_step(step=0, num_examples=0, epoch=0, statistics=StepStatistics())

    @property
    def batch_size(self) -> int:
        """Examples of the next step on all ranks."""
        return self.choice.batch_size

    @property
    def num_steps(self) -> int:
        """Steps that the optimizer has made."""
        return self.counts.num_steps

    @property
    def num_updates(self) -> int:
        """The same with those that were left out or overflowed."""
        return self.counts.num_updates

    @property
    def num_examples(self) -> int:
        """Examples used, on all ranks."""
        return self.counts.num_examples

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return self.stream.epoch

    @property
    def decision(self) -> Decision:
        """The policy's last decision, with its reason."""
        return self.choice.decision

    @property
    def noise_scale(self) -> Interval | None:
        """Running noise scale in examples with its 95 % interval; None while there is none, or the policy needs none."""
        return self.choice.noise.interval()

    def __iter__(self) -> Iterator[Update]:
        """The updates that are left of this epoch.

        Raises:
            InputError: If an update was left before its end.
        """
        epoch = self.epoch
        while self.epoch == epoch:
            update = self.next_update()
            if update is None:
                return
            yield update

    def step(self, loss: Loss) -> Update:
        """One whole update; where the device's memory is too small for a micro-batch, again with smaller ones.

        Random numbers, buffers and gradients are put back before the second try, so it is what it would have been with smaller
        micro-batches at once; they stay smaller from then on. Under DDP each rank keeps its gradient till all have got through, and
        where one has not, all try again; so gradients are reduced after the backward passes in place of within them. Under FSDP, whose
        passes wait for one another, the error is raised as it is.

        Args:
            loss: ``loss(model, batch) -> (B,)``, one loss an example.

        Returns:
            The update, done.

        Raises:
            DoesNotFitError: If not even one example fits.
            RankError: If the loss raised an error on another rank.
        """
        return step_with_retry(self, loss)

    def next_update(self) -> Update | None:
        """The next update; None where the epoch ends without another.

        Raises:
            InputError: If the last update was left before its end.
        """
        if self.update is not None:
            raise InputError(
                "an update must be gone through to its end before the next, got one whose loop was left or never begun; "
                "call its skip() to leave it out"
            )
        total = self.stream.reserve(self.batch_size)
        if total == 0:
            return None
        sizes, measured = self.sizes()
        self.update = Update(self, batch_size=total, sizes=sizes, measured=measured)
        return self.update

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit by bit beside the states of model and optimizer: plain values and tensors.

        Between two updates, and of each rank its own: random generators, and what an iterable data set has given, are a rank's own.

        Raises:
            InputError: Inside an update.
        """
        if self.update is not None:
            raise InputError(
                "state_dict() must be called between two updates, got a call inside one; call it after the inner loop"
            )
        return save_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, in an engine that was made as the first one; the global random generators are set too.

        Load model and optimizer by their own states; the scheduler of a clock is loaded here.

        Raises:
            InputError: If the state is that of a newer version, of another data set or of another policy.
        """
        load_state(self, state)
        self.update = None
        self.guard.leave()
