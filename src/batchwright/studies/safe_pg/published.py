"""The published numbers: the table of the paper, as recalled and confirmed by a run of the specification, and its learning curves.

Source: Papini, Pirotta, Restelli (2017), section 6, and the curves in the authors' public repository.
"""

from dataclasses import dataclass
from typing import Any

# The rule of the paper with the mistakes of its public code, which its figures were made with: the score of the clipped action, and
# a variance formula that is no bound. There is one parameter, so nothing is shared between coordinates.
AS_PUBLISHED = {
    "rule": "published",
    "baseline": "batch",
    "variance_form": "published",
    "smoothness_form": "published",
    "union": False,
}
MARKS = (1e5, 1e6, 3e6, 1e7, 3e7)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """One row of the table.

    Attributes:
        title: In words.
        options: Of the trainer, beside `AS_PUBLISHED`.
        average: Sampled return, averaged over the trajectories of the run.
        curve: ``J`` without boxes and end at `MARKS` trajectories.
        quick: ``J`` at 3e6 trajectories in a run of the specification; None where it has none.
    """

    title: str
    options: dict[str, Any]
    average: float
    curve: tuple[float, float, float, float, float]
    quick: float | None = None


def _chebyshev(delta: float, average: float, *curve: float, quick: float | None = None) -> PublishedRun:
    return PublishedRun(
        title=f"Chebyshev, G(PO)MDP, δ = {delta:g}",
        options={"bound": "chebyshev", "delta": delta},
        average=average,
        curve=(curve[0], curve[1], curve[2], curve[3], curve[4]),
        quick=quick,
    )


def _reinforce(delta: float, average: float, *curve: float, quick: float | None = None) -> PublishedRun:
    return PublishedRun(
        title=f"Chebyshev, REINFORCE, δ = {delta:g}",
        options={"bound": "chebyshev", "estimator": "reinforce", "delta": delta},
        average=average,
        curve=(curve[0], curve[1], curve[2], curve[3], curve[4]),
        quick=quick,
    )


RUNS = {
    "bernstein-empirical": PublishedRun(
        title="Bernstein, range of the sample, δ = 0.95",
        options={"bound": "bernstein", "value_range": "empirical", "delta": 0.95},
        average=-9.6623,
        curve=(-25.87, -14.75, -13.63, -13.27, -13.21),
        quick=-13.63,
    ),
    "hoeffding-empirical": PublishedRun(
        title="Hoeffding, range of the sample, δ = 0.95",
        options={"bound": "hoeffding", "value_range": "empirical", "delta": 0.95},
        average=-9.8582,
        curve=(-27.06, -16.28, -14.69, -13.85, -13.48),
        quick=-14.69,
    ),
    "bernstein-theoretical": PublishedRun(
        title="Bernstein, theoretical range, δ = 0.95",
        options={"bound": "bernstein", "delta": 0.95},
        average=-10.2159,
        curve=(-50.61, -29.36, -20.12, -15.30, -13.75),
        quick=-20.11,
    ),
    "chebyshev-0.95": _chebyshev(0.95, -10.6085, -52.83, -34.85, -24.43, -17.83, -15.15, quick=-24.37),
    "chebyshev-0.75": _chebyshev(0.75, -10.7141, -53.53, -37.32, -26.35, -18.74, -15.56),
    "chebyshev-0.50": _chebyshev(0.50, -10.9036, -54.51, -41.46, -30.10, -20.70, -16.44),
    "chebyshev-0.25": _chebyshev(0.25, -11.2355, -55.40, -47.25, -37.17, -25.41, -18.73),
    "chebyshev-0.05": _chebyshev(0.05, -11.8360, -56.29, -54.26, -50.37, -41.26, -30.04),
    "reinforce-0.95": _reinforce(0.95, -11.3266, -55.73, -48.71, -39.25, -27.10, -19.62, quick=-39.11),
    "reinforce-0.75": _reinforce(0.75, -11.4303, -55.96, -50.10, -41.62, -29.28, -20.85),
    "reinforce-0.50": _reinforce(0.50, -11.5947, -56.18, -52.09, -45.31, -33.37, -23.42),
    "hoeffding-theoretical": PublishedRun(
        title="Hoeffding, theoretical range, δ = 0.95",
        options={"bound": "hoeffding", "delta": 0.95},
        average=-11.9140,
        curve=(-56.38, -55.01, -52.14, -44.54, -33.64),
        quick=-51.90,
    ),
}
# Updates of the specification's own runs at 3e7 trajectories.
UPDATES = {
    "reinforce-0.95": 1278,
    "chebyshev-0.95": 3049,
    "hoeffding-theoretical": 316,
    "bernstein-theoretical": 3527,
    "hoeffding-empirical": 7217,
    "bernstein-empirical": 11263,
}
# Final J at 3e6 trajectories by delta: the rule of the paper and the tight one, in the specification's runs.
RULES = {0.95: (-24.39, -16.57), 0.20: (-39.47, -23.94), 0.05: (-50.44, -37.05)}
# Gradient by the score of the clipped action, of the raw one, and by finite difference, at a parameter.
BIAS = {0.0: (-9.55, -9.79), -0.3: (-5.69, -3.87), -0.588: (-4.35, -0.50)}
# Discount and horizon; variance of the counterexample, the formula of 2017.
COUNTEREXAMPLES = {
    (0.9, 20): (393.4, 334.5),
    (0.9, 10): (148.1, 129.7),
    (0.99, 100): (121440, 105060),
    (0.5, 10): (6.04, 5.32),
}
