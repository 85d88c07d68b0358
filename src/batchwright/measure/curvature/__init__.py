"""Curvature of the mean loss, of training's batches and along its steps, and what it says of the stability of its settings."""

from batchwright.measure.curvature.batch_sharpness import BatchSharpness, batch_sharpness, step_sharpness
from batchwright.measure.curvature.fisher import EmpiricalFisherOperator, FisherOperator
from batchwright.measure.curvature.ggn import GgnOperator
from batchwright.measure.curvature.lanczos import EigenPairs, extreme_eigenpairs
from batchwright.measure.curvature.mean_square import (
    crossover_batch_size,
    max_stable_lr,
    second_moment_growth,
    second_moment_matrix,
    thresholds,
)
from batchwright.measure.curvature.monitor import StabilityMonitor
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.products import HessianOperator, hvp
from batchwright.measure.curvature.reading import StabilityReading
from batchwright.measure.curvature.sharpness import Sharpness, sharpness
from batchwright.measure.curvature.sinks import RecordSink, TensorBoardSink
from batchwright.measure.curvature.stability import Stability, stability

__all__ = [
    "BatchSharpness",
    "CurvatureOperator",
    "EigenPairs",
    "EmpiricalFisherOperator",
    "FisherOperator",
    "GgnOperator",
    "HessianOperator",
    "RecordSink",
    "Sharpness",
    "Stability",
    "StabilityMonitor",
    "StabilityReading",
    "TensorBoardSink",
    "batch_sharpness",
    "crossover_batch_size",
    "extreme_eigenpairs",
    "hvp",
    "max_stable_lr",
    "second_moment_growth",
    "second_moment_matrix",
    "sharpness",
    "stability",
    "step_sharpness",
    "thresholds",
]
