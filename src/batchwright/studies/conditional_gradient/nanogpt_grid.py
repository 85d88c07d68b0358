"""The runs of the paper preset: the published grid of the 124M model, and its schedules at four times the tokens."""

from typing import Any

from batchwright.core.study_record import Row
from batchwright.studies.conditional_gradient.curves import Results, curves
from batchwright.studies.conditional_gradient.grid import ARMS, Schedules, arm_settings
from batchwright.studies.conditional_gradient.nanogpt import LAYOUTS
from batchwright.studies.conditional_gradient.nanogpt_run import run_nanogpt
from batchwright.studies.conditional_gradient.rule import BASE, BATCH_SIZES, LOSSES, STEP_SIZES
from batchwright.studies.study import Cell
from batchwright.studies.verdict import judge

NANOGPT, NANOGPT_WHO = "nanogpt/", "NanoGPT 124M with Scion"
TOKENS = int(BASE.tokens)
SCHEDULES = Schedules(first=TOKENS, total=4 * TOKENS, batch_size=BASE.batch_size, lr=BASE.lr, num_seeds=1)
# Of the runs on a GPU of 80 GB; the logits of a pass are 32 x 1024 x 50304 numbers. The held-out part is 10,485,760 tokens.
SHARED: dict[str, Any] = {
    "layout": dict(LAYOUTS["124M"]),
    "sequence_length": BASE.sequence_length,
    "micro_batch_size": 32,
    "num_evaluation": 10_240,
}
NUM_PARTS = 8
# Nats: published standard deviations over five seeds are .001 to .004; data order and evaluation are not those of the paper.
CLOSE = 0.02


def nanogpt_cells(seed: int) -> list[Cell]:
    """Parts of every run, one after the other."""
    found: list[Cell] = []
    for batch_size in BATCH_SIZES:
        for step_size in STEP_SIZES:
            lr = step_size * 1e-4
            settings = {"budgets": [TOKENS], "batch_size": batch_size, "lr": lr}
            found += _parts(f"{NANOGPT}tokens-{TOKENS}/b-{batch_size}/lr-{lr:g}/seed-{seed}", settings, seed)
    for arm in ARMS:
        found += _parts(f"schedule/{arm}/seed-{seed}", arm_settings(SCHEDULES, arm), seed)
    return found


def _parts(run: str, settings: dict[str, Any], seed: int) -> list[Cell]:
    return [
        Cell(
            name=f"{run}/part-{part}",
            run=run_nanogpt,
            arguments={**SHARED, **settings, "seed": seed, "run": run, "part": part, "num_parts": NUM_PARTS},
            after=(f"{run}/part-{part - 1}",) if part else (),
            weight=1e6,
        )
        for part in range(NUM_PARTS)
    ]


def published_rows(results: Results) -> list[Row]:
    """Least loss over the step sizes at each batch beside the published one."""
    found = curves(results, NANOGPT)
    rows = []
    for batch_size, column in zip(BATCH_SIZES, zip(*LOSSES, strict=True), strict=True):
        values = [
            curve.losses[curve.batch_sizes.index(batch_size)] for curve in found if batch_size in curve.batch_sizes
        ]
        if not values:
            continue
        measured, verdict = judge(values, min(column) - CLOSE, min(column) + CLOSE)
        rows.append(
            Row(
                what=f"least loss at batch {batch_size}",
                group=f"{NANOGPT_WHO}: the published table",
                claim="as published",
                published=min(column),
                measured=measured,
                seeds=tuple(curve.seed for curve in found),
                low=min(column) - CLOSE,
                high=min(column) + CLOSE,
                verdict=verdict,
            )
        )
    return rows
