"""The experiments of the study; each is a cell, and its record holds one number a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from batchwright.bandits import BPE, REGISTRY, Confidence, Kernel, Model, Perturbation, RobustBPE
from batchwright.bandits.pool import Pool
from batchwright.bandits.schedules import (
    batch_schedule,
    geometric_lengths,
    geometric_num_batches,
    optimal_num_batches,
    regret_sum,
)
from batchwright.studies.batched_bandits.problem import HIGH, LOW, draw, grid, play
from batchwright.studies.study import Place

# Trials after which the cumulative regret is kept, a geometric row.
MARKS = 24


def schedules(place: Place) -> Mapping[str, Any]:
    """Batch lists, optimal numbers of batches and sums of regrets (T4.1)."""
    sums = (10**4, 10**6, 10**9, 10**12, 10**18)
    return {
        "lists": {str(horizon): batch_schedule(horizon, rule="sqrt") for horizon in (64, 256, 1000, 1024, 10**4)},
        "counts": {
            str(horizon): len(batch_schedule(horizon, rule="sqrt")) for horizon in (10**2, 10**3, 10**5, 10**6, 10**8)
        },
        "optimal": {
            "se": [optimal_num_batches(10.0**each) for each in (3, 6, 12, 24)],
            "matern": [optimal_num_batches(10.0**each, "matern", 2.5, 2) for each in (3, 6, 12, 24)],
        },
        "plain_sums": [regret_sum(batch_schedule(horizon, rule="sqrt")) for horizon in sums],
        "geometric_sums": [
            regret_sum(geometric_lengths(float(horizon), geometric_num_batches(horizon), 0.5)) for horizon in sums
        ],
    }


def kernel_of(name: str) -> Kernel:
    """Of length scale 1, Matérn of smoothness 5/2."""
    return Kernel(name=name, nu=2.5, lengthscales=(1.0,))


def regret(
    place: Place,
    *,
    method: str,
    kernel: str,
    size: int,
    horizon: int,
    noise: float,
    beta: float,
    seeds: Sequence[int],
    num_batches: int | None = None,
    keep: str | None = None,
    rule: str | None = None,
    watch: bool = False,
) -> Mapping[str, Any]:
    """Cumulative and simple regret of one method with one plan (T4.2, T4.3 and the comparison).

    A number of batches takes the schedule of the squared exponential for every kernel, as the published code does.
    """
    batches = None if num_batches is None else batch_schedule(horizon, num_batches)
    points, model = grid(size).to(place.device), Model(kernel=kernel_of(kernel), noise_std=noise)
    found: dict[str, list[Any]] = {"regret": [], "kept": [], "simple": [], "bound": [], "curve": []}
    marks: list[int] = []
    for seed in seeds:
        bandit = REGISTRY[method](
            points,
            horizon=horizon,
            batches=batches,
            rule=rule,
            model=model,
            confidence=Confidence(beta=beta),
            keep=keep,
            seed=seed,
            device=place.device,
        )
        value = draw(points, kernel_of(kernel), seed)
        done = play(bandit, points, value, noise, seed, watch=watch)
        total = done.regret.cumsum(0)
        marks = sorted({round(horizon ** (each / MARKS)) for each in range(MARKS + 1)})
        found["regret"].append(float(total[-1]))
        found["kept"].append(done.kept)
        found["simple"].append(done.simple)
        found["bound"].append(done.bound)
        found["curve"].append([float(total[mark - 1]) for mark in marks])
    return {"plan": list(bandit.plan), "marks": marks, **found}


def robust(
    place: Place, *, size: int, horizon: int, noise: float, beta: float, cells: int, seeds: Sequence[int]
) -> Mapping[str, Any]:
    """Robust BPE on the footprint of ``cells`` grid cells in the largest norm, beside plain BPE (T4.4)."""
    points, kernel = grid(size).to(place.device), kernel_of("se")
    model, confidence = Model(kernel=kernel, noise_std=noise), Confidence(beta=beta)
    reach = cells * (HIGH - LOW) / (size - 1)
    found: dict[str, list[Any]] = {name: [] for name in ("simple", "cumulative", "kept", "plain", "of_plain_optimum")}
    for seed in seeds:
        value = draw(points, kernel, seed)
        bandit = RobustBPE(
            points,
            horizon=horizon,
            model=model,
            confidence=confidence,
            perturbation=Perturbation(radius=reach),
            seed=seed,
            device=place.device,
        )
        worst = bandit.survivors.pool.view(value)
        lost = worst.max() - worst
        charged, kept = 0.0, True
        generator = torch.Generator().manual_seed(seed)
        while not bandit.done:
            charges = _charges(bandit.survivors.pool, lost, bandit.survivors.alive)
            asked = bandit.ask()
            index = bandit.trials.index[-len(asked) :]
            charged += float(charges[index].sum())
            draws = torch.randn(len(asked), generator=generator, dtype=torch.float64)
            bandit.tell(asked, value[index] + noise * draws)
            kept = kept and bool(bandit.survivors.alive[int(worst.argmax())])
        recommended = torch.tensor(bandit.recommend().point, dtype=torch.float64)
        plain = BPE(points, horizon=horizon, model=model, confidence=confidence, seed=seed, device=place.device)
        found["simple"].append(float(lost[(points == recommended).all(1)][0]))
        found["cumulative"].append(charged)
        found["kept"].append(kept)
        found["plain"].append(float(play(plain, points, value, noise, seed).regret.sum()))
        found["of_plain_optimum"].append(float(lost[int(value.argmax())]))
    return {"plan": list(bandit.plan), **found}


def _charges(pool: Pool, lost: Tensor, alive: Tensor) -> Tensor:
    """Robust regret that a sample at each point is charged: that of the worst surviving nominal point that it is a perturbation of."""
    near = pool.near
    assert near is not None  # a robust bandit has neighbourhoods
    pairs = alive[near.centre]
    found = torch.full((near.num_points,), -torch.inf, dtype=lost.dtype, device=lost.device)
    return found.scatter_reduce_(0, near.index[pairs], lost[near.centre[pairs]], "amax")
