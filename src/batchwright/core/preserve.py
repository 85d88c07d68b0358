"""A context in which anything may be measured: what it could have changed comes back, also after an exception."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomState:
    """States of the global generators of torch (CPU and every initialised CUDA device), NumPy and Python."""

    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls) -> "RandomState":
        """The states as they are now; CUDA is left out while it has not been initialised."""
        cuda = (
            tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()
        )
        return cls(
            torch_cpu=torch.get_rng_state(), torch_cuda=cuda, numpy=np.random.get_state(), python=random.getstate()
        )

    def restore(self) -> None:
        """Put all captured states back."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(list(self.torch_cuda))
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def to_state(self) -> dict[str, Any]:
        """Tensors, and lists of plain values for the rest, as a checkpoint holds them."""
        name, keys, position, has_gauss, cached = self.numpy
        version, numbers, gauss = self.python
        return {
            "torch_cpu": self.torch_cpu,
            "torch_cuda": list(self.torch_cuda),
            "numpy": [name, keys.tolist(), position, has_gauss, cached],
            "python": [version, list(numbers), gauss],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "RandomState":
        """The states that `to_state` described."""
        name, keys, *rest = state["numpy"]
        version, numbers, gauss = state["python"]
        return cls(
            # A generator's state lives on the CPU, wherever a checkpoint was loaded to.
            torch_cpu=state["torch_cpu"].cpu(),
            torch_cuda=tuple(tensor.cpu() for tensor in state["torch_cuda"]),
            numpy=(name, np.array(keys, dtype=np.uint32), *rest),
            python=(version, tuple(numbers), gauss),
        )


@contextmanager
def preserved(model: nn.Module, *, generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Give back parameters, buffers, ``.grad``, train/eval modes and random generators as they were found.

    Inside the context every ``.grad`` is ``None``, so a measurement adds to nothing of its user's. The same gradient
    tensors, not copies, come back.

    Args:
        model: Model to keep; its values are copied once on entry.
        generators: Further generators to keep, beside the global ones of torch, NumPy and Python.
    """
    tensors = [*model.parameters(), *model.buffers()]
    # A forward pass may also bind a new tensor to a buffer's name, so the bindings are kept beside the values.
    bindings: list[tuple[Any, dict[str, Any]]] = [
        (names, dict(names)) for module in model.modules() for names in (module._parameters, module._buffers)
    ]
    values = [tensor.detach().clone() for tensor in tensors]
    grads = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    random_state = RandomState.capture()
    generator_states = [(generator, generator.get_state()) for generator in generators]
    try:
        for parameter, _, _ in grads:
            parameter.grad = None
        yield
    finally:
        for names, bound in bindings:
            names.clear()
            names.update(bound)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, grad, requires_grad in grads:
            parameter.grad = grad
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training
        random_state.restore()
        for generator, state in generator_states:
            generator.set_state(state)
