"""Measurements of a training job, each with an interval; none of them leaves a trace in what it measured."""

from batchwright.measure.branch import Branch, branch
from batchwright.measure.curvature import (
    BatchSharpness,
    Stability,
    batch_sharpness,
    crossover_batch_size,
    max_stable_lr,
    stability,
    step_sharpness,
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
    "DualNoiseScale",
    "GradientStatistics",
    "Memory",
    "NoiseScale",
    "PerExampleNorms",
    "Pilot",
    "RankNoise",
    "RunningNoiseScale",
    "Snapshot",
    "Stability",
    "Throughput",
    "TrialSearch",
    "adam_divisors",
    "batch_sharpness",
    "branch",
    "cabs_batch_size",
    "cosine_of_halves",
    "crossover_batch_size",
    "dive_batch_size",
    "dual_noise_scale",
    "gradient_diversity",
    "gradient_snr",
    "inner_product_test",
    "max_stable_lr",
    "memory",
    "noise_scale",
    "noise_scale_by_group",
    "norm_test",
    "orthogonality_test",
    "per_example_grad_norms",
    "per_example_sq_norms_by_layer",
    "pilot",
    "stability",
    "step_sharpness",
    "throughput",
    "trial_search",
]
