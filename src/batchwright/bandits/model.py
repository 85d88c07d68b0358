"""The model of the function: a given kernel, or one fitted to the values before each round."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from batchwright.bandits.fit import fit_kernel
from batchwright.bandits.kernels import KERNELS, Kernel, default_lengthscale
from batchwright.bandits.marginal_likelihood import Prior
from batchwright.core.checks import check_choice, check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Kernel, noise and mean, given or to be fitted.

    Attributes:
        kernel: A `Kernel` is taken as it is. A name, ``se`` or ``matern``, is fitted by marginal likelihood on the unit cube.
        nu: Smoothness of a fitted ``matern``.
        noise_std: Standard deviation of one value; None fits it, or takes a tenth of the root of a given kernel's variance.
        mean: Prior mean beside a given kernel, of the values as they are told.
        prior: Of fitted parameters.
    """

    kernel: Kernel | str = "matern"
    nu: float = 2.5
    noise_std: float | None = None
    mean: float = 0.0
    prior: Prior | None = field(default=None)

    def __post_init__(self) -> None:
        if isinstance(self.kernel, str):
            check_choice("kernel", self.kernel, KERNELS)
        if self.noise_std is not None:
            check_number("noise_std", self.noise_std, at_least=0.0)

    @property
    def fitted(self) -> bool:
        """Whether there is anything to fit."""
        return isinstance(self.kernel, str)


@dataclass(frozen=True, kw_only=True, slots=True)
class InForce:
    """What the model is in one round.

    Attributes:
        kernel: Covariance.
        noise_variance: Of one value.
        mean: Prior mean.
        objective: Log posterior of a fit; None where nothing was fitted.
    """

    kernel: Kernel
    noise_variance: float
    mean: float
    objective: float | None = None

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> "InForce":
        """Of a state dictionary."""
        kernel = Kernel(**{**state["kernel"], "lengthscales": tuple(state["kernel"]["lengthscales"])})
        return cls(**{**state, "kernel": kernel})


def in_force(model: Model, points: Tensor, values: Tensor, sign: float, *, seed: int) -> InForce:
    """The model after the given values, which have their sign already; before any, length scales that fit a unit cube.

    Args:
        model: As asked for.
        points: ``(n, D)``.
        values: ``(n,)``, multiplied by ``sign``.
        sign: 1, or −1 where the values are to be small.
        seed: Of the fit.
    """
    if isinstance(model.kernel, Kernel):
        noise_std = 0.1 * model.kernel.variance**0.5 if model.noise_std is None else model.noise_std
        return InForce(kernel=model.kernel, noise_variance=noise_std**2, mean=sign * model.mean)
    if len(values) < 3:
        kernel = Kernel(name=model.kernel, nu=model.nu, lengthscales=(default_lengthscale(points.shape[1]),))
        return InForce(kernel=kernel, noise_variance=0.01, mean=0.0)
    found = fit_kernel(
        points,
        values,
        name=model.kernel,
        nu=model.nu,
        prior=model.prior,
        noise_variance=None if model.noise_std is None else model.noise_std**2,
        seed=seed,
    )
    return InForce(kernel=found.kernel, noise_variance=found.noise_variance, mean=found.mean, objective=found.objective)
