"""The Fisher matrix under the model's own predictions, and the empirical Fisher matrix.

Sources: Martens (2020), arXiv:1412.1193, sections 9 and 11; Kunstner et al. (2019), arXiv:1905.12558, on what the two have not
in common.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss, example_losses
from batchwright.measure.curvature.jacobian_products import JacobianOperator
from batchwright.measure.curvature.loss_split import Forward, LossSplit, OutputLoss
from batchwright.measure.curvature.operator import GRAPH_BYTES
from batchwright.measure.curvature.parts import Part
from batchwright.measure.per_example.separate import refuse_batch_statistics

LIKELIHOODS = ("categorical", "gaussian")


class FisherOperator(JacobianOperator):
    """``(1/N) sum_n J_n' F(z_n) J_n`` with ``F`` the Fisher matrix of the distribution that output ``z_n`` stands for.

    ``F(z) = E[s s']`` over ``y`` drawn from the model's own prediction ``p(y | z)``, with ``s`` the gradient of
    ``log p(y | z)`` to ``z``; targets play no part. ``categorical``: ``z`` are logits along ``class_axis`` and
    ``F = diag(p) - p p'``. An output with further axes makes one independent prediction a position, and an example counts their
    mean, as a loss averaged over positions does. ``gaussian``: ``y`` is normal around ``z`` with the given variance in each
    coordinate, and ``F = 1 / variance``; an example counts the sum over its coordinates.

    Exact, the two equal `GgnOperator` of cross-entropy, averaged over positions, and of ``sum (z - y)^2 / (2 variance)``. With
    ``num_samples`` the expectation is a mean over that many draws from each prediction, unbiased, drawn once: the operator stays one
    matrix, of rank at most ``num_samples`` a prediction.

    Args:
        model: As for `CurvatureOperator`.
        loss: As there; only its call of the model is used.
        batches: As there.
        likelihood: ``categorical`` or ``gaussian``.
        class_axis: Axis of the logits in the output; the last one, or 1 for outputs ``(B, C, H, W)``.
        variance: Variance of each coordinate, for ``gaussian``. A loss ``(z - y)^2`` without a half has variance 1/2.
        num_samples: Draws for each prediction; the exact expectation when left out.
        generator: For the draws; seed 0 when left out.
        forward: ``forward(model, batch) -> output``, where the loss cannot be split by itself; with ``output_loss``.
        output_loss: ``output_loss(output, batch) -> (B,)``.
        micro_batch_size: As for `CurvatureOperator`.
        graph_bytes: As there.

    Raises:
        InputError: As for `GgnOperator`, or if an argument here is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batch | Iterable[Batch],
        *,
        likelihood: str = "categorical",
        class_axis: int = -1,
        variance: float = 1.0,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        forward: Forward | None = None,
        output_loss: OutputLoss | None = None,
        micro_batch_size: int | None = None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        self._likelihood = check_choice("likelihood", likelihood, LIKELIHOODS)
        self._class_axis = class_axis
        self._variance = check_number("variance", variance, above=0.0)
        self._num_samples = None if num_samples is None else check_int("num_samples", num_samples, at_least=1)
        self._generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._draws: dict[int, Tensor] = {}
        self._split = LossSplit(loss, forward, output_loss)
        super().__init__(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)

    def _output_and_middle(self, part: Part) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        output = self._split.output(self._model, part.batch)
        axis = self._class_axis if self._likelihood == "categorical" else -1
        if not -output.ndim < axis < output.ndim or axis == 0 or output.ndim < 2:
            raise InputError(
                f"class_axis must be an axis of the output other than its first, got {axis} for shape {tuple(output.shape)}; "
                "give forward= and output_loss= with one example a row"
            )
        rows = output.detach().movedim(axis, -1)
        if self._likelihood == "gaussian":
            exact, scale = _gaussian(rows, self._variance), 1.0
        else:
            exact, scale = _categorical(rows), rows[..., 0].numel() / len(rows)
        if self._num_samples is not None:
            if id(part) not in self._draws:
                self._draws[id(part)] = self._draw(rows, self._num_samples)
            exact = _sampled(self._scores(rows, self._draws[id(part)]))

        def middle(pushed: Tensor) -> Tensor:
            return exact(pushed.movedim(axis, -1)).movedim(-1, axis) / scale

        return output, middle

    def _draw(self, rows: Tensor, num_samples: int) -> Tensor:
        """Draws from each prediction, along a new first axis: classes, or standard normal numbers."""
        where = self._generator.device
        if self._likelihood == "gaussian":
            return torch.randn(num_samples, *rows.shape, generator=self._generator, device=where, dtype=rows.dtype).to(
                rows.device
            )
        probabilities = rows.softmax(-1).reshape(-1, rows.shape[-1]).to(where)
        classes = torch.multinomial(probabilities, num_samples, replacement=True, generator=self._generator)
        return classes.T.reshape(num_samples, *rows.shape[:-1]).to(rows.device)

    def _scores(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Gradient of the log-likelihood of each draw to its prediction."""
        if self._likelihood == "gaussian":
            return draws / math.sqrt(self._variance)
        return nn.functional.one_hot(draws, rows.shape[-1]).to(rows) - rows.softmax(-1)


class EmpiricalFisherOperator(JacobianOperator):
    """``(1/N) sum_n g_n g_n'``, the uncentred second moment of the gradients of single examples, at the targets that are there.

    No gradient of an example is held: ``g_n' v`` for all of them is one product with the Jacobian of the losses. It is
    not the Fisher matrix, whose targets the model itself draws. Arguments, attributes and errors as `CurvatureOperator`.

    Raises:
        InputError: Also if examples depend on each other, as by BatchNorm in train mode.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batch | Iterable[Batch],
        *,
        micro_batch_size: int | None = None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        refuse_batch_statistics(model)
        super().__init__(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)

    def _output_and_middle(self, part: Part) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return example_losses(self._model, self._loss, part.batch), lambda pushed: pushed


def _categorical(logits: Tensor) -> Callable[[Tensor], Tensor]:
    probabilities = logits.softmax(-1)

    def product(pushed: Tensor) -> Tensor:
        weighted = probabilities * pushed
        return weighted - probabilities * weighted.sum(-1, keepdim=True)

    return product


def _gaussian(means: Tensor, variance: float) -> Callable[[Tensor], Tensor]:
    return lambda pushed: pushed / variance


def _sampled(scores: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean over draws of ``s s'`` for each prediction."""
    return lambda pushed: ((scores * pushed).sum(-1, keepdim=True) * scores).mean(0)
