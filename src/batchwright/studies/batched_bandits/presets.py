"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchwright.studies.batched_bandits import experiments
from batchwright.studies.study import Cell

# The settings are the specification's: a 30 × 30 grid on [−5, 5]², length scale 1.
REGRET = {"horizon": 1000, "noise": 0.02}
GROWTH = {"noise": 0.1, "beta": 6.0, "kernel": "se", "method": "bpe", "rule": "sqrt"}
ROBUST = {"noise": 0.1, "beta": 6.0, "cells": 2}
BATCHES = (2, 3, 4, 6)
# The comparison: as many values as a round of tuning has, and four times as many.
EQUAL = {"noise": 0.1, "beta": 6.0, "kernel": "se", "watch": True}
METHODS = {
    "bpe": {"method": "bpe"},
    "bpe-all": {"method": "bpe", "keep": "all"},
    "gp-bucb": {"method": "gp-bucb"},
    "ucb-pe": {"method": "ucb-pe"},
    "thompson": {"method": "thompson"},
    "gp-ucb": {"method": "gp-ucb"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        size: Points of an axis of the grid.
        num_seeds: Functions of each setting.
        sequential_seeds: Functions of GP-UCB, which has a round a trial.
        horizon: Of the regret experiment.
        kernels: Of the regret experiment.
        betas: Of the count of lost optima, beside 6.
        growth: Horizons of the growth experiment.
        robust: Horizons of the robust experiment.
        equal: Horizons of the comparison.
    """

    size: int = 30
    num_seeds: int = 40
    sequential_seeds: int = 10
    horizon: int = 1000
    kernels: tuple[str, ...] = ("se", "matern")
    betas: tuple[float, ...] = (2.0, 9.0)
    growth: tuple[int, ...] = (125, 500, 2000)
    robust: tuple[int, ...] = (64, 256, 1024)
    equal: tuple[int, ...] = (64, 256)


PRESETS = {
    # A test of the machinery in seconds; not offered on the command line.
    "tiny": Preset(
        size=12,
        num_seeds=3,
        sequential_seeds=2,
        horizon=100,
        kernels=("se",),
        betas=(2.0,),
        growth=(30, 120),
        robust=(36, 100),
        equal=(36,),
    ),
    "smoke": Preset(num_seeds=6, sequential_seeds=2, kernels=("se",), betas=(2.0,)),
    "laptop": Preset(),
    "paper": Preset(num_seeds=100, sequential_seeds=30, growth=(125, 500, 2000, 8000), robust=(64, 256, 1024, 4096)),
}


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset; the functions are ``seed``, ``seed + 1``, ..."""
    size = PRESETS[preset]
    seeds = tuple(range(seed, seed + size.num_seeds))
    few = seeds[: size.sequential_seeds]
    found = [Cell(name="schedules", run=experiments.schedules)]

    def add(name: str, weight: float, **arguments: Any) -> None:
        found.append(Cell(name=name, run=experiments.regret, arguments={"size": size.size, **arguments}, weight=weight))

    for kernel in size.kernels:
        for beta in (6.0, *size.betas) if kernel == "se" else (6.0,):
            shared = {
                **REGRET,
                "horizon": size.horizon,
                "kernel": kernel,
                "beta": beta,
                "method": "bpe",
                "seeds": seeds,
            }
            for number in BATCHES:
                add(f"regret/{kernel}/beta-{beta:g}/batches-{number}", 10.0, **shared, num_batches=number)
            add(f"regret/{kernel}/beta-{beta:g}/sqrt", 10.0, **shared, rule="sqrt")
    add(
        "regret/se/beta-6/gp-ucb",
        100.0,
        **{**REGRET, "horizon": size.horizon, "kernel": "se", "beta": 6.0, "method": "gp-ucb", "seeds": few},
    )
    for horizon in size.growth:
        add(f"growth/T-{horizon}", horizon / 20, **GROWTH, horizon=horizon, seeds=seeds)
    found += [
        Cell(
            name=f"robust/T-{horizon}",
            run=experiments.robust,
            arguments={"size": size.size, "horizon": horizon, **ROBUST, "seeds": seeds},
            weight=horizon / 20,
        )
        for horizon in size.robust
    ]
    for horizon in size.equal:
        for name, arguments in METHODS.items():
            add(
                f"equal/T-{horizon}/{name}",
                100.0 if name == "gp-ucb" else 10.0,
                **EQUAL,
                **{"horizon": horizon, "seeds": few if name == "gp-ucb" else seeds, **arguments},
            )
    return found
