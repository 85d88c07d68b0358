"""The noise scale in Muon's own norm, from inside its steps: the nuclear norms that are left over, and a pair of micro-batches
at times.

Source: Naganuma et al. (2026), arXiv:2602.03001, for the norm; `dual_noise_scale` is the measurement at one point that this follows
along a run. There the nuclear norm of the gradient takes a singular value decomposition; here ``<update, polar(update)>`` is
left over from the step. The spread of the noise is a moving average of second moments from pairs of micro-batches, a few times
in a hundred steps.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.optim.matrices import as_matrix
from batchwright.optim.muon import Muon
from batchwright.optim.polar.gram import lower_gram


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonNoiseScale:
    """A running reading of the nuclear noise scale.

    Attributes:
        value: ``(noise_norm / grad_norm)^2``, in examples: too small while noise is in ``grad_norm``.
        high: With all the noise that can be in ``grad_norm`` taken off it; ``inf`` where that leaves nothing. No confidence interval.
        noise_norm: ``sum tr sqrt(E[(g - G)(g - G)^T])`` over the matrices, of the gradient of one example.
        grad_norm: Sum of the nuclear norms of the updates.
        num_examples: What the updates average over, by the length of the momentum.
        num_pairs: Pairs of micro-batches behind ``noise_norm``, by their weights in the average.
    """

    value: float
    high: float
    noise_norm: float
    grad_norm: float
    num_examples: float
    num_pairs: float


class MuonNoise:
    """Follows the nuclear noise scale of the matrices of a `Muon` along its steps.

    Call `after_micro_batch` after each backward pass of a step, on gradients that began empty and are accumulated as
    ``core.objectives.accumulate_gradient`` does (each micro-batch adds its sum over the size of the whole batch), and `after_step`
    after ``optimizer.step()``. Steps of at least two micro-batches are measured, one in ``every``; in the others nothing is done.
    The first micro-batch of a measured step is compared with all the rest.

    Args:
        optimizer: A `Muon` with ``nuclear_norms=True`` in its Muon groups.
        every: Steps between two measured ones.
        decay: Weight kept in the moving average of second moments from one measured step to the next.

    Raises:
        InputError: If the optimizer keeps no nuclear norms.
    """

    def __init__(self, optimizer: Muon, *, every: int = 64, decay: float = 0.8) -> None:
        self._every = check_int("every", every, at_least=1)
        self._decay = check_number("decay", decay, at_least=0.0, below=1.0)
        self._groups = [group for group in optimizer.param_groups if group.get("optimizer") != "adamw"]
        if not self._groups or not all(group["nuclear_norms"] for group in self._groups):
            raise InputError("optimizer must keep nuclear norms, got a Muon without; make it with nuclear_norms=True")
        self._optimizer = optimizer
        self._parameters = [parameter for group in self._groups for parameter in group["params"]]
        self._moments: list[Tensor | None] = [None] * len(self._parameters)
        self._weight = self._sq_weight = 0.0
        self._num_steps = 0
        self._batch_size = 0.0
        self._noise_norm: float | None = None
        self._sizes: list[int] = []
        self._first: list[Tensor] = []

    def after_micro_batch(self, num_examples: int) -> None:
        """Take in the micro-batch whose gradient has just been added."""
        if self._num_steps % self._every == 0 and not self._sizes:
            self._first = [_gradient(parameter).clone() for parameter in self._parameters]
        self._sizes.append(num_examples)

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step, and take the pair of a measured one; ``.grad`` must still be the gradient of the step, unclipped."""
        batch_size = float(sum(self._sizes))
        self._batch_size = batch_size
        if self._first and len(self._sizes) > 1:
            first, rest = self._sizes[0], batch_size - self._sizes[0]
            self._weight = self._decay * self._weight + 1
            self._sq_weight = self._decay**2 * self._sq_weight + 1
            for number, (parameter, part) in enumerate(zip(self._parameters, self._first, strict=True)):
                # part is first/B times its mean gradient, the rest of .grad rest/B times its own.
                difference = part * (batch_size / first) - (_gradient(parameter) - part) * (batch_size / rest)
                matrix = as_matrix(difference)
                matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
                # Its covariance is that of an example times 1/first + 1/rest.
                moment = lower_gram(matrix.float()).mul_(1 / (1 / first + 1 / rest))
                old = self._moments[number]
                self._moments[number] = moment if old is None else old.mul_(self._decay).add_(moment)
            self._noise_norm = None
        self._sizes, self._first = [], []
        self._num_steps += 1

    @torch.no_grad()
    def noise_scale(self) -> MuonNoiseScale | None:
        """The reading; None before the first measured step. Eigenvalues are only found anew after a measured step.

        The second moment is a sum of few pairs: where it has fewer of them than the matrix has rows, its root is too small, so
        ``noise_norm`` and ``value`` are lower estimates early in a run.
        """
        if self._weight == 0:
            return None
        if self._noise_norm is None:
            roots = [
                torch.linalg.eigvalsh(moment / self._weight).clamp(min=0).sqrt().sum()
                for moment in self._moments
                if moment is not None
            ]
            self._noise_norm = float(torch.stack([root.double() for root in roots]).sum())
        norms = [self._optimizer.state[parameter].get("nuclear_norm") for parameter in self._parameters]
        found = [norm.double() for norm in norms if norm is not None]
        grad_norm = float(torch.stack(found).sum()) if found else 0.0
        momentum = self._groups[0]["momentum"]
        # An average with weights beta^k over batches has the noise of (1 + beta) / (1 - beta) of them.
        num_examples = self._batch_size * (1 + momentum) / (1 - momentum)
        least = grad_norm - self._noise_norm / math.sqrt(max(num_examples, 1.0))
        return MuonNoiseScale(
            value=(self._noise_norm / grad_norm) ** 2 if grad_norm > 0 else math.inf,
            high=(self._noise_norm / least) ** 2 if least > 0 else math.inf,
            noise_norm=self._noise_norm,
            grad_norm=grad_norm,
            num_examples=num_examples,
            num_pairs=self._weight**2 / self._sq_weight,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly; between two steps."""
        return {
            "moments": list(self._moments),
            "weight": self._weight,
            "sq_weight": self._sq_weight,
            "num_steps": self._num_steps,
            "batch_size": self._batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._moments = [None if moment is None else moment.clone() for moment in state["moments"]]
        self._weight, self._sq_weight = state["weight"], state["sq_weight"]
        self._num_steps, self._batch_size = state["num_steps"], state["batch_size"]
        self._noise_norm, self._sizes, self._first = None, [], []


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
