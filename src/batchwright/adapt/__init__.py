"""Batch-size controllers behind one pure interface."""

from batchwright.adapt.adascale import AdaScale
from batchwright.adapt.cabs import Cabs
from batchwright.adapt.controller import MEASUREMENTS, Controller, Decision, Measured, check_optimizer
from batchwright.adapt.dive_batch import DiveBatch
from batchwright.adapt.fixed import Fixed
from batchwright.adapt.geometric import Geometric
from batchwright.adapt.inner_product_test import InnerProductTest
from batchwright.adapt.limits import Limits
from batchwright.adapt.noise_scale import NoiseScale
from batchwright.adapt.norm_test import NormTest
from batchwright.adapt.options import parse_policy
from batchwright.adapt.registry import REGISTRY
from batchwright.adapt.replay import Answer, Replay, dry_run, replay
from batchwright.adapt.restarted_budget import RestartedBudget
from batchwright.adapt.schedule import Schedule
from batchwright.adapt.seesaw import Seesaw
from batchwright.adapt.simigrad import SimiGrad
from batchwright.adapt.stability_aware import StabilityAware

__all__ = [
    "MEASUREMENTS",
    "REGISTRY",
    "AdaScale",
    "Answer",
    "Cabs",
    "Controller",
    "Decision",
    "DiveBatch",
    "Fixed",
    "Geometric",
    "InnerProductTest",
    "Limits",
    "Measured",
    "NoiseScale",
    "NormTest",
    "Replay",
    "RestartedBudget",
    "Schedule",
    "Seesaw",
    "SimiGrad",
    "StabilityAware",
    "check_optimizer",
    "dry_run",
    "parse_policy",
    "replay",
]
