"""Steps and cleared gradients that a loop makes beside its engine: what is left over when a plain loop is ported.

``optimizer.step()`` or ``optimizer.zero_grad()`` left in the inner loop train on single micro-batches, with gradients that are too
small by their number; a step left behind it is made twice. Nothing of it fails by itself, so it is noticed here.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from batchwright.core.errors import InputError

# Optimizers that an engine is stepping now: an engine that was given up in the middle of an update must not stop the one after it.
_STEPPING: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()


class StepGuard:
    """Watches one optimizer for one engine; it goes with the engine.

    Args:
        optimizer: Whose steps are watched, by a hook before each.
        parameters: Whose gradients the engine makes.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer, self._parameters = weakref.ref(optimizer), parameters
        self._inside = False
        self._used: tuple[weakref.ref[Tensor], int] | None = None
        me = weakref.ref(self)

        def before_step(*_: Any) -> None:
            guard = me()
            if guard is not None:
                guard.check_step()

        with suppress(AttributeError):  # a wrapper that is an optimizer by name alone has no hooks
            weakref.finalize(self, optimizer.register_step_pre_hook(before_step).remove)

    def begin(self) -> None:
        """An update begins."""
        self._inside, self._used = True, None

    def leave(self) -> None:
        """The loop over an update is over, or was left."""
        self._inside = False

    @contextmanager
    def own_step(self) -> Iterator[None]:
        """The engine's own step, which ends the update."""
        optimizer = self._optimizer()
        assert optimizer is not None  # the engine holds it
        _STEPPING.add(optimizer)
        try:
            yield
        finally:
            _STEPPING.discard(optimizer)
            self._inside = False
        gradient = self._first()
        self._used = None if gradient is None else (weakref.ref(gradient), gradient._version)

    def check_step(self) -> None:
        """A step is about to be made.

        Raises:
            InputError: If it is no engine's, and is one inside an update or on the gradient of a step that was made.
        """
        if self._optimizer() in _STEPPING:
            return
        if self._inside:
            raise InputError(
                "optimizer.step() must be left to the engine, got a call inside the loop over an update; take it out, and "
                "optimizer.zero_grad() with it: the step is made when the inner loop ends; an update that is given up ends with its "
                "skip()"
            )
        if self._used is None:
            return
        gradient, (used, version) = self._first(), self._used
        if gradient is not None and gradient is used() and gradient._version == version:
            raise InputError(
                "optimizer.step() must be left to the engine, got a call with the gradient of a step that was made already; take "
                "it out: the step is made when the inner loop ends"
            )

    def check_kept(self) -> None:
        """A further micro-batch is about to add to the gradients of those before it.

        Raises:
            InputError: If they are gone.
        """
        if self._first() is None:
            raise InputError(
                "gradients must be kept from one micro-batch to the next, got none after the first; take optimizer.zero_grad() out "
                "of the loop over an update: the engine clears them between updates"
            )

    def _first(self) -> Tensor | None:
        return next((each.grad for each in self._parameters if each.grad is not None), None)
