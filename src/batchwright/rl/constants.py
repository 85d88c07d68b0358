"""The constants that stand in the guarantee, from what is known of environment and policy, or else from data."""

from dataclasses import dataclass

from batchwright.core.errors import InputError
from batchwright.rl.episodes import EnvironmentSpec
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.observed import Observed
from batchwright.rl.options import SafeOptions
from batchwright.rl.policies import Policy, Smoothing
from batchwright.rl.smoothness import curvature, published_curvature

# Of a constant that was seen as zero: any positive number does, for what it multiplies is zero too.
SMALLEST = 1e-12
# Where nothing but the first step on trial asks for smoothing constants: a score of size one.
UNKNOWN = Smoothing(psi=1.0, kappa=1.0, xi=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """What the bounds are made of.

    Attributes:
        reward_bound: ``R``.
        observation_bound: Of each component of an observation; ``M`` of linear policies.
        action_volume: ``|A|``; None where it is not needed.
        action_diameter: Of the set of actions; None where it is not needed.
        smoothing: Of the policy, for the errors: of one coordinate, or of all for the variant ``norm``.
        curvature: ``c``.
        from_data: Names of those that were seen and not known.
    """

    reward_bound: float
    observation_bound: float
    action_volume: float | None
    action_diameter: float | None
    smoothing: Smoothing
    curvature: float
    from_data: tuple[str, ...] = ()


def resolve(spec: EnvironmentSpec, policy: Policy, options: SafeOptions, observed: Observed | None = None) -> Constants:
    """Constants for the policy at its present parameters.

    Args:
        spec: Of the environment.
        policy: Its parameters count where a standard deviation is learned.
        options: Which are needed, and whether they come from data.
        observed: What was seen; needed where they do.

    Raises:
        InputError: If one is not known; the message names it and the ways out.
    """
    ranged = options.bound in ("hoeffding", "bernstein") and options.value_range == "theoretical"
    by_actions = not policy.discrete and options.variant != "norm" and ranged
    found = {
        "reward_bound": _bound("reward_bound", spec, observed, True),
        "observation_bound": _bound("observation_bound", spec, observed, True),
        "action_volume": _bound("action_volume", spec, observed, by_actions or options.smoothness_form == "published"),
        "action_diameter": _bound("action_diameter", spec, observed, by_actions),
    }
    reward_bound, observation_bound = found["reward_bound"] or 0.0, found["observation_bound"] or 0.0
    errors, bending = smoothing_of(policy, options, observation_bound)
    return Constants(
        reward_bound=reward_bound,
        observation_bound=observation_bound,
        action_volume=found["action_volume"],
        action_diameter=found["action_diameter"],
        smoothing=errors,
        curvature=_curvature(spec, policy, options, bending, reward_bound, observation_bound, found["action_volume"]),
        from_data=() if observed is None else tuple(name for name, value in found.items() if value is not None),
    )


def smoothing_of(policy: Policy, options: SafeOptions, observation_bound: float) -> tuple[Smoothing, Smoothing]:
    """Constants of the errors and of the curvature; where a run on trial needs none of the policy's, those of a score of size one.

    Raises:
        InputError: If they are needed and the policy has none.
    """
    one, all_ = policy.coordinate_smoothing(observation_bound), policy.smoothing(observation_bound)
    # Where all coordinates move, the errors are still bounded one by one, but the curvature is that of the whole.
    errors, bending = (all_ if options.variant == "norm" else one), (one if options.variant == "coordinate" else all_)
    if (errors is None and errors_need_smoothing(options)) or (bending is None and options.curvature != "tried"):
        raise InputError(
            "policy must have smoothing constants, got one without (a network, or a learned standard deviation outside of the "
            "variant coordinate); give smoothing=Smoothing(...) to the policy, take a linear mean, or practise without a guarantee: "
            "constants observed, bound bernstein, and the options curvature=tried and value_range=empirical"
        )
    return errors or UNKNOWN, bending or UNKNOWN


def errors_need_smoothing(options: SafeOptions) -> bool:
    """Whether the bound of the error is made of the policy's smoothing constants; a range and a variance of the sample are not."""
    return (
        options.bound not in ("hoeffding", "bernstein")
        or options.value_range != "empirical"
        or options.variant == "norm"
    )


def _bound(name: str, spec: EnvironmentSpec, observed: Observed | None, wanted: bool) -> float | None:
    if not wanted:
        return None
    if observed is not None:
        seen = {"reward_bound": observed.reward, "observation_bound": observed.observation}
        value = seen[name] if name in seen else float(getattr(observed, name))
        return max(value, SMALLEST)
    known: float | None = getattr(spec, name)
    if known is None:
        raise InputError(
            f"{name} must be known for a guarantee on {spec.name}, got none; give {name}=..., or constants='observed', "
            "which takes it from data and voids the guarantee"
        )
    return known


def _curvature(
    spec: EnvironmentSpec,
    policy: Policy,
    options: SafeOptions,
    smoothing: Smoothing,
    reward_bound: float,
    observation_bound: float,
    action_volume: float | None,
) -> float:
    if options.smoothness_form != "published":
        return curvature(
            smoothing,
            reward_bound=reward_bound,
            discount=spec.discount,
            horizon=spec.horizon,
            form=options.smoothness_form,
        )
    if not isinstance(policy, GaussianPolicy) or policy.action_dim != 1 or policy.learn_std:
        raise InputError(
            "smoothness_form published must go with a Gaussian policy of one action and fixed standard deviation, got another; "
            "take finite-horizon"
        )
    assert action_volume is not None  # it was asked for above
    return published_curvature(
        reward_bound=reward_bound,
        feature_bound=observation_bound,
        std=float(policy.std[0]),
        action_volume=action_volume,
        discount=spec.discount,
    )
