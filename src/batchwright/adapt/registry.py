"""The controllers by their names on the command line; a new one is enrolled in `plain`, or here where it wraps another."""

from collections.abc import Mapping

from batchwright.adapt.plain import PLAIN
from batchwright.adapt.stability_aware import StabilityAware

REGISTRY: Mapping[str, type] = {**PLAIN, "stability-aware": StabilityAware}
