"""Sharpness along batch gradients as ratios of expectations; each has its own name, for they differ by factors.

Sources: the official code of arXiv:2412.20553 and arXiv:2604.14108 for the ratio of expectations and for the gradient-noise
interaction; the author's description for interaction-aware sharpness. Deviation: where the full Hessian or the full gradient is called
for, an independent batch of the same size stands in for it, which leaves numerators and denominators unbiased and needs no pass
over the data set.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.vectors import dot, sq_norm, trainable
from batchwright.measure.curvature.batch_curvature import batch_curvature, differentiable_gradient, hessian_product
from batchwright.measure.curvature.curvature_ratio import CurvatureRatio, ratio_over_batches
from batchwright.measure.curvature.parts import check_several
from batchwright.measure.curvature.stopping import StoppingRule


def batch_sharpness_ratio(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    relative_error: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    level: float = 0.95,
) -> CurvatureRatio:
    """``E[g_B^T H_B g_B] / E[||g_B||^2]``: the ratio of expectations, which weighs batches by their squared gradient.

    It is not batch sharpness, which weighs them alike: where large gradients go with large curvature it is larger. Times the learning
    rate it is the generalised sharpness of plain SGD.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: One loss an example.
        batches: Independent batches of the size that is trained with, taken one at a time.
        relative_error: Standard error over value at which measuring stops.
        min_batches: Fewest batches before it may stop.
        max_batches: Most batches.
        level: Nominal coverage of the interval, a jackknife's.

    Raises:
        InputError: If an option is out of its range.
    """
    rule = StoppingRule(relative_error=relative_error, min_batches=min_batches, max_batches=max_batches)
    parameters = trainable(model)
    with preserved(model):
        found = (batch_curvature(model, loss, batch, parameters) for batch in check_several(batches))
        return ratio_over_batches(((each.curvature, each.sq_norm) for each in found), rule, level)


def interaction_aware_sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    relative_error: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    level: float = 0.95,
) -> CurvatureRatio:
    """``E[g_B^T H g_B] / E[||g_B||^2]``: the curvature of the full loss along batch gradients.

    Batches are taken in pairs; each one's gradient meets the other's Hessian, whose expectation is the full Hessian. At small batch
    size it lies far below batch sharpness, and what is between them is noise. Batches of one pass without replacement are not quite
    independent: the error of that is of order batch size over data set.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: One loss an example.
        batches: Independent batches of one size, taken two at a time; an odd last one is left out.
        relative_error: Standard error over value at which measuring stops.
        min_batches: Fewest batches before it may stop.
        max_batches: Most batches.
        level: Nominal coverage of the interval, a jackknife's over pairs.

    Raises:
        InputError: If an option is out of its range.
    """
    rule = StoppingRule(relative_error=relative_error, min_batches=min_batches, max_batches=max_batches)
    with preserved(model):
        pairs = _pairs(model, loss, batches)
        samples = ((crossed, 0.5 * (first + second)) for crossed, first, second, _ in pairs)
        return ratio_over_batches(samples, rule, level, batches_a_sample=2)


def gradient_noise_interaction(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    relative_error: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    level: float = 0.95,
) -> CurvatureRatio:
    """GNI, ``E[g_B^T H g_B] / ||grad L||^2``: near ``2/lr`` the loss oscillates, be it harmlessly.

    The numerator is that of `interaction_aware_sharpness`. The denominator is the mean inner product of the two gradients of a pair,
    unbiased for the squared norm of the full gradient, where the squared norm of a mean would hold noise. It may come out near zero
    or below: then ``high`` is infinite, and with it ``value``.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: One loss an example.
        batches: Independent batches of one size, taken two at a time; an odd last one is left out.
        relative_error: Standard error over value at which measuring stops.
        min_batches: Fewest batches before it may stop.
        max_batches: Most batches.
        level: Nominal coverage of the interval, Fieller's.

    Raises:
        InputError: If an option is out of its range.
    """
    rule = StoppingRule(relative_error=relative_error, min_batches=min_batches, max_batches=max_batches)
    with preserved(model):
        samples = ((crossed, inner) for crossed, _, _, inner in _pairs(model, loss, batches))
        return ratio_over_batches(samples, rule, level, batches_a_sample=2, signed_denominator=True)


def _pairs(model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> Iterator[tuple[float, float, float, float]]:
    """Of each pair of batches: mean curvature of one along the gradient of the other, both squared norms, the inner product."""
    parameters = trainable(model)
    source = iter(check_several(batches))
    while len(pair := list(islice(source, 2))) == 2:
        graphs = [differentiable_gradient(model, loss, batch, parameters)[0] for batch in pair]
        first, second = ([part.detach() for part in graph] for graph in graphs)
        crossed = 0.5 * (_along(graphs[0], parameters, second) + _along(graphs[1], parameters, first))
        yield crossed, float(sq_norm(first)), float(sq_norm(second)), float(dot(first, second))


def _along(graph: list[Tensor], parameters: list[nn.Parameter], direction: list[Tensor]) -> float:
    return float(dot(hessian_product(graph, parameters, direction), direction))
