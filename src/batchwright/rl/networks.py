"""A linear map or a small tanh network on one flat parameter vector, with each example's own gradient in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Fully connected layers ``inputs -> hidden... -> outputs`` with tanh between them.

    Without hidden layers it is the linear map ``W x`` and has no bias, as in the theory; with hidden layers every layer has one.

    Attributes:
        inputs: Dimension of the input.
        outputs: Dimension of the output.
        hidden: Widths of the hidden layers.
    """

    inputs: int
    outputs: int
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs"):
            check_int(name, getattr(self, name), at_least=1)
        for width in self.hidden:
            check_int("hidden", width, at_least=1, way_out="give widths such as (32,)")

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum(rows * columns + (rows if self.hidden else 0) for rows, columns in self._shapes)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        sizes = (self.inputs, *self.hidden, self.outputs)
        return [(after, before) for before, after in pairwise(sizes)]

    def initial(self, generator: torch.Generator) -> Float[Tensor, " P"]:
        """Zeros for a linear map; else weights of variance one over the fan-in and a last layer of zeros.

        So every policy starts from the same distribution of actions, whatever the observation.
        """
        parts = []
        shapes = self._shapes
        for number, (rows, columns) in enumerate(shapes):
            last = number == len(shapes) - 1
            weight = torch.zeros(rows, columns)
            parts.append(weight if last else weight.normal_(generator=generator) / columns**0.5)
            if self.hidden:
                parts.append(torch.zeros(rows))
        return torch.cat([part.reshape(-1) for part in parts])

    def forward(self, theta: Float[Tensor, " P"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """The outputs."""
        if not self.hidden:
            # A product with one column is a multiplication, and many times faster as such.
            weight = theta.reshape(self.outputs, self.inputs)
            return x * weight[:, 0] if self.inputs == 1 else x @ weight.T
        return self._layers(theta, x)[-1]

    def pullback(
        self, theta: Float[Tensor, " P"], x: Float[Tensor, "*N I"], cotangent: Float[Tensor, "*N O"]
    ) -> Float[Tensor, "*N P"]:
        """Gradient by the parameters of ``<cotangent, forward(theta, x)>``, of each example apart."""
        if not self.hidden:
            if self.inputs == 1:
                return cotangent * x
            return (cotangent[..., :, None] * x[..., None, :]).flatten(-2)
        values = self._layers(theta, x)
        weights = [weight for weight, _ in self._split(theta)]
        parts: list[Tensor] = []
        delta = cotangent
        for number in reversed(range(len(weights))):
            parts.append(delta)
            parts.append((delta[..., :, None] * values[number][..., None, :]).flatten(-2))
            if number:
                delta = (delta @ weights[number]) * (1 - values[number].square())
        return torch.cat(parts[::-1], dim=-1)

    def _layers(self, theta: Tensor, x: Tensor) -> list[Tensor]:
        values = [x]
        layers = self._split(theta)
        for number, (weight, bias) in enumerate(layers):
            out = values[-1] @ weight.T + bias
            values.append(out if number == len(layers) - 1 else out.tanh())
        return values

    def _split(self, theta: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        found, place = [], 0
        for rows, columns in self._shapes:
            weight = theta[place : place + rows * columns].reshape(rows, columns)
            place += rows * columns
            found.append((weight, theta[place : place + rows]))
            place += rows
        return found
