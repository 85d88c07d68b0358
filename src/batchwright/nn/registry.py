"""The targets of a conversion by their names; a new one is enrolled here and nowhere else.

A target takes the model and its own options by keyword, replaces in place, and returns a `Conversion`. It raises before it changes
anything. One that swaps layer for layer is a `swap` with a factory; one that needs the whole graph does as it must. The first line of
its docstring and its options are its row in docs/nn.md.
"""

from collections.abc import Callable, Mapping

from batchwright.nn.conversion import Conversion
from batchwright.nn.kalman_target import to_kalman
from batchwright.nn.targets import to_batch, to_ghost, to_group, to_renorm

REGISTRY: Mapping[str, Callable[..., Conversion]] = {
    "batch": to_batch,
    "ghost": to_ghost,
    "group": to_group,
    "kalman": to_kalman,
    "renorm": to_renorm,
}
