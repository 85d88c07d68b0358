"""What a model calls and with whose results, recorded in one run on example inputs: for models that cannot be traced.

A branch on data is followed as it went in that run. The calls have the same form as those of a symbolic trace.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from batchwright.core.preserve import preserved
from batchwright.nn.model_calls import Call, Ref, function_name


def recorded_calls(model: nn.Module, norms: Collection[nn.Module], example_inputs: Sequence[Any]) -> list[Call]:
    """The calls of ``model(*example_inputs)`` in their order; the model is left as it was found.

    Args:
        model: Any model.
        norms: Layers that are one call, beside torch's own modules.
        example_inputs: Positional arguments of the model.
    """
    recorder = _Recorder()
    for value in example_inputs:
        if isinstance(value, Tensor):
            recorder.add(Call(kind="input", target="input"), value)
    handles = []
    seen = set()
    for path, module in model.named_modules():
        own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential | nn.ModuleList)
        if module is not model and module not in seen and (own or module in norms):
            seen.add(module)
            handles.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.leave(path), with_kwargs=True, always_call=True))
    try:
        with preserved(model), torch.no_grad(), recorder:
            model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.calls


class _Recorder(TorchFunctionMode):
    """Takes down every call that gives a tensor, unless it is made inside a module that is one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._index: dict[int, int] = {}
        # Held for the run, so that no other tensor gets the identity of one that was recorded.
        self._alive: list[Tensor] = []
        self._open: list[tuple[Any, Any]] = []

    def add(self, call: Call, result: Any) -> None:
        """A call with its result, which may be a sequence of tensors."""
        self.calls.append(call)
        place = len(self.calls) - 1
        if isinstance(result, Tensor):
            self._index[id(result)] = place
            self._alive.append(result)
        elif isinstance(result, tuple | list):
            for position, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.add(Call(kind="function", target="getitem", args=(Ref(place), position)), part)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._open:
            return func(*args, **kwargs)
        plain = self._plain(args), self._plain(kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) or (
            isinstance(result, tuple | list) and any(isinstance(x, Tensor) for x in result)
        ):
            self.add(Call(kind="function", target=function_name(func), args=plain[0], kwargs=plain[1]), result)
        return result

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module that is one call begins."""
        self._open.append((self._plain(args), self._plain(kwargs)))

    def leave(self, path: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        """A module that is one call ends."""

        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            plain = self._open.pop()
            if not self._open:
                self.add(Call(kind="module", target=path, args=plain[0], kwargs=plain[1]), result)

        return hook

    def _plain(self, value: Any) -> Any:
        """The value with the results of calls as references, and all other tensors as calls of their own."""

        def one(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            if id(part) not in self._index:
                self.add(Call(kind="value", target="constant"), part)
            return Ref(self._index[id(part)])

        return tree_map(one, value)
