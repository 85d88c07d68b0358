"""Curvature of a batch's loss along its gradient from one further forward pass, beside second derivatives that check it.

With the loss, the gradient ``g`` and one more value of the loss at ``theta + d``, ``d = t g``, on the same pieces of a piecewise smooth
network (`frozen_pieces`),

    d^T H d = 2 (L(theta + d) - L(theta) - g^T d) + O(t^3)

The length of ``d`` is found on the first batch, where both signs together must agree with second derivatives: lengths that move
the gradient by a hundredth of itself, a third and a tenth of that, and three times it, are tried in turn, for short steps are lost in
rounding and long ones leave the quadratic part of the loss. Then it stays, and its sign alternates from batch to batch, so the third
derivative's error cancels from the mean and stays in the scatter, where it is counted. Rounding makes an error of either sign, which
is scatter too.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import RandomState
from batchwright.core.vectors import dot, sq_norm
from batchwright.measure.curvature.batch_curvature import BatchCurvature, batch_curvature
from batchwright.measure.curvature.frozen_pieces import FrozenPieces, PiecesError

# Parts of itself by which the gradient of the first batch changes.
RELATIVE_STEPS = (0.01, 0.003, 0.001, 0.03)
# Both signs together must agree with second derivatives as well as this on the first batch.
AGREEMENT = 0.005


class ValueDifference:
    """Curvatures of one batch after another, the first by both ways; falls back on second derivatives where it must.

    Attributes:
        reason: Why second derivatives are used after all; empty while differences are.
    """

    def __init__(self, model: nn.Module, loss: Loss, parameters: Sequence[nn.Parameter]) -> None:
        """The parameters are kept as they are now, and come back to the bit after each batch."""
        self._model, self._loss, self._parameters = model, loss, list(parameters)
        self._saved = [parameter.detach().clone() for parameter in parameters]
        self._length, self._sign = 0.0, 1.0
        self.reason = ""

    def __call__(self, batch: Batch) -> BatchCurvature:
        """Squared gradient norm and curvature along the gradient of one batch."""
        if self.reason:
            return batch_curvature(self._model, self._loss, batch, self._parameters)
        if self._length == 0:
            return self._first(batch)
        self._sign = -self._sign
        try:
            return self._difference(batch, [self._sign * self._length])
        except PiecesError as cause:
            self.reason = str(cause)
            return batch_curvature(self._model, self._loss, batch, self._parameters)

    def _first(self, batch: Batch) -> BatchCurvature:
        """Second derivatives, and with them the length of the steps or the reason to go on with second derivatives."""
        before = RandomState.capture()
        exact = batch_curvature(self._model, self._loss, batch, self._parameters)
        if exact.sq_norm == 0:
            return exact  # the next batch may tell
        if exact.curvature == 0 or not math.isfinite(exact.curvature):
            self.reason = (
                "the curvature along the first gradient is zero or not finite, so it gives no scale for a step"
            )
            return exact
        after, errors = RandomState.capture(), []
        try:
            for part in RELATIVE_STEPS:
                before.restore()
                length = part * exact.sq_norm**0.5 / abs(exact.sharpness)
                found = self._difference(batch, [length, -length])
                errors.append(abs(found.curvature / exact.curvature - 1))
                if errors[-1] <= AGREEMENT:
                    self._length = length
                    return exact
            self.reason = f"differences are {min(errors):.1%} or more from second derivatives on the first batch"
        except PiecesError as cause:
            self.reason = str(cause)
        finally:
            after.restore()
        return exact

    def _difference(self, batch: Batch, lengths: Sequence[float]) -> BatchCurvature:
        pieces, random_state = FrozenPieces(), RandomState.capture()
        with torch.enable_grad():
            with pieces.recorded():
                losses = example_losses(self._model, self._loss, batch)
            found = torch.autograd.grad(losses.mean(), self._parameters, allow_unused=True)
        pairs = [
            (parameter, grad, saved)
            for parameter, grad, saved in zip(self._parameters, found, self._saved, strict=True)
            if grad is not None
        ]
        parameters, grads, saved = ([pair[k] for pair in pairs] for k in range(3))
        norm, start = sq_norm(grads), losses.detach().double().mean()
        if not norm > 0:
            return BatchCurvature(sq_norm=float(norm), curvature=float(norm), num_examples=len(losses))
        curvatures: list[Tensor] = []
        for length in lengths:
            step = length / float(norm) ** 0.5
            random_state.restore()  # dropout draws the same masks again
            try:
                with torch.no_grad():
                    torch._foreach_add_(parameters, grads, alpha=step)
                    # What rounding has left of the step, not what was asked for, is what the loss changes by.
                    first_order = dot(grads, torch._foreach_sub(parameters, saved))
                # With gradients on, so that the operations are those of the recorded run.
                with torch.enable_grad(), pieces.held():
                    moved = example_losses(self._model, self._loss, batch).detach().double().mean()
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(parameters, saved)
            curvatures.append(2 * (moved - start - first_order) / step**2)
        return BatchCurvature(
            sq_norm=float(norm),
            curvature=float(torch.stack(curvatures).mean()),
            num_examples=len(losses),
        )
