"""Running statistics recomputed from batches: the exact mean and variance of what each layer saw.

An exponential average, as training keeps, weighs the last ten batches or so, and lags behind the weights. This is a plain one:
batches are merged by their counts, and the variance holds the part between batches.

Source: the merging of means and squared deviations of Chan, Golub and LeVeque (1979), STAN-CS-79-773.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.core.preserve import preserved
from batchwright.nn.kalman_norm import KalmanNorm1d, KalmanNorm2d


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Any], *, forward: Callable[[nn.Module, Any], object] | None = None
) -> tuple[str, ...]:
    """Set the running statistics of the batch normalization layers to those of all values that they see in ``batches``.

    The layers normalise by the batch (or its ghosts) meanwhile, as in training; all other layers are in evaluation mode, so dropout
    is off. Running means become the mean over all values, running variances the unbiased variance over all values, the part
    between batches included, and ``num_batches_tracked`` the number of batches. Batches may be of different sizes. Kalman norms,
    which normalise by corrected statistics, get those of the corrected ones.

    Args:
        model: Any model; its parameters, gradients, modes and generators are left alone, and nothing changes if it raises.
        batches: Any number, used once, on the model's device.
        forward: ``forward(model, batch)`` runs the model; a loss may serve. Where left out, ``model(batch)``, or ``model(batch[0])``
            of a tuple or list.

    Returns:
        Names of the layers that were set: those with running statistics that the model used.

    Raises:
        InputError: If there are no such layers or no batches, or a layer saw values that are not finite.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> calibrate(layer, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])])
        ('',)
        >>> round(layer.running_mean.item(), 6), round(layer.running_var.item(), 4)
        (3.0, 6.6667)
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not layers:
        raise InputError(
            "model must have batch normalization layers with running statistics, got none; nothing to calibrate"
        )
    found: dict[nn.Module, _Moments] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        new = _Moments.of(inputs[0])
        if isinstance(layer, KalmanNorm1d | KalmanNorm2d):
            new = _Moments.of_ghosts(*layer.corrected(inputs[0]))
        found[layer] = found[layer].merged(new) if layer in found else new

    num_batches = 0
    with preserved(model):
        model.eval()
        hooks = []
        try:
            for layer in layers.values():
                layer.train()
                hooks.append(layer.register_forward_pre_hook(record))
            for batch in batches:
                (forward or _call)(model, batch)
                num_batches += 1
        finally:
            for hook in hooks:
                hook.remove()
    if not num_batches:
        raise InputError("batches must hold at least one batch, got none; a generator is used up after one pass")
    for name, layer in layers.items():
        if layer in found and not bool(torch.isfinite(found[layer].squares).all()):
            raise InputError(
                f"batches must give finite values, got others at layer {name!r}; mend the model or the data"
            )
    for module, moments in found.items():
        _set(module, moments, num_batches)
    return tuple(name for name, layer in layers.items() if layer in found)


def _call(model: nn.Module, batch: Any) -> object:
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def _set(layer: nn.Module, moments: "_Moments", num_batches: int) -> None:
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(moments.mean)
    layer.running_var.copy_(moments.squares / max(moments.count - 1, 1))
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(num_batches)


@dataclass(frozen=True)
class _Moments:
    """Count, mean and sum of squared deviations of each channel, in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "_Moments":
        values = x.to(torch.float64).transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        return cls(values.shape[1], mean, variance * values.shape[1])

    @classmethod
    def of_ghosts(cls, means: Tensor, variances: Tensor, counts: list[int]) -> "_Moments":
        """Of ghosts with these means and biased variances."""
        sizes = torch.tensor(counts, dtype=torch.float64, device=means.device)[:, None]
        means, variances = means.to(torch.float64), variances.to(torch.float64)
        mean = (means * sizes).sum(0) / sizes.sum()
        return cls(sum(counts), mean, ((variances + (means - mean).square()) * sizes).sum(0))

    def merged(self, other: "_Moments") -> "_Moments":
        count = self.count + other.count
        apart = other.mean - self.mean
        return _Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + apart.square() * (self.count * other.count / count),
        )
