"""What the gradients of single examples tell about an optimizer step, and about an epoch: scatter along the mean, and diversity.

A second pass over the batch of a measured step, with the step's own random numbers: it costs several plain steps and changes
nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchwright.core.batches import Batch, split_sizes
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import RandomState, preserved
from batchwright.core.vectors import gradients, sq_norm, trainable
from batchwright.measure.gradient_statistics import GradientStatistics
from batchwright.measure.per_example import per_example_grad_norms
from batchwright.training.ranks import Ranks

# What a controller may need that is made of the gradients of single examples.
OF_EXAMPLES = frozenset({"inner_product_variance", "diversity"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleStatistics:
    """Of one step; the three agree with one another, because they are of the same gradients.

    Attributes:
        trace: Unbiased trace of the per-example gradient covariance.
        grad_sq_norm: Unbiased squared norm of the true gradient, so it can be negative.
        inner_product_variance: Unbiased variance over examples of the inner product of their gradient with the step's.
    """

    trace: float
    grad_sq_norm: float
    inner_product_variance: float


def inner_products(model: nn.Module, loss: Loss, batch: Batch, vector: Sequence[Tensor]) -> Float[Tensor, " B"]:
    """Inner product of the gradient of each example's loss with ``vector``, one tensor a trainable parameter; in float64.

    The derivative to ``u`` of ``<J' u, vector>`` with the Jacobian ``J`` of the losses: two passes in reverse for the whole batch, so
    it exists wherever second derivatives do.
    """
    parameters = trainable(model)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        losses = example_losses(model, loss, batch)
        weights = torch.zeros_like(losses, requires_grad=True)
        pulled = torch.autograd.grad(losses, parameters, weights, create_graph=True, allow_unused=True)
        pairs = [(found, each) for found, each in zip(pulled, vector, strict=True) if found is not None]
        found, vectors = zip(*pairs, strict=True)
        (products,) = torch.autograd.grad(found, weights, vectors)
    return products.double()


def example_statistics(
    model: nn.Module, loss: Loss, batch: Batch, sizes: Sequence[int], start: RandomState, ranks: Ranks | None = None
) -> ExampleStatistics:
    """The statistics of a step whose gradient lies in ``.grad``, before the optimizer has stepped.

    Args:
        model: As it was in the step; layers must not mix examples.
        loss: One loss an example.
        batch: This rank's part of a step of at least two examples.
        sizes: Of this rank's micro-batches.
        start: Random generators as they were before the step, so that dropout falls as it fell.
        ranks: The processes, each with its own examples of the step; a single one where left out.

    Raises:
        InputError: If examples depend on each other.
    """
    ranks = ranks or Ranks(model)
    mean = [tensor.clone() for tensor in gradients(trainable(model))]
    sq_norms, products = [], []
    with ranks.host.together(), preserved(model):
        start.restore()
        for part in split_sizes(batch, sizes):
            sq_norms.append(
                per_example_grad_norms(model, loss, part, squared=True)
            )  # leaves the generators as they were
            products.append(inner_products(model, loss, part, mean))
    statistics = GradientStatistics(sq_norms=ranks.rows(_joined(sq_norms, mean)), grad_sq_norm=float(sq_norm(mean)))
    trace = statistics.trace
    return ExampleStatistics(
        trace=trace,
        grad_sq_norm=statistics.grad_sq_norm - trace / statistics.num_examples,
        inner_product_variance=float(ranks.rows(_joined(products, mean)).var(correction=1)),
    )


def _joined(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Float[Tensor, " B"]:
    """All in one; empty, on the same device, for a rank without an example."""
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64, device=like[0].device)


class EpochDiversity:
    """Gradient diversity over an epoch, from its measured steps, while the parameters move.

    Source: Chen, Wang & Sundaram (2025), arXiv:2509.16173, algorithm 1, whose sums run over all steps. Deviation: with ``n`` of the
    ``N`` examples measured, the squared norm of the mean gradient is too large by ``trace (1/n - 1/N)``, which is taken off; with every
    step measured nothing is.

    Args:
        num_train: Examples ``N`` of the training set.
    """

    def __init__(self, num_train: int) -> None:
        self._num_train = num_train
        self._clear()

    def _clear(self) -> None:
        self._num_examples, self._sq_norms = 0, 0.0
        self._sum: list[Tensor] | None = None

    def add(
        self,
        model: nn.Module,
        loss: Loss,
        batch: Batch,
        sizes: Sequence[int],
        start: RandomState,
        ranks: Ranks | None = None,
    ) -> None:
        """Take in a step; arguments and errors as of `example_statistics`, of any number of examples."""
        ranks = ranks or Ranks(model)
        mean = gradients(trainable(model))
        # The sum so far is the same on all ranks, so one of them brings it.
        found = [self._sq_norms if ranks.rank == 0 else 0.0, float(sum(sizes))]
        with ranks.host.together(), preserved(model):
            start.restore()
            for part in split_sizes(batch, sizes):
                found[0] += float(per_example_grad_norms(model, loss, part, squared=True).sum())
                example_losses(model, loss, part)  # for the random numbers that it draws
        self._sq_norms, count = ranks.sum(torch.tensor(found, dtype=torch.float64, device=ranks.device)).tolist()
        length = round(count)
        scaled = [length * tensor.double() for tensor in mean]
        self._num_examples += length
        self._sum = scaled if self._sum is None else list(torch._foreach_add(self._sum, scaled))

    def close(self) -> float | None:
        """The diversity of the epoch that is over; None where nothing was measured, or the gradient was not told from its noise."""
        count, squares, total = self._num_examples, self._sq_norms, self._sum
        self._clear()
        if total is None or count < 2:
            return None
        mean_sq_norm = float(sq_norm(total)) / count**2
        trace = (squares - count * mean_sq_norm) / (count - 1)
        signal = mean_sq_norm - max(trace, 0.0) * max(1 / count - 1 / self._num_train, 0.0)
        found = squares / count / (self._num_train * signal) if signal > 0 else math.nan
        return found if math.isfinite(found) else None

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {"num_examples": self._num_examples, "sq_norms": self._sq_norms, "sum": self._sum}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`."""
        self._num_examples, self._sq_norms = state["num_examples"], state["sq_norms"]
        self._sum = None if state["sum"] is None else [tensor.to(device) for tensor in state["sum"]]
