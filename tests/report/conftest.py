"""Synthetic records: a plan, a verification and runs as the other rooms would write them."""

import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchwright.core.records import RecordWriter, write_json

ENVIRONMENT = {
    "batchwright": "0.1.0",
    "torch": "2.9.0",
    "python": "3.12.3",
    "system": "Linux",
    "device": "cpu",
    "device_name": "x86_64",
    "num_cpus": 2,
    "num_threads": 1,
    "malloc_keeps_memory": True,
    "load": 0.4,
}


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "level": 0.95}


def make_plan(task: str = "digits-cnn", **changes: Any) -> dict[str, Any]:
    """A plan as JSON holds it; its curve obeys the law it is made from, so the figures look as they will."""
    rng = np.random.default_rng(0)
    overhead, slope, critical = 2.1e-3, 3.4e-5, 260.0
    noise = []
    for step in range(10, 260, 10):
        value = 30 + 1.1 * step + 12 * float(rng.normal())
        wide = 1.25 + 2.5 * math.exp(-step / 60)
        noise.append({"step": step, "noise_scale": interval(value, value / wide, value * wide)})
    noise[0]["noise_scale"] = interval(math.inf, 14.0, math.inf)
    noise[2]["noise_scale"] = interval(70.0, 20.0, math.inf)
    sizes = [2.0**exponent for exponent in range(3, 12)]
    times = {size: (overhead + slope * size) * math.exp(0.04 * float(rng.normal())) for size in sizes}
    grid = [8 * 2 ** (i / 4) for i in range(33)]

    def cost(size: float, scale: float) -> float:
        return (1 + scale / size) * (overhead + slope * size)

    best = {scale: min(cost(size, scale) for size in grid) for scale in (critical / 2.5, critical, critical * 2.5)}
    curve = []
    for size in grid:
        ratios = sorted(cost(size, scale) / smallest for scale, smallest in best.items())
        value = cost(size, critical) / best[critical]
        curve.append(
            {
                "batch_size": round(size),
                "time": interval(value, min(ratios[0], value) * 0.98, max(ratios[-1], value) * 1.04),
                "examples": 1 + size / critical,
                "step_time_s": overhead + slope * size,
            }
        )
    plan = {
        "schema": 1,
        "task": task,
        "objective": "balanced",
        "batch_size": 128,
        "micro_batch_size": 64,
        "lr": 0.2104,
        "momentum": 0.9,
        "beta2": 0.999,
        "base_batch_size": 64,
        "base_lr": 0.12,
        "seed": 0,
        "intervals": {
            "batch_size": interval(128, 64, 256),
            "lr": interval(0.2104, 0.16, 0.26),
            "noise_scale": interval(173.0, 131.0, 240.0),
            "critical_batch_size": interval(critical, 104.0, 650.0),
            "micro_batch_size": interval(64, 64, 512),
            "max_lr": interval(0.41, 0.33, 0.52),
        },
        "reasons": {
            "batch_size": "128 is the power of two nearest to sqrt(260 · 61.8) = 127, the geometric mean of what the noise "
            "allows and what the hardware wants.",
            "lr": "SGD follows the gain rule lr_max / (1 + B_crit / B) from 0.12 at 64 examples.",
            "momentum": "Momentum stays at the task's 0.9.",
            "micro_batch_size": "64 examples take 210 MiB of the 400 MiB that may be used.",
        },
        "cost": {
            "plain_steps": 412.7,
            "num_examples": 26411,
            "seconds": 7.31,
            "parts": {"pilot": 250, "noise": 61.5, "throughput": 88.2, "memory": 13.0, "calibration": 0},
        },
        "evidence": {
            "noise": noise,
            "pilot_losses": [2.3 * math.exp(-i / 110) + 0.1 + 0.05 * float(rng.normal()) for i in range(250)],
            "step_times": [
                {"batch_size": size, "step_time_s": interval(time, time * 0.94, time * 1.07)}
                for size, time in times.items()
            ],
            "overhead_s": interval(overhead, 1.9e-3, 2.3e-3),
            "per_example_s": interval(slope, 3.1e-5, 3.7e-5),
            "bytes_per_example": 3.4e6,
            "memory_budget_bytes": 400 * 2**20,
            "kappa": interval(1.5, 0.6, 3.8),
            "kappa_source": "prior fitted on the built-in tasks",
            "calibration": {
                "batch_sizes": [32, 64, 128, 256, 512, 1024],
                "losses": [0.401, 0.403, 0.409, 0.431, 0.482, 0.577],
                "standard_errors": [0.004, 0.003, 0.004, 0.005, 0.006, 0.008],
                "critical_batch_size": interval(critical, 180.0, 390.0),
                "largest_harmless": interval(140.0, 96.0, 210.0),
                "num_seeds": 4,
            },
            "curve": curve,
            "curvature": {
                "step": 250,
                "batch_size": 64,
                "batch_sharpness": interval(3.4, 2.8, 4.0),
                "mean_curvature": interval(1.2, 0.9, 1.5),
                "sharpness": 4.7,
                "sharpness_converged": True,
                "num_halvings": 0,
            },
            "normalization": {
                "micro_batch_sizes": [2, 64],
                "reference_size": 256,
                "loss": 0.31,
                "excess": [interval(0.87, 0.8, 0.94), interval(0.04, 0.02, 0.06)],
                "mean_error": [0.21, 0.0061],
                "log_variance_error": [3.1, 0.034],
                "scale": 2.0,
                "tolerance": 0.1,
                "safe_size": 64,
                "num_layers": 20,
            },
            "warnings": ["The machine was busy while step times were measured: load 1.9 on 2 processors."],
        },
        "environment": ENVIRONMENT,
    }
    return {**plan, **changes}


def make_verification(task: str = "digits-cnn") -> dict[str, Any]:
    rng = np.random.default_rng(1)
    trials = []
    for size in (32, 64, 128, 256, 512):
        for factor in (0.5, 1.0, 2.0):
            lr = 0.2104 * (1 + 260 / 128) / (1 + 260 / size) * factor
            for seed in range(2):
                reached = not (factor == 2.0 and size >= 256)
                examples = 21000 * (1 + size / 260) * factor ** (-0.4) * math.exp(0.05 * float(rng.normal()))
                seconds = examples / size * (2.1e-3 + 3.4e-5 * size)
                trials.append(
                    {
                        "batch_size": size,
                        "lr": lr,
                        "seed": seed,
                        "reached": reached,
                        "steps": round(examples / size) if reached else None,
                        "examples": examples if reached else None,
                        "seconds": seconds if reached else None,
                    }
                )
    return {
        "task": task,
        "plan_batch_size": 128,
        "plan_lr": 0.2104,
        "metric": "accuracy",
        "trials": trials,
        "regret_examples": interval(1.42, 1.31, 1.55),
        "regret_seconds": interval(1.06, 1.0, 1.14),
        "best_examples": {"batch_size": 32, "lr": 0.2104 * (1 + 260 / 128) / (1 + 260 / 32) * 2},
        "best_seconds": {"batch_size": 128, "lr": 0.4208},
        "notes": ["Two seeds a setting; the intervals are wide."],
    }


def write_run(
    folder: Path,
    *,
    label: str = "plan",
    seed: int = 0,
    task: str = "digits-cnn",
    batch_size: int = 128,
    to_target: float | None = 31000.0,
    reason: str = "target",
    adaptive: bool = False,
    watched: bool = False,
    num_records: int = 60,
    target: dict[str, Any] | None = None,
    message: str = "",
) -> Path:
    """A run that crosses its target at ``to_target`` examples; without an end where ``reason`` is empty."""
    rng = np.random.default_rng(seed + sum(map(ord, label)))
    pace = 2.1e-3 / batch_size + 3.4e-5
    limit = to_target or 60000.0
    size, decisions = batch_size, 0
    with RecordWriter(folder) as records:
        records.write(
            "start",
            task=task,
            label=label,
            seed=seed,
            batch_size=batch_size,
            micro_batch_size=min(batch_size, 64),
            optimizer={"name": "sgd", "lr": 0.2104, "momentum": 0.9},
            policy="noise-scale" if adaptive else "fixed",
            target=target or {"value": 0.97, "metric": "accuracy", "direction": "above"},
            num_train=1400,
            environment={**ENVIRONMENT, "load": 0.1 * seed},
        )
        for i in range(num_records + 1):
            examples = round(limit * (i / num_records) ** 1.5)
            part = examples / limit
            common = {"step": examples // batch_size, "num_examples": examples}
            if i:
                records.write(
                    "step", **common, batch_size=size, lr=0.2, loss=2.3 * (1 - part) + 0.1, train_s=examples * pace
                )
            if adaptive and i > 4 and i % 3 == 0:
                value = 40 + 300 * part + 8 * float(rng.normal())
                high = math.inf if i == 6 else value * 1.4
                scale = {"value": value, "low": value / 1.4, "high": high, "level": 0.95}
                records.write("noise", **common, noise_scale=scale, trace=1.0, grad_sq_norm=0.01)
            if adaptive and i in (15, 30, 45):
                records.write(
                    "decision",
                    **common,
                    previous=size,
                    batch_size=2 * size,
                    lr=0.3,
                    reason=f"noise scale 120 (90 to 150) asks for 0.5 of it; the batch grows from {size} to {2 * size}",
                    warning="lr 0.3 is likely to make the loss spike: too near" if watched and i == 30 else "",
                )
                size, decisions = 2 * size, decisions + 1
            if watched and i % 4 == 2:
                lr = 0.3 if decisions else 0.2
                slow = i % 12 == 2
                records.write(
                    "stability",
                    **common,
                    batch_size=size,
                    lr=lr,
                    momentum=0.9,
                    form="gradient",
                    batch_sharpness=1.9 * (1 - math.exp(-4 * part)) * math.exp(0.1 * float(rng.normal())) / lr,
                    standard_error=0.12 / lr,
                    num_batches=8,
                    mean_curvature=0.5 if slow else None,
                    sharpness=1.2 * (1 - math.exp(-5 * part)) / lr if slow else None,
                    sharpness_converged=i > 20 if slow else None,
                    low=0.2 / lr,
                    high=3.8 / lr,
                    threshold=2.2 / lr,
                    headroom=0.2,
                    regime="stable",
                    share=0.04,
                )
            if i % 3 == 0:
                best = 0.97 if to_target else 0.955
                accuracy = best - (best - 0.1) * (1 - part) ** 3 + 0.004 * float(rng.normal())
                loss = 0.1 + 2.2 * (1 - part) ** 3 * math.exp(0.05 * float(rng.normal()))
                records.write(
                    "evaluation",
                    **common,
                    train_s=examples * pace,
                    values={"loss": loss, "accuracy": accuracy},
                    standard_errors={"loss": 0.02, "accuracy": 0.0081},
                )
        if reason:
            reached = {"steps": limit / batch_size, "examples": limit, "seconds": limit * pace} if to_target else None
            records.write(
                "end",
                step=round(limit / batch_size),
                num_examples=round(limit),
                train_s=limit * pace,
                reason=reason,
                message=message,
                to_target=reached,
            )
    return folder


def fill_realistic(folder: Path) -> Path:
    """A plan with its verification, fixed and adaptive runs, one that fell short and one that was killed."""
    write_json(folder / "plan.json", make_plan())
    write_json(folder / "verification.json", make_verification())
    for seed in range(4):
        for size in (32, 64, 128, 256, 512):
            label = f"batch-{size}"
            need = 21000 * (1 + size / 260) * (1 + 0.03 * ((seed * 7 + size) % 5 - 2))
            short = size == 512 and seed == 3
            write_run(
                folder / "runs" / f"{label}-{seed}",
                label=label,
                seed=seed,
                batch_size=size,
                to_target=None if short else need,
                reason="limit" if short else "target",
            )
        write_run(
            folder / "runs" / f"adaptive-{seed}",
            label="noise-scale",
            seed=seed,
            batch_size=32,
            to_target=24000.0 + 500 * seed,
            adaptive=True,
            watched=seed == 0,
        )
    write_run(folder / "runs" / "killed", label="plan", to_target=None, reason="", seed=9)
    write_json(
        folder / "study.json",
        {
            "study": "train-longer",
            "preset": "smoke",
            "rows": [{"what": "accuracy", "published": 92.8, "ours": interval(92.1, 91.7, 92.5)}],
        },
    )
    return folder


@pytest.fixture
def realistic(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return fill_realistic(folder)


@pytest.fixture
def run_writer() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def plan_maker() -> Callable[..., dict[str, Any]]:
    return make_plan


@pytest.fixture
def verification_maker() -> Callable[..., dict[str, Any]]:
    return make_verification


@pytest.fixture
def browser(tmp_path: Path) -> Callable[..., str]:
    """Opens a page in headless Chromium and gives its DOM, and what it logged, after the scripts ran."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")

    def dump(page: Path | str) -> str:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'chromium'}",
            "--virtual-time-budget=5000",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            page if isinstance(page, str) else f"file://{page}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout + "".join(line for line in done.stderr.splitlines(keepends=True) if "CONSOLE" in line)

    return dump
