"""The training regime at another batch size: how many examples and updates, and what a step of a schedule stands for.

Source: Hoffer, Hubara & Soudry (2017), Train longer, generalize better, arXiv:1705.08741, section 5 (regime adaptation: every
phase keeps its number of updates) and section 4 (multiplicative noise as an alternative to a scaled learning rate).
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError

REGIMES = ("keep-epochs", "keep-updates")
# What `keep-updates` costs where labels are wrong, from the study: part of what is said of it.
CAUTION = (
    "needs clean labels or early stopping: with 20 % of the labels drawn anew it learnt the wrong ones, and test accuracy fell by 9 "
    "points (study train-longer)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """How long to train at the planned batch size, and how its gradient is treated.

    Attributes:
        name: ``keep-epochs``: as many examples as at the default batch size, so fewer updates; ``keep-updates``: as many updates, so
            more examples.
        base_max_examples: Examples after which a run ends at the default batch size.
        base_batch_size: The default batch size.
        batch_size: The planned one.
        max_grad_norm: Gradients are clipped to this norm; None for no clipping.
        noise_batch_size: Multiplicative noise gives each gradient the covariance that a batch of this size has; None for no noise.
    """

    name: str
    base_max_examples: int
    base_batch_size: int
    batch_size: int
    max_grad_norm: float | None = None
    noise_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("regime", self.name, REGIMES)
        check_int("base_max_examples", self.base_max_examples, at_least=1)
        check_int("base_batch_size", self.base_batch_size, at_least=1)
        check_int("batch_size", self.batch_size, at_least=1)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)
        if self.noise_batch_size is not None:
            check_int("noise_batch_size", self.noise_batch_size, at_least=1)
            if self.noise_batch_size > self.batch_size:
                raise InputError(
                    f"noise_batch_size must be at most the batch size, got {self.noise_batch_size} for {self.batch_size}; noise "
                    "cannot be taken away"
                )

    @property
    def max_examples(self) -> int:
        """Examples after which a run ends at the planned batch size."""
        return self.at(self.batch_size)

    def at(self, batch_size: int) -> int:
        """Examples after which a run ends at another batch size under this regime."""
        return adapted_examples(
            self.name, self.base_max_examples, base_batch_size=self.base_batch_size, batch_size=batch_size
        )

    @property
    def num_updates(self) -> int:
        """Optimizer steps to that limit, the last one included."""
        return math.ceil(self.max_examples / self.batch_size)

    @property
    def num_base_updates(self) -> int:
        """The same at the default batch size."""
        return math.ceil(self.base_max_examples / self.base_batch_size)

    @property
    def examples_per_step(self) -> int:
        """Examples that a step of a schedule written for the default batch size stands for: what an `ExampleClock` is given.

        With ``keep-updates`` the schedule's boundaries stay at their updates, with ``keep-epochs`` at their examples.
        """
        return self.batch_size if self.name == "keep-updates" else self.base_batch_size

    @property
    def told(self) -> str:
        """The regime in a sentence."""
        factor = self.max_examples / self.base_max_examples
        if self.name == "keep-epochs":
            return (
                f"keep-epochs: {self.max_examples:,} examples as at batch size {self.base_batch_size}, in {self.num_updates:,} updates "
                f"instead of {self.num_base_updates:,}"
            )
        longer = f"keep-updates: {self.num_updates:,} updates as at batch size {self.base_batch_size}"
        return f"{longer}, so {factor:.3g} times the examples ({self.max_examples:,}); {CAUTION if factor > 1 else 'fewer examples'}"


def adapted_examples(regime: str, max_examples: int, *, base_batch_size: int, batch_size: int) -> int:
    """The limit of examples at another batch size.

    Args:
        regime: ``keep-epochs`` leaves it; ``keep-updates`` multiplies it by the ratio of batch sizes, which keeps the updates.
        max_examples: The limit at ``base_batch_size``.
        base_batch_size: In examples.
        batch_size: In examples.

    Deviation:
        The official code multiplies epochs by the ratio rounded up, and so makes up to twice the updates; here they are kept exactly.

    Example:
        >>> adapted_examples("keep-updates", 50_000, base_batch_size=128, batch_size=2048)
        800768
    """
    check_choice("regime", regime, REGIMES)
    if regime == "keep-epochs":
        return max_examples
    # Whole updates: the default batch size's last one may be short, and still counts as one.
    return math.ceil(max_examples / base_batch_size) * batch_size
