"""The largest micro-batch that fits in memory, from a few steps on very few examples.

The bytes alive after each operation of a step are an affine function of the micro-batch size, so two sizes give the function
of every operation and with it the peak at any size, also where another operation peaks than at the sizes measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from batchwright.core.batches import Batch, batch_length, to_device
from batchwright.core.checks import check_int, check_number
from batchwright.core.environment import available_memory_bytes
from batchwright.core.errors import DoesNotFitError
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Array
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.memory_tracker import MemoryTracker
from batchwright.tasks.task import Task

# One example is left out: some operations skip a copy there, and batch norm refuses it.
SIZES = (2, 4, 8)
# On a CPU the kernels' scratch space, the allocator and the rest of the program live in what is left.
CPU_SHARE, CUDA_SHARE = 0.6, 0.9
MAX_CONFIRMATIONS = 4
# A confirmed peak this near to the budget is not worth another step.
WELL_USED = 0.97
# A prediction from the smallest sizes that misses the next one by more than this is called doubtful.
DOUBTFUL = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory of a training step against its micro-batch size.

    Attributes:
        max_micro_batch_size: Largest micro-batch whose peak fits the budget; at most the number of training examples.
        bytes_per_example: What one more example adds to the peak around ``max_micro_batch_size``.
        fixed_bytes: The part of that peak that does not depend on the examples: parameters, gradients, optimizer state.
        budget_bytes: Memory that may be used; None if unknown.
        predicted_peak_bytes: Peak at ``max_micro_batch_size``.
        confirmed: Whether a real step at that size stayed inside the budget.
        confirmation: What came of confirming, one sentence.
        num_steps: Optimizer steps done.
        num_examples: Examples that went through a forward and a backward pass.
        method: ``live-tensors`` (counted op by op) or ``cuda`` (counted, then settled by the allocator's own peak).
        warnings: What a reader should know, one sentence each.
    """

    max_micro_batch_size: int
    bytes_per_example: float
    fixed_bytes: int
    budget_bytes: int | None
    predicted_peak_bytes: int
    confirmed: bool
    confirmation: str
    num_steps: int
    num_examples: int
    method: str
    warnings: tuple[str, ...]


def memory(
    task: Task,
    *,
    budget_bytes: int | None = None,
    device: torch.device | str = "cpu",
    max_micro_batch_size: int | None = None,
    confirm: bool = True,
    confirm_plain_steps: float = 20.0,
    seed: int = 0,
) -> Memory:
    """Predict the peak memory of a step from micro-batches of 2, 4 and 8 examples and solve for the budget.

    The step that is counted adds a micro-batch to gradients that are there already, as accumulation does, and then updates. The
    examples are drawn at random; where their sizes differ, a batch of the largest ones needs more. Live tensors are counted: on a
    CPU glibc's heap around them grew to 1.5 times as much in our large steps, for which the default budget leaves room. On
    CUDA the process's peak-memory statistics are reset.

    Args:
        task: The training job; a fresh model is measured, nothing of the user's is touched.
        budget_bytes: Memory for all of it; 60 % of what is available on a CPU, 90 % on CUDA where left out.
        device: Where to train.
        max_micro_batch_size: Never more; the number of training examples where left out.
        confirm: Do a real step at the answer.
        confirm_plain_steps: On a CPU, not if that costs more than this many steps at the task's batch size.
        seed: Of the model and the examples.

    Raises:
        DoesNotFitError: If not even one example fits.
        InputError: If an argument breaks a rule.
    """
    cap = task.num_train
    if max_micro_batch_size is not None:
        cap = min(cap, check_int("max_micro_batch_size", max_micro_batch_size, at_least=1))
    if budget_bytes is not None:
        check_int("budget_bytes", budget_bytes, at_least=1)
    check_number("confirm_plain_steps", confirm_plain_steps, at_least=0.0)
    device = torch.device(device)
    if budget_bytes is None:
        available = available_memory_bytes(device)
        share = CUDA_SHARE if device.type == "cuda" else CPU_SHARE
        budget_bytes = None if available is None else max(1, int(share * available))
    random_state = RandomState.capture()
    try:
        return _memory(_Steps(task, seed, device), cap, budget_bytes, confirm, confirm_plain_steps)
    finally:
        random_state.restore()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _memory(steps: "_Steps", cap: int, budget: int | None, confirm: bool, confirm_plain_steps: float) -> Memory:
    peak = fit_peak({size: steps.timeline(size) for size in _sizes(steps.task.num_train)}, steps.static_bytes())
    warnings = [peak.doubtful] if peak.doubtful else []
    size = cap
    if budget is None:
        warnings.append(
            "how much memory is available is not known here, so nothing but the data set bounds the micro-batch"
        )
    else:
        size = int(min(cap, peak.largest_within(budget)))
        if size < 1:
            raise DoesNotFitError(
                f"budget_bytes must hold a step on at least one example, got {budget:,} bytes and one takes {peak.at(1):,}; "
                "give more memory or make the model or its optimizer's state smaller"
            )
    confirmation = _Confirmation(size=size, confirmed=False, sentence="not asked for")
    if confirm:
        confirmation = _confirm(steps, peak, size, cap, budget, confirm_plain_steps)
    fixed, per_example = peak.parts_at(confirmation.size)
    return Memory(
        max_micro_batch_size=confirmation.size,
        bytes_per_example=per_example * confirmation.correction,
        fixed_bytes=fixed,
        budget_bytes=budget,
        predicted_peak_bytes=round(fixed + per_example * confirmation.correction * confirmation.size),
        confirmed=confirmation.confirmed,
        confirmation=confirmation.sentence,
        num_steps=steps.num_steps,
        num_examples=steps.num_examples,
        method="cuda" if confirm and steps.device.type == "cuda" else "live-tensors",
        warnings=tuple(warnings),
    )


def _sizes(num_examples: int) -> tuple[int, ...]:
    """Micro-batch sizes to count; all that a tiny data set allows."""
    return tuple(size for size in SIZES if size <= num_examples) or (num_examples,)


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakBytes:
    """Peak bytes as the largest of many affine functions of the micro-batch size, one for each operation of a step.

    Attributes:
        fixed: Bytes at no examples.
        per_example: Bytes that one more example adds.
        doubtful: Why the functions may be off, one sentence; empty where the measured sizes agree.
    """

    fixed: Array
    per_example: Array
    doubtful: str = ""

    def at(self, size: int) -> int:
        """Peak at a micro-batch size."""
        return math.ceil(float((self.fixed + self.per_example * size).max()))

    def largest_within(self, budget: int) -> float:
        """Largest size within a budget, not rounded; ``inf`` where nothing grows, negative where the fixed part is too much."""
        grows = self.per_example > 0
        if (self.fixed[~grows] > budget).any():
            return -1.0
        return float(((budget - self.fixed[grows]) / self.per_example[grows]).min(initial=math.inf))

    def parts_at(self, size: int) -> tuple[int, float]:
        """Fixed bytes and bytes an example of the operation that peaks at ``size``."""
        index = int((self.fixed + self.per_example * size).argmax())
        return round(self.fixed[index]), float(self.per_example[index])


def fit_peak(timelines: Mapping[int, Sequence[int]], static_bytes: int) -> PeakBytes:
    """Affine functions of the micro-batch size from the timelines at some sizes.

    The outermost sizes are fitted, those between check. Where the steps did not run the same number of operations the peaks
    alone are fitted; a single size is joined to ``static_bytes`` at no examples.

    Args:
        timelines: Bytes alive after each operation of a step, by micro-batch size.
        static_bytes: Parameters, gradients and optimizer state.
    """
    sizes = sorted(timelines)
    small, large = sizes[0], sizes[-1]
    peaks = {size: max(timelines[size]) for size in sizes}
    if small == large:
        slope = (peaks[small] - static_bytes) / small
        return PeakBytes(fixed=np.array([float(static_bytes)]), per_example=np.array([slope]))
    same = len({len(timeline) for timeline in timelines.values()}) == 1
    rows = {size: np.array(timelines[size] if same else [peaks[size]], dtype=np.float64) for size in sizes}
    per_example = (rows[large] - rows[small]) / (large - small)
    found = PeakBytes(fixed=rows[small] - per_example * small, per_example=per_example)
    miss = max(abs(found.at(size) / peaks[size] - 1) for size in sizes)
    if not same:
        return replace(
            found,
            doubtful="the operations of a step differ with the batch size, so the predicted memory is a rough one",
        )
    if miss > DOUBTFUL:
        return replace(
            found,
            doubtful=f"memory does not grow evenly with the batch size: the prediction misses a measured size by {miss:.0%}",
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Confirmation:
    """What came of a real step: the size it was done at last, and the measured growth over the predicted one."""

    size: int
    confirmed: bool
    sentence: str
    correction: float = 1.0


def _confirm(
    steps: "_Steps", peak: PeakBytes, size: int, cap: int, budget: int | None, plain_steps: float
) -> _Confirmation:
    cost = size / steps.task.batch_size
    if steps.device.type == "cpu" and cost > plain_steps:
        return _Confirmation(
            size=size,
            confirmed=False,
            sentence=f"a step on {size} examples would cost about {cost:.0f} plain steps, more than {plain_steps:g}",
        )
    fitting: _Confirmation | None = None
    for _ in range(MAX_CONFIRMATIONS):
        if fitting is not None and size <= fitting.size:
            break
        measured = steps.measured_peak(size)
        if measured is None:
            size = max(1, size * 3 // 4)
            continue
        fixed, per_example = peak.parts_at(size)
        correction = max(measured - fixed, 1) / max(per_example * size, 1.0)
        if budget is None or measured <= budget:
            fitting = _Confirmation(
                size=size,
                confirmed=True,
                sentence=f"a step on {size} examples peaked at {measured:,} bytes",
                correction=correction,
            )
            if budget is None or size == cap or measured >= WELL_USED * budget:
                break
        # Solved anew with the growth that was measured; a little lower, or the last fitting size would be missed again.
        wanted = size * 0.99 * (budget - fixed) / max(measured - fixed, 1)
        size = max(1, min(cap, int(wanted)))
    return fitting or _Confirmation(
        size=size, confirmed=False, sentence=f"no step stayed inside the budget in {MAX_CONFIRMATIONS} tries"
    )


class _Steps:
    """Steps of a fresh model whose optimizer has its state already."""

    def __init__(self, task: Task, seed: int, device: torch.device) -> None:
        self.task, self.device = task, device
        torch.manual_seed(seed)
        self.model = task.make_model(seed, device)
        self.optimizer = task.optimizer.build(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the values stay as they are, so no step can diverge
        self.sampler = EpochSampler(task.num_train, seed)
        self.num_steps = self.num_examples = 0
        self._step(self._batch(min(SIZES[0], task.num_train)), passes=1)

    def timeline(self, size: int) -> list[int]:
        """Bytes alive after each operation of a step of two micro-batches: at the second one gradients are there already."""
        batch = self._batch(size)
        self.optimizer.zero_grad(set_to_none=True)
        tracker = MemoryTracker([self._static(), batch])
        with tracker:
            self._step(batch, passes=2)
        return tracker.timeline

    def static_bytes(self) -> int:
        """Bytes of parameters, buffers, gradients and optimizer state."""
        return MemoryTracker([self._static(), [parameter.grad for parameter in self.model.parameters()]]).peak_bytes

    def measured_peak(self, size: int) -> int | None:
        """Peak bytes of a real step, by the allocator on CUDA and by live tensors elsewhere; None if memory ran out."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            if self.device.type != "cuda":
                return max(self.timeline(size))
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            static = MemoryTracker(self._static()).peak_bytes
            others = torch.cuda.memory_allocated(self.device) - static
            torch.cuda.reset_peak_memory_stats(self.device)
            self._step(self._batch(size), passes=2)
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - others
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            return None

    def _batch(self, size: int) -> Batch:
        return to_device(fetch(self.task.train, self.sampler.take(size)), self.device)

    def _static(self) -> list[Any]:
        return [list(self.model.parameters()), list(self.model.buffers()), list(self.optimizer.state.values())]

    def _step(self, batch: Batch, passes: int) -> None:
        for _ in range(passes):
            accumulate_gradient(self.model, self.task.loss, batch)
        self.optimizer.step()
        self.num_steps += 1
        self.num_examples += passes * batch_length(batch)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocator gave up; the one of the CPU says so in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
