"""Optimizers that step in a norm of the matrix: Muon and Scion, and the polar factor that they are made of."""

from batchwright.optim.muon import Muon
from batchwright.optim.param_groups import ParamGroups, param_groups
from batchwright.optim.polar import PolarOptions, polar

__all__ = ["Muon", "ParamGroups", "PolarOptions", "param_groups", "polar"]
