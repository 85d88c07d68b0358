"""Measurements of a training job, each with an interval; none of them leaves a trace in what it measured."""

from batchwright.measure.branch import Branch, branch
from batchwright.measure.curvature import (
    BatchSharpness,
    CurvatureRatio,
    GeneralizedSharpness,
    PreconditionedStability,
    Stability,
    StepSettings,
    WhatIf,
    batch_sharpness,
    batch_sharpness_ratio,
    crossover_batch_size,
    generalized_sharpness,
    gradient_noise_interaction,
    interaction_aware_sharpness,
    max_stable_lr,
    preconditioned_stability,
    stability,
    step_sharpness,
    what_if,
)
from batchwright.measure.dual_norms import DualNoiseScale, dual_noise_scale
from batchwright.measure.gradient_statistics import (
    BatchTest,
    GradientStatistics,
    cabs_batch_size,
    cosine_of_halves,
    dive_batch_size,
    gradient_diversity,
    gradient_snr,
    inner_product_test,
    norm_test,
    orthogonality_test,
)
from batchwright.measure.memory import Memory, memory
from batchwright.measure.memory_trial import TrialSearch, trial_search
from batchwright.measure.noise import NoiseScale, noise_scale
from batchwright.measure.noise_groups import adam_divisors, noise_scale_by_group
from batchwright.measure.noise_ranks import RankNoise
from batchwright.measure.per_example import PerExampleNorms, per_example_grad_norms, per_example_sq_norms_by_layer
from batchwright.measure.pilot import Pilot, pilot
from batchwright.measure.running_noise import RunningNoiseScale
from batchwright.measure.snapshot import Snapshot
from batchwright.measure.throughput import Throughput, throughput

__all__ = [
    "BatchSharpness",
    "BatchTest",
    "Branch",
    "CurvatureRatio",
    "DualNoiseScale",
    "GeneralizedSharpness",
    "GradientStatistics",
    "Memory",
    "NoiseScale",
    "PerExampleNorms",
    "Pilot",
    "PreconditionedStability",
    "RankNoise",
    "RunningNoiseScale",
    "Snapshot",
    "Stability",
    "StepSettings",
    "Throughput",
    "TrialSearch",
    "WhatIf",
    "adam_divisors",
    "batch_sharpness",
    "batch_sharpness_ratio",
    "branch",
    "cabs_batch_size",
    "cosine_of_halves",
    "crossover_batch_size",
    "dive_batch_size",
    "dual_noise_scale",
    "generalized_sharpness",
    "gradient_diversity",
    "gradient_noise_interaction",
    "gradient_snr",
    "inner_product_test",
    "interaction_aware_sharpness",
    "max_stable_lr",
    "memory",
    "noise_scale",
    "noise_scale_by_group",
    "norm_test",
    "orthogonality_test",
    "per_example_grad_norms",
    "per_example_sq_norms_by_layer",
    "pilot",
    "preconditioned_stability",
    "stability",
    "step_sharpness",
    "throughput",
    "trial_search",
    "what_if",
]
