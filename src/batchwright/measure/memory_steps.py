"""Steps whose memory is counted: of a fresh model with its optimizer's state and gradients in place, or of an evaluation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from batchwright.core.batches import Batch, batch_length, tensors_of, to_device
from batchwright.core.errors import InputError
from batchwright.core.objectives import accumulate_gradient, example_losses
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.memory_tracker import MemoryTracker
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import Task

# One example is left out: some operations skip a copy there, and batch norm refuses it.
SIZES = (2, 8)
# Where no real step confirms the answer, the prediction is checked at this size.
CHECK_SIZE = 4
# Examples among which the largest is looked for.
NUM_LOOKED_AT = 256

Largest = bool | Callable[[int], Batch]


class Steps:
    """Steps of a fresh model: those that add a micro-batch to gradients that are there and update, or evaluations.

    Args:
        task: The training job.
        seed: Of the model and the examples.
        device: Where to train.
        mode: ``train`` or ``eval``.
        largest: False for random examples, True for copies of the largest of some, or ``largest(size)`` gives the batch.
    """

    def __init__(
        self, task: Task, seed: int, device: torch.device, mode: str = "train", largest: Largest = False
    ) -> None:
        self.task, self.device, self.mode = task, device, mode
        torch.manual_seed(seed)
        self.dataset = task.train if mode == "train" or task.evaluation is None else task.evaluation
        self.num_steps = self.num_examples = self.num_failed = 0
        self.sampler = EpochSampler(len(self.dataset), seed)
        self.largest: Callable[[int], Batch] | None = None
        if callable(largest):
            self.largest = largest
        elif largest:
            index = self._index_of_largest()
            self.largest = lambda size: fetch(self.dataset, index.expand(size))
        self.model = task.make_model(seed, device)
        self.optimizer = build_optimizer(task.optimizer, self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the values stay as they are, so no step can diverge
        self._warm_up()
        if mode == "eval":
            self.model.eval()

    def timeline(self, size: int) -> list[int]:
        """Bytes alive after each operation of a step."""
        batch = self._batch(size)
        tracker = MemoryTracker([self._static(), batch])
        with tracker:
            self._step(batch)
        return tracker.timeline

    def static_bytes(self) -> int:
        """Bytes of parameters, buffers, gradients and optimizer state."""
        return MemoryTracker(self._static()).peak_bytes

    def measured_peak(self, size: int) -> int | None:
        """Peak bytes of a real step, by the allocator on CUDA and by live tensors elsewhere; None if memory ran out."""
        try:
            if self.device.type != "cuda":
                return max(self.timeline(size))
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            others = torch.cuda.memory_allocated(self.device) - self.static_bytes()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._step(self._batch(size))
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - others
        except (MemoryError, RuntimeError) as error:
            self._count_failure(error)
            return None

    def runs(self, size: int) -> bool:
        """Whether a real step on ``size`` examples finds the memory it needs."""
        try:
            self._step(self._batch(size))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except (MemoryError, RuntimeError) as error:
            self._count_failure(error)
            return False
        return True

    def _count_failure(self, error: Exception) -> None:
        if not out_of_memory(error):
            raise error
        self.num_failed += 1

    def _warm_up(self) -> None:
        """A training step on the fewest examples, which leaves the gradients and the optimizer's state."""
        batch = self._batch(min(SIZES[0], len(self.dataset)))
        accumulate_gradient(self.model, self.task.loss, batch)
        self.optimizer.step()
        self._count(batch)

    def _batch(self, size: int) -> Batch:
        if self.largest is None:
            return to_device(fetch(self.dataset, self.sampler.take(size)), self.device)
        batch = self.largest(size)
        if batch_length(batch) != size:
            raise InputError(f"largest({size}) must give a batch of {size} examples, got {batch_length(batch)}")
        return to_device(batch, self.device)

    def _index_of_largest(self) -> Tensor:
        indices = self.sampler.take(min(NUM_LOOKED_AT, len(self.dataset)))
        sizes = [batch_bytes(fetch(self.dataset, index[None])) for index in indices]
        return indices[sizes.index(max(sizes))]

    def _static(self) -> list[Any]:
        parameters = list(self.model.parameters())
        gradients = [parameter.grad for parameter in parameters]
        return [parameters, gradients, list(self.model.buffers()), list(self.optimizer.state.values())]

    def _step(self, batch: Batch) -> None:
        if self.mode == "eval":
            with torch.no_grad():
                example_losses(self.model, self.task.loss, batch)
                for metric in self.task.metrics.values():
                    metric(self.model, batch)
        else:
            # Gradients are there already, as at the second micro-batch of a larger batch.
            accumulate_gradient(self.model, self.task.loss, batch)
            self.optimizer.step()
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        self.num_steps += 1
        self.num_examples += batch_length(batch)


def batch_bytes(batch: Batch) -> int:
    """Bytes of all tensors of a batch."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors_of(batch))


def out_of_memory(error: Exception) -> bool:
    """Whether an allocator gave up; the one of the CPU says so in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
