"""Measurements of a training job, each with an interval; none of them leaves a trace in what it measured."""

from batchwright.measure.branch import Branch, branch
from batchwright.measure.memory import Memory, memory
from batchwright.measure.noise import NoiseScale, noise_scale
from batchwright.measure.per_example import PerExampleNorms, per_example_grad_norms, per_example_sq_norms_by_layer
from batchwright.measure.pilot import Pilot, pilot
from batchwright.measure.running_noise import RunningNoiseScale
from batchwright.measure.snapshot import Snapshot
from batchwright.measure.throughput import Throughput, throughput

__all__ = [
    "Branch",
    "Memory",
    "NoiseScale",
    "PerExampleNorms",
    "Pilot",
    "RunningNoiseScale",
    "Snapshot",
    "Throughput",
    "branch",
    "memory",
    "noise_scale",
    "per_example_grad_norms",
    "per_example_sq_norms_by_layer",
    "pilot",
    "throughput",
]
