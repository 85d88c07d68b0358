"""The error bound of one update's gradient: options, constants and the sample in, ``d`` and ``f`` out."""

from torch import Tensor

from batchwright.core.errors import InputError
from batchwright.rl.constants import Constants
from batchwright.rl.episodes import EnvironmentSpec
from batchwright.rl.error_bounds import (
    ErrorBound,
    bernstein,
    bounded_score,
    chebyshev,
    hoeffding,
    norm_bernstein,
    sub_gaussian_score,
    time_factor,
)
from batchwright.rl.estimators import GradientEstimate
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.options import SafeOptions
from batchwright.rl.policies import Policy
from batchwright.rl.variance_bounds import gpomdp_variance, reinforce_variance


def update_error(
    spec: EnvironmentSpec,
    policy: Policy,
    options: SafeOptions,
    constants: Constants,
    estimate: GradientEstimate,
    delta: float,
) -> ErrorBound:
    """Bound of every coordinate's error, or of the norm of the error for the variant ``norm``.

    Raises:
        InputError: If the policy lacks the constant that the bound needs.
    """
    parameters = policy.num_parameters
    scale = {"reward_bound": constants.reward_bound, "time_factor": _time_factor(spec, options)}
    shared = parameters if options.union else 1
    if options.bound == "chebyshev":
        variance = _variance(spec, options, constants)
        # Over the whole gradient kappa bounds the squared norm of the score, and so the variance that of the error's.
        return (
            chebyshev(variance, delta)
            if options.variant == "norm"
            else chebyshev(variance, delta, num_coordinates=shared)
        )
    if options.bound == "sub-gaussian":
        proxy = constants.smoothing.sub_gaussian
        if proxy is None:
            raise InputError("bound sub-gaussian must go with a linear Gaussian policy, got another; take chebyshev")
        norm = options.variant == "norm"
        return sub_gaussian_score(
            **scale,
            proxy=proxy,
            num_parameters=parameters if norm else 1,
            delta=delta if norm else delta / shared,
        )
    if options.variant == "norm":
        return _norm_error(options, constants, estimate, parameters, delta, scale)
    value_range = _range(spec, policy, options, constants, estimate)
    if options.bound == "hoeffding":
        return hoeffding(value_range, delta, num_coordinates=shared)
    assert estimate.variance is not None
    return bernstein(_of_interest(options, estimate, estimate.variance), value_range, delta, num_coordinates=shared)


def _norm_error(
    options: SafeOptions,
    constants: Constants,
    estimate: GradientEstimate,
    parameters: int,
    delta: float,
    scale: dict[str, float],
) -> ErrorBound:
    bound = constants.smoothing.score_bound
    if bound == float("inf"):
        raise InputError(
            f"bound {options.bound} must go with a bounded score for the variant norm, got a Gaussian; take sub-gaussian or chebyshev"
        )
    if options.bound == "hoeffding":
        return bounded_score(**scale, score_bound=bound, num_parameters=parameters, delta=delta)
    assert estimate.variance is not None
    return norm_bernstein(
        **scale,
        score_bound=bound,
        sample_variance=float(estimate.variance.sum()),
        num_parameters=parameters,
        num_trajectories=estimate.num_trajectories,
        delta=delta,
    )


def _variance(spec: EnvironmentSpec, options: SafeOptions, constants: Constants) -> float:
    rewards, kappa = constants.reward_bound, constants.smoothing.kappa
    if options.estimator == "reinforce":
        return reinforce_variance(reward_bound=rewards, kappa=kappa, discount=spec.discount, horizon=spec.horizon)
    return gpomdp_variance(
        reward_bound=rewards,
        kappa=kappa,
        discount=spec.discount,
        horizon=spec.horizon,
        form=options.variance_form,
    )


def _range(
    spec: EnvironmentSpec, policy: Policy, options: SafeOptions, constants: Constants, estimate: GradientEstimate
) -> float:
    if options.value_range == "empirical":
        assert estimate.value_range is not None
        return _of_interest(options, estimate, estimate.value_range)
    if constants.smoothing.score_bound < float("inf"):
        # |g_i| <= R W T; a baseline is a weighted mean of such rewards, so it may double that.
        factor = 1.0 if options.chosen_baseline == "none" else 2.0
        return 2 * factor * constants.reward_bound * constants.smoothing.score_bound * _time_factor(spec, options)
    # The formula of Papini et al. (2017), which takes the actions for bounded; a Gaussian's are not.
    if not isinstance(policy, GaussianPolicy):
        raise InputError("value_range must be empirical for a policy of this kind, got theoretical; or take chebyshev")
    if spec.discount == 1:
        raise InputError("discount must be below 1 for the published range, got 1; take value_range='empirical'")
    area = (constants.action_diameter or 0.0) * (constants.action_volume or 0.0)
    variance = float(policy.std.min()) ** 2
    return constants.observation_bound * area * constants.reward_bound / ((1 - spec.discount) * variance)


def _of_interest(options: SafeOptions, estimate: GradientEstimate, values: Tensor) -> float:
    """The value of the largest coordinate, which alone moves; of all of them the largest where all move."""
    if options.variant == "coordinate":
        return float(values[int(estimate.gradient.abs().argmax())])
    return float(values.max())


def _time_factor(spec: EnvironmentSpec, options: SafeOptions) -> float:
    return time_factor(discount=spec.discount, horizon=spec.horizon, estimator=options.estimator)
