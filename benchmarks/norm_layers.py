"""Ghost batch norm against torch's batch norm and against the form that runs it on one chunk after another.

    OMP_NUM_THREADS=1 python -m benchmarks.norm_layers [ROUNDS] [layers|steps]

First forward and backward pass of one layer alone, training mode, float32; then whole optimizer steps of a ResNet-20 whose norms were
converted. Ratios of process CPU time from steps in turn, median over rounds with its 95 % interval.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchwright.nn import GhostBatchNorm1d, GhostBatchNorm2d, convert
from batchwright.tasks.resnet import ResNet
from benchmarks.ratios import Ratio, clock, time_ratio

# ResNet-20 on CIFAR-10 by stage, ResNet-50 on ImageNet at two stages, a wide early layer, and small late ones.
IMAGES = (
    (128, 16, 32, 32),
    (128, 32, 16, 16),
    (128, 64, 8, 8),
    (256, 64, 32, 32),
    (64, 256, 14, 14),
    (128, 512, 4, 4),
    (2048, 16, 8, 8),
    (128, 16, 8, 8),
)
VECTORS = ((4096, 128), (512, 512))
NUM_GHOSTS, GHOST_SIZE = 64, 32
# Batch sizes of the whole steps, and their conversions.
STEP_SIZES = (32, 128)
CONVERSIONS = (
    ("BatchNorm again", None, {}, ""),
    ("ghosts of 2", "ghost", {"ghost_size": 2}, ""),
    ("Kalman, ghosts of 2", "kalman", {"ghost_size": 2}, "≤ 1.35"),
    ("Kalman, the whole batch", "kalman", {}, "≤ 1.35"),
    ("Kalman, ghosts of 2, raw", "kalman", {"ghost_size": 2, "prior": "raw"}, ""),
    ("Kalman, ghosts of 2, raw and sampled", "kalman", {"ghost_size": 2, "prior": "raw", "propagate": "sampled"}, ""),
)
# Steps of one timing take about this long.
TIMING_S = 0.01


class ChunkAndLoop(nn.Module):
    """Torch's batch norm on one chunk after another, as ghost batch norm is usually written."""

    def __init__(self, norm: nn.Module, ghost_size: int) -> None:
        super().__init__()
        self.norm, self.ghost_size = norm, ghost_size

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(chunk) for chunk in x.split(self.ghost_size)])


def step_of(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """Forward and backward pass, many times over for one timing."""
    x = x.detach().requires_grad_()

    def once() -> None:
        x.grad = None
        layer(x).backward(grad)

    once()
    once()
    number = max(1, round(TIMING_S / max(clock(once), 1e-6)))

    def step() -> None:
        for _ in range(number):
            once()

    step.number = number  # type: ignore[attr-defined]
    return step


def ratio(plain: nn.Module, other: nn.Module, x: Tensor, grad: Tensor, rounds: int) -> Ratio:
    """Time of ``other`` over that of ``plain``, a step of each."""
    first, second = step_of(plain, x, grad), step_of(other, x, grad)
    found = time_ratio(first, second, rounds)
    scale = first.number / second.number  # type: ignore[attr-defined]
    return Ratio(
        value=found.value * scale,
        low=found.low * scale,
        high=found.high * scale,
        plain_s=found.plain_s / first.number,  # type: ignore[attr-defined]
    )


def whole_step(batch_size: int, to: str | None, options: dict[str, object]) -> Callable[[], None]:
    """An optimizer step of a ResNet-20 on images of 32 x 32."""
    torch.manual_seed(0)
    model = ResNet(depth=20)
    if to is not None:
        convert(model, to, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def steps(rounds: int) -> None:
    """Whole steps with other norms over those with batch norm."""
    print("| ResNet-20, batch | norm | BatchNorm's step, ms | ratio | target |")
    print("| --- | --- | --- | --- | --- |")
    for batch_size in STEP_SIZES:
        plain = whole_step(batch_size, None, {})
        for label, to, options, target in CONVERSIONS:
            found = time_ratio(plain, whole_step(batch_size, to, options), rounds)
            print(f"| {batch_size} | {label} | {1e3 * found.plain_s:.0f} | {found} | {target} |", flush=True)


def layers(rounds: int) -> None:
    """One layer alone."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print(
        "| shape | layout | BatchNorm, ms | ghosts of 32 / BatchNorm | 64 ghosts / BatchNorm | loop over 64 / 64 ghosts |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for shape in (*IMAGES, *VECTORS):
        channels, many = shape[1], max(2, shape[0] // NUM_GHOSTS) if shape[0] >= 2 * NUM_GHOSTS else 2
        batch_norm, ghost_norm = (
            (nn.BatchNorm2d, GhostBatchNorm2d) if len(shape) == 4 else (nn.BatchNorm1d, GhostBatchNorm1d)
        )
        for layout in ("contiguous", "channels last") if len(shape) == 4 else ("contiguous",):
            x, grad = torch.randn(shape), torch.randn(shape)
            if layout == "channels last":
                x, grad = (value.to(memory_format=torch.channels_last) for value in (x, grad))
            usual = ratio(batch_norm(channels), ghost_norm(channels, GHOST_SIZE), x, grad, rounds)
            small = ratio(batch_norm(channels), ghost_norm(channels, many), x, grad, rounds)
            loop = ratio(ghost_norm(channels, many), ChunkAndLoop(batch_norm(channels), many), x, grad, rounds)
            size = " × ".join(str(axis) for axis in shape)
            num = -(-shape[0] // many)
            told = "" if num == NUM_GHOSTS else f" ({num} ghosts)"
            print(f"| {size}{told} | {layout} | {1e3 * usual.plain_s:.2f} | {usual} | {small} | {loop} |", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, part in (("layers", layers), ("steps", steps)):
        if chosen in ("", name):
            part(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
