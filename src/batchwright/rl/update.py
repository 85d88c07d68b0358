"""One update: draw a batch, bound the error of its gradient, move, and say how large the next batch should be."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from batchwright.core.statistics import Interval, normal_quantile
from batchwright.rl.constants import Constants, resolve
from batchwright.rl.episodes import Episodes, Sampler
from batchwright.rl.error_bounds import bernstein
from batchwright.rl.estimators import GradientEstimate, estimate_gradient
from batchwright.rl.observed import Observed
from batchwright.rl.options import SafeOptions
from batchwright.rl.policies import Policy
from batchwright.rl.step_choice import StepChoice, optimal_step
from batchwright.rl.trial_curvature import Trial, Verdict, judge
from batchwright.rl.update_error import update_error
from batchwright.rl.update_record import RunState, UpdateRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What a batch of one size gave."""

    estimate: GradientEstimate
    constants: Constants
    observed: Observed
    d: float
    f: float
    now: StepChoice
    wanted: int
    verdict: Verdict | None = None


def one_update(env: Sampler, policy: Policy, options: SafeOptions, state: RunState) -> tuple[RunState, UpdateRecord]:
    """Do one update.

    Args:
        env: Gives the episodes.
        policy: Its parameters are replaced by those of the state.
        options: Of the run.
        state: Before the update.

    Returns:
        The state after it, and its record.
    """
    policy = policy.at(state.theta)
    left = options.budget - state.num_trajectories
    step = state.step + 1
    delta = options.delta_of(step)
    if options.method == "adaptive":
        number = min(state.batch_size, left)
        look = _look(env, policy, options, state, [(1, number)], delta)
        return _finish(policy, options, state, look, look.now, number, 1, delta, look.wanted, 0.0)
    blocks: list[tuple[int, int]] = []
    number, slack = 0, 0.0
    most = min(left, options.max_batch_size)
    while True:
        looks = len(blocks) + 1
        # Sizes are fixed beforehand, so that each look is at a batch of a size that did not depend on the batch.
        size = min(most, math.ceil(options.min_batch_size * options.growth ** (looks - 1)))
        blocks.append((looks, size - number))
        number = size
        share = delta / (looks * (looks + 1))
        relaxed = options.method == "relaxed-spg"
        look = _look(env, policy, options, state, blocks, share / 2 if relaxed else share)
        choice = look.now
        enough = choice.error <= choice.gradient_size / 2
        if relaxed:
            slack, upper = _slack(env, options, look, state.best_upper, share / 2)
            lipschitz = 2 * look.constants.curvature
            size_of = choice.gradient_size
            if size_of > 0 and choice.error <= size_of / 2 + lipschitz * slack / size_of:
                choice = _full_step(choice, look.constants.curvature)
                enough = True
        if enough or number >= most:
            break
    if options.method == "relaxed-spg":
        state = replace(state, best_upper=max(state.best_upper, upper))
    return _finish(policy, options, state, look, choice, number, looks, share, options.min_batch_size, slack)


def update_seed(seed: int, step: int, block: int) -> int:
    """Seed of one block of trajectories, whatever was drawn before it."""
    digest = hashlib.sha256(f"{seed}/{step}/{block}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _look(
    env: Sampler, policy: Policy, options: SafeOptions, state: RunState, blocks: list[tuple[int, int]], delta: float
) -> _Look:
    spec = env.spec

    def collect() -> Iterator[Episodes]:
        return chain.from_iterable(
            env.collect(policy, number, update_seed(options.seed, state.step + 1, block))
            for block, number in blocks
            if number > 0
        )

    baseline: str | Tensor = options.chosen_baseline
    if baseline == "previous":
        baseline = state.baseline if state.baseline is not None else "none"
    watched = options.constants != "known"
    estimate = estimate_gradient(
        policy,
        collect,
        discount=spec.discount,
        horizon=spec.horizon,
        estimator=options.estimator,
        baseline=baseline,
        spread=options.spread,
        observe=watched,
    )
    observed = estimate.observed
    if options.constants == "observed":
        observed = observed.joined(state.observed)
    constants = resolve(spec, policy, options, observed if watched else None)
    verdict = None
    if state.trial is not None:
        verdict = judge(state.trial, estimate.mean_return, estimate.return_variance / estimate.num_trajectories)
        constants = replace(constants, curvature=verdict.curvature)
    error = update_error(spec, policy, options, constants, estimate, delta)

    def choose(number: int | None) -> StepChoice:
        return optimal_step(
            estimate.gradient,
            d=error.d,
            f=error.f,
            smoothness=constants.curvature,
            rule=options.rule,
            variant=options.variant,
            batch_size=number,
            min_batch_size=options.min_batch_size,
            max_batch_size=options.max_batch_size,
        )

    now = choose(estimate.num_trajectories)
    wanted = choose(None).batch_size if options.method == "adaptive" else 0
    return _Look(
        estimate=estimate,
        constants=constants,
        observed=observed,
        d=error.d,
        f=error.f,
        now=now,
        wanted=wanted,
        verdict=verdict,
    )


def _slack(env: Sampler, options: SafeOptions, look: _Look, best_upper: float, delta: float) -> tuple[float, float]:
    """How far the return may fall, and its upper bound: lower bound of the present one less the floor of the best one."""
    found, spec = look.estimate, env.spec
    weights = math.fsum(spec.discount**t for t in range(spec.horizon))
    bound = bernstein(found.return_variance, 2 * look.constants.reward_bound * weights, delta)
    error = bound.error(found.num_trajectories)
    upper = max(best_upper, found.mean_return + error)
    # Where returns are negative a share of them has to be taken off, not on.
    floor = upper - options.tolerance * abs(upper)
    return max(0.0, found.mean_return - error - floor), found.mean_return + error


def _full_step(choice: StepChoice, curvature: float) -> StepChoice:
    """The step ``1/L``, which may lose as much as the slack."""
    size = choice.gradient_size
    step = 1 / (2 * curvature)
    first, cost, bent = step * size**2, step * size * choice.error, curvature * (step * size) ** 2
    return replace(
        choice,
        step_size=step,
        first_order=first,
        error_cost=cost,
        curvature_cost=bent,
        guaranteed_improvement=first - cost - bent,
    )


def _finish(
    policy: Policy,
    options: SafeOptions,
    state: RunState,
    look: _Look,
    choice: StepChoice,
    number: int,
    looks: int,
    delta: float,
    wanted: int,
    slack: float,
) -> tuple[RunState, UpdateRecord]:
    found = look.estimate
    theta = policy.theta
    if choice.coordinate is None:
        theta += choice.step_size * found.gradient
    else:
        theta[choice.coordinate] += choice.step_size * found.gradient[choice.coordinate]
    square = found.return_variance / number
    realised = None
    if state.last_return is not None:
        change = found.mean_return - state.last_return[0]
        half = normal_quantile(0.95) * math.sqrt(square + state.last_return[1])
        realised = Interval(value=change, low=change - half, high=change + half)
    taken_back = look.verdict is not None and look.verdict.taken_back
    trial = None
    if options.curvature == "tried":
        trial = _next_trial(state, policy, options, look, choice, square)
    if taken_back:
        assert trial is not None
        # The next batch is drawn anew at the parameters before the step, which have no more than the old one told of them.
        theta, wanted = trial.theta.clone(), trial.batch_size
        choice = replace(
            choice, step_size=0.0, guaranteed_improvement=0.0, first_order=0.0, error_cost=0.0, curvature_cost=0.0
        )
    after = RunState(
        theta=theta,
        step=state.step + 1,
        num_trajectories=state.num_trajectories + number,
        num_steps=state.num_steps + found.num_steps,
        batch_size=wanted,
        baseline=found.best_baseline if options.chosen_baseline == "previous" else None,
        observed=look.observed,
        best_upper=state.best_upper,
        last_return=(found.mean_return, square)
        if trial is None or not taken_back
        else (trial.mean_return, trial.square_error),
        trial=trial,
    )
    record = UpdateRecord(
        step=after.step,
        num_trajectories=after.num_trajectories,
        num_steps=after.num_steps,
        batch_size=number,
        num_looks=looks,
        mean_return=found.mean_return,
        return_error=math.sqrt(square),
        realised=realised,
        delta=delta,
        step_size=choice.step_size,
        coordinate=choice.coordinate,
        gradient_size=choice.gradient_size,
        grad_norm=float(torch.linalg.vector_norm(found.gradient)),
        error_sqrt=choice.error_sqrt,
        error_linear=choice.error_linear,
        guaranteed_improvement=choice.guaranteed_improvement,
        first_order=choice.first_order,
        error_cost=choice.error_cost,
        curvature_cost=choice.curvature_cost,
        curvature=look.constants.curvature,
        next_batch_size=wanted,
        slack=slack,
        taken_back=taken_back,
        theta=tuple(theta.tolist()) if len(theta) <= 32 else (),
    )
    return after, record


def _next_trial(
    state: RunState, policy: Policy, options: SafeOptions, look: _Look, choice: StepChoice, square_error: float
) -> Trial:
    """The step that is taken now, to be judged by the next batch; no step, and the old place, where the last one is taken back."""
    found = look.estimate
    if look.verdict is not None and look.verdict.taken_back:
        assert state.trial is not None
        return replace(state.trial, curvature=look.verdict.curvature, promise=0.0, size=0.0, guaranteed=0.0)
    # Of the increment, in the norm that the curvature is of: all of it in one coordinate, or the 1-norm, or the Euclidean one.
    length = {
        "coordinate": choice.gradient_size,
        "scalar": float(found.gradient.abs().sum()),
        "norm": choice.gradient_size,
    }[options.variant]
    return Trial(
        curvature=look.constants.curvature,
        theta=policy.theta,
        mean_return=found.mean_return,
        square_error=square_error,
        promise=choice.first_order,
        size=choice.step_size * length,
        guaranteed=choice.guaranteed_improvement,
        batch_size=found.num_trajectories,
    )
