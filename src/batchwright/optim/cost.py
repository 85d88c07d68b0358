"""What a Muon step costs beside the gradient, and the batch size below which it costs more.

A step on an ``m x n`` matrix (``m <= n``) by five quintics takes ``5 (4 m^2 n + 2 m^3)`` operations whatever the batch, the
gradient ``6 m n`` an
example: they are equal at ``5 (4 m + 2 m^2 / n) / 6`` examples, 5 m for a square matrix.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError
from batchwright.optim.param_groups import param_groups
from batchwright.optim.polar import PolarOptions
from batchwright.optim.polar.gram import BLOCK
from batchwright.optim.polar.zolotarev import terms_needed


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonCost:
    """Operations (a multiplication and an addition are two) of the factors of all Muon matrices, and of their gradient.

    Attributes:
        step_flops: Of the factors of one step, over ``polar_every``.
        gradient_flops: Of forward and backward pass through these matrices, an example.
        batch_size: Where the two are equal, in examples: below it the step of Muon costs more than the gradient.
        tokens: The same in uses of the matrices, tokens or places: ``batch_size`` times uses an example, where all have the same
            number.
        routes: Route of each shape.
        shapes: ``(m, n)`` of each matrix.
    """

    step_flops: float
    gradient_flops: float
    batch_size: float
    tokens: float | None
    routes: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    def share(self, batch_size: int) -> float:
        """Part of the operations of a step at a batch size that is Muon's: 0.5 at ``batch_size``.

        Example:
            >>> muon_cost([(512, 512)], route="newton-schulz", depth=5).share(2560)
            0.5
        """
        check_int("batch_size", batch_size, at_least=1)
        return self.step_flops / (self.step_flops + batch_size * self.gradient_flops)

    def sentence(self) -> str:
        """The result in words."""
        tokens = "" if self.tokens is None or self.tokens == self.batch_size else f" ({self.tokens:,.0f} tokens)"
        size = (
            f"{self.batch_size:,.0f}" if self.batch_size >= 10 else f"{self.batch_size:.2g}"
        )  # else a part of one becomes none
        return (
            f"below {size} examples{tokens} an update, Muon's step costs more than the gradient of its "
            f"{len(self.shapes)} matrices; polar_every=k divides that by k"
        )


def muon_cost(
    model: nn.Module | Iterable[tuple[int, int]],
    *,
    uses: int | Mapping[str, int] = 1,
    route: str = "auto",
    smallest: float = 2e-3,
    tolerance: float = 0.16,
    depth: int | None = None,
    polar_every: int = 1,
    device: torch.device | str = "cpu",
) -> MuonCost:
    """Count the operations of a Muon step and of the gradient.

    Operations are not seconds: a GPU and newer CPUs do those in bfloat16 at twice the speed or more of float32, and a Cholesky
    factorisation runs at half that of a product. docs/optim.md has both, counted and measured.

    Args:
        model: A model, whose matrices are those of `param_groups`, or the shapes of matrices.
        uses: How often a matrix is applied in one example: the sequence length of a transformer, the places of a convolution's
            output. For a model also by the name of the parameter, ``{"conv1.weight": 676}``; 1 for those left out.
        route: Of `PolarOptions`, as the next three.
        smallest: As above.
        tolerance: As above.
        depth: As above.
        polar_every: Of `Muon`.
        device: Where the step runs; ``auto`` depends on it.

    Raises:
        InputError: If there is no matrix, or an argument breaks a rule.

    Example:
        >>> round(muon_cost([(1024, 1024)] * 10, route="newton-schulz", depth=5).batch_size)
        5120
    """
    check_int("polar_every", polar_every, at_least=1)
    names: list[str] = []
    if isinstance(model, nn.Module):
        chosen = [each for each in param_groups(model).assignments if each.goes_to == "muon"]
        names = [each.name for each in chosen]
        shapes = [_flat(each.shape) for each in chosen]
    else:
        shapes = [(int(rows), int(columns)) for rows, columns in model]
    if not shapes or any(min(shape) < 1 for shape in shapes):
        raise InputError(
            f"model must have matrices of at least one row and column, got {shapes}; Muon has nothing to do"
        )
    by_matrix = [uses if isinstance(uses, int) else uses.get(name, 1) for name in names or [""] * len(shapes)]
    for number in by_matrix:
        check_int("uses", number, at_least=1)
    if isinstance(uses, Mapping) and set(uses) - set(names):
        wrong = sorted(set(uses) - set(names))[0]
        raise InputError(
            f"uses must name matrices of Muon, got {wrong!r}; they are {', '.join(names) or 'without names'}"
        )
    options = PolarOptions(route=route, smallest=smallest, tolerance=tolerance, depth=depth)
    routes = tuple(options.route_for(*shape, device) for shape in shapes)
    step = sum(polar_flops(*shape, route=way, options=options) for shape, way in zip(shapes, routes, strict=True))
    gradient = sum(6.0 * m * n * number for (m, n), number in zip(shapes, by_matrix, strict=True))
    batch_size = step / polar_every / gradient
    return MuonCost(
        step_flops=step / polar_every,
        gradient_flops=gradient,
        batch_size=batch_size,
        tokens=batch_size * by_matrix[0] if len(set(by_matrix)) == 1 else None,
        routes=routes,
        shapes=tuple(shapes),
    )


def polar_flops(num_rows: int, num_columns: int, *, route: str, options: PolarOptions) -> float:
    """Operations of the factor of one matrix by a route.

    That of ``exact`` is an estimate: the eigenvalues and vectors of an ``m x m`` matrix take about ``9 m^3``.
    """
    check_choice("route", route, ("rational", "polar-express", "gram", "newton-schulz", "exact"))
    m, n = sorted((num_rows, num_columns))
    cube, area = float(m) ** 3, float(m) * m * n
    if route == "exact":
        return 4 * area + 11 * cube
    if route == "rational":
        terms = options.depth or terms_needed(options.smallest, options.tolerance)
        half = (1 + min(BLOCK / m, 1.0)) / 2  # of the Gram matrix, what lies in the blocks below the diagonal
        return 2 * half * area + terms * cube + 2 * area
    dtype = torch.float32 if route == "gram" else torch.bfloat16
    depth = len(options.quintics_for(route, dtype))
    if route == "gram":
        # A polynomial, its product with those before it, and two products for the next Gram matrix; the ends need less.
        return 4 * area + (2 * depth + 2 * (depth - 1) + 4 * (depth - 1)) * cube
    return depth * (4 * area + 2 * cube)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = 1
    for length in shape[1:]:
        columns *= length
    return shape[0], columns
