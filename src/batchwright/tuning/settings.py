"""Everything that decides how a search goes, in one value that its journal begins with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchwright.bandits import REGISTRY, Bandit, Confidence, Perturbation, Space
from batchwright.bandits.space import LOGARITHMIC
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.tuning.outcome import Metric

ON_FAILURE = ("exclude", "retry", "worst")


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSettings:
    """Settings of a search.

    Attributes:
        objective: Name of the task or function.
        metric: What is to be made small or large.
        space: What is searched.
        plan: Trials in each round.
        method: Of `bandits.REGISTRY`; one of its robust ones where ``radius`` is given.
        opening: Whether the first round is ``scattered`` evenly or ``chosen`` by the method.
        radius: By how much each setting may be off, as `bandits.Perturbation` measures it; None for a plain search.
        beta: Practical width of the bounds.
        num_examples: Budget of a trial.
        early_stop: Whether hopeless trials end early.
        timeout_s: Seconds after which a trial fails; None for no limit.
        retries: How often a trial is begun again after its worker died.
        on_failure: A trial without a value: its point is taken for the ``worst`` seen, ``exclude``d, or open to ``retry``.
        same_seed: Whether all trials have the seed of the search; otherwise each has its own.
        reuse: Whether a trial that would come to the same as a finished one takes its outcome.
        seed: Of the search.
    """

    objective: str
    metric: Metric
    space: Space
    plan: tuple[int, ...]
    method: str = "gp-bucb"
    opening: str = "scattered"
    radius: Mapping[str, float] | None = None
    beta: float = 4.0
    num_examples: int = 0
    early_stop: bool = True
    timeout_s: float | None = None
    retries: int = 2
    on_failure: str = "worst"
    same_seed: bool = False
    reuse: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, [*REGISTRY])
        check_choice("on_failure", self.on_failure, ON_FAILURE)
        check_number("beta", self.beta, above=0.0)
        check_int("retries", self.retries, at_least=0)
        check_int("seed", self.seed, at_least=0)
        if self.timeout_s is not None:
            check_number("timeout_s", self.timeout_s, above=0.0)
        if (self.radius is not None) != self.method.startswith("robust-"):
            kinds = ", ".join(name for name in REGISTRY if name.startswith("robust-"))
            raise InputError(f"method must be one of {kinds} for a robust search and no other, got {self.method}")

    @property
    def num_trials(self) -> int:
        """Of the whole search."""
        return sum(self.plan)

    def bandit(self) -> Bandit:
        """A bandit that has asked nothing yet."""
        options: dict[str, Any] = {"perturbation": Perturbation(radius=self.radius)} if self.radius is not None else {}
        kind = REGISTRY[self.method]
        return kind(
            self.space,
            horizon=self.num_trials,
            batches=list(self.plan),
            maximize=self.metric.direction == "above",
            keep="all",
            confidence=Confidence(beta=self.beta),
            on_failure=self.on_failure,
            opening=self.opening,
            seed=self.seed,
            **options,
        )

    def seed_of(self, trial: int) -> int:
        """Seed of a trial: its own, so that a lucky draw does not look like a good setting."""
        return self.seed if self.same_seed else (1_000_003 * self.seed + 7919 * (trial + 1)) % 2**31


def default_method(radius: Mapping[str, float] | None) -> str:
    """Of a search: what did best at four rounds of eight (docs/tuning.md)."""
    return "gp-bucb" if radius is None else "robust-gp-bucb"


def plan_of(
    rounds: int | None, parallel: int | None, trials: int | None, *, kernel: str = "matern", dim: int = 1
) -> tuple[int, ...]:
    """Trials in each round: ``rounds`` of ``parallel``, or ``trials`` by the schedules of `bandits.batch_schedule`.

    Args:
        rounds: How many; 4 by default, and with ``trials`` alone by the square-root rule.
        parallel: Trials in a round; 8 by default.
        trials: In all, in rounds whose lengths the schedule chooses.
        kernel: Of the schedule.
        dim: Of the space.

    Raises:
        InputError: If ``trials`` and ``parallel`` are both given.
    """
    from batchwright.bandits import batch_schedule

    if trials is None:
        number = check_int("rounds", 4 if rounds is None else rounds, at_least=1)
        return (check_int("parallel", 8 if parallel is None else parallel, at_least=1),) * number
    check_int("trials", trials, at_least=1)
    if parallel is not None:
        raise InputError(
            f"trials must go without parallel, since a schedule chooses the rounds, got {trials} and {parallel}; leave one out"
        )
    if rounds is None:
        return tuple(batch_schedule(trials, rule="sqrt"))
    return tuple(batch_schedule(trials, check_int("rounds", rounds, at_least=1), kernel, 2.5, dim))


def radius_of(space: Space, robust: float | str | Mapping[str, float] | None) -> dict[str, float] | None:
    """By how much each setting may be off.

    Args:
        space: What is searched.
        robust: A share for all numbers, ``0.1`` or ``"10%"``: a factor of 1.1 on logarithmic axes, a tenth of the range on others; or
            by name, as ``"lr=50%,momentum=2%"`` or a dictionary of shares.

    Raises:
        InputError: If it is no share above 0, or names what the space does not have.
    """
    if robust is None:
        return None
    shares: dict[str, float]
    if isinstance(robust, str) and "=" in robust:
        parts = [part.partition("=") for part in robust.split(",")]
        shares = {name.strip(): _share(value) for name, _, value in parts}
    elif isinstance(robust, Mapping):
        shares = {name: _share(value) for name, value in robust.items()}
    else:
        share = _share(robust)
        shares = {each.name: share for each in space.dimensions if each.kind != "categorical"}
    unknown = sorted(set(shares) - set(space.names))
    if unknown:
        raise InputError(
            f"--robust must name settings of the space, {', '.join(space.names)}, got {', '.join(unknown)}"
        )
    found = {}
    for each in space.dimensions:
        if each.name not in shares:
            continue
        if each.kind == "categorical":
            raise InputError(f"--robust must name numbers, got {each.name}, which is a choice; leave it out")
        share = shares[each.name]
        found[each.name] = math.log1p(share) if each.kind in LOGARITHMIC else share * (each.high - each.low)
    return found


def untouched(space: Space, radius: Mapping[str, float]) -> list[str]:
    """Whole-number settings that the radius is too small to move."""
    found = []
    for each in space.dimensions:
        size = radius.get(each.name, 0.0)
        steps = {
            "power-of-two": size / math.log(2),
            "integer": size,
            "log-integer": each.high * math.expm1(size),
        }
        if size > 0 and steps.get(each.kind, 1.0) < 1 - 1e-9:
            found.append(each.name)
    return found


def _share(value: float | str) -> float:
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"--robust must be a share above 0, as 10% or 0.1 or lr=50%,momentum=2%, got {value!r}")
    return number


def describe_plan(plan: Sequence[int]) -> str:
    """``32 trials in 4 rounds: 8, 8, 8, 8``."""
    from batchwright.bandits.schedules import describe

    return describe(list(plan))
