"""Optimizers that step in a norm of the matrix: Muon and Scion, and the polar factor that they are made of."""

from batchwright.optim.ball import Ball, ball_norms
from batchwright.optim.build import build_optimizer
from batchwright.optim.cost import MuonCost, muon_cost
from batchwright.optim.lmo import NORMS, ColumnNorm, Euclidean, Lmo, RowNorm, Sign, Spectral
from batchwright.optim.muon import Muon
from batchwright.optim.param_groups import ParamGroups, param_groups
from batchwright.optim.polar import PolarOptions, polar
from batchwright.optim.scion import Scion

__all__ = [
    "NORMS",
    "Ball",
    "ColumnNorm",
    "Euclidean",
    "Lmo",
    "Muon",
    "MuonCost",
    "ParamGroups",
    "PolarOptions",
    "RowNorm",
    "Scion",
    "Sign",
    "Spectral",
    "ball_norms",
    "build_optimizer",
    "muon_cost",
    "param_groups",
    "polar",
]
