"""Whether batch normalization bears the micro-batches of a plan, and what to do where it does not."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from batchwright.core.batches import Batch, to_device
from batchwright.core.preserve import RandomState
from batchwright.data.access import fetch
from batchwright.measure.batch_norm_safety import BatchNormSafety, batch_norm_safety, batch_norms
from batchwright.measure.snapshot import Snapshot
from batchwright.planning.plan import NormalizationEvidence
from batchwright.tasks.task import Task

# Examples whose statistics stand for the whole; forward passes without gradients take a part of a training step's memory.
REFERENCE, MEMORY_FACTOR, NUM_BATCHES = 256, 4, 5
# Targets of `nn.convert` that normalise without the other examples of a micro-batch, or lean on them less.
WITHOUT_LARGE_BATCHES = ("kalman", "group")


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationAdvice:
    """What the plan says about batch normalization.

    Attributes:
        reason: One sentence or two.
        warns: Whether the micro-batch surely does harm.
        evidence: What was measured; None where the micro-batch is too large to be held against a larger reference.
        seconds: Wall time.
        num_examples: Examples that went through a forward pass.
    """

    reason: str
    warns: bool
    evidence: NormalizationEvidence | None
    seconds: float
    num_examples: int


def advise_normalization(
    task: Task,
    snapshot: Snapshot,
    *,
    first_loss: float,
    micro_batch_size: int,
    max_micro_batch_size: int,
    seed: int,
    device: torch.device,
    timer: Callable[[], float] = time.perf_counter,
) -> NormalizationAdvice | None:
    """Measure, at the end of the pilot, what the statistics of the plan's micro-batches cost.

    Args:
        task: The training job.
        snapshot: The end of the pilot; not changed.
        first_loss: Of training; what it has gained since is the scale of a harm.
        micro_batch_size: Of the plan.
        max_micro_batch_size: The memory ceiling; the reference is at most four times it.
        seed: Of the measured batches.
        device: Where to measure.
        timer: Seconds.

    Returns:
        None where the model has no batch normalization.
    """
    start = timer()
    random_state = RandomState.capture()
    try:
        model, _ = snapshot.restore(task, task.optimizer, device)
        layers = batch_norms(model)
        if not layers:
            return None
        # Ghosts take the statistics of fewer examples than the micro-batch holds.
        smallest = min(getattr(layer, "ghost_size", micro_batch_size) for layer in layers)
        parts = "ghosts" if smallest < micro_batch_size else "micro-batches"
        micro_batch_size = min(micro_batch_size, smallest)
        found = _measure(task, model, first_loss, micro_batch_size, max_micro_batch_size, seed, device)
    finally:
        random_state.restore()
    told = [] if found is None else [_told(found, micro_batch_size, parts)]
    told += _ghosts(task.batch_size, found, micro_batch_size)
    warns = found is not None and micro_batch_size <= (found.unsafe_size or 0)
    return NormalizationAdvice(
        reason="; ".join(told) or f"{parts} of {micro_batch_size} are large enough for batch normalization",
        warns=warns,
        evidence=None if found is None else _evidence(found),
        seconds=timer() - start,
        num_examples=0 if found is None else found.num_examples,
    )


def _measure(
    task: Task,
    model: nn.Module,
    first_loss: float,
    micro_batch_size: int,
    max_micro_batch_size: int,
    seed: int,
    device: torch.device,
) -> BatchNormSafety | None:
    reference = min(REFERENCE, task.num_train, MEMORY_FACTOR * max_micro_batch_size)
    # A layer of single values needs two of them; the smallest size tells how bad one would be at least.
    first = max(2, min(micro_batch_size, task.batch_size))
    doubled = [first * 2**power for power in range(10)]
    sizes = sorted({size for size in (*doubled, micro_batch_size, task.batch_size) if first <= size <= reference // 2})
    if micro_batch_size > reference // 2 or not sizes:
        return None
    generator = torch.Generator().manual_seed(seed + 3)

    def batches() -> Iterator[Batch]:
        for _ in range(NUM_BATCHES):
            indices = torch.randperm(task.num_train, generator=generator)[:reference]
            yield to_device(fetch(task.train, indices), device)

    found = batch_norm_safety(model, task.loss, batches(), micro_batch_sizes=sizes)
    gained = first_loss - found.loss
    return found.against(gained) if gained > 0 else found


def _told(found: BatchNormSafety, micro_batch_size: int, parts: str) -> str:
    size = max(2, micro_batch_size)
    excess = dict(zip(found.micro_batch_sizes, found.excess, strict=True))[size]
    value, low, high = (end / found.scale if found.scale else end for end in (excess.value, excess.low, excess.high))
    cost = (
        f"the statistics of {size} examples change a loss of {found.loss:.3g} by {excess.value:+.2g} against those of "
        f"{found.reference_size}, {value:.0%} ({low:.0%} to {high:.0%}) of what the pilot gained"
    )
    if found.unsafe_size is not None and size <= found.unsafe_size:
        safe = (
            f"surely at most {found.tolerance:.0%} from {found.safe_size} examples on"
            if found.safe_size is not None
            else f"not surely below {found.tolerance:.0%} at any size tried, up to {found.micro_batch_sizes[-1]}"
        )
        ways = " or ".join(map(repr, WITHOUT_LARGE_BATCHES))
        larger = "larger ghosts do not, and " if parts == "ghosts" else ""
        return (
            f"{parts} of {micro_batch_size} are below what batch normalization bears here: {cost}, {safe}; "
            f"{larger}bw.nn.convert(model, {ways}) leans less on other examples"
        )
    if found.safe_size is not None and size >= found.safe_size:
        return f"{parts} of {micro_batch_size} are large enough for batch normalization: {cost}"
    return (
        f"whether {parts} of {micro_batch_size} are large enough for batch normalization is not settled: {cost}, "
        f"where {found.tolerance:.0%} is harmless"
        + (
            ", and a loss that does not notice means so far off is that of a model that has hardly learned"
            * found.insensitive
        )
    )


def _ghosts(base: int, found: BatchNormSafety | None, micro_batch_size: int) -> list[str]:
    """Larger micro-batches than the task's own: ghosts keep the noise of the statistics with which its settings were chosen."""
    size = max(base, (found.safe_size or base) if found is not None else base)
    if micro_batch_size <= size or size < 2:
        return []
    return [
        f"statistics of {micro_batch_size} examples are less noisy than those of the default {base}; "
        f"bw.nn.convert(model, 'ghost', ghost_size={size}) keeps them at {size}"
    ]


def _evidence(found: BatchNormSafety) -> NormalizationEvidence:
    return NormalizationEvidence(
        micro_batch_sizes=found.micro_batch_sizes,
        reference_size=found.reference_size,
        loss=found.loss,
        excess=found.excess,
        mean_error=found.mean_error,
        log_variance_error=found.log_variance_error,
        scale=found.scale,
        tolerance=found.tolerance,
        safe_size=found.safe_size,
        num_layers=found.num_layers,
    )
