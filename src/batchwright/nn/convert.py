"""Swapping the normalization layers of a model that exists."""

import inspect

from torch import nn

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.nn.conversion import Conversion
from batchwright.nn.registry import REGISTRY


def convert(model: nn.Module, to: str, **options: object) -> Conversion:
    """Replace the batch normalization layers of ``model`` by another kind, in place.

    The new layers hold the same parameter and buffer tensors, so an optimizer made before still trains them, ties stay, and data
    type, device, ``requires_grad`` and mode are as they were. A layer that the model uses in two places stays one layer.

    Args:
        model: Any model.
        to: A name in `REGISTRY`, as ``ghost``; docs/nn.md has the table.
        options: Of the new layers, as ``ghost_size=16``.

    Returns:
        The model, with what was changed and what was not and why.

    Raises:
        InputError: If ``to`` or an option is unknown, or a layer cannot become what is asked; nothing has changed then.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.LayerNorm(8))
        >>> print(convert(model, "ghost", ghost_size=16).changed[0].names)
        ('1',)
    """
    target = REGISTRY[check_choice("to", to, REGISTRY)]
    known = list(inspect.signature(target).parameters)[1:]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise InputError(
            f"options of to={to!r} must be among {', '.join(known) or 'none'}, got {', '.join(unknown)}; leave it out"
        )
    return target(model, **options)
