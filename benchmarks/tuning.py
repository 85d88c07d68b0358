"""Tuners at four rounds of eight parallel trials: simple regret and robust loss, on noisy functions and on a table of real training.

    python -m benchmarks.tuning [--seeds N] [--methods ours|peers|NAME,...] [--problems NAME,...] [--out FILE]

Branin (noise of standard deviation 1), Hartmann-6 (0.1), Ackley-5 (0.5) and Levy-4 (1), and `digits-cnn` over lr, batch size,
momentum and weight decay from `benchmarks/digits_cnn_table.json` (see `benchmarks.tuning_table`). Every method asks eight settings,
gets all eight values, and asks again. Two recommendations are scored by the function without noise: the one that the method ships
(the best trial of Optuna, Ray, Sobol and random; the optimum of the posterior mean of BoTorch and ours), and the optimum of one and
the same posterior mean for all. The robust loss is the worst value within 10 % (a tenth of the range, a factor of 1.1 on logarithmic
axes), less the best robust value there is. One JSON line a run goes to --out, and runs that are there are not made again.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from batchwright.bandits import (
    BPE,
    GPBUCB,
    UCBPE,
    Confidence,
    Perturbation,
    RobustBPE,
    RobustGPBUCB,
    Space,
    Thompson,
    dense_posterior,
)
from batchwright.bandits.model import Model, in_force
from benchmarks.bandit_functions import branin, hartmann
from benchmarks.tuning_table import SPACE, Surrogate

ROUNDS, PARALLEL, SHARE = 4, 8, 0.10


@dataclass(frozen=True)
class Problem:
    space: Space
    truth: Callable[[Tensor], Tensor]
    noise: float
    best: float | None = None


def ackley(x: Tensor) -> Tensor:
    root = x.square().mean(1).sqrt()
    return -20 * torch.exp(-0.2 * root) - torch.exp(torch.cos(2 * math.pi * x).mean(1)) + 20 + math.e


def levy(x: Tensor) -> Tensor:
    w = 1 + (x - 1) / 4
    inner = ((w[:, :-1] - 1) ** 2 * (1 + 10 * torch.sin(math.pi * w[:, :-1] + 1) ** 2)).sum(1)
    return (
        torch.sin(math.pi * w[:, 0]) ** 2 + inner + (w[:, -1] - 1) ** 2 * (1 + torch.sin(2 * math.pi * w[:, -1]) ** 2)
    )


def digits() -> Problem:
    surrogate = Surrogate()
    return Problem(
        Space.parse(SPACE),
        surrogate,
        surrogate.noise,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "Branin": lambda: Problem(Space.box([-5, 0], [10, 15]), branin, 1.0, 0.397887),
    "Hartmann-6": lambda: Problem(Space.box([0] * 6, [1] * 6), hartmann, 0.1, -3.32237),
    "Ackley-5": lambda: Problem(Space.box([-5] * 5, [10] * 5), ackley, 0.5, 0.0),
    "Levy-4": lambda: Problem(Space.box([-10] * 4, [10] * 4), levy, 1.0, 0.0),
    "digits-cnn": digits,
}

Told = Callable[[Tensor], Tensor]
Run = tuple[Tensor, Tensor, Tensor]


def ours(kind: type, **options) -> Callable[[Problem, Told, int], Run]:
    def run(problem: Problem, told: Told, seed: int) -> Run:
        more = dict(options)
        if issubclass(kind, RobustBPE):
            more["perturbation"] = Perturbation.relative(problem.space, SHARE)
        bandit = kind(problem.space, horizon=ROUNDS * PARALLEL, batches=[PARALLEL] * ROUNDS, maximize=False, seed=seed,
                      **{"keep": "all", "confidence": Confidence(beta=4.0), **more})  # fmt: skip
        while not bandit.done:
            points = bandit.ask()
            bandit.tell(points, told(points))
        return bandit.trials.points, bandit.trials.value, torch.tensor(bandit.recommend().point, dtype=torch.float64)

    return run


def in_rounds(ask: Callable[[Tensor, Tensor], Tensor], problem: Problem, told: Told) -> tuple[Tensor, Tensor]:
    points, values = torch.zeros(0, problem.space.dim, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for _ in range(ROUNDS):
        asked = ask(points, values)
        points, values = torch.cat([points, asked]), torch.cat([values, told(asked)])
    return points, values


def best_trial(points: Tensor, values: Tensor) -> Run:
    return points, values, points[int(values.argmin())]


def sobol(problem: Problem, told: Told, seed: int) -> Run:
    engine = SobolEngine(problem.space.dim, scramble=True, seed=seed)
    draw = lambda *_: problem.space.from_unit(engine.draw(PARALLEL, dtype=torch.float64))  # noqa: E731
    return best_trial(*in_rounds(draw, problem, told))


def random(problem: Problem, told: Told, seed: int) -> Run:
    generator = torch.Generator().manual_seed(seed + 77)

    def ask(*_) -> Tensor:
        return problem.space.from_unit(
            torch.rand(PARALLEL, problem.space.dim, generator=generator, dtype=torch.float64)
        )

    return best_trial(*in_rounds(ask, problem, told))


def ray_default(problem: Problem, told: Told, seed: int) -> Run:
    """Samples as Ray Tune's default searcher, the variant generator, draws them."""
    from ray import tune

    state = np.random.RandomState(seed)
    domains = []
    for each in problem.space.dimensions:
        if each.kind == "power-of-two":
            domains.append(tune.choice([each.low * 2**i for i in range(round(math.log2(each.high / each.low)) + 1)]))
        else:
            domains.append((tune.loguniform if each.kind == "log" else tune.uniform)(each.low, each.high))

    def ask(*_) -> Tensor:
        rows = [[float(domain.sample(random_state=state)) for domain in domains] for _ in range(PARALLEL)]
        return torch.tensor(rows, dtype=torch.float64)

    return best_trial(*in_rounds(ask, problem, told))


def optuna_tpe(problem: Problem, told: Told, seed: int) -> Run:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(constant_liar=True, seed=seed))
    points, values = [], []
    for _ in range(ROUNDS):
        trials = [study.ask() for _ in range(PARALLEL)]
        asked = torch.tensor([[suggest(trial, each) for each in problem.space.dimensions] for trial in trials],
                             dtype=torch.float64)  # fmt: skip
        found = told(asked)
        for trial, value in zip(trials, found.tolist(), strict=True):
            study.tell(trial, value)
        points.append(asked)
        values.append(found)
    return best_trial(torch.cat(points), torch.cat(values))


def suggest(trial, dimension) -> float:
    if dimension.kind == "power-of-two":
        return dimension.low * 2.0 ** trial.suggest_int(
            dimension.name, 0, round(math.log2(dimension.high / dimension.low))
        )
    return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.kind == "log")


def botorch_nei(problem: Problem, told: Told, seed: int) -> Run:
    from botorch.acquisition import PosteriorMean, qLogNoisyExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    space = problem.space
    engine = SobolEngine(space.dim, scramble=True, seed=seed)
    box = torch.tensor([[0.0] * space.dim, [1.0] * space.dim], dtype=torch.float64)

    def model(points: Tensor, values: Tensor):
        found = SingleTaskGP(space.encode(points), -values[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(found.likelihood, found))
        return found

    def decode(unit: Tensor) -> Tensor:
        columns = zip(space.dimensions, unit.T, strict=True)
        return torch.stack([each.near(each.low, column) for each, column in columns], 1)

    def ask(points: Tensor, values: Tensor) -> Tensor:
        if not len(points):
            return space.from_unit(engine.draw(PARALLEL, dtype=torch.float64))
        fitted = model(points, values)
        improvement = qLogNoisyExpectedImprovement(fitted, space.encode(points), prune_baseline=True)
        found, _ = optimize_acqf(improvement, box, q=PARALLEL, num_restarts=4, raw_samples=128, sequential=True)
        return decode(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points, values = in_rounds(ask, problem, told)
        found, _ = optimize_acqf(PosteriorMean(model(points, values)), box, q=1, num_restarts=8, raw_samples=512)
    return points, values, decode(found)[0]


SPREAD = {"opening": "scattered"}
OURS = {
    "ours (GP-BUCB)": ours(GPBUCB, **SPREAD),
    "robust, ours (GP-BUCB)": ours(RobustGPBUCB, **SPREAD),
    "BPE (ours)": ours(BPE),
    "robust BPE (ours)": ours(RobustBPE),
    "GP-BUCB, chosen opening (ours)": ours(GPBUCB),
    "UCB-PE (ours)": ours(UCBPE),
    "Thompson (ours)": ours(Thompson),
}
PEERS = {
    "BoTorch qLogNEI": botorch_nei,
    "Optuna TPE, constant liar": optuna_tpe,
    "Ray, default searcher": ray_default,
    "Sobol": sobol,
    "random": random,
}


def one_posterior(space: Space, points: Tensor, values: Tensor, seed: int) -> Tensor:
    """The optimum of one posterior mean, fitted alike for all: over scattered points and the trials, then polished."""
    encoded = space.encode(points)
    force = in_force(Model(), encoded, -values, 1.0, seed=seed)
    posterior = dense_posterior(
        encoded, -values, force.kernel, max(force.noise_variance, 1e-9 * force.kernel.variance), prior_mean=force.mean
    )
    engine = SobolEngine(space.dim, scramble=True, seed=seed + 500)
    places = torch.cat([space.from_unit(engine.draw(4096, dtype=torch.float64)), points])
    found = places[int(posterior.mean_at(space.encode(places)).argmax())]
    generator, reach = torch.Generator().manual_seed(seed), 0.1
    for _ in range(8):
        draws = torch.rand(128, space.dim, generator=generator, dtype=torch.float64)
        places = torch.cat([found[None], space.near(found, reach * (2 * draws - 1))])
        found = places[int(posterior.mean_at(space.encode(places)).argmax())]
        reach *= 0.5
    return found


def robust_value(problem: Problem, point: Tensor, number: int = 400) -> float:
    generator = torch.Generator().manual_seed(0)
    ball = Perturbation.relative(problem.space, SHARE)
    around = ball.around(problem.space, point[None], number, generator)[0]
    return float(problem.truth(torch.cat([point[None], around])).max())


def best_values(problem: Problem, recommended: list[list[float]]) -> tuple[float, float]:
    """Of the function and its robust version, by search where they are not known; any recommendation may be the best found."""
    engine = SobolEngine(problem.space.dim, scramble=True, seed=0)
    places = problem.space.from_unit(engine.draw(4096, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    starts = [*places[problem.truth(places).argsort()[:8]], *torch.tensor(recommended, dtype=torch.float64)[:40]]
    best = problem.best
    if best is None:
        best = min(
            climb(problem, start, lambda x: float(problem.truth(x[None])[0]), generator, 60)[1] for start in starts
        )
    score = [(robust_value(problem, start, 60), index) for index, start in enumerate(starts)]
    tops = [starts[index] for _, index in sorted(score)[:5]]
    robust = min(climb(problem, start, lambda x: robust_value(problem, x, 60), generator, 40)[0] for start in tops)
    return best, robust


def climb(
    problem: Problem, start: Tensor, value: Callable[[Tensor], float], generator, steps: int
) -> tuple[float, float]:
    """A search by random steps; gives the robust value at its end, and the value."""
    here, best, reach = start, value(start), 0.15
    for _ in range(steps):
        draws = 2 * torch.rand(1, problem.space.dim, generator=generator, dtype=torch.float64) - 1
        there = problem.space.near(here, reach * draws)[0]
        now = value(there)
        here, best, reach = (there, now, reach * 1.3) if now < best else (here, best, max(0.9 * reach, 0.002))
    return robust_value(problem, here), best


def play(problem: Problem, method: Callable, seed: int) -> dict:
    generator = torch.Generator().manual_seed(1000 + seed)

    def told(points: Tensor) -> Tensor:
        draws = torch.randn(len(points), generator=generator, dtype=torch.float64)
        return problem.truth(points) + problem.noise * draws

    start = time.process_time()
    points, values, native = method(problem, told, seed)
    seconds = time.process_time() - start
    shared = one_posterior(problem.space, points, values, seed)
    found = {"seconds": seconds}
    for name, point in (("native", native), ("shared", shared)):
        found[name] = point.tolist()
        found[f"{name}_value"] = float(problem.truth(point[None])[0])
        found[f"{name}_robust"] = robust_value(problem, point)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10, help="the default method was chosen on seeds 0 to 9")
    parser.add_argument("--methods", default="ours,peers")
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--out", type=Path, default=Path("runs/tuning-bench.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = options.methods.split(",")
    groups = {"ours": OURS, "peers": PEERS}
    methods = {name: each for word in wanted for name, each in groups.get(word, {}).items()}
    methods |= {name: each for name, each in {**OURS, **PEERS}.items() if any(name.startswith(word) for word in wanted)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["problem"], line["method"], line["seed"]) for line in lines}
    for problem_name in options.problems.split(","):
        problem = PROBLEMS[problem_name]()
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name, method in methods.items():
                if (problem_name, name, seed) in done:
                    continue
                line = {"problem": problem_name, "method": name, "seed": seed, **play(problem, method, seed)}
                lines.append(line)
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        show(problem_name, problem, [line for line in lines if line["problem"] == problem_name])


def show(name: str, problem: Problem, lines: list[dict]) -> None:
    best, robust = best_values(problem, [line["native"] for line in lines])
    best = min([best, *(line["native_value"] for line in lines)]) if problem.best is None else best
    robust = min([robust, *(line[f"{rule}_robust"] for line in lines for rule in ("native", "shared"))])
    print(f"\n{name}: best {best:.4g}, best robust {robust:.4g}")
    print(
        "| method | regret as shipped, median (mean) | with one posterior mean for all | robust regret as shipped | CPU s |"
    )
    print("|---|---|---|---|---|")
    for method in dict.fromkeys(line["method"] for line in lines):
        mine = [line for line in lines if line["method"] == method]
        cells = [
            f"{statistics.median(found):.3f} ({statistics.mean(found):.3f})"
            for found in (
                [line["native_value"] - best for line in mine],
                [line["shared_value"] - best for line in mine],
                [line["native_robust"] - robust for line in mine],
            )
        ]
        seconds = statistics.median(line["seconds"] for line in mine)
        print(f"| {method} ({len(mine)} seeds) | {' | '.join(cells)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
