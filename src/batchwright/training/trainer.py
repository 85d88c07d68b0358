"""A run from step to step: one batch from all ranks, the optimizer, the controller, evaluations, records and checkpoints.

A run killed at any instant goes on from its last checkpoint bit by bit (on a CPU, with the same numbers of threads and of ranks).
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.preserve import RandomState
from batchwright.core.records import RecordWriter
from batchwright.core.serialization import from_plain, to_plain
from batchwright.core.vectors import trainable
from batchwright.data.samplers import EpochSampler, SamplerState
from batchwright.optim import Muon, build_optimizer
from batchwright.tasks.evaluation import Evaluation, evaluate
from batchwright.tasks.task import Task
from batchwright.training.batch_gradient import BatchGradient
from batchwright.training.checkpoint import Checkpoint, clean_up, load_newest, save_checkpoint, seed_everything
from batchwright.training.control import Control
from batchwright.training.group import Group, in_step
from batchwright.training.interrupt import Interrupt
from batchwright.training.launch import launcher, note_micro_batch_size, noted_micro_batch_size
from batchwright.training.recording import record_end, record_evaluation, record_start, record_step
from batchwright.training.run import Instant, Progress, Run, crossing
from batchwright.training.settings import TrainSettings
from batchwright.training.sharding import load_model, load_optimizer, place, whole
from batchwright.training.state import LoopState
from batchwright.training.step_measures import Readings, StepMeasures
from batchwright.training.travel import Travel
from batchwright.training.watch import Watch

# Evaluations thin out as the run goes on: the next comes after this part of the examples seen so far.
EVALUATION_SPACING = 0.05


class Trainer:
    """A run under way, on one process or as one rank of several.

    Everything that the next step depends on is the same on all ranks: the order of the data, what was measured, and so the decisions.
    Records and checkpoints are written by the first rank alone. A rank's errors become known to the others where they settle next.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        *,
        group: Group,
        parallel: str,
        device: torch.device,
        folder: Path,
        records: RecordWriter,
        interrupt: Interrupt,
    ) -> None:
        self.task, self.settings, self.group, self.device = task, settings, group, device
        self.folder, self.records, self.interrupt = folder, records, interrupt
        with group.together():
            seed_everything(settings.seed)
            self.model = task.make_model(settings.seed, device)
        self.ranks = place(self.model, group, parallel)
        with group.together():
            self.optimizer = build_optimizer(settings.optimizer, self.model)
            if isinstance(self.optimizer, Muon) and group.world_size > 1:
                self.optimizer.process_group = torch.distributed.group.WORLD  # each rank makes a part of the factors
            self.sampler = EpochSampler(task.num_train, settings.seed)
            self.watch = Watch(task, settings, self.model, self.optimizer, records, self.ranks)
            self.control = Control(task, settings, self.optimizer, records, self.watch, group)
            self.measures = StepMeasures(task, self.model, self.control.controller.needs, self.ranks)
        self.gradient = BatchGradient(
            task,
            self.model,
            self.optimizer,
            self.ranks,
            self.measures,
            seed=settings.seed,
            on_too_large=lambda size: note_micro_batch_size(folder, size),
            noise_batch_size=settings.noise_batch_size,
        )
        self.travel = Travel(task, self.model, records, seed=settings.seed, active=settings.diffusion)
        self.state = LoopState(
            batch_size=settings.batch_size, controller=self.control.controller.init(batch_size=settings.batch_size)
        )
        self.pending: list[Tensor] = []
        self.notes = self.watch.notes
        self._asked = False

    def start(self, resume: bool) -> None:
        """Begin, or go on from the last checkpoint."""
        with self.group.together():
            found = load_newest(self.folder) if resume else None
            noted = noted_micro_batch_size(self.folder) if resume else None
        if self.group.same(found is None) != (found is None):
            raise InputError(
                "--out must be one folder for all ranks, got some that see no checkpoint; put it on a shared disk"
            )
        if found is None:
            # Without a checkpoint a resumed run begins again: that is bit by bit the same run.
            if resume:
                self.records.write("resume", step=-1, num_examples=0)
            record_start(self.records, self.task, self.settings, self.device, self.group.world_size)
            self._take_noted(noted)
            self._evaluate()
            # A schedule chooses the size of the first step too.
            self.control.after_step(self.state, Readings(), epoch=0)
            self._checkpoint()
            return
        checkpoint, damaged = found
        self.notes += [f"passed over a damaged checkpoint: {line}" for line in damaged]
        self._restore(checkpoint)
        self.records.write(
            "resume",
            step=self.state.step,
            num_examples=self.state.num_examples,
            notes=self.notes,
            world_size=self.group.world_size,
            launcher=launcher(),
        )
        self._take_noted(noted)

    @property
    def finished(self) -> str:
        """Why the run is at its end; empty while it is not."""
        if self.state.to_target is not None and self.settings.stop_at_target:
            return "target"
        return "limit" if self.state.num_examples >= self.settings.max_examples else ""

    @property
    def interrupted(self) -> bool:
        """Whether the run is to stop here; several ranks have heard of it in their last step."""
        return self.interrupt.asked if self.group.world_size == 1 else self._asked

    def step(self) -> None:
        """One optimizer step and all that follows it."""
        state, start = self.state, time.perf_counter()
        epoch = self.sampler.state.epoch
        indices = self.sampler.take(state.batch_size)
        before = state.micro_batch_size or self.settings.micro_batch_size
        found = self.gradient.make(
            indices,
            step=state.step + 1,
            micro_batch_size=before,
            measured=self.measures.active and (state.step + 1) % self.settings.noise_every == 0,
            asked=lambda: self.interrupt.asked,
        )
        self._asked = found.asked
        readings = self.measures.end(found.batch, state.batch_size, epoch_over=self.sampler.state.epoch > epoch)
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(trainable(self.model), self.settings.max_grad_norm)
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.pending.append(found.loss)
        state.step += 1
        state.num_examples += state.batch_size
        self.travel.after_step(
            step=state.step, num_examples=state.num_examples, batch_size=state.batch_size, lr=float(lr)
        )
        self._decay_lr()
        if found.micro_batch_size < before:
            self._change_micro_batch_size(found.micro_batch_size)
        if self.device.type == "cpu" or self.control.needs_loss or state.step >= state.next_step_record:
            self._read_losses()
        seconds = time.perf_counter() - start
        state.train_s += seconds

        if state.step >= state.next_step_record:
            record_step(self.records, state, self.optimizer.param_groups[0]["lr"])
        with self.group.together() if self.control.needs_stability else nullcontext():
            self.watch.after_step(state, seconds)
        self.control.after_step(state, readings, epoch=self.sampler.state.epoch)
        if state.num_examples >= state.next_evaluation or state.num_examples >= self.settings.max_examples:
            self._evaluate()
        if state.step - state.last_checkpoint >= self.settings.checkpoint_every:
            self._checkpoint()

    def _decay_lr(self) -> None:
        """Multiply the learning rate where the step just made has crossed a milestone: what the run has done tells it alone."""
        state, settings = self.state, self.settings
        for share in settings.lr_milestones:
            if state.num_examples - state.batch_size < share * settings.max_examples <= state.num_examples:
                for group in self.optimizer.param_groups:
                    group["lr"] *= settings.lr_decay

    def _change_micro_batch_size(self, size: int) -> None:
        state = self.state
        state.micro_batch_size = size
        self.records.write("micro_batch_size", step=state.step, num_examples=state.num_examples, micro_batch_size=size)
        self.notes.append(f"micro-batches of {size} from step {state.step} on: larger ones did not fit in memory")

    def _take_noted(self, noted: int | None) -> None:
        noted = self.group.same(noted)
        if noted is not None and noted < (self.state.micro_batch_size or self.settings.micro_batch_size):
            self._change_micro_batch_size(noted)

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
        with in_step() if self.ranks.sharded else self.group.together():
            # A forward pass of a sharded model is one of all ranks.
            found = evaluate(self.task, self.model) if self.group.rank == 0 or self.ranks.sharded else None
        if self.group.world_size > 1:
            found = from_plain(Evaluation, self.group.same(to_plain(found)), "evaluation")
        assert found is not None
        state.evaluation = found
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
        if self.ranks.sharded:
            self.group.settle()  # making states whole is the work of all ranks
        checkpoint = Checkpoint(
            model=whole(self.model.state_dict()),
            optimizer=whole(self.optimizer.state_dict()),
            random_state=RandomState.capture(),
            progress={
                "state": self.state.to_plain(),
                "sampler": to_plain(self.sampler.state),
                "follower": self.control.follower.state_dict(),
                "travel": self.travel.state_dict(),
            },
            stability=self.watch.state_dict(),
            measures=self.measures.state_dict(),
        )
        if self.group.rank == 0:
            save_checkpoint(self.folder, self.state.step, checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if self.group.rank == 0:
            clean_up(self.folder)
        load_model(self.model, checkpoint.model)
        load_optimizer(self.optimizer, checkpoint.optimizer)
        self.state = LoopState.from_plain(checkpoint.progress["state"])
        self.sampler.restore(from_plain(SamplerState, checkpoint.progress["sampler"], "sampler"))
        self.control.follower.load_state_dict(checkpoint.progress["follower"])
        self.travel.load_state_dict(checkpoint.progress.get("travel"))
        self.watch.load_state_dict(checkpoint.stability)
        self.measures.load_state_dict(checkpoint.measures)
        checkpoint.random_state.restore()

    def progress(self) -> Progress:
        """For a progress bar."""
        losses = self.state.losses
        return Progress(
            step=self.state.step,
            num_examples=self.state.num_examples,
            max_examples=self.settings.max_examples,
            batch_size=self.state.batch_size,
            loss=losses[-1] if losses else math.nan,
        )

    def stop(self, reason: str) -> Run:
        """End the run, with a checkpoint."""
        self._checkpoint()
        if reason != "interrupted":
            self.travel.end(step=self.state.step, num_examples=self.state.num_examples)
        record_end(self.records, self.state, reason, "")
        state, model = self.state, self.model
        if self.ranks.sharded:  # whoever gets the run may have no process group
            model = self.task.make_model(self.settings.seed, self.device)
            model.load_state_dict(whole(self.model.state_dict()))
        return Run(
            folder=self.folder,
            model=model,
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
        """Write that an error ends the run."""
        try:
            record_end(self.records, self.state, "failed", str(error))
        except OSError:
            return  # the disk is what failed: the error on its way says so
