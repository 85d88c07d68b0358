"""MMD GAN: a generator trained against the MMD of a critic's features.

Source: Li, Chang, Cheng, Yang, Poczos (2017), *MMD GAN: Towards Deeper Understanding of Moment Matching Network*, NeurIPS,
    and its public code
(schedule, weights, order of the steps). Deviations: the root is taken of ``MMD^2 + 1e-8``; the number of critic steps is
an option that has effect.
"""

import copy
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import CheckpointError, InputError, NonFiniteLossError
from batchwright.core.kernels import GaussianMixture, Kernel
from batchwright.core.preserve import RandomState
from batchwright.gan.losses import LOSSES
from batchwright.gan.networks import GanNetworks
from batchwright.gan.penalties import jacobian_sq_norm, mean_hinge, witness_penalty
from batchwright.training.checkpoint import Checkpoint, load_newest, save_checkpoint

OPTIMIZERS = ("adam", "rmsprop")
# Feature distances below this share of the smallest bandwidth make the kernel quadratic: then means alone are matched.
QUADRATIC_SHARE = 0.3


class FeatureScaleWarning(UserWarning):
    """The critic's features lie so close together that the MMD matches their means alone."""


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """How an `MMDGAN` trains; the defaults are those of the paper's code.

    Attributes:
        loss: ``mmd``, ``mmd-squared``, ``repulsive`` or ``repulsive-bounded``.
        kernel: Kernel of the features.
        batch_size: Real points, and generated points, in a step.
        lr: Learning rate of both optimizers.
        optimizer: ``rmsprop``, or ``adam`` with betas (0.5, 0.9).
        critic_steps: Critic steps a generator step.
        warmup_critic_steps: In place of them in the first ``warmup_steps`` generator steps, and at each ``warmup_every``-th.
        warmup_steps: See there.
        warmup_every: See there.
        clip: The critic's parameters are clamped to ``[-clip, clip]`` before each of its steps; None leaves them alone.
            The box must fit the
            network: 0.01 serves the paper's convolutions with batch norm and kills a small perceptron without, which wants 0.1.
        hinge: Weight of the one-sided hinge on the features' means.
        autoencoder: Weight of the two reconstruction errors; without effect where there is no decoder.
        gradient_penalty: Weight of the witness's gradient penalty.
        jacobian_scale: Weight ``c`` of a scaled MMD, whose losses are divided by ``1 + c E ||J_f(x)||_F^2``.
        ema: Decay of the moving average of the generator, from which `MMDGAN.sample` draws; None samples from the generator.
        noise: ``normal``, or ``uniform`` on [-1, 1].
    """

    loss: str = "mmd"
    kernel: Kernel = field(default_factory=GaussianMixture)
    batch_size: int = 64
    lr: float = 5e-5
    optimizer: str = "rmsprop"
    critic_steps: int = 5
    warmup_critic_steps: int = 100
    warmup_steps: int = 25
    warmup_every: int = 500
    clip: float | None = 0.01
    hinge: float = 16.0
    autoencoder: float = 8.0
    gradient_penalty: float = 0.0
    jacobian_scale: float = 0.0
    ema: float | None = None
    noise: str = "normal"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("noise", self.noise, ("normal", "uniform"))
        check_int("batch_size", self.batch_size, at_least=2)
        check_int("critic_steps", self.critic_steps, at_least=1)
        check_int("warmup_critic_steps", self.warmup_critic_steps, at_least=1)
        check_int("warmup_steps", self.warmup_steps, at_least=0)
        check_int("warmup_every", self.warmup_every, at_least=1)
        check_number("lr", self.lr, above=0.0)
        for name in ("hinge", "autoencoder", "gradient_penalty", "jacobian_scale"):
            check_number(name, getattr(self, name), at_least=0.0)
        if self.clip is not None:
            check_number("clip", self.clip, above=0.0)
        if self.ema is not None:
            check_number("ema", self.ema, at_least=0.0, below=1.0)


class MMDGAN:
    """Trains a generator on a data set held in memory.

    With a critic: MMD GAN. Without one (``networks.critic`` is None): GMMN, the MMD of the points themselves.

    Args:
        data: Real points, in the shape that the critic takes, in the range of the generator's output.
        networks: The networks, trained in place, on the device of ``data``.
        options: How to train.
        seed: Of the noise and of the order of the data; the networks' initial values are the caller's.

    Raises:
        InputError: If there are fewer points than a batch holds.
    """

    def __init__(
        self, data: Float[Tensor, "N ..."], networks: GanNetworks, options: GanOptions | None = None, *, seed: int = 0
    ) -> None:
        self.options = GanOptions() if options is None else options
        if len(data) < self.options.batch_size:
            raise InputError(
                f"data must hold at least one batch, got {len(data)} points for batch_size={self.options.batch_size}; "
                f"use batch_size={max(len(data), 2)} or less"
            )
        self.data, self.networks = data, networks
        self.step_number = 0
        self.feature_distance = math.nan
        self._random = torch.Generator().manual_seed(seed)
        self._order, self._position = torch.randperm(len(data), generator=self._random), 0
        self._generator_optimizer = self._optimizer(networks.generator)
        parts = [part for part in (networks.critic, networks.decoder) if part is not None]
        self._critic_optimizer = self._optimizer(nn.ModuleList(parts)) if networks.critic is not None else None
        self._average = copy.deepcopy(networks.generator) if self.options.ema is not None else None
        self._warned = False

    def train(self, num_steps: int) -> list[float]:
        """Take generator steps, each with its critic steps before it; the generator's losses.

        Raises:
            NonFiniteLossError: If a loss becomes NaN or infinite.
        """
        check_int("num_steps", num_steps, at_least=1)
        return [self._step() for _ in range(num_steps)]

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Generated points ``(num, ...)``, from the averaged generator where there is one, in evaluation mode.

        Args:
            num: How many.
            generator: Of the noise; where left out, a fresh one with seed 0, so that training is not disturbed.
        """
        network = self.networks.generator if self._average is None else self._average
        noise = self._noise(num, torch.Generator().manual_seed(0) if generator is None else generator)
        mode = network.training
        network.eval()
        try:
            return network(noise)  # type: ignore[no-any-return]
        finally:
            network.train(mode)

    def save(self, folder: Path | str) -> Path:
        """Write a checkpoint, of which the last two are kept; nothing is pickled."""
        return save_checkpoint(
            Path(folder),
            self.step_number,
            Checkpoint(
                model=self._modules().state_dict(),
                optimizer={
                    "generator": self._generator_optimizer.state_dict(),
                    "critic": self._critic_optimizer.state_dict() if self._critic_optimizer is not None else {},
                    "random": self._random.get_state(),
                    "order": self._order,
                },
                random_state=RandomState.capture(),
                progress={"step": self.step_number, "position": self._position},
            ),
        )

    def resume(self, folder: Path | str) -> None:
        """Go on from the newest checkpoint; on a CPU bit by bit as if never interrupted.

        Raises:
            CheckpointError: If there is none, or it is of other networks.
        """
        found = load_newest(Path(folder))
        if found is None:
            raise CheckpointError(f"folder must hold a checkpoint, got {folder}; train and save one first")
        checkpoint, _ = found
        try:
            self._modules().load_state_dict(checkpoint.model)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint in {folder} must be of these networks: {error}") from error
        state: dict[str, Any] = checkpoint.optimizer
        self._generator_optimizer.load_state_dict(state["generator"])
        if self._critic_optimizer is not None:
            self._critic_optimizer.load_state_dict(state["critic"])
        self._random.set_state(state["random"].cpu())
        self._order = state["order"].cpu()
        self._position, self.step_number = int(checkpoint.progress["position"]), int(checkpoint.progress["step"])
        checkpoint.random_state.restore()

    def _step(self) -> float:
        options = self.options
        if self.networks.critic is not None:
            long = self.step_number < options.warmup_steps or self.step_number % options.warmup_every == 0
            for _ in range(options.warmup_critic_steps if long else options.critic_steps):
                self._critic_step()
        value = self._generator_step()
        self.step_number += 1
        return value

    def _critic_step(self) -> None:
        options, critic, optimizer = self.options, self.networks.critic, self._critic_optimizer
        assert critic is not None
        assert optimizer is not None
        if options.clip is not None:
            with torch.no_grad():
                for parameter in critic.parameters():
                    parameter.clamp_(-options.clip, options.clip)
        real = self._batch()
        with torch.no_grad():
            generated = self.networks.generator(self._noise(options.batch_size, self._random))
        features, others = critic(real), critic(generated)
        self._watch(features, others)
        loss = LOSSES[options.loss].critic(options.kernel, features, others)
        if options.jacobian_scale:
            loss = loss / (1 + options.jacobian_scale * jacobian_sq_norm(critic, real))
        if options.hinge:
            loss = loss - options.hinge * mean_hinge(features, others)
        decoder = self.networks.decoder
        if options.autoencoder and decoder is not None:
            errors = (decoder(features) - real).square().mean() + (decoder(others) - generated).square().mean()
            loss = loss + options.autoencoder * errors
        if options.gradient_penalty:
            penalty = witness_penalty(critic, options.kernel, real, generated, self._random)
            loss = loss + options.gradient_penalty * penalty
        self._descend(optimizer, loss, "critic")

    def _generator_step(self) -> float:
        options, critic = self.options, self.networks.critic
        real = self._batch()
        generated = self.networks.generator(self._noise(options.batch_size, self._random))
        if critic is None:
            loss = LOSSES[options.loss].generator(options.kernel, real.flatten(1), generated.flatten(1))
        else:
            critic.requires_grad_(False)
            try:
                features, others = critic(real), critic(generated)
            finally:
                critic.requires_grad_(True)
            loss = LOSSES[options.loss].generator(options.kernel, features, others)
            if options.jacobian_scale:
                loss = loss / (1 + options.jacobian_scale * jacobian_sq_norm(critic, real).detach())
            if options.hinge:
                loss = loss + options.hinge * mean_hinge(features, others)
        self._descend(self._generator_optimizer, loss, "generator")
        if self._average is not None and options.ema is not None:
            self._follow(options.ema)
        return float(loss.detach())

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor, name: str) -> None:
        if not math.isfinite(float(loss.detach())):
            raise NonFiniteLossError(
                f"the {name}'s loss must be finite, got {float(loss.detach())} at generator step {self.step_number}; "
                f"lower lr={self.options.lr:g}, or bound the critic with clip or gradient_penalty"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Move the average towards the generator; buffers are copied."""
        assert self._average is not None
        for kept, value in zip(self._average.parameters(), self.networks.generator.parameters(), strict=True):
            kept.lerp_(value, 1 - decay)
        for buffer, new in zip(self._average.buffers(), self.networks.generator.buffers(), strict=True):
            buffer.copy_(new)

    @torch.no_grad()
    def _watch(self, features: Tensor, others: Tensor) -> None:
        """Keep the mean distance of real and generated features; after the warm-up, warn once where only means are matched."""
        self.feature_distance = float((features - others).norm(dim=1).mean())
        kernel = self.options.kernel
        if isinstance(kernel, GaussianMixture) and not self._warned and self.step_number >= self.options.warmup_steps:
            smallest = min(kernel.stds)
            if self.feature_distance < QUADRATIC_SHARE * smallest:
                self._warned = True
                warnings.warn(
                    f"the critic's features lie {self.feature_distance:.2g} apart, below {QUADRATIC_SHARE} of the smallest bandwidth "
                    f"{smallest:g}: the MMD matches their means alone; use a wider clip, gradient_penalty, or smaller bandwidths",
                    FeatureScaleWarning,
                    stacklevel=5,
                )

    def _batch(self) -> Tensor:
        """The next points of an epoch's order; what is left of it at the end is left out."""
        if self._position + self.options.batch_size > len(self.data):
            self._order, self._position = torch.randperm(len(self.data), generator=self._random), 0
        chosen = self._order[self._position : self._position + self.options.batch_size]
        self._position += self.options.batch_size
        return self.data[chosen.to(self.data.device)]

    def _noise(self, num: int, generator: torch.Generator) -> Tensor:
        if self.options.noise == "normal":
            noise = torch.randn(num, self.networks.noise_dim, generator=generator)
        else:
            noise = 2 * torch.rand(num, self.networks.noise_dim, generator=generator) - 1
        return noise.to(self.data)

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        if self.options.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), lr=self.options.lr, betas=(0.5, 0.9))
        return torch.optim.RMSprop(network.parameters(), lr=self.options.lr)

    def _modules(self) -> nn.ModuleDict:
        named = {
            "generator": self.networks.generator,
            "critic": self.networks.critic,
            "decoder": self.networks.decoder,
            "average": self._average,
        }
        return nn.ModuleDict({name: module for name, module in named.items() if module is not None})
