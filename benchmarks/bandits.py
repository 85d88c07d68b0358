"""Max-variance selection, kernel fits and whole rounds of the bandits, beside scikit-learn and BoTorch.

    python -m benchmarks.bandits [--rounds N] [--only selection|ask|fit|horizon]

Process CPU time, one thread, all in one run. scikit-learn and BoTorch choose one point by a new posterior over all candidates for
each point. Where that takes minutes, they are timed at every so many points of the same sequence, and the sum is taken over all (the
table says so). BoTorch and GPyTorch are in benchmarks/requirements.txt; what is not there is left out.
Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import math
import statistics
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from batchwright.bandits import BPE, CandidatePosterior, Confidence, Kernel, Model, Space, dense_posterior, fit_kernel
from batchwright.bandits.marginal_likelihood import LogNormal, Objective, Prior, default_prior
from benchmarks.ratios import clock

try:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood
except ImportError:
    SingleTaskGP = None

NOISE = 0.01


def selection(name: str, size: int, lengthscale: float, count: int, every: int, rounds: int) -> None:
    """Ours in full, the peers at every so many points of the same sequence."""
    axis = torch.linspace(0, 1, size, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    kernel = Kernel(lengthscales=(lengthscale,))

    def ours() -> None:
        CandidatePosterior(points, kernel, NOISE).select(count)

    posterior = CandidatePosterior(points, kernel, NOISE)
    chosen = posterior.select(count)
    variance = dense_posterior(points[chosen], torch.zeros(count, dtype=torch.float64), kernel, NOISE).at(points)[1]
    error = float((variance - posterior.variance).abs().max())
    ours()
    times = [clock(ours) for _ in range(rounds)]
    own = statistics.median(times)
    steps = list(range(every, count, every))
    cells = [f"{1e3 * own:.1f} ms ({1e3 * min(times):.1f}–{1e3 * max(times):.1f})"]
    peers = {"scikit-learn": sklearn_step(points.numpy(), chosen.numpy(), lengthscale)}
    if SingleTaskGP is not None:
        peers["BoTorch"] = botorch_step(points, chosen, lengthscale)
    for step in peers.values():
        same = step(steps[0])
        spent = [clock(lambda step=step, number=number: step(number)) for number in steps]
        total = sum(spent) * (count - 1) / len(steps)
        # The point that a peer would take next has our point's variance: ties aside, it is the same one.
        gap = abs(same - expected_variance(points, chosen, kernel, steps[0]))
        cells.append(f"{total:.2f} s | {total / own:.0f} | {gap:.0e}")
    print(f"| {name} | " + " | ".join(cells) + f" | {error:.0e} | {every} |", flush=True)


def expected_variance(points: torch.Tensor, chosen: torch.Tensor, kernel: Kernel, number: int) -> float:
    posterior = CandidatePosterior(points, kernel, NOISE)
    posterior.select(number)
    return float(posterior.variance[chosen[number]])


def sklearn_step(points: np.ndarray, chosen: np.ndarray, lengthscale: float) -> Callable[[int], float]:
    def step(number: int) -> float:
        """Point ``number`` from those before it; gives the largest variance."""
        model = GaussianProcessRegressor(RBF(lengthscale, "fixed"), alpha=NOISE, optimizer=None)
        model.fit(points[chosen[:number]], np.zeros(number))
        return float(model.predict(points, return_std=True)[1].max() ** 2)

    return step


def botorch_step(points: torch.Tensor, chosen: torch.Tensor, lengthscale: float) -> Callable[[int], float]:
    from gpytorch.kernels import RBFKernel

    def step(number: int) -> float:
        covariance = RBFKernel()
        covariance.lengthscale = lengthscale
        known = points[chosen[:number]]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = SingleTaskGP(
                known,
                torch.zeros(number, 1, dtype=torch.float64),
                torch.full((number, 1), NOISE, dtype=torch.float64),
                covar_module=covariance.double(),
                outcome_transform=None,
            ).eval()
            return float(model.posterior(points.unsqueeze(1)).variance.max())

    return step


def asks(rounds: int) -> None:
    """A whole round: fit, candidates, selection; with the values of earlier rounds."""
    print("| a round of 64 asked | median, ms |\n|---|---|")
    for dim in (2, 6):
        for fitted in (False, True):
            times = []
            for seed in range(rounds):
                generator = torch.Generator().manual_seed(seed)
                model = Model() if fitted else Model(kernel=Kernel(lengthscales=(0.4,)), noise_std=0.1)
                bandit = BPE(
                    Space.box([0.0] * dim, [1.0] * dim),
                    horizon=192,
                    batches=[64, 64, 64],
                    model=model,
                    confidence=Confidence(beta=6.0),
                    keep="all",
                    seed=seed,
                )
                for _ in range(2):
                    asked = bandit.ask()
                    values = torch.sin(4 * asked).sum(1)
                    bandit.tell(asked, values + 0.1 * torch.randn(64, generator=generator, dtype=torch.float64))
                times.append(1e3 * clock(bandit.ask))
            kind = "fitted kernel (fit is in tell)" if fitted else "given kernel"
            print(f"| {dim}-D box, 2,048 candidates, 128 earlier values, {kind} | {statistics.median(times):.0f} |")
    axis = torch.linspace(0, 1, 100, dtype=torch.float64)
    times = []
    for _ in range(rounds):
        bandit = BPE(torch.cartesian_prod(axis, axis), horizon=64, batches=[64],
                     model=Model(kernel=Kernel(lengthscales=(0.2,)), noise_std=0.1))  # fmt: skip
        times.append(1e3 * clock(bandit.ask))
    print(f"| 10,000 given candidates, the first round | {statistics.median(times):.0f} |", flush=True)


def fits(rounds: int) -> None:
    """The same objective for both: BoTorch's own priors, and a fixed variance of 1."""
    print(
        "\n| fit, n, D | ours, ms | BoTorch, ms | BoTorch over ours | objective, ours less BoTorch's, nats (min, median) |"
    )
    print("|---|---|---|---|---|")
    for number, dim in ((64, 2), (64, 6), (256, 6)):
        own, other, gaps = [], [], []
        for seed in range(rounds + 1):
            points, values = problem(number, dim, seed)
            prior = Prior(
                lengthscale=default_prior(dim).lengthscale,
                noise_variance=LogNormal(location=-4.0, scale=1.0),
                variance=None,
                smallest_noise=1e-4,
            )
            mine = partial(fit_kernel, points, values, prior=prior)
            own.append(1e3 * clock(mine))
            if SingleTaskGP is None:
                continue
            theirs = partial(botorch_fit, points, values)
            other.append(1e3 * clock(theirs))
            kernel, noise = mine().kernel, mine().noise_variance
            scaled = (values - values.mean()) / values.std()
            objective = Objective(points=points, values=scaled, name="se", nu=2.5, prior=prior)
            ours = torch.tensor([*kernel.lengthscales, noise / float(values.var())])
            gaps.append(float(objective(ours.double().log()[None])[0] - objective(theirs().log()[None])[0]))
        cells = [f"{statistics.median(own[1:]):.1f}"]
        if other:
            ratios = [b / a for a, b in zip(own[1:], other[1:], strict=True)]
            cells += [
                f"{statistics.median(other[1:]):.0f}",
                f"{statistics.median(ratios):.0f} ({min(ratios):.0f}–{max(ratios):.0f})",
                f"{min(gaps):.1e}, {statistics.median(gaps):.1e}",
            ]
        print(f"| {number}, {dim} | " + " | ".join(cells) + " |", flush=True)


def problem(number: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(number, dim, generator=generator, dtype=torch.float64)
    kernel = Kernel(lengthscales=tuple(0.3 * math.sqrt(dim) * (1 + axis % 3) for axis in range(dim)))
    factor = torch.linalg.cholesky(kernel(points, points) + 0.01 * torch.eye(number, dtype=torch.float64))
    return points, factor @ torch.randn(number, generator=generator, dtype=torch.float64)


def botorch_fit(points: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Length scales and noise variance of the standardised values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(points, values[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    scales = model.covar_module.lengthscale.detach().flatten()
    return torch.cat([scales, model.likelihood.noise.detach().flatten()]).double()


def horizon() -> None:
    """Ten thousand points on 2,500 candidates, with eliminations and the recommendation."""
    axis = torch.linspace(-5, 5, 50, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for name in ("se", "matern"):
        kernel = Kernel(name=name, lengthscales=(0.5,))
        value = torch.linalg.cholesky(
            kernel(points, points) + 1e-6 * torch.eye(2500, dtype=torch.float64)
        ) @ torch.randn(2500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def whole(kernel: Kernel = kernel, value: torch.Tensor = value) -> None:
            generator = torch.Generator().manual_seed(1)
            bandit = BPE(
                points,
                horizon=10_000,
                model=Model(kernel=kernel, noise_std=0.02),
                confidence=Confidence(beta=6.0),
            )
            while not bandit.done:
                asked = bandit.ask()
                index = bandit.trials.index[-len(asked) :]
                noise = torch.randn(len(asked), generator=generator, dtype=torch.float64)
                bandit.tell(asked, value[index] + 0.02 * noise)
            bandit.recommend()

        print(f"T = 10,000 on 2,500 points, {name}: {clock(whole):.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("selection", "ask", "fit", "horizon"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only in (None, "selection"):
        heads = ["scikit-learn, s | over ours | its variance apart"]
        heads += ["BoTorch, s | over ours | its variance apart"] if SingleTaskGP is not None else []
        print("| points | ours | " + " | ".join(heads) + " | ours from a dense solve | peers timed every |")
        print("|---" * (4 + 3 * len(heads)) + "|")
        selection("64 of 10,000", 100, 0.2, 64, 1, options.rounds)
        selection("1,000 of 2,500", 50, 0.05, 1000, 25, options.rounds)
    if options.only in (None, "ask"):
        print()
        asks(options.rounds)
    if options.only in (None, "fit"):
        fits(options.rounds)
    if options.only in (None, "horizon"):
        print()
        horizon()


if __name__ == "__main__":
    main()
