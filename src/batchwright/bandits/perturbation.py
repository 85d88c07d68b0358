"""Perturbations of the input: the ball about a point within which its value must stay good.

Source: Bogunovic, Scarlett, Jegelka, Cevher (2018), arXiv:1810.10775 (the setting of StableOpt).
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from batchwright.bandits.space import LOGARITHMIC, WHOLE, Space
from batchwright.core.checks import check_number
from batchwright.core.errors import InputError

# Pairs of points that are compared at once.
BLOCK = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbation:
    """The ball ``‖(δ_j / radius_j)_j‖_p ≤ 1`` in a product of dimensions.

    ``δ_j`` is measured in the dimension's own way: the difference on linear and integer axes, the difference of logarithms on
    logarithmic ones (a factor ``f`` is ``log f``), 1 between two choices.

    Attributes:
        radius: One a dimension by name; a dimension that is not named, or has radius 0, is not perturbed. One number is taken for every
            numeric dimension.
        norm: ``p``, from 1 to infinity.
    """

    radius: Mapping[str, float] | float
    norm: float = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.norm) or self.norm < 1:
            raise InputError(f"norm must be from 1 to infinity, got {self.norm!r}")
        for each in self.radius.values() if isinstance(self.radius, Mapping) else [self.radius]:
            check_number("radius", each, at_least=0.0)

    @classmethod
    def relative(cls, space: Space, share: float, *, norm: float = math.inf) -> "Perturbation":
        """Every number off by ``share``: by a factor of ``1 + share`` on logarithmic axes, by a part of the range on the others.

        Choices are not perturbed.
        """
        check_number("share", share, above=0.0)
        return cls(
            radius={
                each.name: math.log1p(share) if each.kind in LOGARITHMIC else share * (each.high - each.low)
                for each in space.dimensions
                if each.kind != "categorical"
            },
            norm=norm,
        )

    def radii(self, space: Space) -> list[float]:
        """One a dimension.

        Raises:
            InputError: If a name is not of the space.
        """
        if not isinstance(self.radius, Mapping):
            return [0.0 if each.kind == "categorical" else float(self.radius) for each in space.dimensions]
        unknown = set(self.radius) - set(space.names)
        if unknown:
            raise InputError(
                f"radius must name dimensions of the space, {', '.join(space.names)}, got {sorted(unknown)}"
            )
        return [float(self.radius.get(name, 0.0)) for name in space.names]

    def distances(self, space: Space, left: Float[Tensor, "N d"], right: Float[Tensor, "M d"]) -> Float[Tensor, "N M"]:
        """The norm above for all pairs; infinite where an unperturbed dimension differs."""
        total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
        for number, (dimension, radius) in enumerate(zip(space.dimensions, self.radii(space), strict=True)):
            gap = dimension.distance(left[:, number, None], right[None, :, number])
            gap = torch.where(gap > 0, math.inf, 0.0) if radius == 0 else gap / radius
            total = torch.maximum(total, gap) if math.isinf(self.norm) else total + gap**self.norm
        return total if math.isinf(self.norm) else total ** (1 / self.norm)

    def around(
        self, space: Space, centres: Float[Tensor, "N d"], number: int, generator: torch.Generator
    ) -> Float[Tensor, "N m d"]:
        """Points of the ball about each centre, the corners and axis ends first and then random ones; all in the space.

        Whole numbers are rounded towards the centre and the bounds cut off what is outside, so none leaves the ball. A worst point that
        lies between them is missed: the more there are, the less.
        """
        radii = self.radii(space)
        offsets = _ball(sum(radius > 0 for radius in radii), self.norm, number, generator).to(centres)
        found = centres[:, None, :].repeat(1, len(offsets), 1)
        used = 0
        for index, (dimension, radius) in enumerate(zip(space.dimensions, radii, strict=True)):
            if radius == 0:
                continue
            here, offset = centres[:, index, None], offsets[None, :, used]
            used += 1
            if dimension.kind == "categorical":
                # Another choice costs 1/radius of the ball, so it goes with offsets that leave as much of this axis.
                jump = (offset.abs() * radius >= 1 - 1e-12) & (radius >= 1)
                step = 1 + torch.arange(offset.shape[1], device=here.device)[None, :] % (dimension.width - 1)
                moved = torch.where(jump, (here + step) % dimension.width, here)
            elif dimension.kind in LOGARITHMIC:
                moved = here * torch.exp(radius * offset)
            else:
                moved = here + radius * offset
            if dimension.kind == "power-of-two":
                exponent = (moved / here).log2()
                moved = here * 2 ** (exponent + 1e-9 * exponent.sign()).trunc()
            elif dimension.kind in WHOLE:
                moved = here + (moved - here + 1e-9 * offset.sign()).trunc()
            found[:, :, index] = moved.clamp(dimension.low, dimension.high)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhoods:
    """For each of ``N`` centres the indices of the points that a perturbation can turn it into.

    Attributes:
        index: ``(P,)``: points, one centre after another.
        centre: ``(P,)``: the centre of each, ascending.
        num_centres: ``N``.
        num_points: How many points there are.
    """

    index: Tensor
    centre: Tensor
    num_centres: int
    num_points: int

    def minimum(self, values: Float[Tensor, " E"]) -> Float[Tensor, " N"]:
        """Smallest value in each neighbourhood."""
        worst = torch.full((self.num_centres,), math.inf, dtype=values.dtype, device=values.device)
        return worst.scatter_reduce_(0, self.centre, values[self.index], "amin")

    def union(self, centres: Bool[Tensor, " N"]) -> Bool[Tensor, " E"]:
        """Points in the neighbourhood of at least one of the marked centres."""
        found = torch.zeros(self.num_points, dtype=torch.bool, device=centres.device)
        found[self.index[centres[self.centre]]] = True
        return found


def neighbourhoods(space: Space, points: Float[Tensor, "N d"], perturbation: Perturbation) -> Neighbourhoods:
    """Neighbourhoods of a finite set in itself; every point is in its own."""
    step = max(1, BLOCK // len(points))
    centre, index = [], []
    for begin in range(0, len(points), step):
        # A point on the rim belongs to the ball, also where its distance was rounded up.
        near = perturbation.distances(space, points[begin : begin + step], points) <= 1 + 1e-9
        rows, columns = near.nonzero(as_tuple=True)
        centre.append(rows + begin)
        index.append(columns)
    return Neighbourhoods(
        index=torch.cat(index), centre=torch.cat(centre), num_centres=len(points), num_points=len(points)
    )


def _ball(dim: int, norm: float, number: int, generator: torch.Generator) -> Tensor:
    """Points of the unit ball: corners of the sphere up to four dimensions, ends of the axes, and random ones to ``number``."""
    if dim == 0:
        return torch.zeros(1, 0, dtype=torch.float64)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)) if dim <= 4 else [], dtype=torch.float64)
    corners = signs.reshape(-1, dim) * (1.0 if math.isinf(norm) else dim ** (-1 / norm))
    axes = torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)])
    fixed = torch.cat([corners, axes])
    draws = 2 * torch.rand(max(0, number - len(fixed)), dim, generator=generator, dtype=torch.float64) - 1
    length = draws.abs().amax(1) if math.isinf(norm) else (draws.abs() ** norm).sum(1) ** (1 / norm)
    # Half of them on the sphere, where the worst point of a smooth function mostly is.
    share = torch.rand(len(draws), generator=generator, dtype=torch.float64) ** (1 / dim)
    share[::2] = 1.0
    return torch.cat([fixed, draws / length[:, None].clamp_min(1e-12) * share[:, None]])
