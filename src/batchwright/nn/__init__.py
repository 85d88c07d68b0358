"""Normalization layers for large and for tiny batches, and what puts them into a model that exists."""

from batchwright.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d
from batchwright.nn.calibrate import calibrate
from batchwright.nn.conversion import Change, Conversion, Kept
from batchwright.nn.convert import convert
from batchwright.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from batchwright.nn.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "Change",
    "Conversion",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "Kept",
    "calibrate",
    "convert",
]
