"""What a model calls and with whose results, by a symbolic trace: a list of calls as plain data.

The trace goes into every module that is not torch's own. Where that fails in a module without a norm inside, the module counts as one
call that is not followed; where a norm is inside, the error names the place.
"""

import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from batchwright.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of the call at ``index``."""

    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a model's forward pass.

    Attributes:
        kind: ``input``, ``module``, ``function`` or ``value`` (a parameter or another constant).
        target: Path of the module, or name of the function or method, without the underscore of its in-place form.
        args: Positional arguments; results of calls as `Ref`.
        kwargs: Arguments by keyword.
    """

    kind: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class CannotFollowError(InputError):
    """A model cannot be traced; the message names the place."""


def traced_calls(model: nn.Module, norms: Collection[nn.Module]) -> list[Call]:
    """The calls of ``model.forward`` in their order.

    Args:
        model: Not changed.
        norms: Layers that must be seen; they and torch's own modules are not looked into.

    Raises:
        CannotFollowError: If the trace fails in a module that holds one of ``norms``.
    """
    tracer = _Tracer(set(norms))
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the model's own code raises on a stand-in for its input
        raise CannotFollowError(
            f"model must be traceable to carry statistics from norm to norm, got {type(error).__name__} at {place_of(error)} in "
            f"{tracer.deepest or type(model).__name__!r}: {_first_line(error)}; give example_inputs=..., with which one run is "
            "followed instead, or move what depends on data into a module without a norm"
        ) from error
    return _calls(graph)


def place_of(error: BaseException) -> str:
    """File, line and source of the deepest frame outside torch and this library."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    if not frames:
        return "an unknown place"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} `{frames[-1].line or ''}`"


def function_name(function: Any) -> str:
    """Name of a function of torch or an operator, in-place or not; "?" for any other, which may compute something else."""
    name = function if isinstance(function, str) else str(getattr(function, "__name__", "?"))
    module = "" if isinstance(function, str) else getattr(function, "__module__", None) or ""
    known = not module or module.split(".")[0] in ("torch", "_operator", "operator", "builtins", "math")
    if not known:
        return "?"
    bare = name.strip("_")
    return {"iadd": "add", "radd": "add", "isub": "sub", "imul": "mul", "rmul": "mul", "itruediv": "div"}.get(
        bare, bare
    )


class _Tracer(fx.Tracer):
    """Looks into modules, and takes a module that it cannot look into as one call where no norm is inside."""

    def __init__(self, norms: set[nn.Module]) -> None:
        super().__init__()
        self.norms = norms
        self.deepest = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.norms or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        last = next(iter(reversed(self.graph.nodes)), None)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if any(each in self.norms for each in m.modules()):
                self.deepest = self.deepest or f"{path!r} ({type(m).__name__})"
                raise
            for node in reversed(list(self.graph.nodes)):
                if node is last:
                    break
                self.graph.erase_node(node)
            return self.create_proxy("call_module", path, args, kwargs)


def _calls(graph: fx.Graph) -> list[Call]:
    kinds = {"placeholder": "input", "call_module": "module", "get_attr": "value"}
    index = {node: place for place, node in enumerate(graph.nodes)}

    def reference(node: fx.Node) -> Any:
        return Ref(index[node])

    def plain(value: Any) -> Any:
        return fx.node.map_arg(value, reference)

    return [
        Call(
            kind=kinds.get(node.op, "function"),
            target=str(node.target) if node.op in kinds else function_name(node.target),
            args=tuple(plain(node.args)),
            kwargs=dict(plain(node.kwargs)),
        )
        for node in graph.nodes
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
