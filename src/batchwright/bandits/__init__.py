"""Tuning in few parallel rounds: batched kernelized bandits with a bound on what they return.

Sources: Li & Scarlett (2022), arXiv:2110.07788; Ma, Chen, Scarlett (2026), arXiv:2603.12627.
"""

from batchwright.bandits.bandit import Bandit
from batchwright.bandits.bpe import BPE
from batchwright.bandits.calibration import Calibration, calibration, leave_one_out
from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.certificate import Recommendation
from batchwright.bandits.confidence import Confidence
from batchwright.bandits.dense_posterior import DensePosterior, dense_posterior
from batchwright.bandits.fit import FittedKernel, fit_kernel
from batchwright.bandits.gp_ucb import GPBUCB, GPUCB
from batchwright.bandits.kernels import Kernel
from batchwright.bandits.marginal_likelihood import LogNormal, Prior
from batchwright.bandits.model import Model
from batchwright.bandits.perturbation import Perturbation
from batchwright.bandits.pool import Region
from batchwright.bandits.registry import REGISTRY
from batchwright.bandits.robust_bpe import RobustBPE
from batchwright.bandits.robust_gp_bucb import RobustGPBUCB
from batchwright.bandits.schedules import batch_schedule, optimal_num_batches
from batchwright.bandits.space import Dimension, Space
from batchwright.bandits.thompson import Thompson
from batchwright.bandits.trials import Trial
from batchwright.bandits.ucb_pe import UCBPE

__all__ = [
    "BPE",
    "GPBUCB",
    "GPUCB",
    "REGISTRY",
    "UCBPE",
    "Bandit",
    "Calibration",
    "CandidatePosterior",
    "Confidence",
    "DensePosterior",
    "Dimension",
    "FittedKernel",
    "Kernel",
    "LogNormal",
    "Model",
    "Perturbation",
    "Prior",
    "Recommendation",
    "Region",
    "RobustBPE",
    "RobustGPBUCB",
    "Space",
    "Thompson",
    "Trial",
    "batch_schedule",
    "calibration",
    "dense_posterior",
    "fit_kernel",
    "leave_one_out",
    "optimal_num_batches",
]
