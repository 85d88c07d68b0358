"""Training an associative memory: one step from zero, many steps on the true softmax, and the thresholded dynamics of the theory.

Source: Kim et al. (2026), arXiv:2603.26554. The form of the thresholded gradient is inferred from the abstract's name of it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from batchwright.capacity.memory import AssociativeMemory
from batchwright.capacity.recovery import Recovery, recovered_items, summarise
from batchwright.capacity.updates import Update
from batchwright.core.checks import check_int, check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A training run after a step.

    Attributes:
        step: Steps made.
        loss: Cross-entropy over all items in nats, one a seed.
        recovery: What is stored.
    """

    step: int
    loss: Float[Tensor, " ..."]
    recovery: Recovery


def one_step(memory: AssociativeMemory, update: Update, *, batch_size: int | None = None) -> Float[Tensor, "... d d"]:
    """The matrix after one step of size one from zero; a batch of ``batch_size`` draws, or the whole law where left out.

    What is recovered does not depend on the size of the step.
    """
    weights = None if batch_size is None else memory.sample_weights(batch_size)
    return update(memory, memory.negative_gradient(weights=weights))


def train(
    memory: AssociativeMemory,
    update: Update,
    *,
    lr: float,
    num_steps: int,
    batch_size: int | None = None,
    record_at: Collection[int] | None = None,
    num_queries: int | None = None,
) -> list[Snapshot]:
    """Train from zero on the softmax loss, ``W <- W + lr * update(G)``.

    Args:
        memory: The pairs.
        update: What becomes of the gradient.
        lr: Step size.
        num_steps: Steps.
        batch_size: Draws in a step's fresh batch; the whole law where left out.
        record_at: Steps after which to look; powers of two and the last where left out.
        num_queries: Most frequent items that are queried; all where left out.

    Returns:
        One snapshot for each recorded step.
    """
    check_number("lr", lr, above=0.0)
    check_int("num_steps", num_steps, at_least=1)
    powers = {2**k for k in range(num_steps.bit_length())} | {num_steps}
    wanted = powers if record_at is None else set(record_at)
    matrix, found = memory.zeros(), []
    for step in range(1, num_steps + 1):
        weights = None if batch_size is None else memory.sample_weights(batch_size, step=step)
        # The first gradient needs no scores.
        gradient = memory.negative_gradient(None if step == 1 else matrix, weights)
        matrix += lr * update(memory, gradient)
        if step in wanted:
            stored = summarise(memory, recovered_items(memory, matrix, num_queries=num_queries))
            found.append(Snapshot(step=step, loss=memory.loss(matrix), recovery=stored))
    return found


def thresholded_step(memory: AssociativeMemory, update: Update, *, num_removed: int) -> Bool[Tensor, "... Q"]:
    """Which of the items beyond ``num_removed`` one step recovers once those before have dropped out of the gradient.

    The gradient is ``sum_{j > m} p_j u_j v_j'``: an item that is recovered has a probability near one and pulls no more, while the
    others keep their weight. Queried against all outputs, the removed ones too.

    Args:
        memory: The pairs.
        update: What becomes of the gradient.
        num_removed: ``m``, the most frequent items that are recovered already.
    """
    check_int("num_removed", num_removed, at_least=0)
    total = memory.zeros()
    for rows in memory.chunks(torch.arange(num_removed, memory.num_items, device=memory.device)):
        shares = memory.probabilities[rows, None]
        total += (shares * memory.outputs[..., rows, :].double()).mT @ memory.inputs[..., rows, :].double()
    return recovered_items(memory, update(memory, total), first=num_removed)
