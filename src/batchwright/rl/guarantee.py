"""What a run guarantees, in plain words: of what, with what probability, under which assumptions, and what was taken from data."""

from dataclasses import dataclass

from batchwright.rl.constants import errors_need_smoothing
from batchwright.rl.episodes import EnvironmentSpec
from batchwright.rl.options import SafeOptions
from batchwright.rl.own_policy import OwnPolicy
from batchwright.rl.policies import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarantee:
    """The promise of a run.

    Attributes:
        holds: Whether there is one; false where any of ``void`` stands.
        probability: With which it holds, ``1 - delta``.
        over: ``update`` or ``run``.
        statement: One sentence.
        assumptions: What has to be true for it.
        void: Why there is none.
        from_data: Constants that were taken from data.
    """

    holds: bool
    probability: float
    over: str
    statement: str
    assumptions: tuple[str, ...]
    void: tuple[str, ...]
    from_data: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The promise as sentences, for a screen or a page."""
        return (
            self.statement,
            *(f"Void: {line}" for line in self.void),
            *(f"Assumed: {line}" for line in self.assumptions),
            *((f"From data: {', '.join(self.from_data)}.",) if self.from_data else ()),
        )


def guarantee(
    spec: EnvironmentSpec, policy: Policy, options: SafeOptions, *, scores_clipped: bool = False
) -> Guarantee:
    """Say what these options promise.

    Args:
        spec: Of the environment.
        policy: Its kind and number of parameters count.
        options: Of the run.
        scores_clipped: Whether the environment records clipped actions, whose score is biased.
    """
    from_data = _from_data(options)
    void = tuple(_void(policy, options, scores_clipped))
    over = "run" if options.over_the_run else "update"
    steps = f"the expected discounted return over {spec.horizon} steps (discount {spec.discount:g})"
    share = f"{1 - options.delta:.6g}"
    if void:
        statement = f"No guarantee. Were the constants bounds, the aim would be a probability of {share} that no update lowers {steps}."
    elif options.method == "relaxed-spg":
        statement = (
            f"With probability at least {share} no update of the whole run takes {steps} more than {options.tolerance:.3g} of its size "
            "below the best that it may have had."
        )
    elif over == "run":
        statement = f"With probability at least {share} no update of the whole run lowers {steps}."
    else:
        statement = f"Each update, taken by itself, lowers {steps} with probability at most {options.delta:.6g}."
    return Guarantee(
        holds=not void,
        probability=1 - options.delta,
        over=over,
        statement=statement,
        assumptions=tuple(_assumptions(spec, policy, options)),
        void=void,
        from_data=from_data,
    )


def _from_data(options: SafeOptions) -> tuple[str, ...]:
    found = []
    if options.constants != "known":
        found += ["the reward bound", "the observation bound"]
        if options.smoothness_form == "published":
            found.append("the set of actions")
    if options.curvature == "tried":
        found.append("the curvature of the return")
    if options.bound == "bernstein":
        found.append("the sample variance of the gradient")
    if options.bound in ("hoeffding", "bernstein") and options.value_range == "empirical":
        found.append("the range of the gradient")
    return tuple(found)


def _void(policy: Policy, options: SafeOptions, scores_clipped: bool) -> list[str]:
    lines = []
    ranged = options.bound in ("hoeffding", "bernstein")
    if options.curvature == "tried":
        lines.append("the curvature is what trial steps showed, and the return may bend more further on.")
    if options.constants != "known":
        lines.append("bounds of rewards and observations are the largest that were seen, and larger ones may come.")
    if ranged and options.value_range == "empirical":
        lines.append("the range of the gradient is that of the sample, which bounds nothing.")
    elif ranged and not policy.discrete and options.variant != "norm":
        lines.append("the published range takes the actions for bounded, and those of a Gaussian policy are not.")
    if options.bound == "chebyshev" and options.variance_form == "published" and options.estimator == "gpomdp":
        lines.append("the published variance formula is not a bound; take variance_form cauchy-schwarz or minkowski.")
    if not options.union and policy.num_parameters > 1 and options.variant != "norm":
        lines.append("the data choose among the coordinates and delta is not shared between them; set union=True.")
    if scores_clipped:
        lines.append("the environment records clipped actions, and their score gives a biased gradient.")
    return lines


def _assumptions(spec: EnvironmentSpec, policy: Policy, options: SafeOptions) -> list[str]:
    lines = []
    if options.constants == "known":
        if spec.reward_bound is not None:
            lines.append(f"no reward is larger than {spec.reward_bound:.6g} in size.")
        if spec.observation_bound is not None:
            lines.append(
                f"no component of an observation (or feature) is larger than its bound ({spec.observation_bound:.6g})."
            )
    given = not isinstance(policy, OwnPolicy) or policy.has_given_constants
    if given and (errors_need_smoothing(options) or options.curvature != "tried"):
        lines.append("the policy's smoothing constants are as its maker gave them, for all states and all parameters.")
    lines.append("episodes are independent, and each starts from the same distribution.")
    if options.chosen_baseline == "batch":
        lines.append(
            "the baseline, found on the same trajectories, counts as fixed; its bias is of order 1/N (as published)."
        )
    if options.bound == "chebyshev" and options.chosen_baseline != "none":
        lines.append(
            "the baseline does not raise the variance above its bound, which holds without one and with the best one."
        )
    return lines
