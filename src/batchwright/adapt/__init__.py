"""Batch-size controllers behind one pure interface."""

from batchwright.adapt.controller import Controller, Decision, Measured
from batchwright.adapt.fixed import Fixed
from batchwright.adapt.noise_scale import NoiseScale
from batchwright.adapt.registry import REGISTRY

__all__ = ["REGISTRY", "Controller", "Decision", "Fixed", "Measured", "NoiseScale"]
