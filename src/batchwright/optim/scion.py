"""Scion: stochastic conditional gradient with momentum, a norm a layer, inside a ball or without one.

Source: Pethick et al. (2025), arXiv:2502.07529; the algorithm as in papers-2026, 3.2 (Islamov et al. 2026, arXiv:2603.21191).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError
from batchwright.optim.common import evaluate, with_settings_of
from batchwright.optim.lmo import NORMS, Lmo, Spectral, init_in_ball
from batchwright.optim.matrices import check_gradient, check_matrix, is_sharded, sharded_like, whole
from batchwright.optim.polar import PolarOptions

_POLAR = ("route", "smallest", "tolerance", "depth")
_WAY_OUT = "give it norm='sign' or 'euclidean'; batchwright.optim.param_groups(model, 'scion') makes the groups"


class Scion(Optimizer):
    """Momentum ``m <- momentum m + (1 - momentum) g``, which begins with the first gradient, and a step to the ball's edge.

    Constrained: ``x <- (1 - lr) x + lr radius d`` with ``d`` the point of the unit ball that goes farthest against ``m``. A convex
    combination, so what starts inside the ball of ``radius`` stays there: start with `init`. The learning rate is the
    step size of Frank and Wolfe and its own weight decay. Unconstrained: ``x <- x + lr radius d``.

    The paper's symbols: its ``beta`` is ``lr``, its ``eta`` is ``radius``, its ``alpha`` is ``1 - momentum``. In the authors'
    first code ``momentum=0.1`` means what is 0.9 here.

    Args:
        params: Parameters or groups, as of `torch.optim`; `param_groups(model, "scion")` makes them from a model.
        lr: At most 1 in the constrained form.
        momentum: Weight of the old momentum.
        norm: ``euclidean``, ``sign``, ``spectral``, ``row`` or ``column``, or an `Lmo`. One a group.
        radius: Of the ball, in units of the norm. The published runs have 50 for matrices and 3000 for embedding and head, with
            ``scaled``.
        constrained: As above.
        scaled: Whether the unit ball has the layer-wise size of `Lmo`.
        route: For the spectral norm, of `PolarOptions`, as the next three.
        smallest: As above.
        tolerance: As above.
        depth: As above.

    Raises:
        InputError: If a value breaks a rule, or a vector is put under a norm of matrices.

    Example:
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> optimizer = Scion(layer.parameters(), lr=0.1, radius=2.0)
        >>> optimizer.init(torch.Generator().manual_seed(0))
        >>> layer(torch.ones(2, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        *,
        norm: str | Lmo = "spectral",
        radius: float = 1.0,
        constrained: bool = True,
        scaled: bool = True,
        route: str = "auto",
        smallest: float = 2e-3,
        tolerance: float = 0.05,
        depth: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "norm": norm,
            "radius": radius,
            "constrained": constrained,
            "scaled": scaled,
            "route": route,
            "smallest": smallest,
            "tolerance": tolerance,
            "depth": depth,
        }
        if isinstance(norm, Lmo):
            defaults |= _settings_of(norm)
        _check(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its ``norm`` may be an `Lmo`, whose settings are then the group's.

        Raises:
            InputError: If a value breaks a rule, or a vector is put under a norm of matrices.
        """
        if isinstance(param_group.get("norm"), Lmo):
            param_group |= _settings_of(param_group["norm"])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group)
            if group["norm"] in ("spectral", "row", "column"):
                for parameter in group["params"]:
                    check_matrix(parameter, optimizer=f"Scion under the {group['norm']} norm", way_out=_WAY_OUT)
        except InputError:
            self.param_groups.pop()
            raise

    def lmo(self, group: Mapping[str, Any]) -> Lmo:
        """The norm of a group with its oracle."""
        if group["norm"] == "spectral":
            return Spectral(scaled=group["scaled"], polar=PolarOptions(**{name: group[name] for name in _POLAR}))
        return NORMS[group["norm"]](scaled=group["scaled"])

    @torch.no_grad()
    def init(self, generator: torch.Generator | None = None, *, part: float = 0.5) -> None:
        """Put the parameters at random points of norm ``part * radius``, vectors at zero; before the first step.

        Args:
            generator: For the noise; torch's own where left out.
            part: At most 0.5 for the proof of the paper (papers-2026, 3.4), 1 for the edge, where the authors' code begins.
        """
        for group in self.param_groups:
            lmo = self.lmo(group)
            for parameter in group["params"]:
                if not is_sharded(parameter):
                    init_in_ball(parameter, lmo, group["radius"], part=part, generator=generator)
                    continue
                full = whole(parameter.detach()).clone()
                init_in_ball(full, lmo, group["radius"], part=part, generator=generator)
                parameter.copy_(sharded_like(full, parameter))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient; ``.grad`` is left as it is.

        Args:
            closure: Evaluates the model anew and gives the loss, which is returned.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            self._group_step(group)
        return loss

    def _group_step(self, group: dict[str, Any]) -> None:
        pairs = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
        if not pairs:
            return
        parameters, gradients = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for parameter, gradient in pairs:
            check_gradient(gradient, optimizer="Scion")
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = gradient.clone()
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        lmo, lr = self.lmo(group), float(group["lr"])
        if group["constrained"]:
            torch._foreach_mul_(parameters, 1 - lr)
        for parameter, buffer in zip(parameters, buffers, strict=True):
            direction = sharded_like(lmo(whole(buffer)), parameter)
            parameter.add_(direction, alpha=lr * group["radius"])

    @torch.no_grad()
    def norms(self) -> list[float]:
        """Norm over radius of each group: the largest of its parameters; at most 1 inside the ball."""
        found = []
        for group in self.param_groups:
            lmo = self.lmo(group)
            values = [float(lmo.norm(whole(parameter.detach()))) for parameter in group["params"] if parameter.numel()]
            found.append(max(values, default=0.0) / group["radius"])
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class; a setting that it does not have stays as it is here."""
        super().load_state_dict(with_settings_of(self, state_dict))


def _settings_of(lmo: Lmo) -> dict[str, Any]:
    """Plain values, so that a checkpoint holds no objects."""
    found: dict[str, Any] = {"norm": lmo.name, "scaled": lmo.scaled}
    if isinstance(lmo, Spectral):
        found |= {name: getattr(lmo.polar, name) for name in _POLAR}
    return found


def _check(group: Mapping[str, Any]) -> None:
    check_choice("norm", group["norm"], NORMS)
    check_number("momentum", group["momentum"], at_least=0.0, below=1.0)
    check_number("radius", group["radius"], above=0.0)
    if group["constrained"]:
        way_out = "with constrained=False it may be larger"
        check_number("lr", float(group["lr"]), at_least=0.0, at_most=1.0, way_out=way_out)
    check_number("lr", float(group["lr"]), at_least=0.0)
    PolarOptions(**{name: group[name] for name in _POLAR})
