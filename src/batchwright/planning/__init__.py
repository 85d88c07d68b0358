"""Measurements and a budget in, a plan with intervals and reasons out; and what must move when the batch size does."""

from batchwright.planning.batch_change import apply_to, batch_change
from batchwright.planning.batch_rules import RULES, Rule
from batchwright.planning.example_clock import ExampleClock
from batchwright.planning.optimizer_settings import OptimizerSettings, optimizer_name
from batchwright.planning.scg_bound import ScgConstants, bst_error, bst_regime, bst_thresholds, unrolled_bound
from batchwright.planning.token_budget import TokenBudget, token_budget
from batchwright.planning.token_plan import TokenPlan, load_plan
from batchwright.planning.token_regime import TokenRegime, token_regime

__all__ = [
    "RULES",
    "ExampleClock",
    "OptimizerSettings",
    "Rule",
    "ScgConstants",
    "TokenBudget",
    "TokenPlan",
    "TokenRegime",
    "apply_to",
    "batch_change",
    "bst_error",
    "bst_regime",
    "bst_thresholds",
    "load_plan",
    "optimizer_name",
    "token_budget",
    "token_regime",
    "unrolled_bound",
]
