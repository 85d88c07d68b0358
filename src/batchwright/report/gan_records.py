"""A run of a GAN as its records tell it: losses, sample grids over time, scores, and the evidence for its batch sizes."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchwright.core.records import Records
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.report.record_values import number_or_nan, thin

SYSTEM = "mmd-gan"
PNG = b"\x89PNG\r\n\x1a\n"
MAX_GRIDS = 6
MAX_GRID_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class GanPoint:
    """A record of losses.

    Attributes:
        step: Generator step.
        loss: Mean of the generator's loss since the record before.
        critic_loss: Of the last critic step; NaN without a critic.
        feature_distance: Mean distance of real and generated features; NaN without a critic.
        generator_batch_size: In force.
        critic_batch_size: In force.
    """

    step: float
    loss: float
    critic_loss: float
    feature_distance: float
    generator_batch_size: float
    critic_batch_size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GanLook:
    """A look at the samples.

    Attributes:
        step: Generator step.
        train_s: Seconds of training so far.
        kid: Kernel inception distance.
        score: The classifier's inception score; None without classes.
        smallest_share: Of the rarest class; None without classes.
        grid: The sample grid as a data URI; empty where it is not shown or not there.
    """

    step: float
    train_s: float
    kid: Interval
    score: Interval | None
    smallest_share: Interval | None
    grid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisePoint:
    """Noise over signal of a step at one batch size."""

    batch_size: float
    ratio: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkEvidence:
    """Why a network has its batch size.

    Attributes:
        network: ``critic`` or ``generator``.
        before: Batch size when it was measured.
        batch_size: Planned.
        equal_size: Where noise equals signal.
        first_order: Share of the noise that falls as ``1 / B``.
        lr_factor: By which the learning rate followed.
        reason: One sentence.
        points: What was measured.
    """

    network: str
    before: float
    batch_size: float
    equal_size: Interval
    first_order: float
    lr_factor: float
    reason: str
    points: tuple[NoisePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GanRecords:
    """A run.

    Attributes:
        folder: Relative to the folder that was reported.
        task: Name of the data set.
        label: Of the run.
        seed: Of the run.
        method: ``mmd-gan``, ``gmmn`` or ``gmmn-ae``.
        options: Of the trainer.
        judge_features: ``classifier`` or ``pixels``.
        accuracy: Of the classifier.
        real_score: Inception score of real images under it.
        points: Losses, thinned.
        looks: All looks, few of them with grids.
        evidence: For the batch sizes; empty where they were given.
        evidence_step: Generator step of the measurement.
        cost_steps: What it cost in plain generator steps.
        warnings: Sentences, with their steps.
        reason: Why it ended.
        num_steps: Generator steps.
        train_s: Seconds of training.
        environment: What it was made on.
        num_torn: Lines that a kill left unfinished.
    """

    folder: str
    task: str
    label: str
    seed: int
    method: str
    options: Mapping[str, Any]
    judge_features: str
    accuracy: float
    real_score: float
    points: tuple[GanPoint, ...]
    looks: tuple[GanLook, ...]
    evidence: tuple[NetworkEvidence, ...]
    evidence_step: float
    cost_steps: float
    warnings: tuple[str, ...]
    reason: str
    num_steps: float
    train_s: float
    environment: Mapping[str, Any]
    num_torn: int = 0


def parse_gan(records: Records, folder: Path, name: str) -> GanRecords:
    """What the records in ``folder`` say of a GAN, called ``name``."""
    start, ends = records.of_kind("start")[0], records.of_kind("end")
    steps, plans, looks = records.of_kind("step"), records.of_kind("batch-plan"), records.of_kind("evaluation")
    # Each grid is a file; a few of them, the first and the last among them, are carried by the page.
    shown = {id(line) for line in thin(looks, MAX_GRIDS)}
    judge = start.get("judge") or {}
    plan = plans[-1]["plan"] if plans else {}
    last = (ends or looks or steps or [start])[-1]
    return GanRecords(
        folder=name,
        task=str(start["task"]),
        label=str(start["label"]),
        seed=int(start.get("seed", 0)),
        method=str(start.get("method", SYSTEM)),
        options=dict(start["options"]),
        judge_features=str(judge.get("features", "")),
        accuracy=number_or_nan(judge.get("accuracy", math.nan)),
        real_score=number_or_nan(judge.get("real_score", math.nan)),
        points=thin([_point(line) for line in steps]),
        looks=tuple(_look(line, folder, carried=id(line) in shown) for line in looks),
        evidence=tuple(_evidence(plan[key]) for key in ("critic", "generator") if plan.get(key) is not None),
        evidence_step=number_or_nan(plan.get("step", math.nan)),
        cost_steps=number_or_nan(plan.get("cost_steps", math.nan)),
        warnings=tuple(str(line["text"]) for line in records.of_kind("warning")),
        reason=str(ends[-1].get("reason", "")) if ends else "no end",
        num_steps=number_or_nan(last.get("step", 0)),
        train_s=number_or_nan(last.get("train_s", 0.0)),
        environment=dict(start.get("environment") or {}),
        num_torn=records.num_torn,
    )


def _point(line: Mapping[str, Any]) -> GanPoint:
    return GanPoint(
        step=number_or_nan(line["step"]),
        loss=number_or_nan(line["loss"]),
        critic_loss=number_or_nan(line.get("critic_loss", math.nan)),
        feature_distance=number_or_nan(line.get("feature_distance", math.nan)),
        generator_batch_size=number_or_nan(line["generator_batch_size"]),
        critic_batch_size=number_or_nan(line["critic_batch_size"]),
    )


def _look(line: Mapping[str, Any], folder: Path, *, carried: bool) -> GanLook:
    return GanLook(
        step=number_or_nan(line["step"]),
        train_s=number_or_nan(line["train_s"]),
        kid=from_plain(Interval, line["kid"]),
        score=from_plain(Interval | None, line.get("score")),
        smallest_share=from_plain(Interval | None, line.get("smallest_share")),
        grid=_image(folder, str(line.get("grid", ""))) if carried else "",
    )


def _image(folder: Path, name: str) -> str:
    """A PNG file inside the run's folder as a data URI; empty where there is none."""
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return ""
    content = path.read_bytes() if path.stat().st_size <= MAX_GRID_BYTES else b""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if content.startswith(PNG) else ""


def _evidence(plan: Mapping[str, Any]) -> NetworkEvidence:
    return NetworkEvidence(
        network=str(plan["network"]),
        before=number_or_nan(plan["before"]),
        batch_size=number_or_nan(plan["batch_size"]),
        equal_size=from_plain(Interval, plan["equal_size"]),
        first_order=number_or_nan(plan["first_order"]),
        lr_factor=number_or_nan(plan["lr_factor"]),
        reason=str(plan["reason"]),
        points=tuple(
            NoisePoint(batch_size=number_or_nan(point["batch_size"]), ratio=from_plain(Interval, point["ratio"]))
            for point in plan["points"]
        ),
    )
