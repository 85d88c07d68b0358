"""One setting of stochastic gradient descent as the paper's code has it: learning rate, momentum, its form, batch size.

Heavy ball: ``v <- momentum v + g; w <- w - lr v``. Nesterov in torch's form: ``w <- w - lr (g + momentum v)``. No dampening.
"""

from dataclasses import dataclass, replace

from batchwright.core.checks import check_int, check_number

WARMUP_STEPS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Hyperparameters of a run.

    Attributes:
        lr: Learning rate.
        momentum: In ``[0, 1)``.
        batch_size: Examples a step.
        nesterov: Torch's Nesterov form instead of heavy ball.
    """

    lr: float
    momentum: float
    batch_size: int
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0.0)
        check_number("momentum", self.momentum, at_least=0.0, below=1.0)
        check_int("batch_size", self.batch_size, at_least=1)

    @property
    def low(self) -> float:
        """Small-batch level of batch sharpness: ``2 (1 - momentum) / lr``, the same for both forms."""
        return 2 * (1 - self.momentum) / self.lr

    @property
    def high(self) -> float:
        """Full-batch level: ``2 (1 + momentum) / lr``, for Nesterov over ``1 + 2 momentum`` too."""
        return 2 * (1 + self.momentum) / (self.lr * (1 + 2 * self.momentum * self.nesterov))

    @property
    def optimizer(self) -> str:
        """``SGD``, ``SGDM`` or ``SGDN``, the paper's names."""
        return "SGD" if self.momentum == 0 else "SGDN" if self.nesterov else "SGDM"

    def warmup(self, num_train: int) -> "Setting":
        """The setting of the first `WARMUP_STEPS` steps: no momentum, and the lr whose stable sharpness is the same."""
        share = 1 - self.momentum if self.batch_size < num_train / 2 else 1 + self.momentum
        return replace(self, momentum=0.0, lr=self.lr / share, nesterov=False)
