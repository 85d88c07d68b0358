"""Run a model again on the pieces of its piecewise functions that an earlier run was on.

ReLU, max-pooling and comparisons cut parameter space into pieces with a smooth loss on each. Second derivatives by automatic
differentiation are those of the piece; a difference between two points lies across many pieces and also counts the kinks between
them. Here a first run records which piece each such operation was on, and a second run, at other parameters, stays on it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.core.errors import BatchwrightError

aten = torch.ops.aten


class PiecesError(BatchwrightError, RuntimeError):
    """The pieces of a model cannot be held: an operation is not known, or the two runs took different ways."""


class FrozenPieces:
    """The pieces of one forward pass.

    Example:
        >>> pieces, model = FrozenPieces(), torch.nn.ReLU()
        >>> with pieces.recorded():
        ...     _ = model(torch.tensor([-1.0, 1.0]))
        >>> with pieces.held():
        ...     found = model(torch.tensor([2.0, 3.0]))
        >>> found
        tensor([0., 3.])
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[Any, Any]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """A context for the run whose pieces are to be kept.

        Raises:
            PiecesError: Inside, at an operation with kinks whose pieces are not known here.
        """
        self._pieces.clear()

        def record(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if function in _UNKNOWN:
                raise PiecesError(f"the pieces of {function} are not known; use second derivatives")
            if function not in _RULES:
                return function(*args, **kwargs)
            # An operation in place overwrites its argument, which the piece may be read from.
            before = args[0].clone() if function in _IN_PLACE else args[0]
            out = function(*args, **kwargs)
            self._pieces.append((function, _RULES[function][0](before, out, args)))
            return out

        with _Intercept(record):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context for a run that stays on the recorded pieces.

        Raises:
            PiecesError: If its operations with kinks are not those of the recorded run.
        """
        pending = iter(self._pieces)

        def replay(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if function in _UNKNOWN:
                raise PiecesError(f"the pieces of {function} are not known; use second derivatives")
            if function not in _RULES:
                return function(*args, **kwargs)
            recorded, piece = next(pending, (None, None))
            if recorded is not function:
                raise PiecesError(
                    f"the second run calls {function} where the first called {recorded}; use second derivatives"
                )
            out = _RULES[function][1](args[0], piece, args)
            return args[0].copy_(out) if function in _IN_PLACE else out

        with _Intercept(replay):
            yield
        if next(pending, None) is not None:
            raise PiecesError("the second run ended before the first; use second derivatives")


class _Intercept(TorchDispatchMode):
    def __init__(self, handler: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]) -> None:
        super().__init__()
        self._handler = handler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._handler(func, args, kwargs or {})


def _positive(x: Tensor, out: Any, args: Any) -> Tensor:
    return x > 0


def _keep_positive(x: Tensor, piece: Tensor, args: Any) -> Tensor:
    return torch.where(piece, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _leak(x: Tensor, piece: Tensor, args: Any) -> Tensor:
    return torch.where(piece, x, x * (args[1] if len(args) > 1 else 0.01))


def _passed(x: Tensor, out: Tensor, args: Any) -> tuple[Tensor, Tensor]:
    return out == x, out.clone()


def _pass(x: Tensor, piece: tuple[Tensor, Tensor], args: Any) -> Tensor:
    return torch.where(piece[0], x, piece[1])


def _sign(x: Tensor, out: Any, args: Any) -> Tensor:
    return x.sign()


def _times(x: Tensor, piece: Tensor, args: Any) -> Tensor:
    return x * piece


def _places(x: Tensor, out: tuple[Tensor, Tensor], args: Any) -> Tensor:
    return out[1]


def _gather_pooled(axes: int) -> Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]:
    def gather(x: Tensor, places: Tensor, args: Any) -> tuple[Tensor, Tensor]:
        values = x.flatten(-axes).gather(-1, places.flatten(-axes)).view(places.shape)
        return values, places

    return gather


def _gather_along(x: Tensor, places: Tensor, args: Any) -> tuple[Tensor, Tensor]:
    axis, keep = args[1], len(args) > 2 and args[2]
    values = x.gather(axis, places if keep else places.unsqueeze(axis))
    return (values if keep else values.squeeze(axis)), places


def _result(x: Any, out: Tensor, args: Any) -> Tensor:
    return out


def _same(x: Any, piece: Tensor, args: Any) -> Tensor:
    return piece


# Of each operation: the piece from its first argument and result, and the result on a piece.
_CONSTANT = (_result, _same)
_CLIPPED = (_passed, _pass)
_RULES: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {
    aten.relu.default: (_positive, _keep_positive),
    aten.relu_.default: (_positive, _keep_positive),
    aten.leaky_relu.default: (_positive, _leak),
    aten.leaky_relu_.default: (_positive, _leak),
    aten.abs.default: (_sign, _times),
    aten.max_pool2d_with_indices.default: (_places, _gather_pooled(2)),
    aten.max_pool3d_with_indices.default: (_places, _gather_pooled(3)),
    aten.adaptive_max_pool2d.default: (_places, _gather_pooled(2)),
    aten.max.dim: (_places, _gather_along),
    aten.min.dim: (_places, _gather_along),
    **dict.fromkeys(
        (
            aten.hardtanh.default,
            aten.hardtanh_.default,
            aten.clamp.default,
            aten.clamp_.default,
            aten.clamp_min.default,
            aten.clamp_min_.default,
            aten.clamp_max.default,
            aten.clamp_max_.default,
            aten.threshold.default,
            aten.threshold_.default,
        ),
        _CLIPPED,
    ),
    **dict.fromkeys(
        (
            *(
                getattr(getattr(aten, name), kind)
                for name in ("gt", "ge", "lt", "le", "eq", "ne")
                for kind in ("Scalar", "Tensor")
            ),
            *(
                getattr(aten, name).default
                for name in ("sign", "sgn", "floor", "ceil", "round", "trunc", "argmax", "argmin")
            ),
        ),
        _CONSTANT,
    ),
}
_IN_PLACE = {function for function in _RULES if str(function).split(".")[1].endswith("_")}
_UNKNOWN = {
    getattr(getattr(aten, name), kind)
    for name, kind in (
        ("_prelu_kernel", "default"),
        ("abs_", "default"),
        ("adaptive_max_pool3d", "default"),
        ("amax", "default"),
        ("amin", "default"),
        ("clamp", "Tensor"),
        ("cummax", "default"),
        ("cummin", "default"),
        ("elu", "default"),
        ("elu_", "default"),
        ("fractional_max_pool2d", "default"),
        ("hardshrink", "default"),
        ("hardsigmoid", "default"),
        ("hardswish", "default"),
        ("hardswish_", "default"),
        ("hardsigmoid_", "default"),
        ("kthvalue", "default"),
        ("max", "default"),
        ("max_pool1d", "default"),
        ("maximum", "default"),
        ("median", "default"),
        ("median", "dim"),
        ("min", "default"),
        ("minimum", "default"),
        ("mode", "default"),
        ("rrelu_with_noise", "default"),
        ("softshrink", "default"),
        ("sort", "default"),
        ("sort", "stable"),
        ("topk", "default"),
    )
}
