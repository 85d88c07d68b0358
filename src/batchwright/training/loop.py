"""The training loop: micro-batches and accumulation that keep the global batch exactly, a controller, records, checkpoints.

A run killed at any instant goes on from its last checkpoint bit by bit (on a CPU, with the same number of threads).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from batchwright.adapt import Controller
from batchwright.core.batches import to_device
from batchwright.core.environment import resolve_device
from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.core.records import RecordWriter
from batchwright.core.serialization import from_plain, to_plain
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler, SamplerState
from batchwright.optim.build import build_optimizer
from batchwright.planning.plan import Plan
from batchwright.tasks.evaluation import evaluate
from batchwright.tasks.task import Task
from batchwright.training.checkpoint import Checkpoint, clean_up, load_newest, save_checkpoint, seed_everything
from batchwright.training.control import Control
from batchwright.training.interrupt import Interrupt
from batchwright.training.recording import record_end, record_evaluation, record_start, record_step
from batchwright.training.run import Instant, Run, crossing
from batchwright.training.settings import STABILITY_BUDGET, TrainSettings, holds_run, make_settings, recorded_settings
from batchwright.training.state import LoopState
from batchwright.training.step_measures import Readings, StepMeasures
from batchwright.training.watch import Watch

# For a policy that reads the gauge; its budget is kept by the clock.
GAUGE_TURNED_ON = (
    "policy {} reads the stability gauge, so it was turned on, every {} steps at most; when it is read depends on the clock, and so do "
    "decisions and a resumed run, unless stability_budget=None"
)
# Evaluations thin out as the run goes on: the next comes after this part of the examples seen so far.
EVALUATION_SPACING = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a progress bar shows after a step."""

    step: int
    num_examples: int
    max_examples: int
    batch_size: int
    loss: float


def train(
    task: Task,
    plan: Plan | None = None,
    *,
    out: str | Path,
    policy: Controller | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    label: str | None = None,
    max_examples: int | None = None,
    checkpoint_every: int = 200,
    noise_every: int = 4,
    stop_at_target: bool = True,
    stability_every: int | None = None,
    stability_budget: float | None = STABILITY_BUDGET,
    resume: bool = False,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a task, with a plan, a fixed batch size or a controller, and write its records to a folder.

    Args:
        task: The training job.
        plan: Where batch size, micro-batch size, lr and momentum come from; the task's defaults where left out.
        out: Folder of the run; new, unless ``resume`` is set.
        policy: Batch-size controller; fixed where left out.
        batch_size: Examples in an optimizer step; comes before the plan's.
        micro_batch_size: Most examples in one forward pass; the gradient is that of the whole batch for any size.
        lr: Learning rate at ``batch_size``; comes before the plan's.
        seed: Of the model, the data order and every random number of the run.
        label: Groups repeats in reports; made from the policy or plan where left out.
        max_examples: The run ends after these; the task's limit where left out.
        checkpoint_every: Optimizer steps between two checkpoints.
        noise_every: Optimizer steps between two noise measurements of a controller that needs them.
        stop_at_target: Whether reaching the task's target ends the run.
        stability_every: Fewest optimizer steps between two readings of the stability gauge (`StabilityMonitor`); none where left out.
            They leave every bit of the run as it was, but a second derivative holds a batch's activations a second time, which the
            plan's memory ceiling does not know, and the clock decides when they are made. So they are asked for.
        stability_budget: Seconds of readings for a second of training steps; None for every reading at any price.
        resume: Go on with the run in ``out``, with the settings it was started with; the other arguments are not used.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        on_progress: Called after each step.

    Returns:
        The run; its ``reason`` is ``interrupted`` after Ctrl-C, and then it can be resumed.

    Raises:
        InputError: If the settings are wrong, ``out`` holds a run already, or there is nothing to resume.
        NonFiniteLossError: If a training loss is not finite.
        OutputError: If ``out`` cannot be written.
        CheckpointError: If no checkpoint can be read.
    """
    folder = Path(out)
    where = resolve_device(device)
    if resume:
        settings = recorded_settings(folder, task)
    else:
        settings = make_settings(
            task,
            plan,
            policy=policy,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            lr=lr,
            seed=seed,
            label=label,
            max_examples=max_examples,
            checkpoint_every=checkpoint_every,
            noise_every=noise_every,
            stop_at_target=stop_at_target,
            stability_every=stability_every,
            stability_budget=stability_budget,
        )
        if holds_run(folder):
            raise InputError(f"--out must be a folder without a run, got {folder}; choose another or give --resume")
    with RecordWriter(folder) as records, Interrupt() as interrupt:
        loop = _Loop(task, settings, where, folder, records)
        if not resume and settings.stability_every != stability_every:
            loop.notes.append(GAUGE_TURNED_ON.format(settings.policy, settings.stability_every))
        loop.start(resume)
        try:
            while not loop.finished:
                if interrupt.asked:
                    return loop.stop("interrupted")
                loop.step()
                if on_progress is not None:
                    on_progress(loop.progress())
            return loop.stop(loop.finished)
        except Exception as error:
            loop.fail(error)
            raise


class _Loop:
    def __init__(
        self, task: Task, settings: TrainSettings, device: torch.device, folder: Path, records: RecordWriter
    ) -> None:
        self.task, self.settings, self.device, self.folder, self.records = task, settings, device, folder, records
        seed_everything(settings.seed)
        self.model = task.make_model(settings.seed, device)
        self.optimizer = build_optimizer(settings.optimizer, self.model)
        self.sampler = EpochSampler(task.num_train, settings.seed)
        self.watch = Watch(task, settings, self.model, self.optimizer, records)
        self.control = Control(task, settings, self.optimizer, records, self.watch)
        self.measures = StepMeasures(task, self.model, self.control.controller.needs)
        self.state = LoopState(
            batch_size=settings.batch_size, controller=self.control.controller.init(batch_size=settings.batch_size)
        )
        self.pending: list[Tensor] = []
        self.notes = self.watch.notes

    def start(self, resume: bool) -> None:
        found = load_newest(self.folder) if resume else None
        if found is None:
            # Without a checkpoint a resumed run begins again: that is bit by bit the same run.
            if resume:
                self.records.write("resume", step=-1, num_examples=0)
            record_start(self.records, self.task, self.settings, self.device)
            self._evaluate()
            # A schedule chooses the size of the first step too.
            self.control.after_step(self.state, Readings(), epoch=0)
            self._checkpoint()
            return
        checkpoint, damaged = found
        self.notes += [f"passed over a damaged checkpoint: {line}" for line in damaged]
        clean_up(self.folder)
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.state = LoopState.from_plain(checkpoint.progress["state"])
        self.sampler.restore(from_plain(SamplerState, checkpoint.progress["sampler"], "sampler"))
        self.control.follower.load_state_dict(checkpoint.progress["follower"])
        self.watch.load_state_dict(checkpoint.stability)
        self.measures.load_state_dict(checkpoint.measures)
        self.records.write("resume", step=self.state.step, num_examples=self.state.num_examples, notes=self.notes)
        checkpoint.random_state.restore()

    @property
    def finished(self) -> str:
        if self.state.to_target is not None and self.settings.stop_at_target:
            return "target"
        return "limit" if self.state.num_examples >= self.settings.max_examples else ""

    def step(self) -> None:
        state, start = self.state, time.perf_counter()
        epoch = self.sampler.state.epoch
        batch = to_device(fetch(self.task.train, self.sampler.take(state.batch_size)), self.device)
        micro_batch_size = min(self.settings.micro_batch_size, state.batch_size)
        due = self.measures.active and (state.step + 1) % self.settings.noise_every == 0
        sizes = self.measures.begin(state.batch_size, micro_batch_size) if due else None
        self.optimizer.zero_grad(set_to_none=True)
        mean = accumulate_gradient(
            self.model,
            self.task.loss,
            batch,
            micro_batch_size=micro_batch_size,
            sizes=sizes,
            after_micro_batch=self.measures.after_micro_batch if sizes is not None else None,
        )
        readings = self.measures.end(batch, epoch_over=self.sampler.state.epoch > epoch)
        self.optimizer.step()
        self.pending.append(mean)
        state.step += 1
        state.num_examples += state.batch_size
        if self.device.type == "cpu" or self.control.needs_loss or state.step >= state.next_step_record:
            self._read_losses()
        seconds = time.perf_counter() - start
        state.train_s += seconds

        if state.step >= state.next_step_record:
            record_step(self.records, state, self.optimizer.param_groups[0]["lr"])
        self.watch.after_step(state, seconds)
        self.control.after_step(state, readings, epoch=self.sampler.state.epoch)
        if state.num_examples >= state.next_evaluation or state.num_examples >= self.settings.max_examples:
            self._evaluate()
        if state.step - state.last_checkpoint >= self.settings.checkpoint_every:
            self._checkpoint()

    def _read_losses(self) -> None:
        """Take the losses off the device; on a GPU only now and then, so that steps do not wait for it."""
        first = self.state.step - len(self.pending) + 1
        for number, value in enumerate(self.pending):
            loss = float(value)
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"loss must stay finite, got {loss} at step {first + number} with lr "
                    f"{self.optimizer.param_groups[0]['lr']:g} and batch size {self.state.batch_size}; lower the lr or mend the "
                    f"loss (last good checkpoint: step {max(self.state.last_checkpoint, 0)})"
                )
            self.state.losses.append(loss)
            self.state.last_loss = loss
        self.pending.clear()

    def _evaluate(self) -> None:
        state = self.state
        self._read_losses()
        state.evaluation = evaluate(self.task, self.model)
        target = self.task.target
        if target is not None:
            now = Instant(
                step=state.step,
                num_examples=state.num_examples,
                train_s=state.train_s,
                value=state.evaluation.values[target.metric],
            )
            state.to_target = state.to_target or crossing(target, state.before, now)
            state.before = now
        record_evaluation(self.records, state)
        gap = max(EVALUATION_SPACING * state.num_examples, min(state.evaluation.num_examples, self.task.num_train) / 2)
        state.next_evaluation = state.num_examples + max(1, math.ceil(gap))

    def _checkpoint(self) -> None:
        if self.state.last_checkpoint == self.state.step:
            return
        self._read_losses()
        self.state.last_checkpoint = self.state.step
        self.records.write("checkpoint", step=self.state.step, num_examples=self.state.num_examples)
        self.records.sync()
        save_checkpoint(
            self.folder,
            self.state.step,
            Checkpoint(
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                random_state=RandomState.capture(),
                progress={
                    "state": self.state.to_plain(),
                    "sampler": to_plain(self.sampler.state),
                    "follower": self.control.follower.state_dict(),
                },
                stability=self.watch.state_dict(),
                measures=self.measures.state_dict(),
            ),
        )

    def progress(self) -> Progress:
        losses = self.state.losses
        return Progress(
            step=self.state.step,
            num_examples=self.state.num_examples,
            max_examples=self.settings.max_examples,
            batch_size=self.state.batch_size,
            loss=losses[-1] if losses else math.nan,
        )

    def stop(self, reason: str) -> Run:
        self._checkpoint()
        record_end(self.records, self.state, reason, "")
        state = self.state
        return Run(
            folder=self.folder,
            model=self.model,
            label=self.settings.label,
            seed=self.settings.seed,
            reason=reason,
            num_steps=state.step,
            num_examples=state.num_examples,
            train_s=state.train_s,
            batch_size=state.batch_size,
            to_target=state.to_target,
            evaluation=state.evaluation,
            notes=tuple(self.notes),
        )

    def fail(self, error: Exception) -> None:
        try:
            record_end(self.records, self.state, "failed", str(error))
        except OSError:
            return  # the disk is what failed: the error on its way says so
