"""A run of a GAN on images with its records: losses, sample grids, scores, the evidence for its batch sizes, and a way to go on.

Everything lies in one folder: ``records.jsonl``, ``checkpoints/``, ``grids/step-*.png`` and the classifier that scores.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from batchwright.core.checks import check_int, check_number
from batchwright.core.environment import environment
from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.png import write_png
from batchwright.core.records import RECORDS_NAME, RecordWriter, make_folder, read_records
from batchwright.core.serialization import to_plain
from batchwright.gan.batch_plan import apply_plan, plan_batches
from batchwright.gan.grid import image_grid
from batchwright.gan.judge import Judge, Verdict
from batchwright.gan.sources import ImageSet
from batchwright.gan.trainer import MMDGAN
from batchwright.training.interrupt import Interrupt

SYSTEM = "mmd-gan"
GRIDS = "grids"
GRID_SIDE = 8
NUM_SCORED = 2000
# Where an epoch is a few steps, grids and scores come no more often than this.
MIN_STEPS_BETWEEN = 100
MIN_LOOKS = 5


@dataclass(frozen=True, kw_only=True)
class GanRun:
    """How a run ended.

    Attributes:
        folder: With its records.
        reason: ``steps``, ``time`` or ``interrupted``.
        num_steps: Generator steps in all, of earlier parts too.
        train_s: Seconds of training in all.
        verdict: Scores at the end.
        grid: Path of the last sample grid.
        batch_sizes: Of generator and critic at the end.
        plan: The record of the batch plan; None without.
        warnings: Every warning of this part of the run.
    """

    folder: Path
    reason: str
    num_steps: int
    train_s: float
    verdict: Verdict
    grid: Path
    batch_sizes: tuple[int, int]
    plan: dict[str, Any] | None
    warnings: tuple[str, ...]


@dataclass
class _State:
    train_s: float = 0.0
    next_look: int = 0
    plan: dict[str, Any] | None = None


def run_gan(
    trainer: MMDGAN,
    images: ImageSet,
    judge: Judge,
    out: Path,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    plan_at: int | None = None,
    objective: str = "time",
    resume: bool = False,
    label: str = "",
    settings: dict[str, Any] | None = None,
    on_step: Callable[[int, float, float], None] | None = None,
) -> GanRun:
    """Train until so many generator steps or seconds of training, of earlier parts too, are done.

    A grid is written and the samples are scored at the end of each pass over the data, no more often than every 100 steps, and at the
    end. The time of grids, scores and plan is not counted as training.

    Args:
        trainer: Fresh; with ``resume`` it goes on from the checkpoint in ``out``.
        images: What it trains on.
        judge: Scores samples.
        out: Folder of the run.
        steps: Generator steps in all.
        seconds: Of training in all.
        plan_at: Generator step after which batch sizes are planned (`plan_batches`); None keeps them.
        objective: Of that plan: ``time``, ``examples`` or ``balanced``.
        resume: Go on with the run in ``out``.
        label: Runs with one label are repeats.
        settings: What else the record of the start is to say.
        on_step: Called with step, seconds of training and loss.

    Raises:
        InputError: If neither limit is given, or ``out`` holds another run already.
    """
    if steps is None and seconds is None:
        raise InputError("steps or seconds must be given, got neither; give one of them as a limit")
    if steps is not None:
        check_int("steps", steps, at_least=1)
    if seconds is not None:
        check_number("seconds", seconds, above=0.0)
    make_folder(out / GRIDS)
    if (out / RECORDS_NAME).exists() and not resume:
        raise InputError(f"--out must be a fresh folder, got {out} with records in it; give --resume or another folder")
    state = _State()
    if resume:
        trainer.resume(out)
        _recall(state, out, trainer.step_number)
    told: list[str] = []
    with RecordWriter(out) as records, Interrupt() as interrupt, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if resume:
            records.write("resume", step=trainer.step_number)
        else:
            _start(records, trainer, images, judge, label, settings or {})
        state.next_look = max(state.next_look, trainer.step_number + _spacing(trainer))
        losses: list[float] = []
        verdict: Verdict | None = None
        reason = _done(trainer, state, steps, seconds)
        while not reason:
            before = time.perf_counter()
            losses += _train(records, trainer, state)
            state.train_s += time.perf_counter() - before
            step = trainer.step_number
            told += _warnings(records, caught, step)
            if on_step is not None:
                on_step(step, state.train_s, losses[-1])
            if plan_at is not None and state.plan is None and step >= plan_at:
                _plan(records, trainer, state, objective)
            reason = "interrupted" if interrupt.asked else _done(trainer, state, steps, seconds)
            if step % MIN_LOOKS == 0 or reason or step >= state.next_look:
                _losses(records, trainer, state, losses)
            if step >= state.next_look or reason:
                verdict = _look(records, trainer, judge, state, images, out)
                state.next_look = step + _spacing(trainer)
        verdict = verdict or _look(records, trainer, judge, state, images, out)
        told += _warnings(records, caught, trainer.step_number)
        if plan_at is not None and state.plan is None and reason != "interrupted":
            told.append(_not_planned(records, trainer, plan_at))
        records.write("end", step=trainer.step_number, reason=reason, train_s=state.train_s)
    return GanRun(
        folder=out,
        reason=reason,
        num_steps=trainer.step_number,
        train_s=state.train_s,
        verdict=verdict,
        grid=out / grid_name(trainer.step_number),
        batch_sizes=trainer.batch_sizes,
        plan=state.plan,
        warnings=tuple(told),
    )


def _not_planned(records: RecordWriter, trainer: MMDGAN, plan_at: int) -> str:
    """Say that a run which was to plan its batch sizes came to its end before it did."""
    step, options = trainer.step_number, trainer.options
    text = (
        f"the batch size was not planned: the run ended at generator step {step:,}, before --plan-at {plan_at:,}; train for longer or "
        f"plan earlier"
    )
    if trainer.networks.critic is not None and step <= options.warmup_steps:
        text += (
            f". Each of the first {options.warmup_steps} generator steps takes {options.warmup_critic_steps} critic steps: "
            "--option warmup_critic_steps=5 shortens that"
        )
    records.write("warning", step=step, text=text)
    return text + "."


def _train(records: RecordWriter, trainer: MMDGAN, state: _State) -> list[float]:
    """One generator step; a loss that is not finite is told in the records before it ends the run."""
    try:
        return trainer.train(1)
    except NonFiniteLossError as error:
        records.write("warning", step=trainer.step_number, text=str(error))
        records.write("end", step=trainer.step_number, reason="not finite", train_s=state.train_s)
        raise


def grid_name(step: int) -> str:
    """Path of a grid within the folder of its run."""
    return f"{GRIDS}/step-{step:07d}.png"


def _start(
    records: RecordWriter, trainer: MMDGAN, images: ImageSet, judge: Judge, label: str, settings: dict[str, Any]
) -> None:
    options = {name: _said(value) for name, value in vars(trainer.options).items()}
    records.write(
        "start",
        system=SYSTEM,
        task=images.name,
        label=label,
        options=options,
        image_size=images.image_size,
        num_channels=images.num_channels,
        num_train=len(images.train),
        judge={
            "features": "classifier" if judge.network is not None else "pixels",
            "accuracy": judge.accuracy,
            "real_score": judge.real_score,
        },
        num_parameters={
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in (("generator", trainer.networks.generator), ("critic", trainer.networks.critic))
            if part is not None
        },
        environment=environment(trainer.data.device),
        **settings,
    )


def _said(value: Any) -> Any:
    """An option for a record; a kernel by its name and numbers."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _spacing(trainer: MMDGAN) -> int:
    """Generator steps of a pass over the data, all batches of real points counted, or the least spacing."""
    generator, critic = trainer.batch_sizes
    seen = generator + (trainer.options.critic_steps * critic if trainer.networks.critic is not None else 0)
    return max(MIN_STEPS_BETWEEN, len(trainer.data) // seen)


def _done(trainer: MMDGAN, state: _State, steps: int | None, seconds: float | None) -> str:
    if steps is not None and trainer.step_number >= steps:
        return "steps"
    return "time" if seconds is not None and state.train_s >= seconds else ""


def _losses(records: RecordWriter, trainer: MMDGAN, state: _State, losses: list[float]) -> None:
    generator, critic = trainer.batch_sizes
    lrs = trainer.lrs
    records.write(
        "step",
        step=trainer.step_number,
        loss=sum(losses) / len(losses) if losses else float("nan"),
        critic_loss=trainer.critic_loss,
        feature_distance=trainer.feature_distance,
        generator_batch_size=generator,
        critic_batch_size=critic,
        generator_lr=lrs[0],
        critic_lr=lrs[1],
        train_s=state.train_s,
    )
    losses.clear()


def _look(records: RecordWriter, trainer: MMDGAN, judge: Judge, state: _State, images: ImageSet, out: Path) -> Verdict:
    """Grid, scores and checkpoint."""
    step = trainer.step_number
    sample = trainer.sample(NUM_SCORED)
    write_png(out / grid_name(step), image_grid(sample[: GRID_SIDE**2], scale=max(1, 28 // images.image_size)))
    verdict = judge.verdict(sample)
    records.write(
        "evaluation",
        step=step,
        train_s=state.train_s,
        grid=grid_name(step),
        kid=verdict.kid,
        score=verdict.score,
        shares=list(verdict.shares),
        smallest_share=verdict.smallest_share,
        num_samples=verdict.num_samples,
    )
    records.sync()
    trainer.save(out)
    return verdict


def _plan(records: RecordWriter, trainer: MMDGAN, state: _State, objective: str) -> None:
    started = time.perf_counter()
    plan = plan_batches(trainer, clock=time.perf_counter, objective=objective)
    apply_plan(trainer, plan)
    state.plan = dict(to_plain(plan), seconds=time.perf_counter() - started)
    records.write("batch-plan", step=trainer.step_number, plan=state.plan)
    state.next_look = trainer.step_number + _spacing(trainer)


def _warnings(records: RecordWriter, caught: list[warnings.WarningMessage], step: int) -> list[str]:
    """Put warnings of the trainer into the records; others go on their way after the run."""
    told = [f"{item.message}" for item in caught if issubclass(item.category, UserWarning)]
    for text in told:
        records.write("warning", step=step, text=text)
    caught.clear()
    return told


def _recall(state: _State, out: Path, step: int) -> None:
    for line in read_records(out).lines:
        if line.get("step", -1) > step:
            continue
        if line["kind"] in ("step", "evaluation"):
            state.train_s = float(line["train_s"])
        elif line["kind"] == "batch-plan":
            state.plan = line["plan"]


def device_of(images: ImageSet, device: torch.device) -> ImageSet:
    """The images on a device."""
    return ImageSet(
        name=images.name,
        train=images.train.to(device),
        test=images.test.to(device),
        train_labels=images.train_labels,
        test_labels=images.test_labels,
        num_classes=images.num_classes,
    )
