"""Step size and trajectories of an update, chosen together so that the improvement guaranteed a trajectory is largest.

Source: Papini, Pirotta, Restelli (2017), the joint choice of section 4, and its tighter form, which follows from the same bound when
the increment that is really made is put into it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError, NotEnoughEvidenceError

RULES = ("tight", "published")
VARIANTS = ("coordinate", "scalar", "norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepChoice:
    """An update and the trajectories for it.

    Attributes:
        step_size: The update is ``step_size * grad``, in ``coordinate`` alone where there is one. Zero where the error at
            ``batch_size`` is as large as the gradient: nothing can be guaranteed then.
        batch_size: Trajectories ``N``.
        guaranteed_improvement: Lower bound of ``J(theta + update) - J(theta)`` if the error bound holds and ``grad`` were found again.
        coordinate: The one that moves; None where all do.
        gradient_size: ``G``: of the chosen coordinate, of ``‖g‖₂² / ‖g‖₁`` (scalar), or of the norm.
        error_sqrt: ``d / sqrt(N)``, the part of the error that shrinks as the root of the batch.
        error_linear: ``f / N``, the part that shrinks as the batch.
        first_order: Improvement that the estimated gradient promises, ``step_size * G²`` (norm and coordinate).
        error_cost: What the error of the gradient takes from it.
        curvature_cost: What the curvature of ``J`` takes from it; ``guaranteed_improvement`` is the first of these less the other two.
    """

    step_size: float
    batch_size: int
    guaranteed_improvement: float
    coordinate: int | None
    gradient_size: float
    error_sqrt: float
    error_linear: float
    first_order: float
    error_cost: float
    curvature_cost: float

    @property
    def error(self) -> float:
        """``d / sqrt(N) + f / N``."""
        return self.error_sqrt + self.error_linear


def optimal_step(
    grad: Float[Tensor, " m"],
    *,
    d: float,
    f: float = 0.0,
    smoothness: float,
    rule: str = "tight",
    variant: str = "coordinate",
    batch_size: int | None = None,
    min_batch_size: int = 1,
    max_batch_size: int | None = None,
) -> StepChoice:
    """Choose step size and batch size together, or the step size for a batch that was already drawn.

    ``J(theta + u) - J(theta) >= <∇J, u> - c ‖u‖₁²`` holds for every ``u``; every component of the estimate is off by at most
    ``d/sqrt(N) + f/N``. Of the increment ``step_size * g`` both ``<g, u>`` and ``‖u‖₁`` are known exactly, so only ``∇J`` needs a
    bound; that is the rule ``tight``. The rule ``published`` also inflates the curvature term to ``(|g| + error)²``, which it need
    not, and asks for 3.2 times the trajectories. With ``G`` the size of the gradient:

    =========  ==============================  ===========================  ===============
    rule       step size                       joint optimum, ``f = 0``     improvement
    =========  ==============================  ===========================  ===============
    tight      ``(1 - e/G) / (2 c)``           ``N = 4 d²/G²``              ``(G-e)²/(4c)``
    published  ``(G-e)² / (2 c (G+e)²)``       ``N = 12.68 d²/G²``          ``(G-e)⁴/(4c(G+e)²)``
    =========  ==============================  ===========================  ===============

    Args:
        grad: Estimate ``g`` of the gradient of ``J``, an ascent direction.
        d: Of the error bound.
        f: Of the error bound; 0 but for empirical Bernstein.
        smoothness: ``c``; half the Lipschitz constant of the gradient serves for ``coordinate`` and ``norm``.
        rule: ``tight`` or ``published``.
        variant: ``coordinate`` moves the largest one alone, the best of all diagonal step sizes under the bound; ``scalar`` moves
            along the whole gradient; ``norm`` does so under a bound of the error's norm, ``J(theta + u) - J >= <∇J, u> - c ‖u‖₂²``.
        batch_size: Trajectories that ``grad`` is the mean of. Given, the step is the best for them; else both are chosen.
        min_batch_size: Least batch to choose.
        max_batch_size: Largest batch to choose; the step is that for it where more would be needed.

    Raises:
        InputError: On a bad value.
        NotEnoughEvidenceError: If ``grad`` is zero and no largest batch is given: no batch is large enough then.

    Example:
        >>> choice = optimal_step(torch.tensor([1.0, -2.0]), d=10.0, smoothness=5.0)
        >>> choice.coordinate, choice.batch_size, choice.step_size, round(choice.guaranteed_improvement, 12)
        (1, 100, 0.05, 0.05)
    """
    sizes = _sizes(grad, d, f, smoothness, rule, variant)
    check_int("min_batch_size", min_batch_size, at_least=1)
    if max_batch_size is not None:
        check_int(
            "max_batch_size", max_batch_size, at_least=min_batch_size, way_out="raise it, or lower min_batch_size"
        )
    if batch_size is not None:
        number = check_int("batch_size", batch_size, at_least=1)
    elif sizes.gradient == 0:
        if max_batch_size is None:
            raise NotEnoughEvidenceError(
                "grad is zero, for which no batch is large enough; give max_batch_size, or a gradient of more trajectories"
            )
        number = max_batch_size
    else:
        found = _tight_batch(sizes) if rule == "tight" else _published_batch(sizes)
        number = max(min_batch_size, min(found, max_batch_size or found))
    return _step(sizes, number)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    """All that the choice depends on: the gradient by its sizes, the error and the curvature."""

    gradient: float
    scale: float  # the increment of the tight rule is (gradient - error) / (2 c scale) times g
    coordinate: int | None
    values: tuple[float, ...]
    d: float
    f: float
    c: float
    rule: str
    variant: str

    def error(self, number: float) -> float:
        return self.d / math.sqrt(number) + self.f / number


def _sizes(grad: Tensor, d: float, f: float, smoothness: float, rule: str, variant: str) -> _Sizes:
    check_choice("rule", rule, RULES)
    check_choice("variant", variant, VARIANTS)
    check_number("d", d, at_least=0.0)
    check_number("f", f, at_least=0.0)
    check_number("smoothness", smoothness, above=0.0)
    values = tuple(abs(float(value)) for value in grad.detach().double())
    if not values or not all(math.isfinite(value) for value in values):
        raise InputError(
            f"grad must hold finite numbers, got {grad.tolist() if len(values) < 9 else 'one that is not'}"
        )
    coordinate = None
    total, square = math.fsum(values), math.fsum(value * value for value in values)
    if variant == "coordinate":
        coordinate = max(range(len(values)), key=values.__getitem__)
        gradient = scale = values[coordinate]
    elif variant == "scalar":
        gradient, scale = (square / total if total else 0.0), total
    else:
        gradient = scale = math.sqrt(square)
    return _Sizes(
        gradient=gradient,
        scale=scale,
        coordinate=coordinate,
        values=values,
        d=d,
        f=f,
        c=smoothness,
        rule=rule,
        variant=variant,
    )


def _step(sizes: _Sizes, number: int) -> StepChoice:
    error = sizes.error(number)
    if sizes.gradient == 0 or (sizes.variant != "scalar" and error >= sizes.gradient):
        first = cost = curvature = step = 0.0
    elif sizes.variant == "scalar" and sizes.rule == "published":
        # Coordinates that are within the error count as zero below and as their largest above.
        low = math.fsum(max(value - error, 0.0) ** 2 for value in sizes.values)
        high = math.fsum(value + error for value in sizes.values)
        step = low / (2 * sizes.c * high**2)
        first = step * math.fsum(value**2 for value in sizes.values)
        cost, curvature = first - step * low, sizes.c * (step * high) ** 2
    elif sizes.rule == "published":
        high = sizes.gradient + error
        step = (sizes.gradient - error) ** 2 / (2 * sizes.c * high**2)
        first = step * sizes.gradient**2
        cost, curvature = first - step * (sizes.gradient - error) ** 2, sizes.c * (step * high) ** 2
    else:
        step = max(sizes.gradient - error, 0.0) / (2 * sizes.c * sizes.scale)
        first = step * sizes.gradient * sizes.scale
        cost, curvature = step * error * sizes.scale, sizes.c * (step * sizes.scale) ** 2
    return StepChoice(
        step_size=step,
        batch_size=number,
        guaranteed_improvement=first - cost - curvature,
        coordinate=sizes.coordinate,
        gradient_size=sizes.gradient,
        error_sqrt=sizes.d / math.sqrt(number),
        error_linear=sizes.f / number,
        first_order=first,
        error_cost=cost,
        curvature_cost=curvature,
    )


def _tight_batch(sizes: _Sizes) -> int:
    """Largest ``(G - d x - f x²) x`` over ``x = 1/sqrt(N)``: a concave function, stationary where ``3 f x² + 2 d x = G``."""
    root = sizes.d + math.sqrt(sizes.d**2 + 3 * sizes.f * sizes.gradient)
    return max(1, _ceil((root / sizes.gradient) ** 2))


def _published_batch(sizes: _Sizes) -> int:
    """Closed form where the error is ``d / sqrt(N)``; else the improvement a trajectory is unimodal and is searched."""
    if sizes.f == 0 and sizes.variant != "scalar":
        return max(1, _ceil((13 + 3 * math.sqrt(17)) / 2 * (sizes.d / sizes.gradient) ** 2))
    if sizes.d == 0 and sizes.f == 0:
        return 1
    largest = max(sizes.values) if sizes.variant == "scalar" else sizes.gradient
    root = (sizes.d + math.sqrt(sizes.d**2 + 4 * sizes.f * largest)) / (2 * largest)
    return _ternary(lambda number: _step(sizes, number).guaranteed_improvement / number, max(1, _ceil(root**2)))


def _ternary(gain: Callable[[int], float], low: int) -> int:
    """Place of the maximum of a function that rises to it and falls behind it, over the integers from ``low``."""
    high = 2 * low + 8
    while gain(high) >= gain(high // 2):
        high *= 2
    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        if gain(left) < gain(right):
            low = left + 1
        else:
            high = right
    return max(range(low, high + 1), key=gain)


def _ceil(value: float) -> int:
    """The next integer, but a whole number that a rounding has lifted stays."""
    return math.ceil(value * (1 - 1e-14))
