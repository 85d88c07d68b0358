"""The gradient of one optimizer step while its micro-batches come in: what it is made of, its scale, and the noise it shows."""

import math

import torch
from torch import Tensor, nn

from batchwright.core.checks import check_int
from batchwright.measure.noise_ranks import RankNoise
from batchwright.measure.running_noise import MicroBatchNorms, StepNoise


class StepGradient:
    """One is made for each step.

    Args:
        parameters: Whose ``.grad`` it is.
        norms: Collects the norms of the micro-batches; None where they are not measured.
        rank_noise: Measures across ranks instead; None on one rank, or where nothing is measured.
        keeps_loss: Whether the losses are kept.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        norms: MicroBatchNorms | None = None,
        rank_noise: RankNoise | None = None,
        keeps_loss: bool = False,
    ) -> None:
        self.norms, self.noise = norms, None
        self.stepped = False
        self._parameters, self._rank_noise, self._keeps_loss = parameters, rank_noise, keeps_loss
        self._sizes: list[int] = []
        self._losses: list[Tensor] = []

    noise: StepNoise | None

    @property
    def num_micro_batches(self) -> int:
        """In the gradient so far."""
        return len(self._sizes)

    @property
    def num_examples(self) -> int:
        """In the gradient so far, of this rank."""
        return sum(self._sizes)

    def add(self, num_examples: int, loss: Tensor | None) -> None:
        """Take in a micro-batch whose gradient has just been added, with its mean loss."""
        self._sizes.append(check_int("num_examples", num_examples, at_least=1))
        if self.norms is not None:
            self.norms.after_micro_batch(num_examples)
        if loss is not None and self._keeps_loss:
            self._losses.append(loss.detach() * num_examples)

    def finish(self, *, planned: int | None, micro_batch_size: int, grad_scale: float) -> float:
        """Measure the noise, and make the gradient the mean over the examples that are in it.

        Args:
            planned: Micro-batches that each loss was divided by; None where the framework divides by what is really in the step. The
                gradient is left as it is then, and a step with a short micro-batch, whose weight is the framework's affair, says
                nothing about the noise.
            micro_batch_size: Examples in a whole micro-batch.
            grad_scale: What ``.grad`` is multiplied with beyond that: the scale of a gradient scaler.

        Returns:
            What the gradient was multiplied with.
        """
        factor = 1.0 if planned is None else planned * micro_batch_size / self.num_examples
        noise = self._measure()
        short = self.num_examples != self.num_micro_batches * micro_batch_size
        if noise is not None and not (planned is None and short):
            scale = (factor / grad_scale) ** 2
            noise = StepNoise(trace=noise.trace * scale, grad_sq_norm=noise.grad_sq_norm * scale)
            # A gradient that overflowed says nothing; a gradient scaler leaves its step out.
            self.noise = noise if math.isfinite(noise.trace) and math.isfinite(noise.grad_sq_norm) else None
        if factor != 1.0:
            grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_mul_(grads, factor)
        return factor

    def mean_loss(self, world_size: int) -> float | None:
        """Over the examples of all ranks, which hold as many each; None where the losses were not kept."""
        if not self._losses:
            return None
        mean = torch.stack(self._losses).sum() / self.num_examples
        if world_size > 1:  # all ranks must decide alike
            torch.distributed.all_reduce(mean)
            mean = mean / world_size
        return float(mean)

    def _measure(self) -> StepNoise | None:
        if self._rank_noise is not None:
            return self._rank_noise.step_noise(self.num_examples)
        return self.norms.step_noise() if self.norms is not None else None
