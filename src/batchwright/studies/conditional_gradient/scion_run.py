"""Training with Scion for a budget of tokens: a constant step size, then a linear fall, and a batch that a schedule may change.

Source: Islamov et al. (2026), arXiv:2603.21191: momentum weight 0.1, radii 3000 and 50, decay over the last 28 % of the tokens, and the
restarted schedule, which is the controller `batchwright.adapt.RestartedBudget`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from batchwright.adapt import Measured, RestartedBudget
from batchwright.optim import Scion, param_groups

# The published radii, of the embedding and the head, and of the matrices; vectors, which the published network has none of, are ours.
RADII: Mapping[str, float] = {"embedding": 3000.0, "head": 3000.0, "vector": 5.0, "default": 50.0}
MOMENTUM = 0.9
DECAY = 0.28


def make_scion(network: nn.Module, lr: float) -> Scion:
    """Sign for the embedding, the spectral norm for matrices, sign for the head; vectors under the sign too."""
    return Scion(param_groups(network, "scion", radii=RADII), lr=lr, momentum=MOMENTUM)


def decay_factor(used: int, tokens: int) -> float:
    """Step size over its constant value, for the step that begins after ``used`` of ``tokens``."""
    return min(1.0, (1 - used / tokens) / DECAY)


def schedule_of(budgets: Sequence[int]) -> RestartedBudget:
    """The restarted schedule over these totals; with one total it is a fixed batch and step size."""
    return RestartedBudget(budgets=" ".join(str(total) for total in budgets))


def fit(
    optimizer: Scion,
    gradient: Callable[[int, int], float],
    *,
    budgets: Sequence[int],
    batch_size: int,
    sequence_length: int,
    lr: float,
    first: int = 0,
    last: int | None = None,
) -> dict[str, Any]:
    """Train in place until the tokens are used; steps that would go beyond them are not begun.

    Args:
        optimizer: Over the network's parameters.
        gradient: ``gradient(first_sequence, num_sequences)`` fills the gradients of the mean loss over these and gives that loss.
        budgets: Totals of tokens of the schedule; the last is the run's own, for which the step size falls.
        batch_size: Sequences in a step, tuned for the first total.
        sequence_length: Tokens in a sequence.
        lr: Step size before it falls, tuned for the first total.
        first: Tokens that an earlier part of the run has used.
        last: Tokens at which this part ends; the whole budget by default.

    Returns:
        ``num_steps`` and ``used`` of this part; ``train_loss``, the mean over the tokens in the last tenth of the whole
        budget (NaN before it); ``batch_sizes``, with the tokens at which each began.
    """
    controller, tokens = schedule_of(budgets), budgets[-1]
    state = controller.init(batch_size=batch_size)
    used, size, step = first, batch_size, 0
    late = [0.0, 0.0]
    changes: list[list[int]] = []
    while used < (tokens if last is None else last):
        measured = Measured(step=step, num_examples=used // sequence_length, batch_size=size, num_tokens=used)
        state, decision = controller.update(state, measured)
        size = decision.batch_size
        if used + size * sequence_length > tokens:
            break
        if not changes or changes[-1][1] != size:
            changes.append([used, size])
        for group in optimizer.param_groups:
            group["lr"] = lr * (decision.lr_factor or 1.0) * decay_factor(used, tokens)
        loss = gradient(used // sequence_length, size)
        optimizer.step()
        used += size * sequence_length
        step += 1
        if used > 0.9 * tokens:
            late = [late[0] + loss * size, late[1] + size]
    mean = late[0] / late[1] if late[1] else float("nan")
    return {"num_steps": step, "used": used, "train_loss": mean, "batch_sizes": changes}
