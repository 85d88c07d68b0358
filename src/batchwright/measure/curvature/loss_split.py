"""A loss taken apart into the model's output and the loss of an output, as Gauss-Newton and Fisher need it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import RandomState
from batchwright.core.vectors import trainable

Forward = Callable[[nn.Module, Batch], Tensor]
OutputLoss = Callable[[Tensor, Batch], Tensor]
WAY_OUT = "give forward=(model, batch) -> output and output_loss=(output, batch) -> (B,) to say what the output is and how it is judged"


class LossSplit:
    """``loss(model, batch)`` as ``output_loss(forward(model, batch), batch)``.

    Where the two are not given, the loss is called with a stand-in that calls the model once and keeps its output, and then again
    with one that returns a given output. The loss of the first batch must come out the same, and must not reach the parameters
    in any other way.

    Args:
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        forward: The model's output on a batch, one example a row.
        output_loss: Loss of each example from that output.

    Raises:
        InputError: If only one of ``forward`` and ``output_loss`` is given.
    """

    def __init__(self, loss: Loss, forward: Forward | None = None, output_loss: OutputLoss | None = None) -> None:
        if (forward is None) != (output_loss is None):
            missing = "forward" if forward is None else "output_loss"
            raise InputError(f"forward and output_loss must be given together, got no {missing}; {WAY_OUT}")
        self._loss = loss
        self._forward = forward
        self._output_loss = output_loss
        self._checked = False

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's output on a batch, with its graph.

        Raises:
            InputError: If the loss calls the model more than once or uses more of it than its output, or the output is not one
                floating-point tensor with an example a row.
            TaskError: If the loss is not one number an example.
        """
        if self._forward is not None:
            output: Tensor = self._forward(model, batch)
            _check_output(output, batch)
            if not self._checked:
                self._check(model, batch, output, None)
            return output
        recorder = _Recorder(model)
        state = RandomState.capture()
        losses = example_losses(recorder, self._loss, batch)
        output = recorder.output_of_one_call()  # if it is one, which is checked next
        _check_output(output, batch)
        if not self._checked:
            state.restore()
            self._check(model, batch, output, losses)
        return output

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each example from a given output, shape ``(B,)``.

        Raises:
            TaskError: If the loss is not one number an example.
        """
        stand_in = _Replay(output)
        if self._output_loss is None:
            return example_losses(stand_in, self._loss, batch)
        output_loss = self._output_loss
        return example_losses(stand_in, lambda _, given: output_loss(output, given), batch)

    def _check(self, model: nn.Module, batch: Batch, output: Tensor, expected: Tensor | None) -> None:
        given = output.detach().requires_grad_()
        losses = self.losses(given, batch)
        if expected is None:
            expected = example_losses(model, self._loss, batch)
        if not torch.allclose(losses, expected, rtol=1e-3, atol=1e-6, equal_nan=True):
            raise InputError(
                f"loss must be a function of the model's output and the batch, got {losses.detach().tolist()[:4]} from the output and "
                f"{expected.detach().tolist()[:4]} from the model; {WAY_OUT}"
            )
        found: tuple[Tensor | None, ...] = (None,)
        if losses.requires_grad:
            found = torch.autograd.grad(losses.sum(), [given, *trainable(model)], allow_unused=True)
        if found[0] is None:
            raise InputError(f"loss must depend on the model's output, got one that does not; {WAY_OUT}")
        if any(gradient is not None for gradient in found[1:]):
            raise InputError(
                f"loss must reach the parameters through the model's output alone, got one that uses them directly; {WAY_OUT}"
            )
        self._checked = True


class _StandIn(nn.Module):
    """A module that can be called and asked for its mode, and has nothing else."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.training = training

    def __getattr__(self, name: str) -> Any:
        raise _uses_more(name)

    # The functions of every module that lead to parameters, buffers or parts, which the stand-in does not have.
    def _named_members(self, *args: Any, **kwargs: Any) -> Any:
        raise _uses_more("parameters() or buffers()")

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the loss may use the output alone."""
        raise _uses_more("modules()")

    def named_children(self) -> Any:
        """Refused: the loss may use the output alone."""
        raise _uses_more("children()")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the loss may use the output alone."""
        raise _uses_more("state_dict()")


class _Recorder(_StandIn):
    """Calls the model and keeps what it returned."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.training)
        self._call = (model,)  # in a tuple: a module assigned to a module would become its part
        self._outputs: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self._call[0](*args, **kwargs)
        self._outputs.append(output)
        return output

    def output_of_one_call(self) -> Any:
        if len(self._outputs) != 1:
            raise InputError(f"loss must call the model exactly once, got {len(self._outputs)} calls; {WAY_OUT}")
        return self._outputs[0]


class _Replay(_StandIn):
    """Returns a given output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__(training=False)
        self._output = (output,)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._output[0]


def _uses_more(name: str) -> InputError:
    return InputError(f"loss must use the model by calling it alone, got a use of model.{name}; {WAY_OUT}")


def _check_output(output: object, batch: Batch) -> None:
    if not isinstance(output, Tensor):
        raise InputError(f"the model's output must be one tensor, got {type(output).__name__}; {WAY_OUT}")
    length = batch_length(batch)
    if output.ndim == 0 or len(output) != length or not output.is_floating_point():
        raise InputError(
            f"the model's output must be a floating-point tensor with one of the {length} examples a row, got shape "
            f"{tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}; {WAY_OUT}"
        )
