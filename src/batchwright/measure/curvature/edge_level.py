"""At which batch sharpness training becomes unstable, given how much of that sharpness is noise.

Batch sharpness is split into the full Hessian's curvature along batch gradients (`interaction_aware_sharpness`) and the rest, which
is there only because gradient and Hessian come from the same few examples: ``noise_share`` is the rest's part of the whole. The two
take the places of mean and noise in the mean-square law of `mean_square`, so the level runs from ``2(1-b)/lr`` at a share of one to
``2(1+b)/lr`` at zero. The law is exact for one noisy curvature; for a network it is a model.
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_number
from batchwright.measure.curvature.mean_square import max_stable_lr, thresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseShare:
    """Part of batch sharpness that is noise, as far as it is known.

    Attributes:
        low: Smallest share that the evidence allows.
        high: Largest.
        evidence: What the bounds come from, in words.
    """

    low: float
    high: float
    evidence: str

    def __post_init__(self) -> None:
        check_number("high", self.high, at_least=0.0, at_most=1.0)
        check_number("low", self.low, at_least=0.0, at_most=self.high)

    @property
    def known(self) -> bool:
        """Whether the bounds agree to a tenth."""
        return self.high - self.low <= 0.1


def noise_share(
    *,
    batch_sharpness: float,
    mean_curvature: float | None = None,
    sharpness: float | None = None,
    full_batch: bool = False,
) -> NoiseShare:
    """What is known of the noise's share from the measurements that there are; the best of them is used.

    Args:
        batch_sharpness: At the batch size in question.
        mean_curvature: Interaction-aware sharpness at that size, which settles the share.
        sharpness: Largest eigenvalue of the full Hessian, which bounds the mean curvature from above.
        full_batch: Whether the batch is the whole data set, so that there is no noise.
    """
    if full_batch:
        return NoiseShare(low=0.0, high=0.0, evidence="the batch is the whole data set")
    if mean_curvature is not None and batch_sharpness > 0:
        share = min(max(1 - mean_curvature / batch_sharpness, 0.0), 1.0)
        return NoiseShare(low=share, high=share, evidence="interaction-aware sharpness")
    if sharpness is not None and batch_sharpness > 0:
        least = min(max(1 - sharpness / batch_sharpness, 0.0), 1.0)
        return NoiseShare(low=least, high=1.0, evidence="the largest eigenvalue, which bounds the mean curvature")
    return NoiseShare(low=0.0, high=1.0, evidence="batch sharpness alone")


def edge_level(*, lr: float, noise_share: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Batch sharpness at the edge of mean-square stability.

    Args:
        lr: Learning rate in torch's form.
        noise_share: Part of batch sharpness that is noise, in [0, 1].
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.

    Raises:
        InputError: If an argument is out of its range.
    """
    share = check_number("noise_share", noise_share, at_least=0.0, at_most=1.0)
    low, high = thresholds(lr=lr, momentum=momentum, nesterov=nesterov)
    if share == 0 or share == 1 or momentum == 0:
        return high if share == 0 else low
    mean = 1 - share
    largest = max_stable_lr(curvature_mean=mean, curvature_variance=share * mean, momentum=momentum, nesterov=nesterov)
    return largest / lr


def load(
    *, lr: float, mean_curvature: float, noise_curvature: float, momentum: float = 0.0, nesterov: bool = False
) -> float:
    """Learning rate over the largest stable one for a mean curvature and a noise curvature (variance over mean); 1 at the edge.

    Zero where there is no curvature. A negative part counts as none.
    """
    mean, noise = max(mean_curvature, 0.0), max(noise_curvature, 0.0)
    total = mean + noise
    if total == 0:
        return 0.0
    if math.isinf(total):
        return math.inf
    return total / edge_level(lr=lr, noise_share=noise / total, momentum=momentum, nesterov=nesterov)
