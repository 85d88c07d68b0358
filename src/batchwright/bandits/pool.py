"""The candidates of a round: a finite set as it is given, or scrambled Sobol points of a box, drawn anew over what survives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from batchwright.bandits.perturbation import Neighbourhoods
from batchwright.bandits.space import Space

# Scattered points of the whole box that the surviving region is tested with, for each candidate.
TESTED = 2
# Attempts to fill a small region from within its own bounds.
ATTEMPTS = 12


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Points where the function is modelled; the first of them are the centres, which may be recommended.

    Attributes:
        points: ``(E, d)``.
        encoded: ``(E, D)``: as the kernel sees them.
        num_centres: ``N``; all but where inputs are perturbed on a box.
        near: What a perturbation can make of each centre; None without one.
    """

    points: Tensor
    encoded: Tensor
    num_centres: int
    near: Neighbourhoods | None = None

    def view(self, values: Float[Tensor, " E"]) -> Float[Tensor, " N"]:
        """The value of each centre: its own, or the worst that a perturbation can make of it."""
        return values[: self.num_centres] if self.near is None else self.near.minimum(values)

    def reach(self, centres: Tensor) -> Tensor:
        """Mask ``(E,)`` of the points that matter to the marked centres ``(N,)``."""
        if self.near is not None:
            return self.near.union(centres)
        return centres

    @property
    def centres(self) -> Tensor:
        """``(N, d)``."""
        return self.points[: self.num_centres]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Where the optimum may still be.

    Attributes:
        num_alive: Candidates that were not eliminated.
        num_candidates: Of how many.
        fraction: Share of the space: of the finite set, or of scattered points of the whole box.
        num_tested: Points that ``fraction`` is a share of.
        low: Smallest value of each dimension among the survivors.
        high: Largest.
        num_excluded: Candidates left out because their trial failed.
        returned: Candidates that had been eliminated in an earlier round and, after a new fit, are back.
        finite: Whether the candidates are all there is.
    """

    num_alive: int
    num_candidates: int
    fraction: float
    num_tested: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_excluded: int
    returned: int
    finite: bool

    def words(self, space: Space) -> str:
        """The region in a sentence, with what may have been missed."""
        ends = ", ".join(
            f"{each.name} {'/'.join(each.choices[int(a) : int(b) + 1]) if each.choices else f'{a:.4g} to {b:.4g}'}"
            for each, a, b in zip(space.dimensions, self.low, self.high, strict=True)
        )
        if self.finite:
            text = f"{self.num_alive} of {self.num_candidates} candidates survive: {ends}"
        else:
            text = (
                f"{self.fraction:.2%} of the box survives ({ends}), by {self.num_tested} scattered points; "
                f"a part of less than {3 / self.num_tested:.2%} of the box may have been missed between them"
            )
        if self.num_excluded:
            text += f"; {self.num_excluded} candidates were left out because their trials failed"
        if self.returned:
            text += f"; {self.returned} eliminated candidates came back with the new fit"
        return text


class Scatter:
    """Scrambled Sobol points of a space, one after another; what was drawn is a number, so it can be gone on with."""

    def __init__(self, space: Space, seed: int, device: torch.device) -> None:
        self.space, self.device, self.num_drawn = space, device, 0
        self._engine = SobolEngine(space.dim, scramble=True, seed=seed)

    def draw(self, number: int) -> Float[Tensor, "N d"]:
        """The next points; equal ones, as of whole numbers and choices, once."""
        unit = self._engine.draw(number, dtype=torch.float64).to(self.device)
        self.num_drawn += number
        return distinct(self.space.from_unit(unit))

    def go_to(self, num_drawn: int) -> None:
        """Go on after ``num_drawn`` points."""
        self._engine.reset()
        self._engine.fast_forward(num_drawn)
        self.num_drawn = num_drawn


def distinct(points: Float[Tensor, "N d"]) -> Float[Tensor, "M d"]:
    """Equal points once, in the order of their first appearance."""
    found, place = torch.unique(points, dim=0, return_inverse=True)
    first = torch.full((len(found),), len(points), dtype=torch.int64, device=points.device)
    first.scatter_reduce_(0, place, torch.arange(len(points), device=points.device), "amin")
    return points[first.sort().values]


def refine(
    scatter: Scatter,
    kept: Float[Tensor, "N d"],
    alive: Callable[[Tensor], Tensor],
    number: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "M d"], float, int]:
    """Candidates for the next round: the best survivors, and new points of the whole box that pass the same test.

    Every new point is tested by the bounds themselves, wherever it lies, so a region that no candidate stood for can come in. Where
    the region is small, it is filled up with points between its bounds, which are tested too.

    Args:
        scatter: Of the box.
        kept: Survivors, the best first.
        alive: The test, for points ``(M, d)``.
        number: Candidates wanted.
        generator: For the points that fill up.

    Returns:
        Candidates, share of the tested points of the whole box that pass, and how many were tested.
    """
    tested = scatter.draw(TESTED * number)
    passed = tested[alive(tested)]
    # Survivors hold the values nearest to the optimum; new points cover the rest evenly, in the order of the sequence.
    found = distinct(torch.cat([kept[: number // 4], passed, kept[number // 4 :]]))
    space = scatter.space
    for _ in range(ATTEMPTS):
        if len(found) >= number:
            break
        before = len(found)
        units = space.encode_numbers(found)
        low, high = units.min(0).values, units.max(0).values
        margin = 0.02 + 0.1 * (high - low)
        low, high = (low - margin).clamp_min(0), (high + margin).clamp_max(1)
        draws = torch.rand(number, space.dim, generator=generator, dtype=torch.float64).to(found)
        more = space.from_unit(low + (high - low) * draws)
        found = distinct(torch.cat([found, more[alive(more)]]))
        if len(found) - before < number // 20:
            break
    return found[:number], len(passed) / len(tested), len(tested)
