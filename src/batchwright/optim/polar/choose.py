"""The polar factor of a matrix or of many, by a route that is chosen from shape, type and device, and stated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.optim.polar.exact import exact_polar
from batchwright.optim.polar.iterations import GRAM_RATIO, iterate, iterate_on_gram
from batchwright.optim.polar.quintic import JORDAN, Quintic, best_depth, best_quintics, jordan_depth, largest_error
from batchwright.optim.polar.rational import FLOAT32_SMALLEST, rational_polar
from batchwright.optim.polar.zolotarev import terms_needed, zolotarev

ROUTES = ("auto", "rational", "polar-express", "gram", "newton-schulz", "exact")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
# What bfloat16 may add to a singular value of 1 in one step, with room: without it a value was seen at 1.91.
BFLOAT16_SAFETY = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PolarOptions:
    """How the polar factor is found.

    Attributes:
        route: ``rational``: Zolotarev's function of the Gram matrix; ``polar-express``: the best quintics on the matrix;
            ``gram``: those on the Gram matrix, where the long side is 1.5 times the short one or more; ``newton-schulz``: the
            fixed quintic; ``exact``: by eigenvalues. ``auto``: on a CPU ``rational``, or ``exact`` where ``smallest`` is below
            what float32 holds; on a GPU ``polar-express``, on which many matrices go at once and nothing waits for the host.
        smallest: The smallest singular value that matters, as a part of the bound for the largest that the matrix is divided by;
            below it they come out smaller than 1. The bound is at most ``m^(1/4)`` times the largest for ``rational`` and the
            Frobenius norm, at most ``m^(1/2)`` times it, for the quintics; ``exact`` has none. The default is about where five
            steps of the fixed quintic end. Gradients with power-law spectra of many rows need less: `depth_for`.
        tolerance: How near to 1 the others must come; decides the terms or steps. Five steps of the fixed quintic leave 0.32.
        depth: Terms or steps, in place of what ``smallest`` and ``tolerance`` ask for.
        dtype: ``float32``, ``bfloat16`` or ``float64``: the type of the steps. Left out: float64 for float64; else bfloat16 for
            the quintics on the matrix, and float32 for what squares it.
    """

    route: str = "auto"
    smallest: float = 2e-3
    tolerance: float = 0.16
    depth: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_choice("route", self.route, ROUTES)
        check_number("smallest", self.smallest, above=0.0, at_most=1.0)
        check_number("tolerance", self.tolerance, above=0.0, below=1.0)
        if self.depth is not None:
            check_int("depth", self.depth, at_least=1)
        if self.dtype is not None:
            check_choice("dtype", self.dtype, DTYPES)
        if self.dtype == "bfloat16" and self.route in ("rational", "gram", "exact"):
            raise InputError(
                f"dtype must be float32 or float64 for route={self.route!r}, which squares the singular values, got 'bfloat16'; "
                "take route='polar-express'"
            )

    def route_for(self, num_rows: int, num_columns: int, device: torch.device | str = "cpu") -> str:
        """The route that a matrix of this shape on this device goes: never ``auto``."""
        short, long = min(num_rows, num_columns), max(num_rows, num_columns)
        if self.route == "gram":
            return "gram" if long >= GRAM_RATIO * short else "polar-express"
        if self.route != "auto":
            return self.route
        if torch.device(device).type != "cpu":
            return "polar-express"
        return "rational" if self.smallest >= FLOAT32_SMALLEST else "exact"

    def quintics_for(self, route: str, dtype: torch.dtype, fixed: Quintic = JORDAN) -> tuple[Quintic, ...]:
        """The steps of a route of quintics, for a matrix over its Frobenius norm."""
        if route == "newton-schulz":
            return (fixed,) * (self.depth or jordan_depth(self.smallest))
        safety = BFLOAT16_SAFETY if dtype == torch.bfloat16 else 1.0
        depth = self.depth or best_depth(self.smallest, self.tolerance, safety=safety)
        return best_quintics(self.smallest, depth, safety=safety)

    def largest_for(
        self, num_rows: int, num_columns: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> float:
        """No singular value of the factor that this route gives is larger: 1 and what it may miss 1 by."""
        route = self.route_for(num_rows, num_columns, device)
        if route == "exact":
            return 1.0 + 1e-6
        steps_dtype = _dtype(self, route, dtype)
        if route == "rational":
            terms = self.depth or terms_needed(self.smallest, self.tolerance)
            return 1 + zolotarev(self.smallest, terms).error + 1e-4
        quintics = self.quintics_for(route, steps_dtype)
        # In bfloat16 a product of m terms may be off by some units in the third digit.
        rounding = 0.03 if steps_dtype == torch.bfloat16 else 1e-3
        return 1 + rounding + (0.21 if route == "newton-schulz" else largest_error(quintics, self.smallest))


def polar(matrix: Tensor, options: PolarOptions | None = None, *, fixed: Quintic = JORDAN) -> Tensor:
    """``U V^T`` of the singular value decomposition ``U S V^T``, or what is near it by ``options``.

    The factor of a zero matrix is zero; one that holds NaN or an infinity gives NaN throughout. Any shape goes, one row or one
    column too; the work is done on the short side. Integers and complex numbers are refused.

    Args:
        matrix: ``(..., m, n)`` of float16, bfloat16, float32 or float64; leading axes are a batch.
        options: The route and how near; by shape and device where left out.
        fixed: Coefficients of ``newton-schulz``.

    Returns:
        In the shape and type of ``matrix``.

    Raises:
        InputError: If the matrix has fewer than two axes, or is not of floats.

    Example:
        >>> polar(torch.tensor([[3.0, 0.0], [0.0, -0.5]]), PolarOptions(route="exact"))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    options = options or PolarOptions()
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise InputError(
            f"matrix must be of real floats and have at least two axes, got shape {tuple(matrix.shape)} of {matrix.dtype}; "
            "flatten the axes after the first"
        )
    route = options.route_for(matrix.shape[-2], matrix.shape[-1], matrix.device)
    dtype = _dtype(options, route, matrix.dtype)
    tall = matrix.shape[-2] > matrix.shape[-1]
    wide = (matrix.mT if tall else matrix).detach().to(dtype)
    if matrix.numel() == 0:
        found = wide.clone()
    elif route in ("rational", "exact"):
        found = _one_by_one(wide, options, route)
    else:
        steps = options.quintics_for(route, dtype, fixed)
        found = iterate_on_gram(wide, steps) if route == "gram" else iterate(wide, steps)
    return (found.mT if tall else found).to(matrix.dtype)


def polar_all(
    matrices: Sequence[Tensor], options: PolarOptions | None = None, *, fixed: Quintic = JORDAN
) -> list[Tensor]:
    """`polar` of each matrix; on a GPU those of one shape in one batch.

    On a CPU a batch was no faster (1607 against 1554 ms in bfloat16, slower in float32), so they go one by one there.
    """
    if not matrices or matrices[0].device.type == "cpu":
        return [polar(matrix, options, fixed=fixed) for matrix in matrices]
    found = list(matrices)
    groups: dict[tuple, list[int]] = {}
    for number, matrix in enumerate(matrices):
        groups.setdefault((*matrix.shape, matrix.dtype, matrix.device), []).append(number)
    for numbers in groups.values():
        factors = polar(torch.stack([matrices[number] for number in numbers]), options, fixed=fixed)
        for number, factor in zip(numbers, factors, strict=True):
            found[number] = factor
    return found


def depth_for(route: str, smallest: float, tolerance: float = 0.16) -> int:
    """Terms or steps that a route needs for a spectrum that goes down to ``smallest`` of its largest singular value.

    For a tail ``d^-alpha`` the smallest is that. Five steps do not lift it: they recover 65 items of an associative memory with
    256 rows and ``alpha = 2`` where the exact factor recovers 309 (papers-2026, T2.3).

    Example:
        >>> [depth_for(route, 256.0**-1) for route in ("rational", "polar-express", "newton-schulz")]
        [2, 4, 5]
    """
    check_choice("route", route, ("rational", "polar-express", "gram", "newton-schulz"))
    if route == "rational":
        return terms_needed(smallest, tolerance)
    return jordan_depth(smallest) if route == "newton-schulz" else best_depth(smallest, tolerance)


def _dtype(options: PolarOptions, route: str, given: torch.dtype) -> torch.dtype:
    if options.dtype is not None:
        return DTYPES[options.dtype]
    if given == torch.float64:
        return torch.float64
    return torch.bfloat16 if route in ("polar-express", "newton-schulz") else torch.float32


def _one_by_one(wide: Tensor, options: PolarOptions, route: str) -> Tensor:
    flat = wide.reshape(-1, *wide.shape[-2:])
    found = [
        exact_polar(each)
        if route == "exact"
        else rational_polar(each, smallest=options.smallest, tolerance=options.tolerance, num_terms=options.depth)
        for each in flat
    ]
    return torch.stack(found).reshape(wide.shape) if wide.ndim > 2 else found[0]
