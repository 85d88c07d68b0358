"""The linear associative memory: random pairs to be stored in one matrix, with power-law frequencies.

Item ``j`` of ``N`` has an input ``v_j`` and an output ``u_j`` in ``d`` dimensions, all drawn from ``N(0, I/d)``, and is asked for with
probability ``p_j ~ j^(-alpha)``. A matrix ``W`` answers ``v_j`` with the scores ``u_i' W v_j`` of all outputs; the loss is the
cross-entropy of their softmax. There may be far more items than dimensions, since the embeddings need not be orthogonal.

Source: Kim, Nichani, Wu, Bietti, Lee (2026), arXiv:2603.26554, the problem statement.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError

# Scores held at once; 2**25 of them in float32 are 128 MiB.
MAX_SCORES = 2**25


class AssociativeMemory:
    """Pairs of embeddings with their frequencies; several draws at once when several seeds are given.

    Every tensor has the shape ``(..., N, d)`` or ``(..., d, d)``, where ``...`` is nothing for one seed and ``S`` for a sequence of
    ``S`` seeds. The draw of a seed is the same alone and among others.

    Args:
        dim: Dimension ``d`` of the embeddings.
        num_items: Number ``N`` of pairs.
        alpha: Exponent of the frequencies, above 0; the theory asks for more than 1.
        seed: Of the embeddings, and of batches drawn from the memory.
        input_decay: Anisotropy of the inputs: the eigenvalue ``k`` of their covariance falls as ``k^(-input_decay)`` with trace 1.
        device: Of the embeddings.

    Attributes:
        inputs: ``v``, shape (..., N, d), float32.
        outputs: ``u``, shape (..., N, d), float32.
        probabilities: ``p``, shape (N,), float64, sums to one.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> memory = AssociativeMemory(dim=32, num_items=400, alpha=2.0, seed=0)
        >>> memory.negative_gradient().shape
        torch.Size([32, 32])
    """

    def __init__(
        self,
        dim: int,
        num_items: int,
        alpha: float,
        seed: int | Sequence[int] = 0,
        *,
        input_decay: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dim = check_int("dim", dim, at_least=2)
        self.num_items = check_int("num_items", num_items, at_least=2)
        self.alpha = check_number("alpha", alpha, above=0.0)
        self.input_decay = check_number("input_decay", input_decay, at_least=0.0)
        self.seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        if not self.seeds:
            raise InputError("seed must be an integer or a sequence of at least one, got an empty sequence; give one")
        for each in self.seeds:
            check_int("seed", each, at_least=0)
        scales = torch.arange(1, dim + 1, dtype=torch.float64).pow(-self.input_decay)
        scales = (scales / scales.sum()).sqrt().float()
        drawn = [self._draw(each, scales) for each in self.seeds]
        inputs = torch.stack([pair[0] for pair in drawn])
        outputs = torch.stack([pair[1] for pair in drawn])
        if isinstance(seed, int):
            inputs, outputs = inputs[0], outputs[0]
        self.inputs, self.outputs = inputs.to(device), outputs.to(device)
        ranks = torch.arange(1, num_items + 1, dtype=torch.float64, device=device).pow(-self.alpha)
        self.probabilities = ranks / ranks.sum()

    def _draw(self, seed: int, scales: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(self.num_items, self.dim, generator=generator).mul_(scales)
        outputs = torch.randn(self.num_items, self.dim, generator=generator).div_(math.sqrt(self.dim))
        return inputs, outputs

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading dimensions: ``()`` for one seed, ``(S,)`` for a sequence."""
        return tuple(self.inputs.shape[:-2])

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.inputs.device

    def zeros(self) -> Float[Tensor, "... d d"]:
        """The matrix before any training, float64."""
        return torch.zeros(*self.lead, self.dim, self.dim, dtype=torch.float64, device=self.device)

    def sample_weights(self, batch_size: int, *, step: int = 0) -> Float[Tensor, "... N"]:
        """Share of each item in a batch drawn with replacement, float64; another for each seed and ``step``.

        The counts of a batch are one draw of the multinomial law, so a batch of a million costs what one of ten does.

        Args:
            batch_size: Items in the batch.
            step: Number of the batch.
        """
        check_int("batch_size", batch_size, at_least=1)
        shares = self.probabilities.cpu().numpy()
        drawn = [
            np.random.default_rng([each, check_int("step", step, at_least=0)]).multinomial(batch_size, shares)
            for each in self.seeds
        ]
        weights = torch.from_numpy(np.stack(drawn)).to(self.device, torch.float64) / batch_size
        return weights.reshape(*self.lead, self.num_items)

    def negative_gradient(
        self, matrix: Float[Tensor, "... d d"] | None = None, weights: Float[Tensor, "... N"] | None = None
    ) -> Float[Tensor, "... d d"]:
        """Negative gradient of the loss, ``sum_j w_j (u_j - sum_i pi_i(j) u_i) v_j'``, float64.

        Args:
            matrix: ``W``; zero where left out, and then every ``pi_i(j)`` is ``1/N`` and no score is computed.
            weights: Of the items; their probabilities where left out.
        """
        weights = self.probabilities.expand(*self.lead, -1) if weights is None else weights
        total = self.zeros()
        mean = self.outputs.double().mean(-2, keepdim=True) if matrix is None else None
        for rows in self._used_rows(weights):
            inputs, share = self.inputs[..., rows, :].double(), weights[..., rows, None]
            if mean is not None:
                errors = share * (self.outputs[..., rows, :].double() - mean)
            else:
                assert matrix is not None
                errors = share * (self.outputs[..., rows, :] - self._expected_outputs(matrix, rows)).double()
            total += errors.mT @ inputs
        return total

    def loss(
        self, matrix: Float[Tensor, "... d d"], weights: Float[Tensor, "... N"] | None = None
    ) -> Float[Tensor, " ..."]:
        """Cross-entropy ``-sum_j w_j log pi_j(j)`` in nats, float64; the probabilities are the weights where none are given."""
        weights = self.probabilities.expand(*self.lead, -1) if weights is None else weights
        total = torch.zeros(self.lead, dtype=torch.float64, device=self.device)
        for rows in self._used_rows(weights):
            scores = self.scores(matrix, rows)
            own = scores.gather(-1, rows.expand(*self.lead, -1).unsqueeze(-1)).squeeze(-1)
            total += (weights[..., rows] * (scores.logsumexp(-1) - own).double()).sum(-1)
        return total

    def scores(self, matrix: Float[Tensor, "... d d"], rows: Int[Tensor, " Q"]) -> Float[Tensor, "... Q N"]:
        """``u_i' W v_j`` of the queries ``j`` in ``rows`` against all outputs ``i``, float32."""
        return (self.inputs[..., rows, :] @ matrix.float().mT) @ self.outputs.mT

    def chunks(self, rows: Int[Tensor, " Q"]) -> Iterator[Int[Tensor, " q"]]:
        """``rows`` in pieces whose scores fit the memory set aside for them."""
        size = max(1, MAX_SCORES // (self.num_items * len(self.seeds)))
        yield from rows.split(size)

    def _used_rows(self, weights: Tensor) -> Iterator[Tensor]:
        """The items that have a weight in any of the draws, in chunks: those of a small batch are few."""
        used = (weights != 0).reshape(-1, self.num_items).any(0).nonzero().squeeze(-1)
        yield from self.chunks(used)

    def _expected_outputs(self, matrix: Tensor, rows: Tensor) -> Tensor:
        """``sum_i pi_i(j) u_i`` of the queries ``j`` in ``rows``."""
        return self.scores(matrix, rows).softmax(-1) @ self.outputs
