"""Trace of a Hessian or any curvature matrix, from products with random signs.

Sources: Hutchinson (1990), "A stochastic estimator of the trace of the influence matrix"; Meyer et al. (2021), "Hutch++:
optimal stochastic trace estimation", algorithm 1. Deviation: the sketch is of normal vectors of a number fixed by
the tolerance, and the remainder is sampled until the wanted standard error, which its own scatter gives.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.objectives import Loss
from batchwright.core.statistics import mean_interval
from batchwright.measure.curvature.operator import GRAPH_BYTES, CurvatureOperator
from batchwright.measure.curvature.products import HessianOperator

METHODS = ("hutch++", "hutchinson")
MIN_SAMPLES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Trace of a curvature matrix with an interval.

    Attributes:
        value: Unbiased estimate.
        standard_error: Of ``value``, from the scatter of the random samples; 0 where the trace is exact.
        low: Lower end of the Student interval.
        high: Upper end.
        converged: Whether ``standard_error`` is within the tolerance.
        num_products: Products with the matrix.
        level: Nominal coverage.
    """

    value: float
    standard_error: float
    low: float
    high: float
    converged: bool
    num_products: int
    level: float


def hessian_trace(
    model: nn.Module,
    loss: Loss,
    batches: Batch | Iterable[Batch],
    *,
    method: str = "hutch++",
    tol: float = 0.05,
    max_hvps: int = 100,
    level: float = 0.95,
    micro_batch_size: int | None = None,
    graph_bytes: int = GRAPH_BYTES,
    generator: torch.Generator | None = None,
) -> Trace:
    """Estimate the trace of the Hessian of the mean loss at the model's present parameters.

    Args:
        model: Any model, in the mode in which it is to be measured; it stays as it was.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: One batch (a tensor, a tuple or a mapping) or several (a list or another iterable).
        method: ``hutchinson``: the mean of ``z' H z`` over random signs ``z``. ``hutch++``: the trace inside a subspace that holds the
            largest eigenvectors, exactly, and the rest by Hutchinson: far less scatter where a few eigenvalues stand out.
        tol: Standard error over the size of the trace at which to stop.
        max_hvps: Products after which the estimate is returned as it is.
        level: Nominal coverage of the interval.
        micro_batch_size: Examples in one forward pass; a whole batch when left out.
        graph_bytes: Memory that graphs of several parts may hold between products, beside that of the part at work.
        generator: For the random signs; seed 0 when left out.

    Raises:
        InputError: If an argument is out of range, or `CurvatureOperator` refuses model or batches.
        TaskError: If the loss is not one number an example, or the model has no trainable parameter.
    """
    operator = HessianOperator(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)
    return operator_trace(operator, method=method, tol=tol, max_products=max_hvps, level=level, generator=generator)


def operator_trace(
    operator: CurvatureOperator,
    *,
    method: str = "hutch++",
    tol: float = 0.05,
    max_products: int = 100,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Trace:
    """Estimate the trace of any curvature operator; arguments and errors as `hessian_trace`."""
    check_choice("method", method, METHODS)
    check_number("tol", tol, above=0.0)
    check_number("level", level, above=0.0, below=1.0)
    check_int("max_products", max_products, at_least=2 if method == "hutchinson" else 6)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    before = operator.num_products
    with operator.held():
        inside, basis = 0.0, None
        if method == "hutch++":
            inside, basis = _inside(operator, max_products, tol, generator)
        samples: list[float] = []
        while operator.num_products - before < max_products and not (basis is not None and len(basis) == operator.dim):
            samples.append(_sample(operator, basis, generator))
            if len(samples) >= MIN_SAMPLES and _error(samples) <= tol * abs(inside + float(np.mean(samples))):
                break
    used = operator.num_products - before
    if not samples:
        return Trace(
            value=inside, standard_error=0.0, low=inside, high=inside, converged=True, num_products=used, level=level
        )
    interval = mean_interval(samples, level)
    value, error = inside + interval.value, _error(samples)
    return Trace(
        value=value,
        standard_error=error,
        low=inside + interval.low,
        high=inside + interval.high,
        converged=error <= tol * abs(value),
        num_products=used,
        level=level,
    )


def _inside(
    operator: CurvatureOperator, max_products: int, tol: float, generator: torch.Generator
) -> tuple[float, Tensor]:
    """Trace inside the span of products with random vectors, and an orthonormal basis of it, one vector a row.

    The number of vectors is fixed before anything is seen of the samples outside, so the estimate stays unbiased.
    """
    rank = min(operator.dim, max(1, min(max_products // 3, math.ceil(0.5 / tol))))
    sketch = torch.stack([operator.matvec(operator.random_vector(generator)) for _ in range(rank)])
    # In float64, and without directions that are rounding alone: a product may lie in the span of the others.
    basis, weights = torch.linalg.qr(sketch.T.double())
    kept = weights.diagonal().abs() > 1e-6 * weights.diagonal().abs().max()
    rows = basis.T[kept].to(sketch)
    if not len(rows):
        return 0.0, rows
    inside = torch.stack([(row.double() * operator.matvec(row).double()).sum() for row in rows]).sum()
    return float(inside), rows


def _sample(operator: CurvatureOperator, basis: Tensor | None, generator: torch.Generator) -> float:
    """``z' P A P z`` with random signs ``z`` and ``P`` the projector out of the basis."""
    signs = _signs(operator, generator)
    if basis is not None and len(basis):
        signs = signs - basis.T @ (basis @ signs)
        signs = signs - basis.T @ (basis @ signs)
    return float((signs.double() * operator.matvec(signs).double()).sum())


def _signs(operator: CurvatureOperator, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (operator.dim,), generator=generator, device=generator.device)
    return (2 * signs - 1).to(operator.device, operator.dtype)


def _error(samples: list[float]) -> float:
    return float(np.std(samples, ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else math.inf
