"""Measurements and a budget in, a plan with intervals and reasons out; and what must move when the batch size does."""

from batchwright.planning.batch_change import apply_to, batch_change
from batchwright.planning.batch_rules import RULES, Rule
from batchwright.planning.example_clock import ExampleClock
from batchwright.planning.optimizer_settings import OptimizerSettings, optimizer_name
from batchwright.planning.scg_bound import ScgConstants, bst_error, bst_regime, bst_thresholds, unrolled_bound
from batchwright.planning.token_budget import TokenBudget, token_budget

__all__ = [
    "RULES",
    "ExampleClock",
    "OptimizerSettings",
    "Rule",
    "ScgConstants",
    "TokenBudget",
    "apply_to",
    "batch_change",
    "bst_error",
    "bst_regime",
    "bst_thresholds",
    "optimizer_name",
    "token_budget",
    "unrolled_bound",
]
