"""Sharpness along the optimizer's own step, dimensionless, with its edge at two: the form that reaches past SGD.

Source: the later extension in the official code of arXiv:2604.14108. Deviation: there the step of SGD with momentum is that along the
momentum buffer as it stands; here the optimizer really takes its step with the batch's gradient, so one definition serves them all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.vectors import dot, trainable
from batchwright.measure.curvature.batch_curvature import differentiable_gradient, hessian_product
from batchwright.measure.curvature.curvature_ratio import CurvatureRatio, ratio_over_batches
from batchwright.measure.curvature.frozen_step import FrozenStep
from batchwright.measure.curvature.parts import check_several
from batchwright.measure.curvature.stopping import StoppingRule

EDGE = 2.0
LIMITS = (
    "above 2 a step from frozen state raises its own batch's loss to second order; only for plain SGD is that tied to a growing "
    "gradient. Momentum from other batches, changing preconditioners, weight decay and clipping are in the step and not in the edge."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralizedSharpness:
    """``E[s^T H_B s] / (-E[s^T g_B])`` for the optimizer's step ``s``; no unit.

    Attributes:
        ratio: The ratio with its error, interval and number of batches.
        edge: Its edge, 2.
        optimizer: Class of the optimizer.
        limits: What a value at the edge does not say.
    """

    ratio: CurvatureRatio
    edge: float
    optimizer: str
    limits: str

    @property
    def value(self) -> float:
        """The ratio's value; ``inf`` where the steps do not go downhill on average."""
        return self.ratio.value

    @property
    def headroom(self) -> float:
        """``1 - value / edge``: the part of the edge that is left."""
        return 1 - self.value / self.edge


def generalized_sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    relative_error: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    level: float = 0.95,
) -> GeneralizedSharpness:
    """Measure sharpness along the step that ``optimizer`` would take with each batch, its state left as it is.

    For plain SGD it is the learning rate times `batch_sharpness_ratio`. For Adam, Muon and others it is a gauge without a proof:
    see the field ``limits``. A step that has no state yet, such as Adam's first, is another step than those that follow.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: One loss an example.
        batches: Independent batches of the size that is trained with, taken one at a time.
        optimizer: An optimizer of the model, of any class that ``param_groups`` alone can build; neither it nor its state changes.
        relative_error: Standard error over value at which measuring stops.
        min_batches: Fewest batches before it may stop.
        max_batches: Most batches.
        level: Nominal coverage of the interval, Fieller's.

    Raises:
        InputError: If an option is out of its range, or the optimizer lacks a trainable parameter.
    """
    rule = StoppingRule(relative_error=relative_error, min_batches=min_batches, max_batches=max_batches)
    parameters = trainable(model)
    frozen = FrozenStep(optimizer, parameters)

    def sample(batch: Batch) -> tuple[float, float]:
        graph, _ = differentiable_gradient(model, loss, batch, parameters)
        grads = [grad.detach() for grad in graph]
        step = [part.to(grad.dtype) for part, grad in zip(frozen.step(grads), grads, strict=True)]
        curvature = dot(hessian_product(graph, parameters, step), step)
        return float(curvature), -float(dot(step, grads))

    with preserved(model):
        ratio = ratio_over_batches(
            (sample(batch) for batch in check_several(batches)), rule, level, signed_denominator=True
        )
    return GeneralizedSharpness(ratio=ratio, edge=EDGE, optimizer=type(optimizer).__name__, limits=LIMITS)
