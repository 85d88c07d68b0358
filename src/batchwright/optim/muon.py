"""Muon: the momentum of each matrix is replaced by its polar factor, so every direction of it moves alike.

Source: Jordan et al. (2024), the Muon post; Liu et al. (2025), arXiv:2502.16982, for the scale that matches AdamW's; the
settings and the state are those of `torch.optim.Muon`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.optim.adamw import ADAMW_DEFAULTS, adamw_step
from batchwright.optim.common import evaluate, with_settings_of
from batchwright.optim.matrices import (
    as_matrix,
    check_gradient,
    check_matrix,
    matrix_shape,
    sharded_like,
    whole,
)
from batchwright.optim.polar import JORDAN, PolarOptions, polar_all
from batchwright.optim.polar.exact import exact_polar
from batchwright.optim.polar.spectrum import measure_spectrum
from batchwright.optim.shares import shared

SCALES = ("original", "match_rms_adamw", "spectral")
_WAY_OUT = "put vectors and scalars into a group with optimizer='adamw'; batchwright.optim.param_groups(model) makes the groups"


class Muon(Optimizer):
    """Muon with AdamW groups beside it.

    The momentum is ``m <- momentum m + (1 - momentum) g``, the update ``polar(m)``, with Nesterov ``polar((1 - momentum) g +
    momentum m)``, and the step ``p <- (1 - lr weight_decay) p - lr scale polar(...)``, as in `torch.optim.Muon`, whose arguments
    come first here and whose checkpoints load, and the other way round. A parameter of more than two axes is a matrix of its
    first axis by the rest.

    A group with ``optimizer="adamw"`` takes AdamW steps with ``lr``, ``betas``, ``eps`` and ``weight_decay`` of its own: its
    learning rate is not that of the matrices, unless ``adjust_lr_fn="match_rms_adamw"`` has made the two alike.

    Args:
        params: Parameters or groups, as of `torch.optim`; `param_groups` makes them from a model.
        lr: Learning rate.
        weight_decay: Times the learning rate off the parameters.
        momentum: As above.
        nesterov: Whether the present gradient counts once more.
        ns_coefficients: Of the fixed quintic, for ``route="newton-schulz"``.
        eps: Kept for checkpoints of torch; zero matrices are exact here without it.
        ns_steps: Steps of the fixed quintic.
        adjust_lr_fn: Scale of an ``m x n`` matrix: ``original`` (as None) ``sqrt(max(1, m/n))``, ``match_rms_adamw`` ``0.2
            sqrt(max(m, n))``, ``spectral`` ``sqrt(m/n)``, which keeps the change of the layer's output alike for all shapes.
        route: Of `PolarOptions`; ``newton-schulz`` is what torch does.
        smallest: Of `PolarOptions`.
        tolerance: Of `PolarOptions`.
        depth: Of `PolarOptions`.
        smoothing: ``lambda`` of ``G (G^T G + lambda^2 I)^(-1/2)``, as a part of the root mean square singular value, in place of
            the polar factor; 0 for the factor itself. By eigenvalues, whatever the route.
        polar_every: The factor of each matrix is made in one of so many steps, and the steps between take the same direction
            again, while the momentum goes on gathering gradients. The matrices take turns, so that all steps cost alike. The
            first step makes all.
        spectrum_every: In one of so many makings of its factor the singular values of each matrix are measured, and for this matrix
            ``smallest`` is then the last of those that carry ``spectrum_share`` of its nuclear norm: as many terms or steps as
            these need to come within ``tolerance`` of 1, or the exact factor. 0 for the fixed ``smallest``. A measurement costs
            about as much as a factor or two, and on a GPU waits for the host.
        spectrum_share: As above.
        nuclear_norms: Whether to keep ``<update, polar(update)>``, the nuclear norm of the update, in ``state[p]["nuclear_norm"]``
            whenever a factor is made. Within ``tolerance``; no more than a pass over the matrix.
        process_group: Ranks that hold the same gradients, as under DDP, and share the work: each makes a part of the factors and
            sends them to the others. ``torch.distributed.group.WORLD`` where all do.

    Raises:
        InputError: If a value breaks a rule, or a parameter of a Muon group is not a matrix.

    Example:
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> optimizer = Muon(layer.parameters(), lr=0.02)
        >>> layer(torch.ones(2, 4)).sum().backward()
        >>> optimizer.step()
    """

    process_group: dist.ProcessGroup | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = JORDAN,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        route: str = "auto",
        smallest: float = 2e-3,
        tolerance: float = 0.16,
        depth: int | None = None,
        smoothing: float = 0.0,
        polar_every: int = 1,
        spectrum_every: int = 0,
        spectrum_share: float = 0.99,
        nuclear_norms: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if isinstance(params, nn.Module):
            raise InputError(
                f"params must be parameters or groups of them, got the module {type(params).__name__}; "
                "batchwright.optim.param_groups(model) makes the groups"
            )
        self.process_group = process_group
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "route": route,
            "smallest": smallest,
            "tolerance": tolerance,
            "depth": depth,
            "smoothing": smoothing,
            "polar_every": polar_every,
            "spectrum_every": spectrum_every,
            "spectrum_share": spectrum_share,
            "nuclear_norms": nuclear_norms,
        }
        _check_muon(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, of Muon or of AdamW.

        Raises:
            InputError: If a value breaks a rule, or a parameter of a Muon group is not a matrix.
        """
        check_choice("optimizer of a group", param_group.get("optimizer", "muon"), ("muon", "adamw"))
        if param_group.get("optimizer") == "adamw":
            for name, value in ADAMW_DEFAULTS.items():
                param_group.setdefault(name, value)
            _check_adamw(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group.get("optimizer") == "adamw":
            for name in self.defaults.keys() - ADAMW_DEFAULTS.keys():
                group.pop(name, None)
            return
        try:
            _check_muon(group)
            for parameter in group["params"]:
                check_matrix(parameter, optimizer="Muon", way_out=_WAY_OUT)
        except InputError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient; ``.grad`` is left as it is.

        Args:
            closure: Evaluates the model anew and gives the loss, which is returned.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            if group.get("optimizer") == "adamw":
                adamw_step(group, self.state)
            else:
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        pairs = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
        if not pairs:
            return
        parameters, gradients = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        momentum, lr = group["momentum"], float(group["lr"])
        for parameter, gradient in pairs:
            check_gradient(gradient, optimizer="Muon")
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        due = [number for number in range(len(parameters)) if self._is_due(parameters[number], number, group)]
        updates = [
            torch.lerp(gradients[number], buffers[number], momentum) if group["nesterov"] else buffers[number]
            for number in due
        ]
        self._make_factors(group, [parameters[number] for number in due], updates)
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        for parameter in parameters:
            scale = update_scale(*matrix_shape(parameter), group["adjust_lr_fn"])
            parameter.add_(self.state[parameter]["polar_factor"], alpha=-lr * scale)
            if group["polar_every"] == 1:
                del self.state[parameter]["polar_factor"]

    def _is_due(self, parameter: Tensor, number: int, group: dict[str, Any]) -> bool:
        """Whether the factor is made in this step; counts the steps since it was."""
        state, every = self.state[parameter], group["polar_every"]
        if every == 1:
            state.pop("polar_age", None)
            return True
        if "polar_factor" not in state:
            state["polar_age"] = 1 + number % every  # so that they take turns from here on
            return True
        due = state["polar_age"] >= every
        state["polar_age"] = 1 if due else state["polar_age"] + 1
        return bool(due)

    def _make_factors(self, group: dict[str, Any], parameters: list[Tensor], updates: list[Tensor]) -> None:
        matrices = [as_matrix(whole(update)) for update in updates]
        smallest = {
            id(matrix): self._smallest(parameter, matrix, group)
            for parameter, matrix in zip(parameters, matrices, strict=True)
        }
        found = shared(
            matrices,
            lambda some: _polar_factors(some, group, [smallest[id(matrix)] for matrix in some]),
            costs=[float(matrix.numel() * min(matrix.shape)) for matrix in matrices],
            group=self.process_group,
        )
        for parameter, matrix, factor in zip(parameters, matrices, found, strict=True):
            state = self.state[parameter]
            if group["nuclear_norms"]:
                state["nuclear_norm"] = _inner_product(matrix, factor)
            state["polar_factor"] = sharded_like(factor.reshape(parameter.shape), parameter)

    def _smallest(self, parameter: Tensor, matrix: Tensor, group: dict[str, Any]) -> float:
        """The smallest singular value that matters: the group's, or the one that was measured last for this matrix."""
        state, every = self.state[parameter], group["spectrum_every"]
        if every == 0:
            state.pop("spectrum_age", None)
            state.pop("polar_smallest", None)
            return float(group["smallest"])
        if "polar_smallest" not in state or state["spectrum_age"] >= every:
            route = PolarOptions(route=group["route"]).route_for(matrix.shape[0], matrix.shape[1], matrix.device)
            found = measure_spectrum(matrix, share=group["spectrum_share"], route=route)
            state["polar_smallest"] = group["smallest"] if found is None else found.smallest
            # What has no spectrum yet is looked at again in the next step.
            state["spectrum_age"] = every if found is None else 1
        else:
            state["spectrum_age"] += 1
        return float(state["polar_smallest"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or of `torch.optim.Muon`; what the latter has no setting for stays as it is here."""
        super().load_state_dict(with_settings_of(self, state_dict))


def update_scale(num_rows: int, num_columns: int, adjust_lr_fn: str | None) -> float:
    """What the polar factor of a matrix is multiplied with beside the learning rate.

    Example:
        >>> [round(update_scale(400, 100, name), 2) for name in ("original", "match_rms_adamw", "spectral")]
        [2.0, 4.0, 2.0]
    """
    if not num_rows or not num_columns:
        return 1.0
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(num_rows, num_columns))
    ratio = num_rows / num_columns
    return math.sqrt(ratio if adjust_lr_fn == "spectral" else max(1.0, ratio))


def _inner_product(one: Tensor, other: Tensor) -> Tensor:
    """Of two matrices, in float32 or wider; without a copy where they lie in memory alike."""
    wide = torch.promote_types(one.dtype, torch.float32)
    return torch.dot(one.to(wide).reshape(-1), other.to(wide).reshape(-1))


def _polar_factors(matrices: Sequence[Tensor], group: Mapping[str, Any], smallest: Sequence[float]) -> list[Tensor]:
    if group["smoothing"] > 0:
        return [_smoothed(matrix, group["smoothing"]) for matrix in matrices]
    measured = group["spectrum_every"] > 0
    depth = group["ns_steps"] if group["route"] == "newton-schulz" and not measured else group["depth"]
    found = list(matrices)
    # Matrices of one depth go together, as on a GPU those of one shape do in one batch.
    for value in sorted(set(smallest)):
        numbers = [number for number, each in enumerate(smallest) if each == value]
        options = PolarOptions(route=group["route"], smallest=value, tolerance=group["tolerance"], depth=depth)
        factors = polar_all([matrices[number] for number in numbers], options, fixed=tuple(group["ns_coefficients"]))
        for number, factor in zip(numbers, factors, strict=True):
            found[number] = factor
    return found


def _smoothed(matrix: Tensor, smoothing: float) -> Tensor:
    size = float(torch.linalg.norm(matrix)) / math.sqrt(max(min(matrix.shape), 1))
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    return exact_polar(wide, smoothing=smoothing * size if math.isfinite(size) else 0.0).to(matrix.dtype)


def _check_muon(group: Mapping[str, Any]) -> None:
    check_number("lr", float(group["lr"]), at_least=0.0)
    check_number("weight_decay", group["weight_decay"], at_least=0.0)
    check_number("momentum", group["momentum"], at_least=0.0, below=1.0)
    check_number("smoothing", group["smoothing"], at_least=0.0)
    check_int("ns_steps", group["ns_steps"], at_least=1)
    check_int("polar_every", group["polar_every"], at_least=1)
    check_int("spectrum_every", group["spectrum_every"], at_least=0)
    check_number("spectrum_share", group["spectrum_share"], above=0.0, below=1.0)
    for name in ("depth", "smoothing"):
        if group["spectrum_every"] and group[name]:
            raise InputError(
                f"{name} must be left out with spectrum_every, got {name}={group[name]!r}: the depth then follows from the "
                "measured spectrum"
            )
    if group["adjust_lr_fn"] is not None:
        check_choice("adjust_lr_fn", group["adjust_lr_fn"], SCALES)
    PolarOptions(route=group["route"], smallest=group["smallest"], tolerance=group["tolerance"], depth=group["depth"])


def _check_adamw(group: Mapping[str, Any]) -> None:
    check_number("lr", float(group["lr"]), at_least=0.0)
    check_number("eps", group["eps"], at_least=0.0)
    check_number("weight_decay", group["weight_decay"], at_least=0.0)
    for beta in group["betas"]:
        check_number("betas", float(beta), at_least=0.0, below=1.0)
