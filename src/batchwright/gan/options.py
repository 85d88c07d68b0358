"""How an `MMDGAN` trains: the options with the rules that they must keep."""

from dataclasses import dataclass, field

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Kernel
from batchwright.gan.losses import LOSSES

OPTIMIZERS = ("adam", "rmsprop")


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """How an `MMDGAN` trains; the defaults are those of the paper's code.

    Attributes:
        loss: ``mmd``, ``mmd-squared``, ``repulsive`` or ``repulsive-bounded``.
        kernel: Kernel of the features.
        batch_size: Real points, and generated points, in a step.
        generator_batch_size: The same in a generator step; ``batch_size`` where left out.
        lr: Learning rate of both optimizers.
        critic_lr: Learning rate of the critic's; ``lr`` where left out.
        optimizer: ``rmsprop``, or ``adam`` with betas (0.5, 0.9).
        critic_steps: Critic steps a generator step.
        warmup_critic_steps: In place of them in the first ``warmup_steps`` generator steps, and at each ``warmup_every``-th.
        warmup_steps: See there.
        warmup_every: See there.
        clip: The critic's parameters are clamped to ``[-clip, clip]`` before each of its steps; None leaves them alone.
            The box must fit the
            network: 0.01 serves the paper's convolutions with batch norm and kills a small perceptron without, which wants 0.1.
        spectral_norm: Divide the weight of each linear and convolutional layer of the critic by its largest singular value, which the
            trainer wires in; needs ``clip=None``.
        spectral_scale: Times which each divided weight is taken, above 1 for the repulsive losses.
        hinge: Weight of the one-sided hinge on the features' means.
        autoencoder: Weight of the two reconstruction errors; without effect where there is no decoder.
        gradient_penalty: Weight of the witness's gradient penalty.
        jacobian_scale: Weight ``c`` of a scaled MMD, whose losses are divided by ``1 + c E ||J_f(x)||_F^2``.
        ema: Decay of the moving average of the generator, from which `MMDGAN.sample` draws; None samples from the generator.
        noise: ``normal``, or ``uniform`` on [-1, 1].
        lr_test_every: Generator steps between two relative tests, which lower both learning rates where the generator is not surely
            better than ``lr_test_window`` tests ago; None leaves the learning rates alone.
        lr_test_window: See there.
        lr_test_patience: Tests in a row without a sure gain before the learning rates fall.
        lr_test_factor: By which they fall.
        lr_test_points: Real and generated points of a test, and of a look for a collapse.
        collapse_every: Generator steps between two looks for a mode collapse; None for none.
    """

    loss: str = "mmd"
    kernel: Kernel = field(default_factory=GaussianMixture)
    batch_size: int = 64
    generator_batch_size: int | None = None
    lr: float = 5e-5
    critic_lr: float | None = None
    optimizer: str = "rmsprop"
    critic_steps: int = 5
    warmup_critic_steps: int = 100
    warmup_steps: int = 25
    warmup_every: int = 500
    clip: float | None = 0.01
    spectral_norm: bool = False
    spectral_scale: float = 1.0
    hinge: float = 16.0
    autoencoder: float = 8.0
    gradient_penalty: float = 0.0
    jacobian_scale: float = 0.0
    ema: float | None = None
    noise: str = "normal"
    lr_test_every: int | None = None
    lr_test_window: int = 10
    lr_test_patience: int = 3
    lr_test_factor: float = 0.5
    lr_test_points: int = 500
    collapse_every: int | None = None

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("noise", self.noise, ("normal", "uniform"))
        check_int("batch_size", self.batch_size, at_least=2)
        check_int("critic_steps", self.critic_steps, at_least=1)
        check_int("warmup_critic_steps", self.warmup_critic_steps, at_least=1)
        check_int("warmup_steps", self.warmup_steps, at_least=0)
        check_int("warmup_every", self.warmup_every, at_least=1)
        check_int("lr_test_window", self.lr_test_window, at_least=1)
        check_int("lr_test_patience", self.lr_test_patience, at_least=1)
        check_int("lr_test_points", self.lr_test_points, at_least=3)
        check_number("lr", self.lr, above=0.0)
        check_number("spectral_scale", self.spectral_scale, above=0.0)
        check_number("lr_test_factor", self.lr_test_factor, above=0.0, below=1.0)
        for name in ("hinge", "autoencoder", "gradient_penalty", "jacobian_scale"):
            check_number(name, getattr(self, name), at_least=0.0)
        if self.generator_batch_size is not None:
            check_int("generator_batch_size", self.generator_batch_size, at_least=2)
        for name in ("lr_test_every", "collapse_every"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), at_least=1)
        if self.critic_lr is not None:
            check_number("critic_lr", self.critic_lr, above=0.0)
        if self.clip is not None:
            check_number("clip", self.clip, above=0.0)
            if self.spectral_norm:
                raise InputError(
                    f"spectral_norm needs clip=None, got clip={self.clip:g}: a box for weights that are divided by their norm "
                    "bounds nothing; leave one of them out"
                )
        if self.ema is not None:
            check_number("ema", self.ema, at_least=0.0, below=1.0)
