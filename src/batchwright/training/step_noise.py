"""Statistics of the gradient that are gathered while an optimizer step is made of its parts: micro-batches, or the ranks of a job."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.errors import InputError
from batchwright.core.vectors import FlatCopy, gradients
from batchwright.measure.gradient_statistics import cosine_of_halves
from batchwright.measure.noise_ranks import RankNoise
from batchwright.measure.running_noise import MicroBatchNorms, StepNoise
from batchwright.measure.separate_norms import SeparateNorms
from batchwright.training.ranks import DdpRanks, Ranks, WholeRanks

# What a controller may need that is made of the noise of the parts.
NOISE = frozenset({"noise_scale", "trace", "grad_sq_norm"})


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStatistics:
    """What one optimizer step told about its gradient; None where it was not measured or could not be.

    Attributes:
        noise: Unbiased trace and squared gradient norm; in examples, of the gradient as it is applied before clipping.
        cosine: Of the gradients of the two halves of the step's micro-batches.
    """

    noise: StepNoise | None = None
    cosine: float | None = None


class Gatherer:
    """Gathers what a controller needs; one for a run. For the noise of micro-batches it holds one copy of the gradient from the first
    measured step on, which costs no memory at the highest point: that is in a measured step.

    In one process, and under FSDP, the parts are the micro-batches. Where each rank has the whole model they are the ranks, whose
    gradients are reduced anyway; under DDP by a communication hook.

    Args:
        ranks: The processes.
        needs: Names of `adapt.Measured`.
        separate: Whether `before_backward` is called before each backward pass; it makes the noise of one process cheaper.
    """

    def __init__(self, ranks: Ranks, needs: frozenset[str], *, separate: bool = False) -> None:
        self._ranks = ranks
        # Wrappers of the model have ways of their own with gradients.
        self._separate = separate and type(ranks) is Ranks
        self._wants_noise, self._wants_cosine = bool(needs & NOISE), "cosine" in needs
        self.active = self._wants_noise or self._wants_cosine
        self._norms: MicroBatchNorms | SeparateNorms | None = None
        self._copy: FlatCopy | None = None
        self._first_half: list[Tensor] | None = None
        self._by_rank: RankNoise | None = None
        if self._wants_cosine and ranks.world_size > 1 and (ranks.sharded or isinstance(ranks, DdpRanks)):
            raise InputError(
                "a policy that needs the cosine of two halves must train in one process, or by batchwright train without FSDP, got "
                f"{ranks.world_size}; take noise-scale"
            )
        if self._wants_noise and isinstance(ranks, WholeRanks) and ranks.world_size > 1:
            self._by_rank = RankNoise(ranks.group, weighting="examples")
            self._by_rank.recording = False
            try:
                ranks.attach(self._by_rank)
            except RuntimeError as error:
                raise InputError(
                    "a policy that follows the gradient noise needs DDP's communication hook, got a model that has one already; make "
                    "the engine with a model without a hook, or take a policy that needs no noise"
                ) from error

    @property
    def min_parts(self) -> int:
        """Micro-batches of a rank that a measured step needs."""
        return 1 if self._by_rank is not None or not self.active else 2

    @property
    def even(self) -> bool:
        """Whether a measured step must have an even number of micro-batches."""
        return self._wants_cosine

    def begin(self, num_parts: int) -> None:
        """A measured step begins."""
        self._num_parts, self._done = num_parts, 0
        self._first_half = None
        self._norms = None
        if self._by_rank is not None:
            self._by_rank.recording = True
        elif self._wants_noise and self._separate:
            self._norms = SeparateNorms(self._ranks.parameters)
        elif self._wants_noise:
            read = self._ranks.local_gradients if self._ranks.sharded else None
            self._norms = MicroBatchNorms(self._ranks.parameters, read, self._copy)

    def before_backward(self) -> None:
        """The backward pass of a micro-batch of a measured step comes next."""
        if isinstance(self._norms, SeparateNorms):
            self._norms.before_backward()

    def after_micro_batch(self, weight: int | Tensor) -> None:
        """A micro-batch of this weight has added its gradient; the number of its examples where they have no weights."""
        self._done += 1
        if self._norms is not None:
            if self._ranks.sharded:  # the gradient is that of the micro-batches of all ranks
                weight = self._ranks.sum(torch.as_tensor(weight, dtype=torch.float64, device=self._ranks.device))
            self._norms.after_micro_batch(weight)
        if self._wants_cosine and 2 * self._done == self._num_parts:
            self._first_half = [tensor.clone() for tensor in gradients(self._ranks.parameters)]

    def abandon(self) -> None:
        """Forget the step."""
        self._norms = self._first_half = None
        if self._by_rank is not None:
            self._by_rank.recording = False
            self._by_rank.clear()

    def end(
        self, *, local_weight: int | Tensor, total_weight: float, num_examples: int, scale: float
    ) -> StepStatistics:
        """The statistics of the step, before anything has been done to its gradient.

        Args:
            local_weight: Of this rank's examples.
            total_weight: Of all examples of the step, on all ranks.
            num_examples: Of the step, on all ranks.
            scale: What the gradient in ``.grad`` must be multiplied by to be that of the mean loss.
        """
        noise = None
        if self._by_rank is not None:
            noise = self._by_rank.step_noise(local_weight)
            self._by_rank.recording = False
        elif self._norms is not None:
            noise = self._norms.step_noise()
            if isinstance(self._norms, MicroBatchNorms):
                self._copy = self._norms.copy
            if noise is not None and self._ranks.sharded:
                shard = torch.tensor([noise.trace, noise.grad_sq_norm], dtype=torch.float64, device=self._ranks.device)
                trace, grad_sq_norm = self._ranks.sum(shard).tolist()
                noise = StepNoise(trace=trace, grad_sq_norm=grad_sq_norm)
        cosine = None
        if self._first_half is not None:
            first = self._over_ranks(self._first_half)
            second = torch._foreach_sub(gradients(self._ranks.parameters), first)
            cosine = cosine_of_halves(first, list(second))
        self._norms = self._first_half = None
        if noise is not None:
            # The trace is that of a unit of weight; an example has total_weight / num_examples of them.
            squared, units = scale * scale, num_examples / total_weight
            values = [noise.trace * squared * units, noise.grad_sq_norm * squared]
            # Decisions are made from these, so they must be the same on all ranks to the last bit.
            trace, grad_sq_norm = self._ranks.agree(values)
            finite = math.isfinite(trace) and math.isfinite(grad_sq_norm)
            noise = StepNoise(trace=trace, grad_sq_norm=grad_sq_norm) if finite else None
        return StepStatistics(noise=noise, cosine=cosine)

    def _over_ranks(self, tensors: list[Tensor]) -> list[Tensor]:
        """The mean over ranks."""
        if self._ranks.world_size == 1:
            return tensors
        total = self._ranks.sum(torch.cat([tensor.flatten() for tensor in tensors])) / self._ranks.world_size
        parts = total.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
