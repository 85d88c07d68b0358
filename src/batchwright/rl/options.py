"""What a safe policy gradient is asked to do."""

from dataclasses import dataclass

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.rl.error_bounds import BOUNDS
from batchwright.rl.estimators import BASELINES, ESTIMATORS
from batchwright.rl.smoothness import FORMS
from batchwright.rl.step_choice import RULES, VARIANTS
from batchwright.rl.variance_bounds import GPOMDP_FORMS

METHODS = ("adaptive", "spg", "relaxed-spg")
CONSTANTS = ("known", "observed", "observed-last")
CURVATURES = ("bound", "tried")


@dataclass(frozen=True, kw_only=True, slots=True)
class SafeOptions:
    """Options of `SafePolicyGradient`; what each does to the guarantee is told by its `Guarantee`.

    Attributes:
        delta: Probability, per update, that it lowers the return; over the whole run with ``lifetime``. It is the chance of
            failure: 0.95, as in the paper's main experiment, promises next to nothing.
        bound: ``chebyshev``, ``hoeffding``, ``bernstein`` or ``sub-gaussian``.
        budget: Trajectories in all.
        estimator: ``gpomdp`` or ``reinforce``.
        baseline: ``none``; ``previous``: the best one of the batch before, which leaves no bias; ``batch``: the best one of the same
            trajectories, as published. None: ``none`` where the error bound does not look at the spread of the sample, and
            ``previous`` where it does.
        rule: ``tight`` or ``published`` of `optimal_step`.
        variant: ``coordinate``, ``scalar`` or ``norm`` of `optimal_step`.
        method: ``adaptive``: each batch as large as the last gradient asks for (2017). ``spg``: a batch grows until it is large
            enough for its own gradient (2022). ``relaxed-spg``: it may lower the return by no more than ``tolerance`` of the best.
        lifetime: Whether ``delta`` is for all updates together: update ``t`` gets ``delta / (t (t + 1))``. Always so for the two SPG.
        tolerance: Share of the best return that relaxed SPG may give up again.
        growth: Factor by which SPG's batch grows from one look to the next.
        variance_form: Of `gpomdp_variance`.
        smoothness_form: Of `curvature`, or ``published`` (2017).
        value_range: Of Hoeffding and Bernstein: ``theoretical``, or ``empirical``: that of the sample, which bounds nothing.
        union: Whether a coordinate that the data choose pays ``delta / m``. Without it the bound may fail ``m`` times as often.
        constants: ``known``: of the environment's spec. ``observed``: the largest rewards, observations and actions seen so far, which
            voids the guarantee; ``observed-last``: those of the last batch alone.
        curvature: ``bound``: from the constants, as every guarantee needs. ``tried``: begins there and is found by trial
            (`trial_curvature`), with steps taken back that lose; this voids the guarantee, and moves where the bound does not.
        min_batch_size: Least trajectories of an update, and of the first.
        max_batch_size: Most.
        checkpoint_every: Updates between checkpoints.
        seed: Of every random number.
    """

    delta: float = 0.05
    bound: str = "chebyshev"
    budget: int = 1_000_000
    estimator: str = "gpomdp"
    baseline: str | None = None
    rule: str = "tight"
    variant: str = "coordinate"
    method: str = "adaptive"
    lifetime: bool = False
    tolerance: float = 0.0
    growth: float = 2.0
    variance_form: str = "cauchy-schwarz"
    smoothness_form: str = "finite-horizon"
    value_range: str = "theoretical"
    union: bool = True
    constants: str = "known"
    curvature: str = "bound"
    min_batch_size: int = 100
    max_batch_size: int = 500_000
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("delta", self.delta, above=0.0, below=1.0)
        for name, choices in (
            ("bound", BOUNDS),
            ("estimator", ESTIMATORS),
            ("rule", RULES),
            ("variant", VARIANTS),
            ("method", METHODS),
            ("variance_form", GPOMDP_FORMS),
            ("smoothness_form", FORMS),
            ("value_range", ("theoretical", "empirical")),
            ("constants", CONSTANTS),
            ("curvature", CURVATURES),
        ):
            check_choice(name, getattr(self, name), choices)
        if self.baseline is not None:
            check_choice("baseline", self.baseline, BASELINES)
        check_number("tolerance", self.tolerance, at_least=0.0, at_most=1.0)
        check_number("growth", self.growth, above=1.0)
        check_int("min_batch_size", self.min_batch_size, at_least=2, way_out="a spread needs two trajectories")
        check_int("max_batch_size", self.max_batch_size, at_least=self.min_batch_size)
        check_int("budget", self.budget, at_least=self.min_batch_size, way_out="it is counted in trajectories")
        check_int("checkpoint_every", self.checkpoint_every, at_least=1)
        check_int("seed", self.seed, at_least=0)
        if self.method == "relaxed-spg" and self.tolerance == 0:
            raise InputError(
                "tolerance must be above 0 for relaxed-spg, got 0; take method spg, or a tolerance such as 0.2"
            )
        if self.curvature == "tried" and self.method != "adaptive":
            raise InputError(
                f"method must be adaptive where the curvature is tried, got {self.method}; take it, or curvature='bound'"
            )
        if self.variant == "norm" and self.smoothness_form == "published":
            raise InputError(
                "smoothness_form must not be published for the variant norm, got published: that constant goes with the 1-norm; "
                "take smoothing or finite-horizon"
            )
        if self.variant == "norm" and self.value_range == "empirical" and self.bound in ("hoeffding", "bernstein"):
            raise InputError(
                "value_range must be theoretical for the variant norm, got empirical; take the variant coordinate, or that range"
            )

    @property
    def spread(self) -> bool:
        """Whether the error bound looks at the spread of the sample."""
        return self.bound == "bernstein" or (self.bound == "hoeffding" and self.value_range == "empirical")

    @property
    def chosen_baseline(self) -> str:
        """``baseline``, or what stands for None."""
        return self.baseline or ("previous" if self.spread else "none")

    @property
    def over_the_run(self) -> bool:
        """Whether ``delta`` is for the whole run."""
        return self.lifetime or self.method != "adaptive"

    def delta_of(self, update: int) -> float:
        """Probability of failure that update 1, 2, ... may have; over all of them these sum to ``delta``."""
        return self.delta / (update * (update + 1)) if self.over_the_run else self.delta
