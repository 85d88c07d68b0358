"""Sharpness: the largest eigenvalue of the Hessian of the mean loss.

Source: Lanczos as in `lanczos`; the quantity is that of Cohen et al. (2021), arXiv:2103.00065.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.measure.curvature.lanczos import MAX_BASIS, EigenPairs, extreme_eigenpairs
from batchwright.measure.curvature.operator import GRAPH_BYTES
from batchwright.measure.curvature.products import HessianOperator

# Shares of the start's squared length. The gradient leans towards the top eigenvectors and costs nothing; random numbers have a
# part of every eigenvector, so none is missed for ever.
WARM, WARM_GRADIENT, WARM_RANDOM = 0.98, 0.015, 0.005
COLD_GRADIENT, COLD_RANDOM = 0.5, 0.5
# How near the upper limit must come where a search begins from nothing. Of 240 searches of small networks to 1 % eight ended at a
# value more than 1 % low without it, the worst 16 %; with it three did, the worst 1.1 %, for two products more; on networks of
# 190,000 and 400,000 parameters it takes one to eight more.
COLD_HIGH = 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sharpness:
    """Largest eigenvalue of a Hessian, with what says how far it can be trusted.

    Attributes:
        value: The largest eigenvalue, algebraically; a lower bound of it up to rounding. NaN where the loss is not finite.
        error: Estimated error of ``value``, absolute.
        high: Upper limit of the largest eigenvalue with probability 95 % over the random part of the start. It is wide where a
            search was short: to call an eigenvalue missed, more products are needed than to find it.
        residual: ``||H v - value v|| / |value|``; some eigenvalue lies that close, relatively, whatever else is true.
        converged: Whether ``error`` is within the tolerance, for each of ``eigenvalues``, and ``high`` as close as asked.
        num_hvps: Products with the Hessian.
        vector: Eigenvector of unit length, flat; a good ``start`` for the next measurement.
        eigenvalues: The largest eigenvalues in falling order; the first is ``value``.
        vectors: Their eigenvectors, one a row.
        check_values: What further searches from random starts found; empty without ``num_checks``.
        num_examples: Examples measured.
    """

    value: float
    error: float
    high: float
    residual: float
    converged: bool
    num_hvps: int
    vector: Float[Tensor, " D"]
    eigenvalues: tuple[float, ...]
    vectors: Float[Tensor, "k D"]
    check_values: tuple[float, ...]
    num_examples: int


def sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Batch | Iterable[Batch],
    *,
    tol: float = 1e-2,
    max_hvps: int = 100,
    start: Tensor | None = None,
    num_eigenvalues: int = 1,
    num_checks: int = 0,
    high_tol: float | None = None,
    micro_batch_size: int | None = None,
    graph_bytes: int = GRAPH_BYTES,
    max_basis: int = MAX_BASIS,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """Measure the largest Hessian eigenvalue of the mean loss at the model's present parameters.

    A search whose start happens to have little of the top eigenvector may settle on the next one. So a search from nothing goes on
    until ``high``, which allows for that, is within 10 % of the value, and is not converged before. A warm start is quick instead: it
    may stay with an eigenvector that another has overtaken, and ``high`` says by how much at most; ``high_tol`` or ``num_checks``
    looks further.

    Args:
        model: Any model, in the mode in which it is to be measured; it stays as it was.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: One batch (a tensor, a tuple or a mapping) or several (a list or another iterable); the objective is the
            mean over all their examples.
        tol: Estimated relative error at which an eigenvalue counts as found.
        max_hvps: Products after which the best so far is returned with ``converged=False``.
        start: Eigenvector of an earlier measurement, or several as rows; a few products then do.
        num_eigenvalues: How many of the largest eigenvalues are wanted.
        num_checks: Further searches, each from random numbers alone; the largest value of all is returned.
        high_tol: Go on until ``high`` is also within this of the value, relatively; ``inf`` not to. Where left out 0.1 without
            ``start``, and ``inf`` with one. It costs one to eight products for 0.1.
        micro_batch_size: Examples in one forward pass; a whole batch when left out.
        graph_bytes: Memory that graphs of several parts may hold between products, beside that of the part at work.
        max_basis: Vectors of ``D`` numbers held.
        generator: For the random part of the start; seed 0 when left out.

    Raises:
        InputError: If an argument is out of range, or `CurvatureOperator` refuses model or batches.
        TaskError: If the loss is not one number an example, or the model has no trainable parameter.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> found = sharpness(model, lambda m, x: m(x).squeeze(1).square(), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> round(found.value, 3), found.converged
        (4.0, True)
    """
    check_int("num_eigenvalues", num_eigenvalues, at_least=1)
    check_int("num_checks", num_checks, at_least=0)
    if high_tol is None:
        high_tol = COLD_HIGH if start is None else math.inf
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    operator = HessianOperator(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)

    def search(first: Tensor, random_length: float) -> EigenPairs:
        return extreme_eigenpairs(
            operator,
            first,
            num_largest=num_eigenvalues,
            tol=tol,
            max_products=max_hvps,
            max_basis=max_basis,
            random_length=random_length,
            high_tol=None if high_tol == math.inf else high_tol,
            generator=generator,
        )

    with operator.held():
        found = search(*_first_vector(operator, start, generator))
        checks = [search(operator.random_vector(generator), 1.0) for _ in range(num_checks)]
    # NaN compares as false, so a value that is not finite is never passed over for one that is.
    best = max([found, *checks], key=lambda pairs: (math.isnan(pairs.values[0]), pairs.values[0]))
    value = best.values[0]
    return Sharpness(
        value=value,
        error=best.errors[0],
        # One search's limit, chosen beforehand: the least of several fails as often as any of them.
        high=max(value, (checks or [found])[0].high),
        residual=best.residuals[0] / abs(value) if value else best.residuals[0],
        converged=best.converged,
        num_hvps=operator.num_products,
        vector=best.vectors[0],
        eigenvalues=best.values,
        vectors=best.vectors,
        check_values=tuple(pairs.values[0] for pairs in checks),
        num_examples=operator.num_examples,
    )


def _first_vector(operator: HessianOperator, start: Tensor | None, generator: torch.Generator) -> tuple[Tensor, float]:
    """A start of length 1 with a part of the earlier eigenvectors, the gradient and random numbers, and the length of the last."""
    gradient, random = operator.gradient(), operator.random_vector(generator)
    if start is None:
        return _mixed({COLD_GRADIENT: gradient}, random, COLD_RANDOM)
    if not isinstance(start, Tensor):
        raise InputError(f"start must be a tensor, the vector of an earlier Sharpness, got {type(start).__name__}")
    if start.shape[-1:] != (operator.dim,) or start.ndim not in (1, 2):
        raise InputError(
            f"start must hold flat vectors of the {operator.dim} trainable parameters, got shape {tuple(start.shape)}; "
            "use the vector of an earlier Sharpness of the same model"
        )
    warm = (start if start.ndim == 1 else start.sum(dim=0)).to(gradient)
    return _mixed({WARM: warm, WARM_GRADIENT: gradient}, random, WARM_RANDOM)


def _mixed(vectors: dict[float, Tensor], random: Tensor, share: float) -> tuple[Tensor, float]:
    total = random * (share**0.5 / float(torch.linalg.vector_norm(random)))
    for part, vector in vectors.items():
        norm = float(torch.linalg.vector_norm(vector))
        # A part that is zero or not finite brings nothing; the product itself then shows that the loss is not finite.
        if math.isfinite(norm) and norm > 0:
            total += vector * (part**0.5 / norm)
    length = float(torch.linalg.vector_norm(total))
    return total / length, min(1.0, share**0.5 / length)
