"""Curvature of the loss as training meets it, and what it says of the stability of learning rate, momentum and batch size."""

from batchwright.measure.curvature.batch_sharpness import BatchSharpness, batch_sharpness, step_sharpness
from batchwright.measure.curvature.curvature_ratio import CurvatureRatio
from batchwright.measure.curvature.fisher import EmpiricalFisherOperator, FisherOperator
from batchwright.measure.curvature.generalized_sharpness import GeneralizedSharpness, generalized_sharpness
from batchwright.measure.curvature.ggn import GgnOperator
from batchwright.measure.curvature.gradient_sharpness import (
    batch_sharpness_ratio,
    gradient_noise_interaction,
    interaction_aware_sharpness,
)
from batchwright.measure.curvature.lanczos import EigenPairs, extreme_eigenpairs
from batchwright.measure.curvature.linear_model import EdgeRatio, edge_ratio
from batchwright.measure.curvature.lr_bound import LrBound, lr_bound
from batchwright.measure.curvature.mean_square import (
    crossover_batch_size,
    max_stable_lr,
    second_moment_growth,
    second_moment_matrix,
    thresholds,
)
from batchwright.measure.curvature.monitor import StabilityMonitor
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.preconditioned import PreconditionedStability, preconditioned_stability
from batchwright.measure.curvature.products import HessianOperator, hvp
from batchwright.measure.curvature.reading import StabilityReading
from batchwright.measure.curvature.sharpness import Sharpness, sharpness
from batchwright.measure.curvature.sinks import RecordSink, ScalarWriter, TensorBoardSink
from batchwright.measure.curvature.spectral_density import SpectralDensity, operator_spectral_density, spectral_density
from batchwright.measure.curvature.stability import Stability, stability
from batchwright.measure.curvature.trace import Trace, hessian_trace, operator_trace
from batchwright.measure.curvature.what_if import StepSettings, WhatIf, what_if

__all__ = [
    "BatchSharpness",
    "CurvatureOperator",
    "CurvatureRatio",
    "EdgeRatio",
    "EigenPairs",
    "EmpiricalFisherOperator",
    "FisherOperator",
    "GeneralizedSharpness",
    "GgnOperator",
    "HessianOperator",
    "LrBound",
    "PreconditionedStability",
    "RecordSink",
    "ScalarWriter",
    "Sharpness",
    "SpectralDensity",
    "Stability",
    "StabilityMonitor",
    "StabilityReading",
    "StepSettings",
    "TensorBoardSink",
    "Trace",
    "WhatIf",
    "batch_sharpness",
    "batch_sharpness_ratio",
    "crossover_batch_size",
    "edge_ratio",
    "extreme_eigenpairs",
    "generalized_sharpness",
    "gradient_noise_interaction",
    "hessian_trace",
    "hvp",
    "interaction_aware_sharpness",
    "lr_bound",
    "max_stable_lr",
    "operator_spectral_density",
    "operator_trace",
    "preconditioned_stability",
    "second_moment_growth",
    "second_moment_matrix",
    "sharpness",
    "spectral_density",
    "stability",
    "step_sharpness",
    "thresholds",
    "what_if",
]
