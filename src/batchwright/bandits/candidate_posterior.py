"""Exact Gaussian-process posterior over a set of candidates, one row of an incremental Cholesky factor a point.

With rows ``v_t = (k(x_t, ·) − Σ_s v_s(x_t) v_s) / √(σ²(x_t) + λ)`` over the candidates, ``σ² ← σ² − v_t²`` and
``μ ← μ + v_t (y_t − μ(x_t)) / √(σ²(x_t) + λ)``: a point costs ``O(t N)`` instead of a new solve. The variance does not look at the
values, so the points of a batch are chosen one after another before any of them is tried.

Source: Rasmussen & Williams (2006), algorithm 2.1, row by row; the partial Cholesky of Harbrecht, Peters, Schneider (2012) with noise.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from batchwright.bandits.kernels import Kernel, profile
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError


class CandidatePosterior:
    """Posterior mean and variance of a Gaussian process at every candidate.

    Attributes:
        candidates: ``(N, D)``, float64, on the device where everything is computed.
        kernel: Prior covariance.
        noise_variance: ``λ``, added to the diagonal for every point.
        prior_mean: Of the process, everywhere.
        variance: ``(N,)``: posterior variance of the function, without noise.
        rows: ``(num_points or more, N)``: rows of the factor; those beyond ``num_points`` are room.
        num_points: Points that the variance is conditioned on.
    """

    def __init__(
        self,
        candidates: Float[Tensor, "N D"],
        kernel: Kernel,
        noise_variance: float,
        *,
        prior_mean: float = 0.0,
        plain_torch: bool = False,
    ) -> None:
        """Start from the prior.

        Args:
            candidates: Points that may be chosen; at least one.
            kernel: Prior covariance.
            noise_variance: At least 0; with 0 a point may be chosen once.
            prior_mean: Of the process.
            plain_torch: Compute on a CPU as on a GPU. By default the rows go through NumPy on the same memory, whose products of a
                vector and a matrix, exponentials and maxima take two thirds of the time of torch's.

        Raises:
            InputError: If there are no candidates, or numbers break these rules.
        """
        if len(candidates) == 0:
            raise InputError("candidates must hold at least one point, got none")
        self.candidates = candidates.to(torch.float64)
        self.kernel = kernel
        self.noise_variance = check_number("noise_variance", noise_variance, at_least=0.0)
        self.prior_mean = float(prior_mean)
        self._columns = kernel.scaled(self.candidates).T.contiguous()
        self.variance = torch.full((len(candidates),), kernel.variance, dtype=torch.float64, device=candidates.device)
        self.rows = self.variance.new_empty((0, len(candidates)))
        self._whitened: list[Tensor] = []
        self._chosen: list[int] = []
        self._scales: list[float] = []
        self._num_conditioned = 0
        self._through_numpy = candidates.device.type == "cpu" and not plain_torch

    @property
    def num_points(self) -> int:
        """Points that the variance is conditioned on."""
        return self._num_conditioned + len(self._chosen)

    @property
    def information_gain(self) -> float:
        """``½ log det(I + K/λ)`` of the chosen points, those given to `condition` left out; infinite without noise."""
        if self.noise_variance == 0:
            return math.inf
        return float(sum(math.log(scale / math.sqrt(self.noise_variance)) for scale in self._scales))

    def condition(
        self,
        points: Float[Tensor, "n D"],
        values: Float[Tensor, " n"] | None = None,
        *,
        counts: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Condition the prior on points that need not be candidates, all at once.

        Args:
            points: Where the values were taken.
            values: May be left out where only the variance is asked for.
            counts: How many values each is the mean of; 1 by default.

        Raises:
            InputError: If points are already there; the block comes first.
        """
        if self.num_points:
            raise InputError(
                f"condition must come before any other point, got a posterior of {self.num_points}; make a new one"
            )
        if len(points) == 0:
            return
        factor = factor_of(self.kernel, points, _noise(self.noise_variance, counts))
        self.rows = torch.linalg.solve_triangular(factor, self.kernel(points, self.candidates), upper=False)
        self.variance = (self.variance - self.rows.square().sum(0)).clamp_min_(0)
        self._num_conditioned = len(points)
        if values is not None:
            self._whitened.append(
                torch.linalg.solve_triangular(factor, (values - self.prior_mean)[:, None], upper=False)[:, 0]
            )

    def select(
        self,
        count: int,
        *,
        allowed: Bool[Tensor, " N"] | None = None,
        stop_below: float = -math.inf,
    ) -> Int64[Tensor, " Q"]:
        """Choose points of maximum variance one after another, without their values, and condition the variance on them.

        Args:
            count: How many.
            allowed: Candidates that may be chosen; all by default. Variances are kept for all.
            stop_below: Choose fewer once the largest variance is not above this.

        Returns:
            Indices of the candidates, in the order of choice; of equal variances the first candidate.

        Raises:
            InputError: If nothing is allowed.
        """
        check_int("count", count, at_least=0)
        if allowed is not None and not bool(allowed.any()):
            raise InputError("allowed must hold at least one candidate, got none")
        self._reserve(count)
        # What is not allowed starts at minus infinity and stays there, so that it is never the largest.
        shown = self.variance if allowed is None else self.variance.masked_fill(~allowed, -math.inf)
        found: list[int] = []
        for _ in range(count):
            index = self._largest(shown)
            if float(shown[index]) <= stop_below:
                break
            self._add(index, shown if allowed is not None else None)
            found.append(index)
        self.variance.clamp_min_(0)
        return torch.tensor(found, dtype=torch.int64, device=self.variance.device)

    def add(self, index: int) -> None:
        """Condition the variance on one candidate, without a value."""
        self._reserve(1)
        self._add(index, None)
        self.variance.clamp_min_(0)

    def observe(self, values: Float[Tensor, " n"]) -> None:
        """Give the values of the chosen points that have none yet, in the order of choice.

        Raises:
            InputError: If there are more values than such points.
        """
        known = sum(len(part) for part in self._whitened)
        if known < self._num_conditioned:
            raise InputError("observe must follow a condition with values, got one without; give them there")
        last = known + len(values)
        if last > self.num_points:
            raise InputError(
                f"values must be at most one a chosen point, {self.num_points - known} have none, got {len(values)}"
            )
        chosen = self._chosen[known - self._num_conditioned : last - self._num_conditioned]
        # Row t of the factor is what the rows before t hold at the point of t, and the scale of its own row on the diagonal.
        columns = self.rows[:last, chosen].T
        rest = values.to(columns) - self.prior_mean
        if known:
            rest = rest - columns[:, :known] @ torch.cat(self._whitened)
        factor = columns[:, known:].tril(-1)
        factor.diagonal().copy_(columns.new_tensor(self._scales)[known - self._num_conditioned :][: len(chosen)])
        self._whitened.append(torch.linalg.solve_triangular(factor, rest[:, None], upper=False)[:, 0])

    @property
    def mean(self) -> Float[Tensor, " N"]:
        """Posterior mean at the candidates from the values given so far.

        Raises:
            InputError: If some chosen points have no values yet.
        """
        if not self._whitened:
            if self.num_points:
                raise InputError(f"mean needs the values of all {self.num_points} points, got none; observe them first")
            return torch.full_like(self.variance, self.prior_mean)
        values = torch.cat(self._whitened)
        if len(values) != self.num_points:
            raise InputError(
                f"mean needs the values of all {self.num_points} points, got {len(values)}; observe the others first"
            )
        mean: Tensor = self.prior_mean + values @ self.rows[: len(values)]
        return mean

    def _reserve(self, count: int) -> None:
        needed = self.num_points + count
        if needed > len(self.rows):
            # A single point doubles the room, so that many of them copy each row a constant number of times.
            grown = self.rows.new_empty((max(needed, 2 * len(self.rows) if count == 1 else 0), self.rows.shape[1]))
            grown[: self.num_points] = self.rows[: self.num_points]
            self.rows = grown

    def _largest(self, values: Tensor) -> int:
        return int(values.numpy().argmax()) if self._through_numpy else int(values.argmax())

    def _add(self, index: int, shown: Tensor | None) -> None:
        """One row of the factor; ``shown`` is the variance with what is not allowed at minus infinity."""
        number = self.num_points
        scale = math.sqrt(max(float(self.variance[index]), 0.0) + self.noise_variance)
        if scale == 0:
            raise InputError(f"candidate {index} is known exactly and cannot be chosen again; give noise_variance > 0")
        row = self.rows[number]
        if self._through_numpy:
            self._fill_row_on_cpu(row.numpy(), index, number, scale)
        else:
            gaps = self._columns - self._columns[:, index, None]
            row.copy_(self.kernel.of_sq_distance(gaps.square_().sum(0)))
            if number:
                torch.addmv(row, self.rows[:number].T, self.rows[:number, index].contiguous(), alpha=-1, out=row)
            row.div_(scale)
        self.variance.addcmul_(row, row, value=-1)
        if shown is not None:
            shown.addcmul_(row, row, value=-1)
        self._chosen.append(index)
        self._scales.append(scale)

    def _fill_row_on_cpu(self, row: np.ndarray, index: int, number: int, scale: float) -> None:
        columns = self._columns.numpy()
        gap = np.empty_like(row)
        row[:] = 0
        for column in columns:
            np.subtract(column, column[index], out=gap)
            gap *= gap
            row += gap
        if self.kernel.name == "se":
            row *= -0.5
            np.exp(row, out=row)
        else:
            row[:] = profile(self.kernel.name, self.kernel.nu, torch.from_numpy(row)).numpy()
        if self.kernel.variance != 1.0:
            row *= self.kernel.variance
        if number:
            rows = self.rows[:number].numpy()
            row -= np.ascontiguousarray(rows[:, index]) @ rows
        row *= 1 / scale


def factor_of(kernel: Kernel, points: Tensor, noise: float | Tensor) -> Tensor:
    """Lower Cholesky factor of ``K + noise``; without noise, points that repeat need a jitter of 1e-10 of the variance."""
    matrix = kernel(points, points)
    matrix.diagonal().add_(noise)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        matrix.diagonal().add_(1e-10 * kernel.variance)
        factor = torch.linalg.cholesky(matrix)
    return factor


def _noise(noise_variance: float, counts: Tensor | None) -> float | Tensor:
    return noise_variance if counts is None else noise_variance / counts
