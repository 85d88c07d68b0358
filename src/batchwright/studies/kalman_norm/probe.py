"""How far the statistics that normalise are from those of the whole batch, and how much they scatter from ghost to ghost.

Source: spec sheet of the study, section 4.6: mean error ``(m̂ - m)² / v`` and log-variance error ``(log v̂/v)²`` over ghosts and
channels, with ``m`` and ``v`` of the whole batch; of the batch's own statistics and of the corrected ones.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from batchwright.nn import ChannelState, KalmanNorm2d
from batchwright.nn.ghost_statistics import Ghosts, moments
from batchwright.nn.kalman_norm import Source

NAMES = ("mean_error", "var_error", "scatter")


class Probe:
    """Watches the norms that have a prior; errors are averaged over layers and steps.

    Args:
        model: A converted model.
        ghost_size: Examples in a ghost.
    """

    def __init__(self, model: nn.Module, ghost_size: int) -> None:
        self.ghost_size = ghost_size
        self.sums: dict[str, float] = {}
        self.number = 0
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._taps: dict[nn.Module, _Tap] = {}
        for norm in norms[1:]:  # the first has no prior
            if isinstance(norm, KalmanNorm2d) and norm.source is not None:
                self._taps[norm] = _Tap(norm.source)
                norm.source = self._taps[norm]
        self._handles = [norm.register_forward_hook(self._see) for norm in norms[1:]]

    def close(self) -> Mapping[str, float]:
        """Take the watch off and give the averages: ``batch_mean_error``, ``fused_mean_error`` and so on."""
        for handle in self._handles:
            handle.remove()
        for norm, tap in self._taps.items():
            assert isinstance(norm, KalmanNorm2d)
            norm.source = tap.source
        return {name: value / self.number for name, value in self.sums.items()}

    @torch.no_grad()
    def _see(self, norm: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        x = args[0].detach()
        values = x.shape[2] * x.shape[3]
        means, variances = moments(x, Ghosts.of_batch(len(x), self.ghost_size, values))
        full_mean, full_var = (each[0] for each in moments(x, Ghosts.of_batch(len(x), len(x), values)))
        tap = self._taps.get(norm)
        fused = (means, variances)
        if tap is not None and tap.corrected is not None:
            fused = (tap.corrected.mean.detach(), tap.corrected.var.detach())
        for kind, (mean, var) in (("batch", (means, variances)), ("fused", fused)):
            scatter = (mean - mean.mean(0)).square() / full_var
            found = ((mean - full_mean).square() / full_var, (var / full_var).log().square(), scatter)
            for name, value in zip(NAMES, found, strict=True):
                key = f"{kind}_{name}"
                self.sums[key] = self.sums.get(key, 0.0) + float(value.mean())
        self.number += 1


class _Tap:
    """A source that remembers what its norm found."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.corrected: ChannelState | None = None

    def prior(self) -> ChannelState | None:
        return self.source.prior()

    def report(self, corrected: ChannelState) -> None:
        self.corrected = corrected
        self.source.report(corrected)
