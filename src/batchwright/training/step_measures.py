"""What a run measures on the way for its controller: the scatter of micro-batches and of single examples, an epoch's diversity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from batchwright.core.batches import Batch
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.tasks.task import Task
from batchwright.training.ranks import Ranks
from batchwright.training.split import micro_batch_sizes
from batchwright.training.step_examples import OF_EXAMPLES, EpochDiversity, ExampleStatistics, example_statistics
from batchwright.training.step_noise import Gatherer, StepStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What one step told; None where it was not measured.

    Attributes:
        parts: Of the step's micro-batches.
        examples: Of its single examples.
        diversity: Of the epoch that ended with the step.
    """

    parts: StepStatistics = field(default_factory=StepStatistics)
    examples: ExampleStatistics | None = None
    diversity: float | None = None


class StepMeasures:
    """Gathers what a controller needs; one for a run.

    Args:
        task: What is trained.
        model: Its model.
        needs: Names of `adapt.Measured`.
        ranks: The processes.

    Raises:
        InputError: If it cannot be gathered on these ranks.
    """

    def __init__(self, task: Task, model: nn.Module, needs: frozenset[str], ranks: Ranks) -> None:
        self._task, self._model, self._ranks = task, model, ranks
        if ranks.sharded and needs & OF_EXAMPLES:
            raise InputError(
                "a policy that measures the gradients of single examples must have the whole model on each rank, got one that is "
                "sharded; take --distributed ddp, or noise-scale or norm-test"
            )
        self._gatherer = Gatherer(ranks, needs)
        self._wants_examples = "inner_product_variance" in needs
        self._epoch = EpochDiversity(task.num_train) if "diversity" in needs else None
        self._sizes: Sequence[int] | None = None
        self._start: RandomState | None = None
        self.active = self._gatherer.active or self._epoch is not None

    def begin(self, share: int, batch_size: int, micro_batch_size: int) -> Sequence[int] | None:
        """A step to be measured begins: sizes of this rank's micro-batches; None where it has too few examples to tell anything.

        Args:
            share: Examples of this rank.
            batch_size: Examples of all ranks.
            micro_batch_size: Most examples in one forward pass.
        """
        world_size = self._ranks.world_size
        largest = -(-batch_size // world_size)
        split = partial(micro_batch_sizes, largest_share=largest, micro_batch_size=micro_batch_size)
        sizes = split(
            share,
            min_parts=self._gatherer.min_parts,
            even=self._gatherer.even,
            keep_number=self._ranks.sharded or self._gatherer.even,
        )
        if self._gatherer.even and sizes is not None and len(sizes) > batch_size // world_size:
            sizes = None  # a rank could not halve its part
        if sizes is not None and not self._ranks.sharded:
            sizes = [size for size in sizes if size]
        self._sizes = sizes
        if sizes is not None:
            self._gatherer.begin(len(sizes))
            if self._wants_examples or self._epoch is not None:
                self._start = RandomState.capture()
        return sizes

    def abandon(self) -> None:
        """Forget the step that has begun."""
        if self._sizes is not None:
            self._gatherer.abandon()
        self._sizes = self._start = None

    @property
    def sizes(self) -> Sequence[int] | None:
        """Of the micro-batches of the step that has begun; None where it is not measured."""
        return self._sizes

    def after_micro_batch(self, num_examples: int) -> None:
        """A micro-batch of a measured step has added its gradient."""
        self._gatherer.after_micro_batch(num_examples)

    def end(self, batch: Batch, batch_size: int, *, epoch_over: bool) -> Readings:
        """The readings of any step, when its gradient is whole and the optimizer has not stepped.

        Args:
            batch: This rank's part.
            batch_size: Examples of all ranks.
            epoch_over: Whether an epoch ended with the step.

        Raises:
            InputError: If single examples are measured and depend on each other.
        """
        sizes, start, self._sizes, self._start = self._sizes, self._start, None, None
        parts, examples = StepStatistics(), None
        if sizes is not None:
            parts = self._gatherer.end(
                local_weight=sum(sizes), total_weight=float(batch_size), num_examples=batch_size, scale=1.0
            )
        if sizes is not None and start is not None:
            if self._wants_examples:
                examples = example_statistics(self._model, self._task.loss, batch, sizes, start, self._ranks)
            if self._epoch is not None:
                self._epoch.add(self._model, self._task.loss, batch, sizes, start, self._ranks)
        diversity = self._epoch.close() if self._epoch is not None and epoch_over else None
        return Readings(parts=parts, examples=examples, diversity=diversity)

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint; None where nothing lasts longer than a step."""
        return None if self._epoch is None else self._epoch.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state_dict`."""
        if state is not None and self._epoch is not None:
            self._epoch.load_state_dict(state, next(self._model.parameters()).device)
