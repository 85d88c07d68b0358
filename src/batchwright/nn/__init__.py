"""Normalization layers for large and for tiny batches, and what puts them into a model that exists."""

from batchwright.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d
from batchwright.nn.calibrate import calibrate
from batchwright.nn.channel_state import ChannelState
from batchwright.nn.conversion import Change, Conversion, Kept
from batchwright.nn.convert import convert
from batchwright.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from batchwright.nn.kalman_norm import KalmanNorm1d, KalmanNorm2d
from batchwright.nn.registry import REGISTRY
from batchwright.nn.state_rules import follow_rule

__all__ = [
    "REGISTRY",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "Change",
    "ChannelState",
    "Conversion",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "KalmanNorm1d",
    "KalmanNorm2d",
    "Kept",
    "calibrate",
    "convert",
    "follow_rule",
]
