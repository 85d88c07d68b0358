"""Rows and figure of the runs on CIFAR-10: plateaus where a run is complete, trends where it is not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.studies.eoss.cifar import NUM_TRAIN, num_steps, run_name, runs
from batchwright.studies.eoss.plateau_summary import LAST, TREND
from batchwright.studies.eoss.settings import Setting
from batchwright.studies.verdict import judge, trend

Results = Mapping[str, Mapping[str, Any]]


def cifar_rows(results: Results) -> list[Row]:
    """One row a run; a run of which nothing was done is not there yet."""
    return [_row(network, setting, results) for network, setting in runs()]


def _row(network: str, setting: Setting, results: Results) -> Row:
    name = run_name(network, setting)
    points = _points(name, results)
    planned = num_steps(setting.batch_size)
    done = int(points[-1]["step"]) if points else 0
    low, high, claim = _band(setting)
    values = [float(point["value"]) for point in points]
    tail = values[-max(1, round(LAST * len(values))) :] if values else []
    long_tail = max(3, round(TREND * len(values)))
    moving = trend([float(point["step"]) for point in points][-long_tail:], values[-long_tail:])
    mean = sum(tail) / len(tail) if tail else math.nan
    measured, verdict = judge([mean] if tail else [], low, high, trend=moving, finished=done >= planned)
    if done < planned and (not tail or math.isfinite(mean)):
        verdict = "not there yet"  # also inside the band: it may pass through
    return Row(
        what=f"{name}, lr {setting.lr:g}, momentum {setting.momentum:g}: batch sharpness",
        group="CIFAR-10, 8,192 images",
        claim=claim,
        published=None,
        measured=measured,
        seeds=(int(next(iter(results.values()))["arguments"]["seed"]),) if tail else (),
        low=low,
        high=high,
        verdict=verdict,
        note=f"{done:,} of {planned:,} steps" + (f"; {moving.words}" if tail else ""),
    )


def _band(setting: Setting) -> tuple[float, float, str]:
    if setting.batch_size >= NUM_TRAIN:
        return 0.95 * setting.high, 1.05 * setting.high, f"full-batch threshold {setting.high:.4g} to 5 %"
    if setting.momentum == 0 or setting.batch_size <= 8:
        return 0.8 * setting.low, 1.2 * setting.low, f"small-batch threshold {setting.low:.4g} to 20 %"
    low, high = sorted((setting.low, setting.high))
    return low, high, f"between the thresholds {low:.4g} and {high:.4g}"


def _points(name: str, results: Results) -> Sequence[Mapping[str, Any]]:
    parts = sorted(key for key in results if key.startswith(f"{name}/part-"))
    return [point for part in parts for point in results[part]["points"]]


def cifar_figure(results: Results) -> StudyFigure | None:
    """Batch sharpness over the steps that were done, a panel a run."""
    panels = []
    for network, setting in runs():
        points = _points(run_name(network, setting), results)
        if points:
            panels.append(
                Panel(
                    title=f"{network}, {setting.optimizer}, b={setting.batch_size}, lr {setting.lr:g}, momentum {setting.momentum:g}",
                    x_name="step",
                    y_name="batch sharpness",
                    series=(
                        Series(
                            name="batch sharpness",
                            x=tuple(float(point["step"]) for point in points),
                            y=tuple(float(point["value"]) for point in points),
                        ),
                    ),
                    levels=(Level(y=setting.low, name=f"2(1−β)/η = {setting.low:.3g}", dash=2),),
                    y_log=True,
                )
            )
    if not panels:
        return None
    return StudyFigure(
        name="cifar",
        title="Batch sharpness on CIFAR-10 as far as it was run",
        caption="The dotted line is the small-batch threshold.",
        panels=tuple(panels),
        columns=2,
    )
