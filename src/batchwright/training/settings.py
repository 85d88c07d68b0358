"""Everything that decides how a run goes, in one value that is written into its records and its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from batchwright.adapt import REGISTRY, Controller, Fixed, RestartedBudget, check_optimizer
from batchwright.adapt.controller import GAUGE
from batchwright.adapt.own import controller_of, policy_name
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import CheckpointError, InputError
from batchwright.core.records import RECORDS_NAME, read_records
from batchwright.core.serialization import from_plain
from batchwright.measure.per_example.separate import refuse_batch_statistics
from batchwright.planning.plan import Plan
from batchwright.planning.token_plan import TokenPlan
from batchwright.tasks.task import OptimizerSpec, Task
from batchwright.training.step_examples import OF_EXAMPLES
from batchwright.training.step_noise import NOISE

# No first record is longer, in bytes.
MAX_FIRST_LINE = 2**20
# Readings of the stability gauge, when they are asked for: at most so often, and never more than this part of the training time.
STABILITY_EVERY, STABILITY_BUDGET = 50, 0.05
# What is measured on the gradients of a step, which noise that is put into them would falsify.
OF_GRADIENTS = NOISE | OF_EXAMPLES | {"cosine"}
# What only a task whose examples are sequences of tokens can show.
OF_TOKENS = frozenset({"num_tokens", "sequence_length"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Settings of a run.

    Attributes:
        task: Name of the task.
        label: Runs with one label are repeats of one another, apart from their seed.
        seed: Of the model, the data order and every random number of the run.
        batch_size: Examples in the first optimizer step.
        micro_batch_size: Most examples in one forward pass.
        optimizer: With its settings at ``batch_size``.
        policy: Name of the controller; ``stem:Class`` of a class of the user's.
        policy_options: Its options.
        max_examples: The run ends after these.
        checkpoint_every: Optimizer steps between two checkpoints.
        noise_every: Optimizer steps between two noise measurements, for controllers that follow the noise scale.
        stop_at_target: Whether reaching the target ends the run.
        stability_every: Fewest optimizer steps between two readings of the stability gauge; None for no readings.
        stability_budget: Seconds of such readings for a second of training steps; None for every reading at any price.
        max_grad_norm: Gradients are clipped to this norm; None for no clipping.
        noise_batch_size: Multiplicative noise gives gradients the covariance of a batch of this size; None for none.
        lr_milestones: Shares of ``max_examples`` after which the learning rate is multiplied by ``lr_decay``.
        lr_decay: Factor of each milestone.
        diffusion: Whether distances from the initial weights are recorded.
    """

    task: str
    label: str
    seed: int
    batch_size: int
    micro_batch_size: int
    optimizer: OptimizerSpec
    policy: str
    policy_options: Mapping[str, Any]
    max_examples: int
    checkpoint_every: int
    noise_every: int
    stop_at_target: bool
    stability_every: int | None = None
    stability_budget: float | None = STABILITY_BUDGET
    max_grad_norm: float | None = None
    noise_batch_size: int | None = None
    lr_milestones: tuple[float, ...] = ()
    lr_decay: float = 0.1
    diffusion: bool = False

    def __post_init__(self) -> None:
        check_int("seed", self.seed, at_least=0)
        check_int("batch_size", self.batch_size, at_least=1)
        check_int("micro_batch_size", self.micro_batch_size, at_least=1)
        check_int("max_examples", self.max_examples, at_least=1)
        check_int("checkpoint_every", self.checkpoint_every, at_least=1)
        check_int("noise_every", self.noise_every, at_least=1)
        if ":" not in self.policy:  # else a class of the user's; `controller` says whether it is known
            check_choice("policy", self.policy, REGISTRY)
        if self.stability_every is not None:
            check_int("stability_every", self.stability_every, at_least=1)
        if self.stability_budget is not None:
            check_number("stability_budget", self.stability_budget, above=0.0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)
        if self.noise_batch_size is not None:
            check_int("noise_batch_size", self.noise_batch_size, at_least=1)
        for share in self.lr_milestones:
            check_number("lr_milestones", share, above=0.0, below=1.0)
        if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
            raise InputError(f"lr_milestones must rise, got {self.lr_milestones}; they are shares of the run")
        check_number("lr_decay", self.lr_decay, above=0.0)

    def controller(self) -> Controller:
        """The controller that the settings name."""
        return controller_of(self.policy, self.policy_options)

    def differences(self, other: "TrainSettings") -> list[str]:
        """One line for each setting that differs."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {mine[name]!r} and {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


def make_settings(
    task: Task,
    plan: Plan | TokenPlan | None = None,
    *,
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
) -> TrainSettings:
    """Settings from a plan, from explicit values, or from the task's defaults; the explicit ones come first.

    Raises:
        InputError: If the plan was made for another task, or the batch is larger than the data set.
    """
    if plan is not None and plan.task != task.name:
        raise InputError(f"plan must be made for task {task.name!r}, got one for {plan.task!r}; plan anew")
    size = batch_size or (plan.batch_size if plan else task.batch_size)
    if size > task.num_train:
        raise InputError(
            f"batch_size must be at most the number of training examples, got {size} for {task.num_train}; "
            f"use {task.num_train} or fewer"
        )
    spec = task.optimizer
    if isinstance(plan, TokenPlan):
        spec, policy = plan.optimizer, policy or _stages(plan)
        max_examples = max_examples or plan.max_examples
    elif plan is not None:
        spec = replace(spec, lr=plan.lr, momentum=plan.momentum, beta2=plan.beta2)
    if stop_at_target is None:  # a budget of tokens is where its run ends
        stop_at_target = not isinstance(plan, TokenPlan)
    if lr is not None:
        spec = replace(spec, lr=lr)
    controller = policy or Fixed()
    name = policy_name(controller)
    check_optimizer(controller, spec.name, momentum=spec.momentum)
    _check_needs(controller, name, task)
    regime = plan.regime if isinstance(plan, Plan) else None
    if regime is not None:
        max_examples = max_examples or regime.at(size)
        max_grad_norm = max_grad_norm or regime.max_grad_norm
        noise_batch_size = noise_batch_size or regime.noise_batch_size
    if noise_batch_size is not None and controller.needs & OF_GRADIENTS:
        raise InputError(
            f"noise_batch_size must go with a policy that does not measure the gradient, got {name}, which would "
            "measure the noise that is put in; take a fixed batch size or a schedule"
        )
    if controller.needs & GAUGE and stability_every is None:
        stability_every = STABILITY_EVERY
    return TrainSettings(
        task=task.name,
        label=label or (name if policy else "plan" if plan else "default"),
        seed=seed,
        batch_size=size,
        micro_batch_size=micro_batch_size or (plan.micro_batch_size if plan else size),
        optimizer=spec,
        policy=name,
        policy_options=asdict(controller),  # type: ignore[call-overload]
        max_examples=max_examples or task.example_limit,
        checkpoint_every=checkpoint_every,
        noise_every=noise_every,
        stop_at_target=stop_at_target,
        stability_every=stability_every,
        stability_budget=stability_budget,
        max_grad_norm=max_grad_norm,
        noise_batch_size=noise_batch_size,
        lr_milestones=tuple(lr_milestones),
        lr_decay=lr_decay,
        diffusion=diffusion,
    )


def _stages(plan: TokenPlan) -> Controller | None:
    """The restarted schedule of a plan with several stages, by the rule that made them."""
    if len(plan.stages) == 1:
        return None
    return RestartedBudget(
        budgets=" ".join(str(stage.tokens) for stage in plan.stages),
        rounding="multiple",
        multiple_of=plan.multiple_of,
        max_batch_size=plan.max_batch_size,
    )


def _check_needs(controller: Controller, name: str, task: Task) -> None:
    """Refuse a controller that the task cannot show what it needs, with the way out."""
    if controller.needs & OF_TOKENS and task.sequence_length is None:
        raise InputError(
            f"policy {name} counts tokens, so the task must say how many an example has, got task {task.name!r} without "
            "sequence_length; give Task(sequence_length=...), or take unit=examples"
        )
    if controller.needs & OF_EXAMPLES:
        try:
            refuse_batch_statistics(task.make_model(0))
        except InputError as error:
            raise InputError(
                f"policy {name} measures the gradients of single examples, and {error}; or take noise-scale or norm-test"
            ) from error


def holds_run(folder: Path) -> bool:
    """Whether a run was started in ``folder``; one killed before its first record was whole has left nothing to keep."""
    path = folder / RECORDS_NAME
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline(MAX_FIRST_LINE).endswith(b"\n")


def recorded_settings(folder: Path, task: Task) -> TrainSettings:
    """The settings of the run in ``folder``.

    Raises:
        InputError: If the folder holds no run, or one of another task.
    """
    if not holds_run(folder):
        raise InputError(f"--resume needs a folder that holds a run, got {folder}; start without --resume")
    starts = read_records(folder).of_kind("start")
    if not starts:
        raise CheckpointError(f"{folder} holds records without a start; start anew in another folder")
    settings: TrainSettings = from_plain(TrainSettings, starts[0]["settings"], "settings")
    if settings.task != task.name:
        raise InputError(f"--resume needs the task of the run, {settings.task!r}, got {task.name!r}")
    return settings


def not_used(settings: TrainSettings, *, policy: Controller | None = None, **given: object) -> list[str]:
    """Notes on what was asked of a resume and differs from the run, which goes on as it was started.

    Args:
        settings: Of the run.
        policy: As of `train`; None where left out.
        given: Further arguments of `train` by name, of which settings hold one each; None where left out.
    """
    if policy is not None:
        given["policy"] = policy_name(policy)
    was = {name: settings.optimizer.lr if name == "lr" else getattr(settings, name) for name in given}
    return [
        f"{name} {value} was given and is not used: the run goes on as it was started, with {was[name]}; start another run for it"
        for name, value in given.items()
        if value is not None and value != was[name]
    ]
