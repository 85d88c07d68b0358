"""GMMN+AE: an autoencoder is trained first, and a generator of its codes then, by the MMD of codes.

Source: Li, Swersky, Zemel (2015), arXiv:1502.02761, section 4 and public code. Deviations: the autoencoder (as wide as there, with the
same dropout of the encoder) is trained at once and not layer by layer, by squared error for pixels in [-1, 1]; Adam in place of
SGD; the generator's output layer gives a code.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.kernels import GaussianMixture
from batchwright.gan.kid import extract
from batchwright.gan.networks import GanNetworks
from batchwright.gan.options import GanOptions
from batchwright.gan.trainer import MMDGAN

# The published kernel of codes, which lie in [0, 1]: one Gaussian of variance 1.
CODE_KERNEL = GaussianMixture.of_variances((1.0,))


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """An encoder to codes and a decoder back to points.

    Attributes:
        encoder: Points to codes ``(B, c)`` in [0, 1].
        decoder: Codes to points.
        code_dim: ``c``.
    """

    encoder: nn.Module
    decoder: nn.Module
    code_dim: int


def autoencoder(shape: tuple[int, ...], *, code_dim: int = 32, width: int = 1024) -> Autoencoder:
    """Perceptrons: pixels-1024-32 with dropout 0.2 and 0.5 before its layers, and 32-1024-pixels.

    Args:
        shape: Of a point, as ``(1, 28, 28)``.
        code_dim: Numbers of a code.
        width: Hidden units.
    """
    num = torch.Size(shape).numel()
    check_int("code_dim", code_dim, at_least=1)
    check_int("width", width, at_least=1)
    return Autoencoder(
        encoder=nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(num, width),
            nn.Sigmoid(),
            nn.Dropout(0.5),
            nn.Linear(width, code_dim),
            nn.Sigmoid(),
        ),
        decoder=nn.Sequential(
            nn.Linear(code_dim, width), nn.Sigmoid(), nn.Linear(width, num), nn.Tanh(), nn.Unflatten(1, shape)
        ),
        code_dim=code_dim,
    )


def code_networks(code_dim: int = 32, *, noise_dim: int = 10) -> GanNetworks:
    """A generator of codes, 10-64-256-256-1024-32 with ReLU and a sigmoid at its end, and no critic."""
    widths = (noise_dim, 64, 256, 256, 1024)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    generator = nn.Sequential(*layers, nn.Linear(widths[-1], code_dim), nn.Sigmoid())
    return GanNetworks(generator=generator, critic=None, decoder=None, noise_dim=noise_dim)


def train_autoencoder(
    data: Tensor, networks: Autoencoder, *, num_steps: int, batch_size: int = 100, lr: float = 1e-3, seed: int = 0
) -> list[float]:
    """Train encoder and decoder in place by mean squared error; the losses. They are left in evaluation mode.

    The dropout draws from a generator forked from ``seed``, so that the global one is left as it was.

    Raises:
        InputError: If there are fewer points than a batch holds.
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    check_int("num_steps", num_steps, at_least=1)
    check_number("lr", lr, above=0.0)
    if len(data) < check_int("batch_size", batch_size, at_least=1):
        raise InputError(
            f"data must hold at least one batch, got {len(data)} points for batch_size={batch_size}; use {len(data)} or less"
        )
    both = nn.ModuleList([networks.encoder, networks.decoder]).train()
    optimizer = torch.optim.Adam(both.parameters(), lr=lr)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(data))
        position = 0
        for step in range(num_steps):
            if position + batch_size > len(data):
                order, position = torch.randperm(len(data)), 0
            points = data[order[position : position + batch_size].to(data.device)]
            position += batch_size
            loss = (networks.decoder(networks.encoder(points)) - points).square().mean()
            losses.append(float(loss.detach()))
            if losses[-1] != losses[-1] or losses[-1] == float("inf"):
                raise NonFiniteLossError(
                    f"the autoencoder's loss must be finite, got {losses[-1]} at step {step}; lower lr={lr:g}, or mend the data"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    both.eval().requires_grad_(False)
    return losses


class CodeGMMN(MMDGAN):
    """GMMN on the codes of a trained autoencoder; everything else as `MMDGAN`, and samples are decoded points.

    Args:
        data: Real points.
        networks: `code_networks`, or others without a critic that give codes.
        coder: Trained by `train_autoencoder`; a run that is resumed brings its own values.
        options: How to train; where left out, batch size 1000, lr 1e-3 and the published kernel of codes.
        seed: As there.
        others: ``extractor`` and ``classifier``, of points.
    """

    def __init__(
        self,
        data: Tensor,
        networks: GanNetworks,
        coder: Autoencoder,
        options: GanOptions | None = None,
        *,
        seed: int = 0,
        **others: Any,
    ) -> None:
        if networks.critic is not None:
            raise InputError("networks must have no critic for a GMMN of codes, got one; use code_networks()")
        self.points, self.coder = data, coder
        chosen = GanOptions(kernel=CODE_KERNEL, batch_size=1000, lr=1e-3) if options is None else options
        super().__init__(_codes(coder, data), networks, chosen, seed=seed, **others)

    def sample(self, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoded points; arguments as `MMDGAN.sample`."""
        return extract(super().sample(num, generator=generator), self.coder.decoder)

    def resume(self, folder: Path | str) -> None:
        """As `MMDGAN.resume`, with the autoencoder and its codes."""
        super().resume(folder)
        self.data = _codes(self.coder, self.points)

    def _real_points(self) -> Tensor:
        return self.points

    def _modules(self) -> nn.ModuleDict:
        named = super()._modules()
        named["encoder"], named["code-decoder"] = self.coder.encoder, self.coder.decoder
        return named


def _codes(coder: Autoencoder, data: Tensor) -> Tensor:
    return extract(data, coder.encoder)
