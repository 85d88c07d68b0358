"""How many associations one matrix stores after a step of SGD, Muon or Newton, measured and predicted.

Source: Kim, Nichani, Wu, Bietti, Lee (2026), *Sharp Capacity Scaling of Spectral Optimizers in Learning Associative Memory*,
arXiv:2603.26554.
"""

from batchwright.capacity.memory import AssociativeMemory
from batchwright.capacity.prediction import Prediction, multi_step_exponents, predict, smoothing
from batchwright.capacity.recovery import Recovery, recovered_items, summarise
from batchwright.capacity.training import Snapshot, one_step, thresholded_step, train
from batchwright.capacity.updates import Muon, make_update, newton_schulz, newton_schulz_depth

__all__ = [
    "AssociativeMemory",
    "Muon",
    "Prediction",
    "Recovery",
    "Snapshot",
    "make_update",
    "multi_step_exponents",
    "newton_schulz",
    "newton_schulz_depth",
    "one_step",
    "predict",
    "recovered_items",
    "smoothing",
    "summarise",
    "thresholded_step",
    "train",
]
