"""MMD GAN: a generator trained against the MMD of a critic's features.

Source: Li, Chang, Cheng, Yang, Poczos (2017), *MMD GAN: Towards Deeper Understanding of Moment Matching Network*, NeurIPS,
    and its public code
(schedule, weights, order of the steps). Deviations: the root is taken of ``MMD^2 + 1e-8``; the number of critic steps is
an option that has effect.
"""

import copy
import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import CheckpointError, InputError, NonFiniteLossError
from batchwright.core.preserve import RandomState
from batchwright.gan.averaging import follow
from batchwright.gan.collapse import CollapseWarning
from batchwright.gan.diagnosis import cause
from batchwright.gan.feature_scale import FeatureScaleWarning, means_alone
from batchwright.gan.kid import Extractor
from batchwright.gan.looks import Looks
from batchwright.gan.lr_rule import LrTest
from batchwright.gan.networks import GanNetworks
from batchwright.gan.objective import Objective, critic_objective, generator_objective
from batchwright.gan.options import GanOptions
from batchwright.gan.spectral import add_spectral_norm
from batchwright.training.checkpoint import Checkpoint, load_newest, save_checkpoint


class MMDGAN:
    """Trains a generator on a data set held in memory.

    With a critic: MMD GAN. Without one (``networks.critic`` is None): GMMN, the MMD of the points themselves.

    Args:
        data: Real points, in the shape that the critic takes, in the range of the generator's output.
        networks: The networks, trained in place, on the device of ``data``.
        options: How to train.
        seed: Of the noise and of the order of the data; the networks' initial values are the caller's.
        extractor: Features for the relative test of the learning rate and for the look for a collapse, ``(B, ...)`` to ``(B, h)``; the
            points themselves where left out.
        classifier: Scores of classes, ``(B, ...)`` to ``(B, C)``, for the look for missing classes.

    Attributes:
        step_number: Generator steps taken.
        feature_distance: Mean distance of real and generated features in the last critic step.
        critic_loss: Loss of the last critic step.
        lr_tests: What the relative tests found so far.

    Raises:
        InputError: If there are fewer points than a batch holds.
    """

    def __init__(
        self,
        data: Float[Tensor, "N ..."],
        networks: GanNetworks,
        options: GanOptions | None = None,
        *,
        seed: int = 0,
        extractor: Extractor | None = None,
        classifier: Extractor | None = None,
    ) -> None:
        self.options = GanOptions() if options is None else options
        self.data, self.networks = data, networks
        self._check_batches(self.options)
        if self.options.spectral_norm and networks.critic is not None:
            add_spectral_norm(networks.critic, self.options.spectral_scale)
        self.step_number = 0
        self.feature_distance, self.critic_loss = math.nan, math.nan
        self.lr_tests: list[LrTest] = []
        self._random = torch.Generator().manual_seed(seed)
        self._order, self._position = torch.randperm(len(data), generator=self._random), 0
        self._generator_optimizer = make_optimizer(self.options, networks.generator, self.options.lr)
        parts = [part for part in (networks.critic, networks.decoder) if part is not None]
        critic_lr = self.options.lr if self.options.critic_lr is None else self.options.critic_lr
        self._critic_optimizer = (
            make_optimizer(self.options, nn.ModuleList(parts), critic_lr) if networks.critic is not None else None
        )
        self._average = copy.deepcopy(networks.generator) if self.options.ema is not None else None
        self._warned = False
        self._norms: dict[str, float] = {}
        looks = self.options.lr_test_every is not None or self.options.collapse_every is not None
        self._looks = Looks(self._real_points(), self.options, extractor, classifier) if looks else None

    @property
    def lrs(self) -> tuple[float, float | None]:
        """Learning rates of generator and critic now; None without a critic."""
        critic = self._critic_optimizer
        return self._generator_optimizer.param_groups[0]["lr"], critic.param_groups[0]["lr"] if critic else None

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """Batch sizes of generator and critic steps."""
        options = self.options
        return options.generator_batch_size or options.batch_size, options.batch_size

    def optimizer_of(self, network: str) -> torch.optim.Optimizer:
        """The optimizer of ``critic`` (with its decoder) or ``generator``."""
        if network == "generator" or self._critic_optimizer is None:
            return self._generator_optimizer
        return self._critic_optimizer

    def set_batch_sizes(self, *, generator: int, critic: int) -> None:
        """Go on with other batch sizes, which a checkpoint keeps; learning rates stay as they are.

        Raises:
            InputError: If there are fewer points than a batch holds.
        """
        options = dataclasses.replace(self.options, batch_size=critic, generator_batch_size=generator)
        self._check_batches(options)
        self.options = options

    def scale_lrs(self, *, generator: float, critic: float) -> None:
        """Multiply the learning rates, which a checkpoint keeps."""
        for optimizer, factor in ((self._generator_optimizer, generator), (self._critic_optimizer, critic)):
            check_number("factor of a learning rate", factor, above=0.0)
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] *= factor

    def train(self, num_steps: int) -> list[float]:
        """Take generator steps, each with its critic steps before it; the generator's losses.

        Raises:
            NonFiniteLossError: If a loss or gradient becomes NaN or infinite, with the cause that was measured.
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
        noise = self.noise(num, torch.Generator().manual_seed(0) if generator is None else generator)
        mode = network.training
        network.eval()
        try:
            return network(noise)  # type: ignore[no-any-return]
        finally:
            network.train(mode)

    def noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Noise for so many points, as the options say."""
        if self.options.noise == "normal":
            noise = torch.randn(num, self.networks.noise_dim, generator=generator)
        else:
            noise = 2 * torch.rand(num, self.networks.noise_dim, generator=generator) - 1
        return noise.to(self.data)

    def save(self, folder: Path | str) -> Path:
        """Write a checkpoint, of which the last two are kept; nothing is pickled."""
        generator, critic = self.batch_sizes
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
                    "looks": self._looks.state() if self._looks is not None else {},
                },
                random_state=RandomState.capture(),
                progress={
                    "step": self.step_number,
                    "position": self._position,
                    "batch_sizes": {"generator": generator, "critic": critic},
                    "lr_tests": [dataclasses.asdict(test) for test in self.lr_tests],
                    "warned": self._warned,
                },
            ),
        )

    def resume(self, folder: Path | str) -> None:
        """Go on from the newest checkpoint; on a CPU bit by bit as if never interrupted.

        Raises:
            CheckpointError: If there is none, or it is of other networks or options.
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
        progress = checkpoint.progress
        self._position, self.step_number = int(progress["position"]), int(progress["step"])
        if self._looks is not None:
            if not state.get("looks"):
                raise CheckpointError(
                    f"the checkpoint in {folder} must hold looks for lr_test_every or collapse_every, got none; "
                    "resume with the options it was made with"
                )
            self._looks.restore(state["looks"])
        if sizes := progress.get("batch_sizes"):
            self.set_batch_sizes(generator=int(sizes["generator"]), critic=int(sizes["critic"]))
        self.lr_tests = [LrTest(**test) for test in progress.get("lr_tests", [])]
        self._warned = bool(progress.get("warned", False))
        checkpoint.random_state.restore()

    def _step(self) -> float:
        options = self.options
        if self.networks.critic is not None:
            long = self.step_number < options.warmup_steps or self.step_number % options.warmup_every == 0
            for _ in range(options.warmup_critic_steps if long else options.critic_steps):
                self._critic_step()
        value = self._generator_step()
        self.step_number += 1
        if self._looks is not None:
            self._look(self._looks)
        return value

    def _critic_step(self) -> None:
        options, critic, optimizer = self.options, self.networks.critic, self._critic_optimizer
        assert critic is not None
        assert optimizer is not None
        if options.clip is not None:
            with torch.no_grad():
                for parameter in critic.parameters():
                    parameter.clamp_(-options.clip, options.clip)
        real = self._batch(options.batch_size)
        noise = self.noise(options.batch_size, self._random)
        found = critic_objective(options, self.networks, real, noise, self._random)
        assert found.features is not None
        assert found.others is not None
        self._watch(found.features, found.others)
        self._descend(optimizer, found, "critic")
        self.critic_loss = float(found.loss.detach())

    def _generator_step(self) -> float:
        num = self.batch_sizes[0]
        real = self._batch(num)
        found = generator_objective(self.options, self.networks, real, self.noise(num, self._random))
        self._descend(self._generator_optimizer, found, "generator")
        if self._average is not None and self.options.ema is not None:
            follow(self._average, self.networks.generator, self.options.ema)
        return float(found.loss.detach())

    def _descend(self, optimizer: torch.optim.Optimizer, found: Objective, name: str) -> None:
        value = float(found.loss.detach())
        if not math.isfinite(value):
            raise self._not_finite(found, name, f"loss must be finite, got {value}")
        optimizer.zero_grad()
        found.loss.backward()
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        if not math.isfinite(norm):
            raise self._not_finite(found, name, f"gradient must be finite, got norm {norm} of a loss of {value:.3g}")
        self._norms[name] = norm
        optimizer.step()

    def _not_finite(self, found: Objective, name: str, what: str) -> NonFiniteLossError:
        reason = cause(
            real=found.real,
            generated=found.generated,
            features=found.features,
            others=found.others,
            generator=self.networks.generator,
            critic=self.networks.critic,
            last_norms=self._norms,
        )
        generator, critic = self.lrs
        lrs = f"lr={generator:g}" if critic in (None, generator) else f"lr={generator:g}, critic_lr={critic:g}"
        return NonFiniteLossError(f"the {name}'s {what} at generator step {self.step_number}: {reason} ({lrs})")

    def _look(self, looks: Looks) -> None:
        """Relative test and look for a collapse, where it is time; on noise of its own, so the run goes on as without."""
        options = self.options
        intervals = (options.lr_test_every, options.collapse_every)
        due = [every is not None and self.step_number % every == 0 for every in intervals]
        if not any(due):
            return
        sample = self.sample(looks.num, generator=torch.Generator().manual_seed(self.step_number))
        if due[0]:
            test = looks.lr_test(self.step_number, sample)
            self.lr_tests.append(test)
            if test.lowers:
                self.scale_lrs(generator=options.lr_test_factor, critic=options.lr_test_factor)
        if due[1]:
            for sentence in looks.collapse(self.step_number, sample):
                warnings.warn(
                    f"mode collapse at generator step {self.step_number}: {sentence}", CollapseWarning, stacklevel=5
                )

    @torch.no_grad()
    def _watch(self, features: Tensor, others: Tensor) -> None:
        """Keep the mean distance of real and generated features; after the warm-up, warn once where only means are matched."""
        self.feature_distance = float((features - others).norm(dim=1).mean())
        if not self._warned and self.step_number >= self.options.warmup_steps:
            told = means_alone(self.options.kernel, self.feature_distance)
            if told:
                self._warned = True
                warnings.warn(told, FeatureScaleWarning, stacklevel=5)

    def _batch(self, num: int) -> Tensor:
        """The next points of an epoch's order; what is left of it at the end is left out."""
        if self._position + num > len(self.data):
            self._order, self._position = torch.randperm(len(self.data), generator=self._random), 0
        chosen = self._order[self._position : self._position + num]
        self._position += num
        return self.data[chosen.to(self.data.device)]

    def _check_batches(self, options: GanOptions) -> None:
        largest = max(options.batch_size, options.generator_batch_size or 0)
        if len(self.data) < largest:
            raise InputError(
                f"data must hold at least one batch, got {len(self.data)} points for batch_size={largest}; "
                f"use batch_size={max(len(self.data), 2)} or less"
            )

    def _real_points(self) -> Tensor:
        """Points of the kind that `sample` gives."""
        return self.data

    def _modules(self) -> nn.ModuleDict:
        named = {
            "generator": self.networks.generator,
            "critic": self.networks.critic,
            "decoder": self.networks.decoder,
            "average": self._average,
        }
        return nn.ModuleDict({name: module for name, module in named.items() if module is not None})


def make_optimizer(options: GanOptions, network: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of a network that the options name."""
    if options.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.9))
    return torch.optim.RMSprop(network.parameters(), lr=lr)
