"""A search space: named dimensions, the points in it, and their coordinates on the unit cube, where kernels measure distance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError

KINDS = ("categorical", "integer", "linear", "log", "log-integer", "power-of-two")
LOGARITHMIC = ("log", "log-integer", "power-of-two")
WHOLE = ("integer", "log-integer", "power-of-two")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One axis of a space.

    Attributes:
        name: Unique in its space.
        kind: ``linear``, ``log``, ``integer``, ``log-integer``, ``power-of-two`` or ``categorical``.
        low: Smallest value; 0 for ``categorical``.
        high: Largest value; the last index for ``categorical``.
        choices: Of ``categorical``, whose value is the index of one.

    Raises:
        InputError: If the bounds break the rule of the kind.
    """

    name: str
    kind: str = "linear"
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        if self.kind == "categorical":
            if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
                raise InputError(f"{self.name} must have at least 2 different choices, got {self.choices}")
            object.__setattr__(self, "low", 0.0)
            object.__setattr__(self, "high", float(len(self.choices) - 1))
            return
        check_number(f"low of {self.name}", self.low)
        check_number(f"high of {self.name}", self.high, above=self.low)
        if self.kind in LOGARITHMIC and self.low <= 0:
            raise InputError(f"low of {self.name} must be above 0 on a logarithmic axis, got {self.low:g}")
        whole = [math.log2(each) if self.kind == "power-of-two" else each for each in (self.low, self.high)]
        if self.kind in WHOLE and any(each != round(each) for each in whole):
            words = "powers of two" if self.kind == "power-of-two" else "whole numbers"
            raise InputError(f"bounds of {self.name} must be {words}, got {self.low:g} and {self.high:g}")

    @property
    def width(self) -> int:
        """Coordinates on the unit cube: one, or one a choice."""
        return len(self.choices) if self.kind == "categorical" else 1

    def to_unit(self, values: Tensor) -> Tensor:
        """From a value to ``[0, 1]``; for numbers alone."""
        if self.kind in LOGARITHMIC:
            return (values / self.low).log() / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)

    def from_unit(self, unit: Tensor) -> Tensor:
        """From ``[0, 1]`` to the nearest value there is; each whole number or choice has an equal share of its axis."""
        unit = unit.clamp(0, 1)
        if self.kind in ("integer", "categorical"):
            return (self.low + (unit * (self.high - self.low + 1)).floor()).clamp(self.low, self.high)
        if self.kind == "power-of-two":
            steps = round(math.log2(self.high / self.low))
            return self.low * 2.0 ** (unit * (steps + 1)).floor().clamp(0, steps)
        if self.kind == "log-integer":
            low, high = self.low - 0.5, self.high + 0.5
            return (low * (high / low) ** unit).round().clamp(self.low, self.high)
        if self.kind == "log":
            return (self.low * (self.high / self.low) ** unit).clamp(self.low, self.high)
        return self.low + unit * (self.high - self.low)

    def near(self, value: float, shift: Tensor) -> Tensor:
        """Values at ``shift`` from one, in units of the axis; a choice stays as it is."""
        if self.kind == "categorical":
            return torch.full_like(shift, value)
        unit = (self.to_unit(torch.full_like(shift, value)) + shift).clamp(0, 1)
        if self.kind in LOGARITHMIC:
            steps = math.log(self.high / self.low) * unit
            found = self.low * (
                2.0 ** (steps / math.log(2)).round() if self.kind == "power-of-two" else torch.exp(steps)
            )
        else:
            found = self.low + unit * (self.high - self.low)
        return (found.round() if self.kind in WHOLE else found).clamp(self.low, self.high)

    def distance(self, left: Tensor, right: Tensor) -> Tensor:
        """How far two values are apart in units of a perturbation: see `Perturbation`."""
        if self.kind == "categorical":
            return (left != right).to(left.dtype)
        if self.kind in LOGARITHMIC:
            return (left / right).log().abs()
        return (left - right).abs()


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A product of dimensions.

    A point is a row of values, one a dimension; of a categorical dimension it is the index of the choice. On the cube a number is one
    coordinate in ``[0, 1]``, and a choice is one of as many axes, at ``1/√2``, so two choices are at distance 1.

    Attributes:
        dimensions: At least one.
    """

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        names = [each.name for each in self.dimensions]
        if not names or len(set(names)) != len(names):
            raise InputError(f"dimensions must be at least one, with names of their own, got {names}")

    @classmethod
    def box(cls, low: Sequence[float], high: Sequence[float]) -> "Space":
        """A box of linear dimensions ``x0, x1, ...``."""
        if len(low) != len(high):
            raise InputError(f"low and high must be as long as each other, got {len(low)} and {len(high)}")
        return cls(
            dimensions=tuple(
                Dimension(name=f"x{number}", low=float(a), high=float(b))
                for number, (a, b) in enumerate(zip(low, high, strict=True))
            )
        )

    @classmethod
    def parse(cls, text: str) -> "Space":
        """Read ``lr=log:1e-4:1,batch_size=log2:16:4096,momentum=0.5:0.99,layers=int:1:8,optimizer=sgd|adamw``.

        Raises:
            InputError: If a part is not of this form; it is named.
        """
        kinds = {"log": "log", "log2": "power-of-two", "int": "integer", "logint": "log-integer", "linear": "linear"}
        found = []
        for part in text.split(","):
            name, _, rest = part.strip().partition("=")
            pieces = rest.split(":")
            if "|" in rest and name:
                found.append(Dimension(name=name, kind="categorical", choices=tuple(rest.split("|"))))
                continue
            kind = kinds.get(pieces[0], "") if len(pieces) == 3 else "linear"
            try:
                low, high = (float(each) for each in pieces[-2:])
            except ValueError:
                low = high = math.nan
            if not name or not kind or len(pieces) not in (2, 3) or math.isnan(low):
                raise InputError(
                    f"--space must be NAME=LOW:HIGH, NAME=KIND:LOW:HIGH with {', '.join(kinds)}, or NAME=a|b, got {part!r}"
                )
            found.append(Dimension(name=name, kind=kind, low=low, high=high))
        return cls(dimensions=tuple(found))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the dimensions."""
        return tuple(each.name for each in self.dimensions)

    @property
    def dim(self) -> int:
        """Dimensions, and values of a point."""
        return len(self.dimensions)

    @property
    def width(self) -> int:
        """Coordinates on the cube."""
        return sum(each.width for each in self.dimensions)

    def encode(self, points: Float[Tensor, "N d"]) -> Float[Tensor, "N D"]:
        """Coordinates on the cube.

        Raises:
            InputError: If the points have another number of values.
        """
        if points.shape[1] != self.dim:
            raise InputError(f"points must have {self.dim} values ({', '.join(self.names)}), got {points.shape[1]}")
        parts = []
        for column, dimension in zip(points.double().T, self.dimensions, strict=True):
            if dimension.kind == "categorical":
                eye = torch.eye(dimension.width, dtype=torch.float64, device=points.device) / math.sqrt(2)
                parts.append(eye[column.long()])
            else:
                parts.append(dimension.to_unit(column)[:, None])
        return torch.cat(parts, 1)

    def encode_numbers(self, points: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """Places on the ``d``-cube that `from_unit` takes back to the points; of whole numbers the middle of their share."""
        found = []
        for column, dimension in zip(points.T, self.dimensions, strict=True):
            if dimension.kind in ("integer", "categorical"):
                unit = (column - dimension.low + 0.5) / (dimension.high - dimension.low + 1)
            elif dimension.kind == "power-of-two":
                unit = ((column / dimension.low).log2() + 0.5) / (round(math.log2(dimension.high / dimension.low)) + 1)
            elif dimension.kind == "log-integer":
                unit = (column / (dimension.low - 0.5)).log() / math.log((dimension.high + 0.5) / (dimension.low - 0.5))
            else:
                unit = dimension.to_unit(column)
            found.append(unit)
        return torch.stack(found, 1)

    def from_unit(self, unit: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """The points that there are nearest to places of the ``d``-cube; each choice has an equal share of its axis."""
        return torch.stack(
            [dimension.from_unit(column) for column, dimension in zip(unit.T, self.dimensions, strict=True)], 1
        )

    def near(self, point: Float[Tensor, " d"], shifts: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """Points at ``shifts`` from one, in units of the axes; choices stay as they are."""
        parts = zip(self.dimensions, point.tolist(), shifts.T, strict=True)
        return torch.stack([dimension.near(value, shift) for dimension, value, shift in parts], 1)

    def contains(self, points: Float[Tensor, "N d"]) -> Tensor:
        """Whether each point is inside the bounds; a mask ``(N,)``."""
        low = torch.tensor([each.low for each in self.dimensions], dtype=torch.float64, device=points.device)
        high = torch.tensor([each.high for each in self.dimensions], dtype=torch.float64, device=points.device)
        return ((points >= low) & (points <= high)).all(1)

    def named(self, point: Sequence[float]) -> dict[str, float | int | str]:
        """A point as a dictionary; whole numbers as integers, choices by name."""
        found: dict[str, float | int | str] = {}
        for value, dimension in zip(point, self.dimensions, strict=True):
            if dimension.kind == "categorical":
                found[dimension.name] = dimension.choices[int(value)]
            else:
                found[dimension.name] = int(value) if dimension.kind in WHOLE else float(value)
        return found

    def point(self, values: Mapping[str, float | int | str]) -> Tensor:
        """The point ``(d,)`` of a dictionary: the other way of `named`.

        Raises:
            InputError: If a name or a choice is not of the space.
        """
        if set(values) != set(self.names):
            raise InputError(f"values must name {', '.join(self.names)}, got {', '.join(values)}")
        found = []
        for dimension in self.dimensions:
            value = values[dimension.name]
            if dimension.kind == "categorical":
                check_choice(dimension.name, str(value), dimension.choices)
                found.append(float(dimension.choices.index(str(value))))
            else:
                found.append(float(value))
        return torch.tensor(found, dtype=torch.float64)


def space_of(points: Float[Tensor, "N d"]) -> Space:
    """The box of a finite set of points, for its names; its kernel measures the points as they are."""
    low, high = points.min(0).values, points.max(0).values
    # An axis on which all points agree still needs a width.
    return Space.box(low.tolist(), torch.where(high > low, high, low + 1).tolist())
