"""The constants of a problem that rule the batch size of stochastic conditional gradient: smoothness, KL constant, norm ratio, noise.

Source: Islamov et al. (2026), arXiv:2603.21191, assumptions A1 to A4 and its section on measuring them. Deviations: smoothness is taken
from one batch at both ends of a step (the published way, two batches, is given beside it), and the norm ratio and the variance from two
independent batches at one point instead of one small and one very large batch.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.core.batches import Batch, batch_length
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Array, Interval, bootstrap_interval, mean_interval
from batchwright.optim import Euclidean, Lmo, Muon, Scion, Sign, Spectral

NUM_RESAMPLES = 400
# Neighbouring steps are alike: means and fits are resampled in blocks of so many.
BLOCK = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalGradientConstants:
    """Constants of a problem in the norm of an optimizer: the largest of the layers' norms, dually the sum of their dual norms.

    Attributes:
        smoothness: ``L``: change of one batch's gradient, in the dual norm, over that of the parameters in the norm; mean over the
            last steps.
        smoothness_two_batches: The same with each gradient from its own step's batch, as published: larger, by the noise of both.
        mu: Of the Kurdyka-Lojasiewicz condition ``||grad f||_* >= mu (f - f*)``: slope of the batch gradient's dual norm over
            the loss along the run, by Huber's regression. Not positive where the norm does not fall with the loss.
        rho: ``||x||_* / ||x||_2`` of the gradient noise.
        sigma: Root of the variance of the gradient of one example, in the Euclidean norm; times the root of the tokens of an example it
            is the paper's ``sigma_*`` of a token, as a batch of ``B`` examples of ``S`` tokens has the variance ``sigma_*^2 / (B S)``.
        batch_size: Examples of a batch; ``rho`` depends on it.
        num_steps: Steps of the run behind these numbers.
        num_gradients: Batch gradients computed.
        first_loss: Mean loss of the first tenth of the run.
        last_loss: Mean loss of the last tenth.
    """

    smoothness: Interval
    smoothness_two_batches: Interval
    mu: Interval
    rho: Interval
    sigma: Interval
    batch_size: int
    num_steps: int
    num_gradients: int
    first_loss: float
    last_loss: float


def conditional_gradient_constants(
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    *,
    last: int = 100,
    max_loss: float = math.inf,
    norms: Mapping[str, Lmo] | None = None,
) -> ConditionalGradientConstants:
    """Measure the constants along a run of ``optimizer`` on ``batches``, made with copies of model and optimizer.

    Each step costs one gradient; the ``last`` ones cost three: that of the step's batch once more after the step, and that of the next
    batch before it.

    Args:
        model: In the state from which the run begins, and in the mode in which it trains.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        optimizer: Of the model; its learning rate is taken as it is.
        batches: Independent batches of one size, one a step.
        last: Steps at the end that give ``smoothness``, ``rho`` and ``sigma``.
        max_loss: Steps with a larger loss are left out of ``mu``; 5 in the paper's fit.
        norms: The norm of each parameter by its name. Where left out, that of its group under `Scion`; under Muon, spectral for
            matrices and sign for its AdamW groups; sign for Adam-type optimizers; Euclidean else.

    Raises:
        InputError: If there are fewer batches than ``last + 1``, ``last`` is below 20, or a parameter has no norm.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> batches = [torch.randn(8, 3) for _ in range(40)]
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> found = conditional_gradient_constants(model, lambda m, x: m(x).squeeze(1).square(), optimizer, batches, last=20)
        >>> round(found.rho.value, 6), found.num_steps
        (1.0, 39)
    """
    check_int("last", last, at_least=2 * BLOCK)
    check_number("max_loss", max_loss if math.isfinite(max_loss) else 0.0)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    chosen = _norms_of(model, optimizer) if norms is None else norms
    missing = [name for name in names if name not in chosen]
    if missing:
        raise InputError(f"norms must name every trainable parameter, got none for {missing[0]!r}; add it")
    with preserved(model):
        twin, stepper = copy.deepcopy((model, optimizer))
        run = _Run(twin, loss, stepper, [chosen[name] for name in names])
        run.go(list(batches), last)
    return run.summary(max_loss)


def _norms_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Lmo]:
    """The norm of each parameter that the optimizer holds, by its name."""
    by_parameter: dict[int, Lmo] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            by_parameter[id(parameter)] = _norm_in(optimizer, group, parameter)
    return {name: by_parameter[id(p)] for name, p in model.named_parameters() if id(p) in by_parameter}


def _norm_in(optimizer: Optimizer, group: Mapping[str, object], parameter: Tensor) -> Lmo:
    if isinstance(optimizer, Scion):
        return optimizer.lmo(group)
    name = type(optimizer).__name__
    if isinstance(optimizer, Muon) or name == "Muon":
        return Sign() if group.get("optimizer") == "adamw" or parameter.ndim < 2 else Spectral()
    return Sign() if name.startswith("Adam") else Euclidean()


class _Run:
    """One training run of the copies, and what is seen on the way."""

    def __init__(self, model: nn.Module, loss: Loss, optimizer: Optimizer, norms: Sequence[Lmo]) -> None:
        self._model, self._loss, self._optimizer, self._norms = model, loss, optimizer, norms
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.losses: list[float] = []
        self.dual_norms: list[float] = []
        self.smoothness: list[float] = []
        self.two_batches: list[float] = []
        self.rho: list[float] = []
        self.variance: list[float] = []
        self.batch_size = self.num_gradients = 0

    def go(self, batches: Sequence[Batch], last: int) -> None:
        """All steps; the last batch is only looked at."""
        if len(batches) < last + 1:
            raise InputError(
                f"batches must be at least last + 1 = {last + 1}, got {len(batches)}; give more batches or a smaller last"
            )
        sizes = {batch_length(batch) for batch in batches}
        if len(sizes) > 1:
            raise InputError(
                f"batches must all have one size, got sizes from {min(sizes)} to {max(sizes)}; drop the short one"
            )
        self.batch_size = sizes.pop()
        num_steps = len(batches) - 1
        before: tuple[list[Tensor], list[Tensor]] | None = None
        for step in range(num_steps):
            gradient, value = self._gradient(batches[step])
            self.losses.append(value)
            self.dual_norms.append(self._dual(gradient))
            measured = step >= num_steps - last
            if measured:
                self._compare(gradient, self._gradient(batches[step + 1])[0])
                start = [parameter.detach().clone() for parameter in self._parameters]
                if before is not None:
                    moved = self._distance(start, before[0])
                    self._add(self.two_batches, self._dual(_minus(gradient, before[1])), moved)
                before = (start, gradient)
            for parameter, part in zip(self._parameters, gradient, strict=True):
                parameter.grad = part.clone()
            self._optimizer.step()
            if measured:
                after = self._gradient(batches[step])[0]
                moved = self._distance(self._parameters, start)
                self._add(self.smoothness, self._dual(_minus(after, gradient)), moved)

    def summary(self, max_loss: float) -> ConditionalGradientConstants:
        tenth = max(1, len(self.losses) // 10)
        squares = block_mean(self.variance)
        sigma = [math.sqrt(max(value, 0.0) * self.batch_size) for value in (squares.value, squares.low, squares.high)]
        return ConditionalGradientConstants(
            smoothness=block_mean(self.smoothness),
            smoothness_two_batches=block_mean(self.two_batches),
            mu=huber_slope(np.array(self.losses), np.array(self.dual_norms), max_loss),
            rho=block_mean(self.rho),
            sigma=Interval(value=sigma[0], low=sigma[1], high=sigma[2]),
            batch_size=self.batch_size,
            num_steps=len(self.losses),
            num_gradients=self.num_gradients,
            first_loss=float(np.mean(self.losses[:tenth])),
            last_loss=float(np.mean(self.losses[-tenth:])),
        )

    def _gradient(self, batch: Batch) -> tuple[list[Tensor], float]:
        self.num_gradients += 1
        mean = example_losses(self._model, self._loss, batch).mean()
        found = torch.autograd.grad(mean, self._parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, found, strict=True)]
        return filled, float(mean.detach())

    def _compare(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """Two batches at one point: their difference has twice the covariance of the noise of one, and no mean."""
        difference = _minus(one, other)
        square = float(sum(part.double().square().sum() for part in difference))
        self.variance.append(square / 2)
        self._add(self.rho, self._dual(difference), math.sqrt(square))

    def _dual(self, gradient: Sequence[Tensor]) -> float:
        """Dual norm of the network: the sum over the layers."""
        return sum(float(lmo.dual_norm(part)) for lmo, part in zip(self._norms, gradient, strict=True))

    def _distance(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        """Norm of the network: the largest of the layers."""
        return max(
            float(lmo.norm(a.detach() - b)) for lmo, a, b in zip(self._norms, one, other, strict=True) if a.numel()
        )

    @staticmethod
    def _add(values: list[float], numerator: float, denominator: float) -> None:
        if denominator > 0:
            values.append(numerator / denominator)


def _minus(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_sub(list(one), list(other)))


def block_mean(values: Sequence[float]) -> Interval:
    """Mean with a Student interval over means of blocks of neighbouring steps; NaN where nothing was seen."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2 * BLOCK:
        value = float(data.mean()) if len(data) else math.nan
        return Interval(value=value, low=-math.inf, high=math.inf)
    whole = len(data) // BLOCK * BLOCK
    return mean_interval(data[len(data) - whole :].reshape(-1, BLOCK).mean(1))


def huber_slope(x: Array, y: Array, max_x: float) -> Interval:
    """Slope of Huber's regression of ``y`` over ``x`` where ``x <= max_x``, with a bootstrap interval over blocks of neighbours.

    Without two blocks of points, or where ``x`` does not vary, it is unknown: NaN between infinite ends.
    """
    from sklearn.linear_model import HuberRegressor

    kept = x <= max_x
    x, y = x[kept], y[kept]
    num_blocks = len(x) // BLOCK
    if num_blocks < 2 or float(np.ptp(x)) == 0:
        return Interval(value=math.nan, low=-math.inf, high=math.inf)
    pairs = np.stack([x, y], -1)[len(x) - num_blocks * BLOCK :].reshape(num_blocks, BLOCK, 2)
    # Huber's threshold is in units of the scatter; both axes are brought to order one so that the solver converges.
    scale = np.array([float(x.std()), float(y.std()) or 1.0])

    def slope(blocks: Array) -> float:
        flat = (blocks.reshape(-1, 2) - pairs.reshape(-1, 2).mean(0)) / scale
        fit = HuberRegressor(alpha=0.0, max_iter=1000).fit(flat[:, :1], flat[:, 1])
        return float(fit.coef_[0] * scale[1] / scale[0])

    return bootstrap_interval(pairs, slope, rng=np.random.default_rng(0), num_resamples=NUM_RESAMPLES)
