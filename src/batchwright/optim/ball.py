"""The norm in which all layers of a Scion step are equally long: each layer's own, over its radius.

Source: papers-2026, 3.2 and 3.3: the norm of the network is the largest of its layers' norms, its dual the sum of their dual norms.
With a radius of its own for each layer the ball of the step is the unit ball of the norms over the radii, and the constants of
the convergence bound are those of that norm, with a radius of 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from batchwright.optim.lmo import Lmo
from batchwright.optim.scion import Scion


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball(Lmo):
    """A norm whose unit ball has another radius: ``norm(x) / radius``, dually ``radius * dual_norm(g)``.

    Attributes:
        inner: The norm.
        radius: In its units.
    """

    name: ClassVar[str] = "ball"
    inner: Lmo
    radius: float

    def _direction(self, gradient: Tensor) -> Tensor:
        return self.inner(gradient).mul_(-self.radius)

    def _plain_norm(self, value: Tensor) -> Tensor:
        return self.inner.norm(value) / self.radius

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        return self.inner.dual_norm(gradient) * self.radius

    def _size(self, value: Tensor) -> float:
        return 1.0


def ball_norms(model: nn.Module, optimizer: Scion) -> dict[str, Lmo]:
    """The norm over the radius of each parameter that the optimizer holds, by its name in the model.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> found = ball_norms(layer, Scion(layer.parameters(), norm="sign", scaled=False, radius=4.0))
        >>> float(found["weight"].norm(layer.weight.detach().fill_(2.0)))
        0.5
    """
    return dict(_named(model, optimizer))


def _named(model: nn.Module, optimizer: Scion) -> Iterator[tuple[str, Lmo]]:
    balls: dict[int, Lmo] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            balls[id(parameter)] = Ball(inner=optimizer.lmo(group), radius=float(group["radius"]))
    for name, parameter in model.named_parameters():
        if id(parameter) in balls:
            yield name, balls[id(parameter)]
