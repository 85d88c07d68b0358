"""What every integration is asked: the policy, the rules by which settings follow the batch size, and how noise is measured."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from batchwright.adapt import Controller, parse_policy
from batchwright.adapt.controller import GAUGE
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.measure.curvature import StabilityMonitor

SCHEDULES = ("examples", "steps")
# What an accumulation loop can measure of a framework that shows it nothing but mean losses and gradients.
MEASURED = frozenset({"noise_scale", "trace", "grad_sq_norm", "loss", "lr", "epoch", "num_train"})
# What needs the gradients of several parts of the batch.
NOISE = frozenset({"noise_scale", "trace", "grad_sq_norm"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options that all integrations share.

    Attributes:
        policy: A batch-size controller of `batchwright.adapt`, or one by name as on the command line: ``noise-scale``,
            ``schedule:0:64 50k:128``.
        policy_options: ``name=value`` each, beside a policy by name.
        base_batch_size: Examples in the optimizer step that the user's lr, schedule and betas are right for; the batch size at the
            start where left out.
        optimizer: Whose rules the settings follow: ``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``; by its class where left out.
        lr_rule: As ``rule`` of `planning.batch_change`; the optimizer's own where left out. A policy with an ``lr_factor`` of its
            own comes before it.
        momentum_rule: As there.
        beta2_rule: As there.
        weight_decay_rule: As there.
        schedule: ``examples``: a step at ``k`` times the batch size of the start counts ``k`` steps of the framework's lr schedule, so
            the schedule ends where it would have ended. ``steps``: the framework's own count, one for each optimizer step.
        noise_every: Optimizer steps between two noise measurements of a policy that needs them.
        decay: Weight that the running noise scale keeps from one measurement to the next.
        stability: Makes a `StabilityMonitor` from the model and its optimizer, with a loss for each example, which no framework shows;
            the policies that keep a run stable look at it. On one rank.

    Raises:
        InputError: If an option breaks a rule, or the policy needs what no integration measures.
    """

    policy: Controller | str
    policy_options: tuple[str, ...] = ()
    base_batch_size: int | None = None
    optimizer: str | None = None
    lr_rule: str | None = None
    momentum_rule: str | None = None
    beta2_rule: str | None = None
    weight_decay_rule: str | None = None
    schedule: str = "examples"
    noise_every: int = 1
    decay: float = 0.95
    stability: Callable[[nn.Module, Optimizer], StabilityMonitor] | None = None

    def __post_init__(self) -> None:
        controller = self.controller
        unmeasured = controller.needs - MEASURED
        if self.stability is not None:
            unmeasured -= GAUGE  # only for SGD, whose levels they are
        if unmeasured:
            hint = "give stability" if unmeasured <= GAUGE else "take another, or batchwright.train"
            raise InputError(
                f"policy must need no more than an integration measures ({', '.join(sorted(MEASURED))}), got "
                f"{type(controller).__name__}, which needs {', '.join(sorted(unmeasured))} too; {hint}"
            )
        if self.base_batch_size is not None:
            check_int("base_batch_size", self.base_batch_size, at_least=1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_int("noise_every", self.noise_every, at_least=1)
        check_number("decay", self.decay, at_least=0.0, below=1.0)

    @property
    def controller(self) -> Controller:
        """The policy itself."""
        return parse_policy(self.policy, self.policy_options) if isinstance(self.policy, str) else self.policy

    @property
    def needs_noise(self) -> bool:
        """Whether the policy looks at the scatter of gradients."""
        return bool(self.controller.needs & NOISE)

    @property
    def needs_loss(self) -> bool:
        """Whether the policy looks at the training loss."""
        return "loss" in self.controller.needs
