"""Spectral norm for a critic that exists: each weight is divided by its largest singular value.

Sources: Miyato et al. (2018), arXiv:1802.05957; Wang, Sun, Halgamuge (2019), arXiv:1812.09916 (a constant above 1 after the division).
Deviation from the latter: of a convolution the singular value is that of its weight as a matrix of output channels, as in the former.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from batchwright.core.errors import InputError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


def add_spectral_norm(critic: nn.Module, scale: float = 1.0) -> int:
    """Wire spectral norm into the linear and convolutional layers of ``critic``, in place; the number of layers.

    A layer that has it already is left as it is, so a critic may be given to several trainers.

    Raises:
        InputError: If there is no such layer.
    """
    layers = [module for module in critic.modules() if isinstance(module, LAYERS)]
    if not layers:
        raise InputError(
            f"critic must have a linear or convolutional layer for spectral_norm, got {type(critic).__name__} without one; "
            "use clip or gradient_penalty"
        )
    for layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            continue
        parametrizations.spectral_norm(layer)
        if scale != 1.0:
            parametrize.register_parametrization(layer, "weight", _Scaled(scale))
    return len(layers)


@torch.no_grad()
def spectral_norms(critic: nn.Module) -> list[float]:
    """Largest singular value of each linear and convolutional weight as a matrix, by a full decomposition."""
    return [
        float(torch.linalg.matrix_norm(module.weight.detach().flatten(1).double(), 2))
        for module in critic.modules()
        if isinstance(module, LAYERS)
    ]
