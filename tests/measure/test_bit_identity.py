"""A training run in the middle of which everything is measured ends bit-identical to one without."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from batchwright import measure
from batchwright.core.errors import InputError, StabilityWarning
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.vectors import trainable
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.running_noise import MicroBatchNorms
from batchwright.tasks.digits import digits_cnn
from batchwright.tasks.task import OptimizerSpec, Task

NUM_STEPS, MEASURED_STEPS, BATCH_SIZE = 6, (1, 4), 32
NORMS = {"group": lambda: nn.GroupNorm(4, 8), "batch": lambda: nn.BatchNorm2d(8)}
OPTIMIZERS = {
    "momentum": OptimizerSpec(name="sgd", lr=0.05, momentum=0.9),
    "adam": OptimizerSpec(name="adam", lr=0.01),
}


@dataclass
class Run:
    """What a measurement finds between a backward pass and the update that follows."""

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def examples(self) -> tuple[nn.Module, Any, Any]:
        return self.model, self.task.loss, fetch(self.task.train, torch.arange(16))

    @property
    def batches(self) -> tuple[nn.Module, Any, list[Any]]:
        parts = torch.arange(144).split(16)
        return self.model, self.task.loss, [fetch(self.task.train, part) for part in parts]

    @property
    def rows(self) -> Tensor:
        gradient = flat_gradient(self)
        return torch.stack([gradient, 2 * gradient, gradient.roll(1)])

    @property
    def statistics(self) -> measure.GradientStatistics:
        return measure.GradientStatistics.of(self.rows)

    @property
    def snapshot(self) -> measure.Snapshot:
        return measure.Snapshot.take(self.model, self.optimizer)

    def step(self, size: int) -> None:
        batch = fetch(self.task.train, torch.randperm(self.task.num_train)[:size])
        accumulate_gradient(self.model, self.task.loss, batch)
        self.optimizer.step()


def noise_scales(run: Run) -> None:
    measure.noise_scale(*run.batches)
    for method in ("per-example", "norm-layers"):
        measure.noise_scale(*run.batches, method=method)


def flat_gradient(run: Run) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in run.model.parameters()])


def products(operator: type) -> Callable[[Run], Tensor]:
    """One product; the loss of a classification is through the model's output alone, as all but the Hessian need."""
    return lambda run: operator(*run.examples).matvec(flat_gradient(run))


def conditional_gradient_constants(run: Run) -> None:
    batches = [fetch(run.task.train, part) for part in torch.arange(176).split(8)]
    measure.conditional_gradient_constants(run.model, run.task.loss, run.optimizer, batches, last=20)


def stability_monitor(run: Run) -> None:
    monitor = measure.StabilityMonitor(
        run.model,
        run.task.loss,
        run.optimizer,
        draw_batch=lambda generator, size: fetch(run.task.train, torch.randint(0, 200, (size,), generator=generator)),
        every=1,
        budget=None,
    )
    assert monitor.after_step(batch_size=16) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        monitor.check(batch_size=8)


# Every public name that measures has an entry; a new one is one line here.
MEASUREMENTS: dict[str, Callable[[Run], object]] = {
    "EmpiricalFisherOperator": products(measure.EmpiricalFisherOperator),
    "FisherOperator": products(measure.FisherOperator),
    "GgnOperator": products(measure.GgnOperator),
    "GradientStatistics": lambda run: run.statistics.trace,
    "HessianOperator": products(measure.HessianOperator),
    "StabilityMonitor": stability_monitor,
    "Snapshot": lambda run: run.snapshot.restore(run.task, run.task.optimizer, "cpu"),
    "adam_divisors": lambda run: measure.adam_divisors(run.model, run.optimizer),
    "batch_norm_safety": lambda run: measure.batch_norm_safety(*run.batches, micro_batch_sizes=(2, 4)),
    "batch_representativeness": lambda run: measure.batch_representativeness(
        torch.arange(40.0)[:, None], range(40), batch_sizes=(4,), num_draws=19
    ),
    "batch_sharpness": lambda run: [measure.batch_sharpness(*run.batches, method=m) for m in ("difference", "exact")],
    "batch_sharpness_ratio": lambda run: measure.batch_sharpness_ratio(*run.batches),
    "branch": lambda run: measure.branch(run.task, run.snapshot, (8, 16, 32), num_examples=64, num_seeds=2),
    "cabs_batch_size": lambda run: measure.cabs_batch_size(run.statistics.trace, loss=1.0, lr=0.1),
    "conditional_gradient_constants": conditional_gradient_constants,
    "cosine_of_halves": lambda run: measure.cosine_of_halves([run.rows[0]], [run.rows[1]]),
    "dive_batch_size": lambda run: measure.dive_batch_size(1.5, num_examples=100, delta=0.1, max_batch_size=64),
    "dual_noise_scale": lambda run: [measure.dual_noise_scale(*run.batches, norm) for norm in ("l1", "nuclear")],
    "generalized_sharpness": lambda run: measure.generalized_sharpness(*run.batches, run.optimizer),
    "gradient_diversity": lambda run: measure.gradient_diversity(run.statistics),
    "gradient_noise_interaction": lambda run: measure.gradient_noise_interaction(*run.batches),
    "gradient_snr": lambda run: measure.gradient_snr(run.rows),
    "hessian_trace": lambda run: measure.hessian_trace(*run.batches, max_hvps=8),
    "hvp": lambda run: measure.hvp(*run.examples, flat_gradient(run)),
    "inner_product_test": lambda run: measure.inner_product_test(run.statistics),
    "interaction_aware_sharpness": lambda run: measure.interaction_aware_sharpness(*run.batches),
    "lr_bound": lambda run: measure.lr_bound(run.task, run.snapshot, num_batches=4),
    "memory": lambda run: measure.memory(run.task, max_micro_batch_size=32),
    "noise_scale": noise_scales,
    "noise_scale_by_group": lambda run: measure.noise_scale_by_group(*run.batches, groups=run.optimizer),
    "norm_test": lambda run: measure.norm_test(run.statistics),
    "orthogonality_test": lambda run: measure.orthogonality_test(run.statistics),
    "per_example_grad_norms": lambda run: measure.per_example_grad_norms(*run.examples),
    "per_example_sq_norms_by_layer": lambda run: measure.per_example_sq_norms_by_layer(*run.examples),
    "pilot": lambda run: measure.pilot(run.task, num_steps=4, batches_a_point=3, max_extra_batches=0),
    "sharpness": lambda run: measure.sharpness(*run.batches, max_hvps=6),
    "spectral_density": lambda run: measure.spectral_density(*run.batches, num_starts=2, num_steps=4),
    "step_sharpness": lambda run: measure.step_sharpness(*run.examples),
    "throughput": lambda run: measure.throughput(run.task, batch_sizes=(8,), budget_plain_steps=5.0),
    "trial_search": lambda run: measure.trial_search(run.step, run.model, run.optimizer, max_micro_batch_size=64),
}


@contextmanager
def running_noise(run: Run) -> Iterator[Callable[[int], None]]:
    norms = MicroBatchNorms(trainable(run.model))
    yield norms.after_micro_batch
    assert measure.RunningNoiseScale().update(norms.step_noise()).trace > 0


# These watch the training step itself; what they yield is called after each micro-batch. `PerExampleNorms` has a test of its own.
WATCHERS = {"RunningNoiseScale": running_noise}
# Results and their parts measure nothing, and closed forms see no model; `RankNoise` needs ranks, and test_noise_ranks.py compares
# its gradients; `MuonNoise` needs Muon, and test_muon_noise.py compares its steps; the operators of curvature have an entry each
# but for their base class.
RESULTS = {
    "BatchNormSafety", "BatchSharpness", "BatchTest", "Branch", "ConditionalGradientConstants", "CurvatureOperator",
    "CurvatureRatio", "DualNoiseScale", "GeneralizedSharpness", "LrBound", "Memory", "MuonNoise", "MuonNoiseScale",
    "NoiseScale", "PartDistance", "PerExampleNorms", "Pilot", "PreconditionedStability", "RankNoise", "RecordSink", "ScalarWriter",
    "Sharpness", "SpectralDensity", "Stability", "StabilityReading", "StepSettings", "TensorBoardSink", "Throughput",
    "Trace", "TrialSearch", "WhatIf", "crossover_batch_size", "max_stable_lr", "preconditioned_stability",
    "stability", "what_if",
}  # fmt: skip
# The loss of an example has no gradient of its own where it depends on its batch; Adam alone has a second moment.
REFUSED = {
    "batch_norm_safety": ("group", None),
    "EmpiricalFisherOperator": ("batch", None),
    "noise_scale": ("batch", None),
    "per_example_grad_norms": ("batch", None),
    "per_example_sq_norms_by_layer": ("batch", None),
    "adam_divisors": (None, "momentum"),
}


@contextmanager
def refusal_expected(name: str, norm: str, optimizer: str) -> Iterator[None]:
    if REFUSED.get(name) in ((norm, None), (None, optimizer)):
        with pytest.raises(InputError):
            yield
    else:
        yield


def make_run(norm: str, optimizer: str) -> Run:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), NORMS[norm](), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(),
            nn.Linear(128, 10),
        )  # fmt: skip

    task = replace(digits_cnn(), model=model, optimizer=OPTIMIZERS[optimizer])
    model = task.make_model(0)
    return Run(task, model, task.optimizer.build(model.parameters()))


def trained(
    norm: str,
    optimizer: str,
    measurement: Callable[[Run], object] | None = None,
    watcher: Callable[[Run], Any] | None = None,
    name: str = "",
    micro_batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Everything that a run leaves behind, the global generators included."""
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    run = make_run(norm, optimizer)
    sampler, losses = EpochSampler(run.task.num_train, 0), []
    for step in range(NUM_STEPS):
        batch = fetch(run.task.train, sampler.take(BATCH_SIZE))
        run.optimizer.zero_grad(set_to_none=True)
        options = {"micro_batch_size": micro_batch_size}
        if watcher is not None and step in MEASURED_STEPS:
            with watcher(run) as after_micro_batch:
                losses.append(
                    accumulate_gradient(run.model, run.task.loss, batch, after_micro_batch=after_micro_batch, **options)
                )
        else:
            losses.append(accumulate_gradient(run.model, run.task.loss, batch, **options))
        if measurement is not None and step in MEASURED_STEPS:
            with refusal_expected(name, norm, optimizer):
                measurement(run)
        run.optimizer.step()
    return {
        "losses": losses,
        "parameters": [parameter.detach() for parameter in run.model.parameters()],
        "buffers": list(run.model.buffers()),
        "grads": [parameter.grad for parameter in run.model.parameters()],
        "optimizer": tree_leaves(run.optimizer.state_dict()),
        "modes": [module.training for module in run.model.modules()],
        "asks_gradient": [parameter.requires_grad for parameter in run.model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in run.model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].copy()),
        "numpy_position": np.random.get_state()[2:],
        "python": random.getstate(),
    }


@pytest.fixture(autouse=True, scope="module")
def process_is_set_up() -> None:
    """The first steps of a process import modules, of which some draw from Python's generator."""
    for optimizer in OPTIMIZERS:
        trained("batch", optimizer)


@cache
def plain_run(norm: str, optimizer: str) -> dict[str, Any]:
    return trained(norm, optimizer)


def assert_identical(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for part, values in expected.items():
        assert len(tree_leaves(found[part])) == len(tree_leaves(values)), part
        for one, other in zip(tree_leaves(found[part]), tree_leaves(values), strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, part


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_run_with_a_measurement_is_bit_identical_to_one_without(name, norm, optimizer):
    assert_identical(trained(norm, optimizer, MEASUREMENTS[name], name=name), plain_run(norm, optimizer))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_run_with_all_measurements_in_turn_is_bit_identical_to_one_without(norm, optimizer):
    def everything(run: Run) -> None:
        for name, measurement in MEASUREMENTS.items():
            with refusal_expected(name, norm, optimizer):
                measurement(run)

    assert_identical(trained(norm, optimizer, everything), plain_run(norm, optimizer))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", WATCHERS)
def test_a_run_whose_steps_are_watched_is_bit_identical_to_one_that_is_not(name, norm, optimizer):
    plain = trained(norm, optimizer, micro_batch_size=BATCH_SIZE // 2)
    watched = trained(norm, optimizer, watcher=WATCHERS[name], micro_batch_size=BATCH_SIZE // 2)
    assert_identical(watched, plain)


def test_norms_beside_a_step_change_nothing_but_the_order_in_which_its_gradient_is_summed():
    found, expected = [], []
    for grads, watched in ((found, True), (expected, False)):
        torch.manual_seed(1)
        run = make_run("group", "adam")
        with measure.PerExampleNorms(run.model) if watched else nullcontext() as norms:
            accumulate_gradient(*run.examples)
        if watched:
            assert norms.squared().shape == (16,)
        grads.extend([*(parameter.grad for parameter in run.model.parameters()), torch.get_rng_state()])
    assert torch.equal(found.pop(), expected.pop())
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 4e-6 * other.abs().max()


def test_every_public_name_is_in_one_of_the_tables():
    listed = list(chain(MEASUREMENTS, WATCHERS, RESULTS))
    assert len(listed) == len(set(listed))
    assert set(listed) == set(measure.__all__)


def test_the_comparison_sees_a_measurement_that_leaves_a_trace():
    plain = plain_run("group", "adam")
    traces = {
        "torch": lambda run: torch.rand(1),
        "python": lambda run: random.random(),
        "parameters": lambda run: run.model[0].bias.grad.add_(1e-3),
        "modes": lambda run: run.model.eval(),
    }
    for part, trace in traces.items():
        with pytest.raises(AssertionError, match=f"{part}|losses"):
            assert_identical(trained("group", "adam", trace), plain)
