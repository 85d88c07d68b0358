"""The minimum of the convergence bound over its parameters, against tokens and batch size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.planning import ScgConstants, unrolled_bound
from batchwright.studies.study import Place

NEAR = 1.1


def landscape(
    place: Place, *, exponents: Sequence[int], points: Mapping[str, int], per_decade: int
) -> Mapping[str, Any]:
    """For each budget: the least bound, the largest batch within 10 % of it, and the momentum weight there.

    Args:
        place: Not used.
        exponents: Of ten, for the budgets in tokens.
        points: Points of the grids of ``c`` (0.05 to 2), ``eta`` (0.1 to 300) and ``alpha`` (1e-6 to 1).
        per_decade: Batch sizes in a decade.
    """
    c = np.geomspace(0.05, 2.0, points["c"])[:, None, None]
    eta = np.geomspace(0.1, 300.0, points["eta"])[None, :, None]
    alpha = np.geomspace(1e-6, 1.0, points["alpha"])[None, None, :]
    constants = ScgConstants()
    found: dict[str, list[Any]] = {"best": [], "edge": [], "edge_alpha": [], "batch_sizes": [], "errors": []}
    for exponent in exponents:
        tokens = 10.0**exponent
        sizes = 10.0 ** np.arange(0, exponent + 1 / (2 * per_decade), 1 / per_decade)
        errors, weights = [], []
        for size in sizes:
            bound = unrolled_bound(constants, tokens=tokens, batch_tokens=size, c=c, eta=eta, alpha=alpha)
            place_of = np.unravel_index(int(bound.argmin()), bound.shape)
            errors.append(float(bound[place_of]))
            weights.append(float(alpha[0, 0, place_of[2]]))
        best = min(errors)
        edge = max(index for index, error in enumerate(errors) if error <= NEAR * best)
        finite = [index for index, error in enumerate(errors) if np.isfinite(error)]
        found["best"].append(best)
        found["edge"].append(float(sizes[edge]))
        found["edge_alpha"].append(weights[edge])
        found["batch_sizes"].append([float(sizes[index]) for index in finite])
        found["errors"].append([errors[index] for index in finite])
    return found
