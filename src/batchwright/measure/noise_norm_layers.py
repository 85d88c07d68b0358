"""Gradient sums from the per-example norms of the normalization layers alone, with a calibration against all parameters.

Source: Gray et al. (2024), arXiv:2411.00999, section 4: the norms of the norm layers' gradients follow the total. Deviation: they fit
the ratio over training, by regression on the noise scale; here the ratio of the second moments is measured at the point
itself, on every `CALIBRATE_EVERY`-th batch, so that its error is part of the interval.
"""

import numpy as np
import torch
from torch import nn

from batchwright.core.batches import Batch
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.measure.noise_per_example import PerExampleSums
from batchwright.measure.noise_sums import Array, BatchSums

CALIBRATE_EVERY = 4
MIN_CALIBRATIONS = 3


class NormLayerSums:
    """Sum of the per-example gradients of a batch, and the squared norms that `calibrated` makes the whole of.

    ``BatchSums.weighted`` holds the sum of the squared norms of the norm layers, and on calibration batches that of all
    parameters and again that of the norm layers.

    Raises:
        InputError: If the model has no norm layer with trainable parameters.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._names = norm_layer_parameters(model)
        trainable_names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._places = [trainable_names.index(name) for name in self._names]
        self._norm_layers = PerExampleSums(model, loss, self._names)
        self._all = PerExampleSums(model, loss)
        self._num_batches = 0

    def __call__(self, batch: Batch) -> BatchSums:
        """The sums of one batch."""
        calibrates = self._num_batches % CALIBRATE_EVERY == 0
        self._num_batches += 1
        sums = self._all(batch) if calibrates else self._norm_layers(batch)
        layers = sums.weighted[self._places].sum() if calibrates else sums.weighted.sum()
        zero = torch.zeros_like(layers)
        weighted = torch.stack([layers, sums.weighted.sum(), layers] if calibrates else [layers, zero, zero])
        return BatchSums(total=sums.total, weighted=weighted, num_parts=sums.num_parts, num_examples=sums.num_examples)

    @property
    def num_calibrations(self) -> int:
        """Batches on which all parameters were measured."""
        return -(-self._num_batches // CALIBRATE_EVERY)

    def check_enough(self) -> None:
        """Check that the calibration has a scatter.

        Raises:
            InputError: Otherwise.
        """
        if self.num_calibrations < MIN_CALIBRATIONS:
            raise InputError(
                f"batches must hold at least {CALIBRATE_EVERY * (MIN_CALIBRATIONS - 1) + 1} batches for method='norm-layers', got "
                f"{self._num_batches}; every {CALIBRATE_EVERY}th calibrates the norm layers against all parameters"
            )


def calibrated(weighted: Array) -> Array:
    """Sum of the squared norms over all parameters from that of the norm layers, shape ``(3, ...)`` to ``(...)``."""
    layers, of_all, of_layers = weighted
    return np.asarray(layers * of_all / of_layers)


def norm_layer_parameters(model: nn.Module) -> list[str]:
    """Names of the trainable parameters that belong to normalization layers: torch's, and classes whose name ends in ``Norm``.

    Raises:
        InputError: If there is none.
    """
    known = nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._NormBase | nn.RMSNorm
    layers = [
        module for module in model.modules() if isinstance(module, known) or type(module).__name__.endswith("Norm")
    ]
    wanted = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    names = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) in wanted
    ]
    if not names:
        raise InputError(
            "model must have normalization layers with trainable parameters for method='norm-layers', got none; "
            "use method='per-example' or 'micro-batch'"
        )
    return names
