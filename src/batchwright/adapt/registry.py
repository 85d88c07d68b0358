"""The controllers by their names on the command line; a new one is enrolled here and nowhere else."""

from collections.abc import Mapping

from batchwright.adapt.fixed import Fixed
from batchwright.adapt.noise_scale import NoiseScale

REGISTRY: Mapping[str, type] = {"fixed": Fixed, "noise-scale": NoiseScale}
