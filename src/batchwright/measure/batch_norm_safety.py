"""How small a micro-batch the batch normalization layers of a model bear: what the statistics of few examples do to the loss.

Each batch of examples is run once with its statistics taken over all of it, and once with them taken over parts of ``b`` examples, as
micro-batches would. The losses are of the same examples with the same weights, so their difference is what the statistics of ``b``
examples cost, and the scatter of the statistics says why: with one independent value an example, batch means err by ``1/b`` of
the variance.

Sources: Hoffer et al. (2017), arXiv:1705.08741 (ghosts); Wu & He (2018), arXiv:1803.08494, section 1 (batch norm's error at small
batches). Deviation: they measure trained models at each size; this measures one model, before anything is trained at that size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Interval, mean_interval
from batchwright.nn.ghost_batch_norm import GHOST_NORMS
from batchwright.nn.ghost_function import normalise
from batchwright.nn.ghost_statistics import Ghosts, moments
from batchwright.nn.swap import BATCH_NORMS

MIN_BATCHES = 3
# Means off by a third of a standard deviation: a trained model notices.
NOISY = 0.1
# Exactly these: a subclass may compute something else, and is left in evaluation mode.
MEASURED = (*BATCH_NORMS, *GHOST_NORMS, nn.SyncBatchNorm)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchNormSafety:
    """What the statistics of small micro-batches cost a model at one point of its training.

    Attributes:
        micro_batch_sizes: Sizes tried, rising, in examples.
        reference_size: Examples whose statistics stand for the whole: the smallest batch measured.
        loss: Mean loss an example with the statistics of the reference.
        excess: Mean loss with the statistics of each size less ``loss``; intervals over the batches.
        mean_error: Mean over layers and channels of ``(m_b - m)**2 / v``, the error of a mean in variances of the reference, one a
            size; about ``1/b`` where each example has one value a channel.
        log_variance_error: Mean of ``log(v_b / v)**2``, one a size.
        scale: What the tolerance is a part of.
        tolerance: Excess over ``scale`` that counts as harmless.
        safe_size: Smallest size tried from which on all sizes tried are surely harmless, the upper end of the excess within the
            tolerance; None where even the largest is not, and where the loss is ``insensitive``.
        unsafe_size: Largest size tried that surely does harm, the lower end of the excess above the tolerance; None where none does.
        insensitive: The loss does not notice the smallest size though its means are off by more than a third of a standard deviation
            (``mean_error`` above 0.1): the model has hardly learned, so its loss says nothing about training at any size. Measure
            again at a later point.
        num_layers: Batch normalization layers.
        num_batches: Batches measured.
        num_examples: Examples that went through a forward pass.
    """

    micro_batch_sizes: tuple[int, ...]
    reference_size: int
    loss: float
    excess: tuple[Interval, ...]
    mean_error: tuple[float, ...]
    log_variance_error: tuple[float, ...]
    scale: float
    tolerance: float
    safe_size: int | None
    unsafe_size: int | None
    insensitive: bool
    num_layers: int
    num_batches: int
    num_examples: int

    def against(self, scale: float) -> "BatchNormSafety":
        """The same measurement judged by another scale.

        Raises:
            InputError: If the scale is not above 0.
        """
        allowed = self.tolerance * check_number("scale", scale, above=0.0)
        safe, unsafe = _judge(self.micro_batch_sizes, self.excess, allowed)
        return replace(self, scale=scale, safe_size=None if self.insensitive else safe, unsafe_size=unsafe)


@torch.no_grad()
def batch_norm_safety(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    micro_batch_sizes: Sequence[int] = (2, 4, 8, 16, 32),
    scale: float | None = None,
    tolerance: float = 0.1,
    level: float = 0.95,
) -> BatchNormSafety:
    """Measure what the statistics of small micro-batches cost, by forward passes alone.

    All other layers are in evaluation mode, so dropout is off. Costs one forward pass of each batch for the reference and one for each
    size.

    Args:
        model: Model with batch normalization layers, near the point of training that matters; left as it was. Ghost layers are measured
            at the sizes given, whatever their own.
        loss: One loss an example.
        batches: At least three, independent, each larger than every size; their whole is the reference, so several times larger is
            better. A batch is cut to the length of the smallest before it.
        micro_batch_sizes: Sizes to try, in examples.
        scale: Loss that an excess is held against; ``abs(loss)`` where left out. What training has gained so far, its first loss less
            its last, is the better one where it is known: a model that fits its data has next to no loss left.
        tolerance: Excess, as a part of ``scale``, that counts as harmless.
        level: Coverage of the intervals.

    Raises:
        InputError: If the model has no batch normalization layer, there are fewer than three batches, or a size is not smaller than a
            batch or gives a layer a single value a channel.
        TaskError: If the loss is not one number an example.
    """
    sizes = sorted({check_int("micro_batch_sizes", size, at_least=1) for size in micro_batch_sizes})
    check_number("tolerance", tolerance, above=0.0)
    if scale is not None:
        check_number("scale", scale, above=0.0)
    if not sizes:
        raise InputError("micro_batch_sizes must hold at least one size, got none")
    layers = batch_norms(model)
    if not layers:
        raise InputError(
            "model must have batch normalization layers, got none; micro-batches of any size give it the same loss"
        )
    losses: list[list[float]] = []
    errors: list[Tensor] = []
    smallest, num_examples = 0, 0
    with preserved(model):
        model.eval()
        probe = _Probe(layers, sizes)
        try:
            for batch in batches:
                length = batch_length(batch)
                if length <= sizes[-1]:
                    raise InputError(
                        f"micro_batch_sizes must be smaller than every batch, got {sizes[-1]} and a batch of {length}; "
                        "measure larger batches"
                    )
                smallest = min(smallest or length, length)
                found = []
                for size in (length, *sizes):
                    probe.size, probe.is_reference = size, size == length
                    found.append(float(example_losses(model, loss, batch).mean()))
                losses.append(found)
                errors.append(probe.take_errors())
                num_examples += length * len(found)
        finally:
            probe.remove()
    if len(losses) < MIN_BATCHES:
        raise InputError(
            f"batches must hold at least {MIN_BATCHES} batches, got {len(losses)}; the interval needs their scatter"
        )
    reference = math.fsum(row[0] for row in losses) / len(losses)
    excess = tuple(mean_interval([row[place] - row[0] for row in losses], level) for place in range(1, len(sizes) + 1))
    mean_error, log_variance_error = torch.stack(errors).mean(dim=0).tolist()
    scale = abs(reference) if scale is None else float(scale)
    safe_size, unsafe_size = _judge(sizes, excess, tolerance * scale)
    insensitive = mean_error[0] > NOISY and excess[0].low <= 0
    return BatchNormSafety(
        micro_batch_sizes=tuple(sizes),
        reference_size=smallest,
        loss=reference,
        excess=excess,
        mean_error=tuple(mean_error),
        log_variance_error=tuple(log_variance_error),
        scale=scale,
        tolerance=tolerance,
        safe_size=None if insensitive else safe_size,
        unsafe_size=unsafe_size,
        insensitive=insensitive,
        num_layers=len(layers),
        num_batches=len(losses),
        num_examples=num_examples,
    )


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch normalization layers that `batch_norm_safety` measures: torch's and ghosts, not what corrects or replaces them."""
    return [
        module
        for module in model.modules()
        if type(module) in MEASURED and isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]


def _judge(sizes: Sequence[int], excess: Sequence[Interval], allowed: float) -> tuple[int | None, int | None]:
    """Smallest size from which on all are surely harmless, and largest that surely does harm."""
    safe = None
    for size, found in zip(reversed(sizes), reversed(excess), strict=True):
        if not found.high <= allowed:
            break
        safe = size
    return safe, max((size for size, found in zip(sizes, excess, strict=True) if found.low > allowed), default=None)


class _Probe:
    """Makes batch normalization layers normalise by parts of ``size`` examples, and compares the statistics of the parts."""

    def __init__(self, layers: Sequence[nn.modules.batchnorm._BatchNorm], sizes: Sequence[int]) -> None:
        self.size, self.is_reference = 0, True
        self._sizes = sizes
        self._errors: list[Tensor] = []
        self._hooks = [layer.register_forward_hook(self._normalise) for layer in layers]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def take_errors(self) -> Tensor:
        """Mean over the layers of both errors at each size, shape ``(2, sizes)``; forgets them."""
        errors, self._errors = torch.stack(self._errors).mean(dim=0), []
        return errors

    def _normalise(self, layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x = inputs[0]
        values = math.prod(x.shape[2:])
        out, means, variances = normalise(
            x, layer.weight, layer.bias, Ghosts.of_batch(len(x), self.size, values), layer.eps
        )
        if self.is_reference:
            self._errors.append(self._compare(x, values, means[0], variances[0]))
        return out

    def _compare(self, x: Tensor, values: int, mean: Tensor, variance: Tensor) -> Tensor:
        alive = variance > 0  # a channel that is constant has no error to speak of
        found = []
        for size in self._sizes:
            # Whole parts alone: a shorter last one has another error.
            means, variances = moments(x[: len(x) // size * size], Ghosts.of_batch(len(x) // size * size, size, values))
            means, variances = means[:, alive], variances[:, alive]
            apart = ((means - mean[alive]).square() / variance[alive]).mean()
            scale = (variances / variance[alive]).clamp(min=torch.finfo(variance.dtype).tiny).log().square().mean()
            found.append(torch.stack([apart, scale]))
        return torch.stack(found, dim=1).to("cpu", torch.float64)
