"""The published problem: 8,192 images of CIFAR-10, a perceptron and a convolutional network, in parts that resume.

A run is a chain of cells of a few thousand steps, each of which begins from the file that the one before it left, so a run of
150,000 steps loses at most one part to a kill, and a machine that has no time for all of it reports the trend of what it did.

Source: the official code: subset of 8,192 (seed 111), channel-normalised, squared error summed over one-hot outputs, Kaiming-normal
weights times 0.2, zero biases; learning rates, batch sizes and numbers of steps as in its sweeps.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from batchwright.data.readers import read_npz_images, resolve_data_root
from batchwright.studies.eoss.batches import draw
from batchwright.studies.eoss.measure import measure_batch_sharpness
from batchwright.studies.eoss.plain import make_optimizer, set_optimizer, train_plainly
from batchwright.studies.eoss.problem import DATA_SEED, Problem, squared_error
from batchwright.studies.eoss.settings import WARMUP_STEPS, Setting
from batchwright.studies.state_files import load_state, restore_training, save_state, training_state
from batchwright.studies.streams import stream
from batchwright.studies.study import Cell, Place

NUM_TRAIN = 8192
INIT_SCALE = 0.2
PART_STEPS = 5000
POINTS_A_PART = 5
NUM_BATCHES = 50
NETWORKS = ("mlp", "cnn")
# Steady step sizes of the same order: 0.01 without momentum, 0.004 with 0.9, as in the code's sweeps.
SETTINGS = (
    Setting(lr=0.01, momentum=0.0, batch_size=8),
    Setting(lr=0.004, momentum=0.9, batch_size=8),
    Setting(lr=0.004, momentum=0.9, batch_size=8, nesterov=True),
)
BATCH_SIZES = (8, 32, 256, NUM_TRAIN)


def num_steps(batch_size: int) -> int:
    """Planned steps: 150,000, and half of it from batch size 16 on."""
    return 150_000 if batch_size < 16 else 75_000


def run_name(network: str, setting: Setting) -> str:
    """Name of a run, which its cells begin with."""
    return f"{network}/{setting.optimizer.lower()}-b-{setting.batch_size}"


def runs() -> list[tuple[str, Setting]]:
    """Network and setting of every run."""
    return [
        (network, Setting(lr=base.lr, momentum=base.momentum, batch_size=size, nesterov=base.nesterov))
        for network in NETWORKS
        for base in SETTINGS
        for size in BATCH_SIZES
    ]


def cifar_cells(seed: int) -> Sequence[Cell]:
    """The parts of every run."""
    return [
        _part(network, setting, part, seed)
        for network, setting in runs()
        for part in range(num_steps(setting.batch_size) // PART_STEPS)
    ]


def _part(network: str, setting: Setting, part: int, seed: int) -> Cell:
    name = run_name(network, setting)
    values = {
        "lr": setting.lr,
        "momentum": setting.momentum,
        "batch_size": setting.batch_size,
        "nesterov": setting.nesterov,
    }
    return Cell(
        name=f"{name}/part-{part:02d}",
        run=run_part,
        arguments={"network": network, "setting": values, "part": part, "seed": seed},
        after=(f"{name}/part-{part - 1:02d}",) if part else (),
        weight=float(1000 - part),
    )


def run_part(place: Place, *, network: str, setting: Mapping[str, Any], part: int, seed: int) -> Mapping[str, Any]:
    """Train one part of a run and leave its state for the next.

    Returns:
        ``points``: step, full loss, and batch sharpness with its standard error.

    Raises:
        RecordError: If the state of the part before is missing.
    """
    chosen = Setting(**setting)
    problem = cifar_problem(place)
    model = make_network(network, stream(seed, "eoss", "cifar", network, "init")).to(place.device)
    optimizer = make_optimizer(model, chosen)
    name = run_name(network, chosen)
    stem = name.replace("/", "-")
    if part:
        restore_training(model, optimizer, load_state(place, f"{stem}-part-{part - 1:02d}"))
    batch_generator = stream(seed, "eoss", "cifar", name, part)
    batches = (
        None if chosen.batch_size >= problem.num_train else each[0].to(place.device)
        for each in _draws(problem.num_train, chosen.batch_size, batch_generator)
    )
    done = 0
    if part == 0:
        set_optimizer(optimizer, chosen.warmup(problem.num_train))
        train_plainly(model, optimizer, problem.inputs, problem.targets, islice(batches, WARMUP_STEPS))
        done = WARMUP_STEPS
        optimizer = make_optimizer(model, chosen)
    points = []
    for point in range(1, POINTS_A_PART + 1):
        end = PART_STEPS * point // POINTS_A_PART
        train_plainly(model, optimizer, problem.inputs, problem.targets, islice(batches, end - done))
        done = end
        loss = _full_loss(model, problem)
        found: Mapping[str, float] = {"value": math.nan, "standard_error": math.nan, "num_batches": 0}
        if math.isfinite(loss):
            generator = stream(seed, "eoss", "cifar", name, part, "measure", point)
            found = measure_batch_sharpness(model, problem, chosen.batch_size, generator, NUM_BATCHES)
        points.append({"step": part * PART_STEPS + end, "loss": loss, **found})
    save_state(place, f"{stem}-part-{part:02d}", training_state(model, optimizer))
    return {"points": points, "num_gradients": float(PART_STEPS * chosen.batch_size)}


def cifar_problem(place: Place) -> Problem:
    """The subset as channel-normalised images, on the device.

    Raises:
        DataError: If ``cifar10/cifar10-train-20k.npz`` is not under the data root.
    """
    images, classes = read_npz_images(resolve_data_root(place.data_root) / "cifar10" / "cifar10-train-20k.npz")
    chosen = torch.randperm(len(images), generator=stream(DATA_SEED, "eoss", "cifar"))[:NUM_TRAIN]
    pixels = torch.from_numpy(images)[chosen].movedim(3, 1).float() / 255.0
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3), keepdim=True)
    targets = nn.functional.one_hot(torch.from_numpy(classes).long()[chosen], 10).float()
    return Problem(inputs=((pixels - mean) / std).to(place.device), targets=targets.to(place.device))


def make_network(name: str, generator: torch.Generator) -> nn.Sequential:
    """The perceptron with two hidden layers of 512, or the convolutional network 64-64-pool-128-pool-512-10; both with ReLU."""
    if name == "mlp":
        parts = [nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    else:
        parts = [
            *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(128 * 8 * 8, 512), nn.ReLU(), nn.Linear(512, 10)),
        ]
    with torch.no_grad():
        for module in parts:
            if isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, INIT_SCALE * (2 / fan_in) ** 0.5, generator=generator)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return nn.Sequential(*parts)


def _draws(num_train: int, batch_size: int, generator: torch.Generator) -> Any:
    while True:
        yield draw(num_train, batch_size, generator, 1)


def _full_loss(model: nn.Module, problem: Problem) -> float:
    with torch.no_grad():
        parts = [
            squared_error(model, pair)
            for pair in zip(problem.inputs.split(1024), problem.targets.split(1024), strict=True)
        ]
    return float(torch.cat(parts).mean())
