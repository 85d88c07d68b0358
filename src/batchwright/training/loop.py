"""`train`: a task with a plan, a fixed batch size or a controller, on one process or on all those that ``torchrun`` has started."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from batchwright.adapt import Controller
from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.core.records import NoRecords, RecordWriter
from batchwright.core.serialization import to_plain
from batchwright.planning.plan import Plan
from batchwright.planning.token_plan import TokenPlan
from batchwright.tasks.task import Task
from batchwright.training.group import Group, process_group, was_told
from batchwright.training.interrupt import Interrupt
from batchwright.training.launch import rank_device, restarted
from batchwright.training.run import Progress, Run
from batchwright.training.settings import (
    STABILITY_BUDGET,
    TrainSettings,
    holds_run,
    make_settings,
    not_used,
    recorded_settings,
)
from batchwright.training.trainer import Trainer

PARALLEL = ("ddp", "fsdp")
# A terminal and torchrun both pass a Ctrl-C on to the ranks: signals within so many seconds are one.
SETTLE_S = 2.0
# For a policy that reads the gauge; its budget is kept by the clock.
GAUGE_TURNED_ON = (
    "policy {} reads the stability gauge, so it was turned on, every {} steps at most; when it is read depends on the clock, and so do "
    "decisions and a resumed run, unless stability_budget=None"
)


def train(
    task: Task,
    plan: Plan | TokenPlan | None = None,
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
    stop_at_target: bool | None = None,
    stability_every: int | None = None,
    stability_budget: float | None = STABILITY_BUDGET,
    max_grad_norm: float | None = None,
    noise_batch_size: int | None = None,
    lr_milestones: Sequence[float] = (),
    lr_decay: float = 0.1,
    diffusion: bool = False,
    resume: bool = False,
    device: str = "auto",
    parallel: str = "ddp",
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a task, with a plan, a fixed batch size or a controller, and write its records to a folder.

    Under ``torchrun`` all ranks call it alike, and each gets the run back: batch sizes are those of all ranks together, the first
    rank writes, and an error on one rank ends all. The process group is made and taken down here, unless there is one.

    Args:
        task: The training job.
        plan: Where batch size, micro-batch size, lr and momentum come from; the task's defaults where left out. A plan for a budget of
            tokens brings its Scion, its number of examples and its stages too.
        out: Folder of the run; new, unless ``resume`` is set.
        policy: Batch-size controller; fixed where left out.
        batch_size: Examples in an optimizer step; comes before the plan's.
        micro_batch_size: Most examples in one forward pass of a rank; the gradient is that of the whole batch for any size. Where a
            GPU, or one of several ranks, has too little memory for it, it is halved for the rest of the run.
        lr: Learning rate at ``batch_size``; comes before the plan's.
        seed: Of the model, the data order and every random number of the run.
        label: Groups repeats in reports; made from the policy or plan where left out.
        max_examples: The run ends after these; where left out the limit of the plan's regime, or the task's.
        checkpoint_every: Optimizer steps between two checkpoints.
        noise_every: Optimizer steps between two noise measurements of a controller that needs them.
        stop_at_target: Whether reaching the task's target ends the run; where left out it does, except with a plan for a budget of
            tokens.
        stability_every: Fewest optimizer steps between two readings of the stability gauge (`StabilityMonitor`); none where left out.
            They leave every bit of the run as it was, but a second derivative holds a batch's activations a second time, which the
            plan's memory ceiling does not know, and the clock decides when they are made. So they are asked for.
        stability_budget: Seconds of readings for a second of training steps; None for every reading at any price.
        max_grad_norm: Gradients are clipped to this norm; the plan's where left out, and none without one.
        noise_batch_size: Multiplicative noise gives gradients the covariance of a batch of this size (Hoffer et al. 2017); the plan's
            where left out.
        lr_milestones: Shares of ``max_examples`` after which the learning rate is multiplied by ``lr_decay``: a plan's regime moves the
            limit, and with it every boundary.
        lr_decay: Factor of each milestone.
        diffusion: Record the distance from the initial weights at log-spaced steps, and at the end the law it follows and the loss
            about the beginning, which costs 113 forward passes of up to 256 examples. On one process alone.
        resume: Go on with the run in ``out``, with the settings it was started with; the other arguments are not used, and the run's
            notes name those that differ.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; several ranks on GPUs take one each.
        parallel: Of several ranks: ``ddp`` for the whole model on each, ``fsdp`` for a model sharded by ``fully_shard``.
        on_progress: Called after each step.

    Returns:
        The run; its ``reason`` is ``interrupted`` after Ctrl-C, and then it can be resumed.

    Raises:
        InputError: If the settings are wrong, ``out`` holds a run already, or there is nothing to resume.
        NonFiniteLossError: If a training loss is not finite.
        OutputError: If ``out`` cannot be written.
        CheckpointError: If no checkpoint can be read.
        DoesNotFitError: If not even one example fits in memory, or under FSDP a micro-batch did not: then a smaller one was noted, and
            is taken by a resume.
        RankError: If another rank failed or is gone.
    """
    folder = Path(out)
    with ExitStack() as stack:
        group = stack.enter_context(process_group(device))
        with group.together():
            check_choice("parallel", parallel, PARALLEL)
            if diffusion and group.world_size > 1:
                raise InputError(
                    f"diffusion must be recorded by one process, got {group.world_size} ranks; leave it out under torchrun"
                )
            where = rank_device(device, group)
            again = group.same(restarted(folder))
            if resume or again:
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
                    max_grad_norm=max_grad_norm,
                    noise_batch_size=noise_batch_size,
                    lr_milestones=lr_milestones,
                    lr_decay=lr_decay,
                    diffusion=diffusion,
                )
                if holds_run(folder):
                    raise InputError(
                        f"--out must be a folder without a run, got {folder}; choose another or give --resume"
                    )
        _check_alike(group, task, settings)
        with group.together():
            records = stack.enter_context(RecordWriter(folder) if group.rank == 0 else NoRecords())
            interrupt = stack.enter_context(Interrupt(settle_s=SETTLE_S if group.world_size > 1 else 0.0))
        trainer: Trainer | None = None
        try:
            trainer = Trainer(
                task,
                settings,
                group=group,
                parallel=parallel,
                device=where,
                folder=folder,
                records=records,
                interrupt=interrupt,
            )
            if not (resume or again) and settings.stability_every != stability_every:
                trainer.notes.append(GAUGE_TURNED_ON.format(settings.policy, settings.stability_every))
            trainer.start(resume or again)
            if resume:
                trainer.notes += not_used(
                    settings,
                    policy=policy,
                    batch_size=batch_size,
                    lr=lr,
                    max_examples=max_examples,
                    max_grad_norm=max_grad_norm,
                )
                if trainer.finished:
                    trainer.notes.append(f"the run had ended before ({trainer.finished}): nothing was left to do")
            while not trainer.finished and not trainer.interrupted:
                trainer.step()
                if on_progress is not None:
                    on_progress(trainer.progress())
            run = trainer.stop(trainer.finished or "interrupted")
            group.settle()
            return run
        except Exception as error:
            if trainer is not None:
                trainer.fail(error)
            if group.world_size > 1 and not was_told(error):
                group.settle(error)
            raise


def _check_alike(group: Group, task: Task, settings: TrainSettings) -> None:
    """Refuse ranks that were given different things, before they wait for each other."""
    mine = to_plain({"settings": settings, "num_train": task.num_train})
    first = group.same(mine)
    with group.together():
        for name, value in {**mine["settings"], "num_train": mine["num_train"]}.items():
            wanted = first["num_train"] if name == "num_train" else first["settings"][name]
            if value != wanted:
                raise InputError(
                    f"{name} must be the same on all ranks, got {value} here and {wanted} on rank 0; give each the same"
                )
