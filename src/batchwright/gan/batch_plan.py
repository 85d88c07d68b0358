"""Batch sizes of critic and generator from the noise of their own steps.

What it can claim: at the networks as they are now, a step of this batch size has so much noise beside its signal. The law by which
that becomes time to a result (McCandlish et al. 2018, arXiv:1812.06162: examples grow as ``1 + B / B_crit``) is one of minimising
a fixed loss; a critic and a generator move each other's losses, and no such law was tested for them. So the plan is a measured
starting point, not a promise of better samples, and says so.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Interval
from batchwright.gan.objective import critic_objective, generator_objective
from batchwright.gan.step_noise import EqualSize, StepNoise, equal_size, step_noise
from batchwright.gan.trainer import MMDGAN
from batchwright.planning.choose import choose
from batchwright.planning.laws import scale_lr

NETWORKS = ("critic", "generator")
# A batch holds at most this part of the data, so that two in a row differ.
LARGEST_PART = 4
# Without batch norm's trouble and with a U-statistic to speak of.
SMALLEST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """The batch size of one network.

    Attributes:
        network: ``critic`` or ``generator``.
        before: Batch size when it was measured.
        batch_size: Planned.
        equal_size: Points at which noise and signal of a step are equal, with interval; ``inf`` where not resolved.
        resolved: Whether that is bounded on both sides.
        first_order: Share of the noise that falls as ``1 / B``.
        lr_factor: By which its learning rate follows, the square-root rule of Adam and RMSprop.
        reason: One sentence.
        points: What was measured at each size.
        num_gradients: Gradients of one batch that the measurement took.
    """

    network: str
    before: int
    batch_size: int
    equal_size: Interval
    resolved: bool
    first_order: float
    lr_factor: float
    reason: str
    points: tuple[StepNoise, ...]
    num_gradients: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GanBatchPlan:
    """Batch sizes of both networks; ``critic`` is None for GMMN.

    Attributes:
        critic: Of the critic's steps.
        generator: Of the generator's.
        step: Generator step at which it was measured.
        cost_steps: What it cost, in points passed through the networks over those of a plain generator step with its critic steps.
    """

    critic: NetworkPlan | None
    generator: NetworkPlan
    step: int
    cost_steps: float


def trainer_noise(
    trainer: MMDGAN,
    network: str,
    batch_sizes: Sequence[int],
    *,
    num_batches: int = 40,
    seed: int = 0,
    level: float = 0.95,
    behind_optimizer: bool = True,
    clock: Callable[[], float] | None = None,
) -> EqualSize:
    """Measure the noise of the steps of one network of a trainer, at its present parameters; the trainer is left as it was.

    Gradients are divided as RMSprop or Adam will divide them, once it has taken a step. The critic's parameters are clamped first
    where its steps clamp them. Batches are drawn without replacement within each and independently of each other.

    Args:
        trainer: As it stands.
        network: ``critic`` (with its decoder) or ``generator``.
        batch_sizes: Sizes to measure at.
        num_batches: Whole batches at each.
        seed: Of the batches.
        level: Nominal coverage.
        behind_optimizer: Divide gradients as the optimizer will; its steps, and not the gradients, are what moves the network.
        clock: Gives seconds, for the time of a gradient.

    Raises:
        InputError: If the trainer has no such network, or a batch is larger than the data.
    """
    check_choice("network", network, NETWORKS)
    networks, options, data = trainer.networks, trainer.options, trainer.data
    if network == "critic" and networks.critic is None:
        raise InputError("network must be one that the trainer has, got 'critic' for GMMN; measure the generator")
    if max(batch_sizes) > len(data):
        raise InputError(f"batch_sizes must be at most the {len(data)} points of the data, got {max(batch_sizes)}")
    random = torch.Generator().manual_seed(seed)

    def draw(num: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(data), generator=random)[:num]
        return data[chosen.to(data.device)], trainer.noise(num, random)

    def loss(real: Tensor, noise: Tensor) -> Tensor:
        if network == "critic":
            return critic_objective(options, networks, real, noise, random).loss
        return generator_objective(options, networks, real, noise).loss

    parts = [part for part in (networks.critic, networks.decoder) if part is not None]
    model = nn.ModuleList(parts) if network == "critic" else networks.generator
    divide_by = _divisors(trainer, model, network) if behind_optimizer else None
    with ExitStack() as kept:
        for module in (networks.generator, *parts):  # batch norm of the other network moves too
            kept.enter_context(preserved(module))
        if network == "critic" and options.clip is not None and networks.critic is not None:
            with torch.no_grad():
                for parameter in networks.critic.parameters():
                    parameter.clamp_(-options.clip, options.clip)
        points = [
            step_noise(
                model,
                loss,
                draw,
                batch_size=size,
                num_batches=num_batches,
                divide_by=divide_by,
                level=level,
                clock=clock,
            )
            for size in batch_sizes
        ]
    return equal_size(points)


def plan_batches(
    trainer: MMDGAN,
    *,
    clock: Callable[[], float],
    objective: str = "time",
    num_batches: int = 40,
    max_batch_size: int | None = None,
    seed: int = 0,
) -> GanBatchPlan:
    """Measure the noise of both networks' steps at a quarter, one and four times their present size, and plan their batch sizes.

    The size at which noise equals signal takes the place of the critical batch size in the library's rule (`planning`). ``time`` is the
    fastest by the measured time of a gradient; ``balanced`` the largest that spends at most 20 % more examples than the
    small-batch limit, but not past the fastest. On digits ``time`` did as well as the paper's 64 in equal time and ``balanced`` worse
    (docs/gan.md), so ``time`` is the default here. Where the size is not resolved it stays as it was, or goes up to a known lower end.

    Args:
        trainer: After a few steps, so that its optimizers know their scales.
        clock: Gives seconds.
        objective: ``time``, ``examples`` or ``balanced``.
        num_batches: Whole batches at each size.
        max_batch_size: A limit; a quarter of the data where left out or larger.
        seed: Of the batches.
    """
    limit = max(len(trainer.data) // LARGEST_PART, 2)
    limit = limit if max_batch_size is None else min(limit, max_batch_size)
    of_generator, of_critic = trainer.batch_sizes
    plans: dict[str, NetworkPlan] = {}
    for number, (network, before) in enumerate((("critic", of_critic), ("generator", of_generator))):
        if network == "critic" and trainer.networks.critic is None:
            continue
        sizes = sorted({min(max(SMALLEST, size), limit) for size in (before // 4, before, 4 * before)})
        found = trainer_noise(trainer, network, sizes, num_batches=num_batches, seed=2 * seed + number, clock=clock)
        plans[network] = _plan(network, before, found, objective, limit, seed)
    options = trainer.options
    points = sum(point.num_batches * point.batch_size for plan in plans.values() for point in plan.points)
    plain = of_generator + (options.critic_steps * of_critic if "critic" in plans else 0)
    return GanBatchPlan(
        critic=plans.get("critic"),
        generator=plans["generator"],
        step=trainer.step_number,
        cost_steps=points / plain,
    )


def apply_plan(trainer: MMDGAN, plan: GanBatchPlan) -> None:
    """Go on with the planned batch sizes, and the learning rates that go with them."""
    _, critic = trainer.batch_sizes
    trainer.set_batch_sizes(
        generator=plan.generator.batch_size, critic=plan.critic.batch_size if plan.critic is not None else critic
    )
    trainer.scale_lrs(
        generator=plan.generator.lr_factor, critic=plan.critic.lr_factor if plan.critic is not None else 1.0
    )


def _plan(network: str, before: int, found: EqualSize, objective: str, limit: int, seed: int) -> NetworkPlan:
    size = found.size
    if found.resolved and size.value > 0:
        base, slope, error = _step_time(found.points)
        flat = max((p.batch_size for p in found.points if p.seconds <= 1.2 * found.points[0].seconds), default=SMALLEST)
        choice = choose(
            objective,
            critical_batch_size=Interval(
                value=max(size.value, 1.0), low=min(max(size.low, 1e-3), max(size.value, 1.0)), high=max(size.high, 1.0)
            ),
            step_time_s=lambda sizes: base + slope * sizes,
            step_time_error=error,
            flat_until=flat,
            max_batch_size=limit,
            rng=np.random.default_rng(seed),
        )
        batch_size, reason = max(choice.batch_size, min(SMALLEST, limit)), choice.reason
        if batch_size > choice.batch_size:
            reason = f"{choice.reason}; raised to {batch_size}, the smallest that is used"
    else:
        known = min(size.low, float(limit))
        batch_size = max(before, 1 << int(math.log2(max(known, 1.0))))
        reason = (
            f"not enough evidence: the gradient is not resolved from its noise, which equals it at {size.low:.0f} points or more; "
            + (
                "the size stays"
                if batch_size == before
                else f"the size goes up to {batch_size}, a power of two below that"
            )
        )
    factor = scale_lr(
        "adam", 1.0, base_batch_size=before, batch_size=batch_size, critical_batch_size=max(size.value, float(before))
    )
    return NetworkPlan(
        network=network,
        before=before,
        batch_size=batch_size,
        equal_size=size,
        resolved=found.resolved,
        first_order=found.first_order,
        lr_factor=factor,
        reason=reason,
        points=found.points,
        num_gradients=sum(point.num_batches for point in found.points),
    )


def _step_time(points: Sequence[StepNoise]) -> tuple[float, float, float]:
    """Seconds of a gradient as ``a + b B``, never negative, with the relative error of ``b`` from the misfit."""
    from scipy.optimize import nnls

    sizes = np.array([point.batch_size for point in points], dtype=np.float64)
    times = np.array([point.seconds for point in points])
    weights = 1 / times
    design = np.stack([np.ones_like(sizes), sizes], axis=1) * weights[:, None]
    (base, slope), misfit = nnls(design, times * weights)
    slope = max(float(slope), 1e-12)
    return float(base), slope, float(min(max(misfit, 0.05), 1.0))


def _divisors(trainer: MMDGAN, model: nn.Module, network: str) -> dict[str, Tensor] | None:
    """What the optimizer divides each gradient by; None before its first step."""
    optimizer = trainer.optimizer_of(network)
    found = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        if "square_avg" in state:
            found[name] = state["square_avg"].sqrt() + optimizer.defaults["eps"]
        elif "exp_avg_sq" in state:
            beta2 = optimizer.param_groups[0]["betas"][1]
            found[name] = (state["exp_avg_sq"] / (1 - beta2 ** float(state["step"]))).sqrt() + optimizer.defaults["eps"]
    return found or None
