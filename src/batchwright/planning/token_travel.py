"""How far a tuned run of Scion crosses its ball, and when short runs end too early to carry their step size.

A step of size ``lr`` moves a layer by that part of its ball's radius, so ``lr * steps`` is the way of a run in radii. The rule of
Islamov et al. (2026, papers-2026, 3.5) keeps it fixed. In the first thousands of tokens it is not: the best way still grows, so that
a step size carried from there by the rule is too small (docs/token_budget.md has the losses).
"""

from batchwright.core.statistics import Interval
from batchwright.optim.build import RADII
from batchwright.planning.token_budget import TokenBudget
from batchwright.tasks.task import OptimizerSpec

# Best way of runs with the published radii: 0.15 at 320k and 0.10 to 0.20 at 1M tokens of char-gpt, 0.16 to 0.57 in the language runs
# of `study conditional-gradient`, 1.8 in the paper's base run of 1.3G tokens. Not a fitted interval: what was seen, from end to end.
TRAVEL = Interval(value=0.2, low=0.1, high=1.8)


def travel(setting: TokenBudget) -> float:
    """Step size times steps: the way of a run, in radii of the ball."""
    return setting.lr * setting.num_steps


def early_travel(found: TokenBudget, spec: OptimizerSpec, tokens: float) -> Interval | None:
    """The way that a run of ``tokens`` should have where the one of the short runs is below all that tuned runs have; else None.

    None too where the run is no longer than the short ones, and where the radii are not the published ones, which the prior is of.

    Args:
        found: Settings that short runs found, with their own tokens.
        spec: The Scion of the run.
        tokens: Of the run.
    """
    published = {**RADII, **spec.options.get("radii", {})} == dict(RADII) and not spec.options.get("overrides")
    if tokens <= found.tokens or not published or travel(found) >= TRAVEL.low:
        return None
    return TRAVEL
