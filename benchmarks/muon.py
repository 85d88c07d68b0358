"""A step of our Muon beside others, the error of the factors, and what amortised factors do to the final loss.

    python -m benchmarks.muon [--rows NAME ...] [--rounds N]        step times: process CPU time, one thread, all in turn
    python -m benchmarks.muon --errors                              orthogonality at equal depth over shapes and spectra
    python -m benchmarks.muon --noise                               cost of the noise scale inside a step
    python -m benchmarks.muon --spectrum                            cost of measuring a spectrum, and what it makes of the factor's time
    python -m benchmarks.muon --train char-gpt --seeds 3            final loss with polar_every = 1, 2, 4 beside torch's Muon

The first needs `torch.optim.Muon` (torch 2.9 or later) and, for one column, pytorch_optimizer (benchmarks/requirements.txt);
what is not there is left out. Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from batchwright.core.objectives import mean_loss
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.optim import Muon, PolarOptions, param_groups, polar
from batchwright.optim.polar import depth_for, measure_spectrum, svd_polar
from batchwright.tasks import REGISTRY
from benchmarks.ratios import clock

GPT = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
SHAPES = {
    "10 of 1024x1024": [(1024, 1024)] * 10,
    "784-1600^4": [(1600, 784)] + [(1600, 1600)] * 3,
    "160 of 256x256": [(256, 256)] * 160,
    "12-layer GPT, width 768": GPT * 12,
    "10 of 2048x256 (tall)": [(2048, 256)] * 10,
    "4 of 1600x784 (tall)": [(1600, 784)] * 4,
    "4 of 3072x768 (tall)": [(3072, 768)] * 4,
}


def parameters_of(shapes: list[tuple[int, int]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in shapes]
    for parameter in found:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    return found


def makers() -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    found: dict[str, Callable] = {"AdamW": torch.optim.AdamW}
    if hasattr(torch.optim, "Muon"):
        found["torch Muon"] = torch.optim.Muon
    try:
        from pytorch_optimizer import Muon as Other

        found["pytorch_optimizer Muon"] = lambda parameters: Other([{"params": parameters, "use_muon": True}])
    except ImportError:
        pass
    found["ours"] = Muon
    found["ours, polar_every=2"] = partial(Muon, polar_every=2)
    found["ours, polar_every=4"] = partial(Muon, polar_every=4)
    return found


def step_times(rows: list[str], rounds: int) -> None:
    """All optimizers in turn, round by round, so that a drift of the machine meets all alike; medians."""
    names = list(makers())
    print(
        "| matrices | " + " | ".join(f"{name}, ms" for name in names) + " | torch Muon over ours | over polar_every=2 |"
    )
    print("|---" * (len(names) + 3) + "|")
    for row in rows:
        times: dict[str, list[float]] = {name: [] for name in names}
        optimizers = {name: make(parameters_of(SHAPES[row])) for name, make in makers().items()}
        for number in range(rounds + 1):
            for name, optimizer in optimizers.items():
                # An amortised step is one of a cycle: over four steps each matrix has had its turns.
                repeats = 4 if "every" in name else 1
                spent = sum(clock(optimizer.step) for _ in range(repeats)) / repeats
                if number > 0:
                    times[name].append(1e3 * spent)
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratios = []
        for name in ("ours", "ours, polar_every=2"):
            each = [a / b for a, b in zip(times.get("torch Muon", []), times[name], strict=False)]
            ratios.append(f"{statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})" if each else "")
        print(f"| {row} | " + " | ".join(f"{medians[name]:.1f}" for name in names) + " | " + " | ".join(ratios) + " |")


def spectra(size: int) -> dict[str, Tensor | None]:
    places = torch.arange(1, size + 1.0)
    return {
        "Gaussian": None,
        "flat": torch.ones(size),
        "half at 0.5": torch.cat([torch.ones(size // 2), torch.full((size - size // 2,), 0.5)]),
        "linear": torch.linspace(0.1, 1, size),
        **{f"power {alpha:g}": places**-alpha for alpha in (0.5, 1.0, 1.5, 2.0)},
        **{
            f"down to {low:g}": torch.logspace(0, float(torch.log10(torch.tensor(low))), size)
            for low in (0.1, 0.01, 1e-3)
        },
        "spike": torch.cat([torch.ones(1), torch.full((size - 1,), 0.02)]),
    }


def errors() -> None:
    """Distance of each factor from the exact one, over the root of its rank."""
    shapes = [(64, 64), (256, 256), (512, 512), (128, 1024), (200, 300), (784, 1600)]
    kinds = {
        "rational, default (2 terms)": PolarOptions(),
        "rational, 3 terms": PolarOptions(route="rational", depth=3),
        "rational, 5 terms": PolarOptions(route="rational", depth=5),
        "polar-express, 5 steps bfloat16": PolarOptions(route="polar-express", depth=5),
    }
    quintic = PolarOptions(route="newton-schulz", depth=5)
    above: dict[str, list[str]] = {name: [] for name in kinds}
    worst: dict[str, float] = dict.fromkeys(kinds, 0.0)
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    count = 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for shape in shapes:
            size = min(shape)
            for name, values in spectra(size).items():
                noise = torch.randn(shape, generator=generator, dtype=torch.float64)
                matrix = (noise if values is None else with_values(noise, values)).float()
                count += 1
                exact = svd_polar(matrix.double())
                base = distance(polar(matrix, quintic), exact)
                for kind, options in kinds.items():
                    found = distance(polar(matrix, options), exact)
                    ratios[kind].append(found / base)
                    worst[kind] = max(worst[kind], found)
                    if found > base:
                        above[kind].append(f"{shape[0]}x{shape[1]} {name} ({found:.3f} against {base:.3f})")
    print(
        f"| factor | median of its error over that of five steps of the fixed quintic, {count} matrices | matrices above it |"
    )
    print("|---|---|---|")
    for kind in kinds:
        print(f"| {kind} | {statistics.median(ratios[kind]):.2f} | {len(above[kind])}: {'; '.join(above[kind][:4])} |")


def with_values(noise: Tensor, values: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    return (left * values) @ right


def distance(factor: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.norm(factor - exact)) / min(factor.shape) ** 0.5


def spectrum(rounds: int) -> None:
    """One measurement over one default factor, and a factor of the measured depth over a default one; medians of ratios."""
    print(
        "| matrix | spectrum | measurement over a default factor | factor of measured depth over it | terms (0: exact) |"
    )
    print("|---|---|---|---|---|")
    for shape in ((256, 256), (512, 512), (1024, 1024), (2048, 256)):
        for name in ("Gaussian", "power 0.5", "power 1.5"):
            generator = torch.Generator().manual_seed(0)
            draw = torch.randn(shape, generator=generator, dtype=torch.float64)
            values = spectra(min(shape))[name]
            matrix = (draw if values is None else with_values(draw, values)).float()
            found = measure_spectrum(matrix)
            options = PolarOptions(smallest=found.smallest)
            calls = [partial(polar, matrix), partial(measure_spectrum, matrix), partial(polar, matrix, options)]
            times = [[clock(call) for call in calls] for _ in range(rounds + 1)][1:]
            ratios = [statistics.median(row[which] / row[0] for row in times) for which in (1, 2)]
            exact = options.route_for(*shape) == "exact"
            terms = 0 if exact else depth_for("rational", found.smallest)
            print(f"| {shape[0]}x{shape[1]} | {name} | {ratios[0]:.2f} | {ratios[1]:.2f} | {terms} |", flush=True)


def noise(rounds: int) -> None:
    from batchwright.measure.muon_noise import MuonNoise

    print("| matrices | batch | every | step with the noise scale over the step without it |")
    print("|---|---|---|---|")
    for width, batch_size, every in ((256, 256, 64), (512, 256, 64)):
        torch.manual_seed(0)
        models = [nn.Sequential(*(nn.Linear(width, width) for _ in range(4))) for _ in range(2)]
        optimizers = [Muon(param_groups(model), nuclear_norms=bool(measured)) for measured, model in enumerate(models)]
        gauges = [None, MuonNoise(optimizers[1], every=every)]
        inputs = torch.randn(batch_size, width)

        cycles = [partial(noise_cycle, *each, inputs, every) for each in zip(models, optimizers, gauges, strict=True)]
        ratios = []
        for number in range(rounds + 1):
            first, one, two, last = (clock(cycles[which]) for which in (0, 1, 1, 0))
            if number > 0:
                ratios.append((one + two) / (first + last))
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"| 4 of {width}x{width} | {batch_size} | {every} | {middle:.3f} ({low:.3f}–{high:.3f}) |", flush=True)


def noise_cycle(model: nn.Module, optimizer: Muon, gauge, inputs: Tensor, every: int) -> None:
    """As many steps as one measurement serves."""
    for _ in range(every):
        optimizer.zero_grad()
        for part in inputs.chunk(2):
            (model(part).square().sum() / len(inputs)).backward()
            if gauge is not None:
                gauge.after_micro_batch(len(part))
        optimizer.step()
        if gauge is not None:
            gauge.after_step()
    if gauge is not None:
        gauge.noise_scale()


def train(name: str, num_seeds: int, num_steps: int, lr: float, batch_size: int | None, data_root: str | None) -> None:
    """Final evaluation loss; each setting from the same start over the same batches."""
    task = REGISTRY[name].make(Path(data_root) if data_root else None, None)
    settings: dict[str, dict] = {
        "torch's quintic, every step": {"route": "newton-schulz"},
        "ours, every step": {},
        "ours, polar_every=2": {"polar_every": 2},
        "ours, polar_every=4": {"polar_every": 4},
    }
    print(f"\n{name}, {num_steps} steps at batch {batch_size or task.batch_size}, lr {lr:g}\n")
    print("| setting | final loss by seed | mean difference from the first (standard error) | CPU seconds of the run |")
    print("|---|---|---|---|")
    first: list[float] = []
    for label, options in settings.items():
        losses, seconds = [], 0.0
        for seed in range(num_seeds):
            model = task.make_model(seed)
            groups = param_groups(model, adamw_lr=lr)
            optimizer = Muon(groups, lr=lr, adjust_lr_fn="match_rms_adamw", weight_decay=0.01, **options)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=num_steps)
            sampler = EpochSampler(task.num_train, seed)
            torch.manual_seed(seed)
            run = partial(
                train_steps, task, model, optimizer, sampler, batch_size=batch_size or task.batch_size, num_steps=num_steps,
                after_step=lambda *_: schedule.step(),  # noqa: B023 - it is called before the loop goes on
            )  # fmt: skip
            seconds += clock(run)
            model.eval()
            evaluation = task.evaluation if task.evaluation is not None else task.train
            losses.append(evaluated(task, model, evaluation))
        first = first or losses
        differences = [a - b for a, b in zip(losses, first, strict=True)]
        error = statistics.stdev(differences) / num_seeds**0.5 if num_seeds > 1 else 0.0
        print(
            f"| {label} | {', '.join(f'{loss:.4f}' for loss in losses)} | {statistics.mean(differences):+.4f} ({error:.4f}) | "
            f"{seconds:.0f} |",
            flush=True,
        )


def evaluated(task, model: nn.Module, evaluation) -> float:
    size = task.evaluation_batch_size
    parts = torch.arange(len(evaluation)).split(size)
    return mean_loss(model, task.loss, [fetch(evaluation, part) for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--spectrum", action="store_true")
    parser.add_argument("--train", metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train:
        train(options.train, options.seeds, options.steps, options.lr, options.batch_size, options.data_root)
    elif options.errors:
        errors()
    elif options.spectrum:
        spectrum(options.rounds)
    elif options.noise:
        noise(options.rounds)
    else:
        step_times(options.rows, options.rounds)


if __name__ == "__main__":
    main()
