"""The core of all integrations, which knows no library: what to accumulate next, from what the micro-batches of a step measured.

A framework calls it at five places of its own loop: `begin`, a `weight` before each backward pass, `after_backward` behind it,
`finish_gradient` once the gradient is whole, and `after_step`. In between it is a state of plain values that a checkpoint holds.
"""

import math
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.adapt import Decision, Measured, check_optimizer
from batchwright.core.batches import Batch
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.integrations.example_schedule import ExampleSchedule
from batchwright.integrations.gauge import Gauge
from batchwright.integrations.in_force import SettingsInForce
from batchwright.integrations.micro_batches import whole_batch
from batchwright.integrations.options import Options
from batchwright.integrations.step_gradient import StepGradient
from batchwright.integrations.step_report import StepReport
from batchwright.measure.noise_ranks import RankNoise
from batchwright.measure.running_noise import MicroBatchNorms, RunningNoiseScale


class Accumulation:
    """Measures, decides and keeps the gradient of each step the mean over all of its examples.

    The framework is taken to divide the mean loss of each micro-batch by ``num_micro_batches``; what is then missing to the mean over
    all examples, where a micro-batch is short or an epoch ends in the middle of a step, is made up for here.

    Args:
        options: What the user asks for.
        optimizer: The optimizer itself, not a framework's wrapper.
        micro_batch_size: Examples in one forward pass of one rank.
        num_micro_batches: That the first step accumulates on each rank; what the framework's lr schedule was planned for.
        model: For the stability gauge, where the options ask for one.
        world_size: Ranks.
        rank_noise: Attached to the DDP model, where there are several ranks and the policy looks at noise.
        micro_batches_per_epoch: On each rank; no step is larger. None where it is not known.
        num_train: Examples of the training set; None where it is not known.
        at_least: Fewest micro-batches of a step, where the framework has such a limit.
        at_least_because: Why, for the reports.
        norms: What collects the norms of the micro-batches.

    Raises:
        InputError: If the policy or a rule does not hold for the optimizer, or noise cannot be measured with so few micro-batches.
    """

    def __init__(
        self,
        options: Options,
        optimizer: Optimizer,
        *,
        micro_batch_size: int,
        num_micro_batches: int,
        model: nn.Module | None = None,
        world_size: int = 1,
        rank_noise: RankNoise | None = None,
        micro_batches_per_epoch: int | None = None,
        num_train: int | None = None,
        at_least: int = 1,
        at_least_because: str = "",
        norms: type[MicroBatchNorms] = MicroBatchNorms,
    ) -> None:
        self.options, self.policy = options, options.controller
        self.micro_batch_size, self.world_size = micro_batch_size, world_size
        self.num_micro_batches = check_int("num_micro_batches", num_micro_batches, at_least=1)
        self._at_least, self._at_least_because = at_least, at_least_because
        if options.needs_noise and rank_noise is None and at_least < 2:
            self._at_least, self._at_least_because = 2, "the scatter of micro-batches needs that many"
        if num_micro_batches < self._at_least:
            raise InputError(
                f"a step must hold at least 2 micro-batches for {type(self.policy).__name__}, which looks at their scatter, got "
                f"{num_micro_batches} of {micro_batch_size}; halve the batch size of the data loader and accumulate 2"
            )
        self._check_world(rank_noise)
        self._per_epoch, self._num_train = micro_batches_per_epoch, num_train
        self._each = micro_batch_size * world_size
        self.batch_size = self._start_size = num_micro_batches * self._each
        self.base_batch_size = options.base_batch_size or self.batch_size
        self.in_force = SettingsInForce(
            optimizer, options, base_batch_size=self.base_batch_size, on_step=self._optimizer_stepped
        )
        momentum = optimizer.param_groups[0].get("momentum", 0.0)
        check_optimizer(self.policy, self.in_force.name, momentum=float(momentum or 0.0))
        self.in_force.set(batch_size=self.batch_size, lr_factor=None, noise_scale=math.inf)
        self.step = self.num_examples = 0
        self.noise = RunningNoiseScale(options.decay)
        self.schedule = ExampleSchedule()
        self._controller = self.policy.init(batch_size=self.batch_size)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._rank_noise, self._make_norms = rank_noise, norms
        self._gauge: Gauge | None = None
        if options.stability is not None:
            if model is None or world_size > 1:
                raise InputError(f"stability must go with a model on one rank, got {world_size} ranks; leave it out")
            self._gauge = Gauge(options.stability(model, optimizer), self.in_force)
        self.forget()

    def start(self) -> StepReport:
        """Ask the policy before the first step; a schedule chooses that size too."""
        return self._ask(self.batch_size, loss=None, epoch=0)

    def follow_schedulers(self, schedulers: list[Any], *, steps_each: int = 1) -> None:
        """Keep these lr schedulers, which the framework steps after each optimizer step, at the pace of the examples."""
        if self.options.schedule == "examples" and schedulers:
            self.schedule = ExampleSchedule(schedulers, steps_each=steps_each)

    @property
    def num_accumulated(self) -> int:
        """Micro-batches in the gradient so far."""
        return self.gradient.num_micro_batches

    def begin(self) -> None:
        """Start a new gradient; what was accumulated and not stepped with is forgotten."""
        measures = self.options.needs_noise and self._rank_noise is None and self.step % self.options.noise_every == 0
        self.gradient = StepGradient(
            self._parameters,
            norms=self._make_norms(self._parameters) if measures else None,
            rank_noise=self._rank_noise,
            keeps_loss=self.options.needs_loss,
        )

    def forget(self) -> None:
        """Drop what was accumulated for a step that was not made."""
        self.gradient = StepGradient(self._parameters)

    def weight(self, num_examples: int) -> float:
        """What the mean loss of a micro-batch is multiplied with, beside the framework's own division; 1 for a whole one."""
        return num_examples / self.micro_batch_size

    def after_backward(self, num_examples: int, loss: Tensor | None = None) -> None:
        """Take in a micro-batch whose gradient has just been added.

        Args:
            num_examples: In it, at least 1.
            loss: Its mean loss, for a policy that looks at the loss.
        """
        self.gradient.add(num_examples, loss)

    def finish_gradient(self, *, grad_scale: float = 1.0, rescale: bool = True) -> float:
        """Close the statistics, and make the accumulated gradient the mean over the examples that are really in it.

        Args:
            grad_scale: What ``.grad`` is multiplied with beyond the loss's own gradient: the scale of a gradient scaler.
            rescale: False where the framework divides by what a step really holds, and the gradient is to be left as it is.

        Returns:
            What the gradient was multiplied with: 1 unless the step ended early or a micro-batch was short.
        """
        # Divided by the planned number of micro-batches, a gradient of fewer or shorter ones comes out too small.
        planned = self.num_micro_batches if rescale else None
        return self.gradient.finish(planned=planned, micro_batch_size=self.micro_batch_size, grad_scale=grad_scale)

    def after_step(
        self, *, epoch: int | None = None, end_of_epoch: bool = False, batch: Batch = None
    ) -> StepReport | None:
        """Count the step, ask the policy, and set the size and the settings of the next; call it when the scheduler was stepped.

        Args:
            epoch: Epochs that are finished.
            end_of_epoch: Whether this step is the last of its epoch.
            batch: Its last micro-batch, for a stability gauge that draws none of its own.

        Returns:
            What was done and decided; None where the optimizer left the step out, as a gradient scaler makes it do on an overflow.
        """
        gradient = self.gradient
        num_examples = gradient.num_examples * self.world_size
        self.num_examples += num_examples
        base_steps = gradient.num_micro_batches * self._each / self._start_size
        self.schedule.after(base_steps, end_of_epoch=end_of_epoch)
        self.forget()
        if not gradient.stepped:
            return None
        self.step += 1
        if gradient.noise is not None:
            self.noise = self.noise.update(gradient.noise)
        if self._gauge is not None:
            self._gauge.after_step(batch, num_examples)
        return self._ask(num_examples, loss=gradient.mean_loss(self.world_size), epoch=epoch)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, taken between two steps: plain values, and under ``stability`` tensors or None."""
        return {
            "step": self.step,
            "num_examples": self.num_examples,
            "num_micro_batches": self.num_micro_batches,
            "micro_batch_size": self.micro_batch_size,
            "world_size": self.world_size,
            "batch_size": self.batch_size,
            "base_batch_size": self.base_batch_size,
            "policy": type(self.policy).__name__,
            "controller": self._controller,
            "noise": self.noise.to_state(),
            "lr_factor": self.in_force.lr_factor,
            "noise_scale": self.in_force.noise_scale if math.isfinite(self.in_force.noise_scale) else None,
            "schedule": self.schedule.state_dict(),
            "stability": None if self._gauge is None else self._gauge.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, at its batch size; another micro-batch size or number of ranks keeps that as nearly as it can.

        Raises:
            InputError: If it is that of another policy.
        """
        policy = type(self.policy).__name__
        if state["policy"] != policy:
            raise InputError(
                f"state must be that of the policy {policy}, got {state['policy']}; resume with the policy of the run"
            )
        self.step, self.num_examples = state["step"], state["num_examples"]
        self._controller, self.base_batch_size = state["controller"], state["base_batch_size"]
        self.noise = RunningNoiseScale.from_state(state["noise"])
        whole = whole_batch(
            state["batch_size"],
            micro_batch_size=self.micro_batch_size,
            world_size=self.world_size,
            at_least=self._at_least,
            at_least_because=self._at_least_because,
        )
        self.num_micro_batches, self.batch_size = whole.num_micro_batches, whole.batch_size
        self.in_force.base_batch_size = self.base_batch_size
        noise_scale = state["noise_scale"]
        self.in_force.set(
            batch_size=self.batch_size,
            lr_factor=state["lr_factor"],
            noise_scale=math.inf if noise_scale is None else noise_scale,
        )
        self.schedule.load_state_dict(state["schedule"])
        if self._gauge is not None and state["stability"] is not None:
            self._gauge.load_state_dict(state["stability"])
        self.forget()

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        self.in_force.remove()

    def _ask(self, num_examples: int, *, loss: float | None, epoch: int | None) -> StepReport:
        interval = self.noise.interval() if self.options.needs_noise else None
        measured = Measured(
            step=self.step,
            num_examples=self.num_examples,
            batch_size=self.batch_size,
            epoch=epoch,
            num_train=self._num_train,
            lr=self.in_force.lr,
            loss=loss,
            noise_scale=interval,
            trace=self.noise.trace if interval is not None else None,
            grad_sq_norm=self.noise.grad_sq_norm if interval is not None else None,
            **(self._gauge.measured() if self._gauge is not None else {}),  # type: ignore[arg-type]
        )
        self._controller, decision = self.policy.update(self._controller, measured)
        before, reason = self.num_micro_batches, self._set(decision, interval)
        return StepReport(
            step=self.step,
            num_examples=self.num_examples,
            batch_size=num_examples,
            lr=self.in_force.lr,
            noise_scale=interval,
            next_batch_size=self.batch_size,
            next_micro_batches=self.num_micro_batches,
            changed=self.num_micro_batches != before,
            reason=reason,
        )

    def _set(self, decision: Decision, interval: Interval | None) -> str:
        whole = whole_batch(
            decision.batch_size,
            micro_batch_size=self.micro_batch_size,
            world_size=self.world_size,
            at_least=self._at_least,
            at_least_because=self._at_least_because,
            at_most=None if self._per_epoch is None else max(self._per_epoch, self._at_least),
            max_batch_size=getattr(self.policy, "max_batch_size", None) or math.inf,
        )
        changed = whole.num_micro_batches != self.num_micro_batches
        if changed or decision.lr_factor is not None:
            found = interval.value if interval is not None else math.inf
            self.in_force.set(
                batch_size=whole.batch_size,
                lr_factor=decision.lr_factor,
                # At the change alone, so that the lr does not wander with each new estimate.
                noise_scale=found if changed and found > 0 else self.in_force.noise_scale,
            )
        self.num_micro_batches, self.batch_size = whole.num_micro_batches, whole.batch_size
        return f"{decision.reason}; {whole.note}" if whole.note else decision.reason

    def _optimizer_stepped(self) -> None:
        self.gradient.stepped = True
        self.schedule.before()

    def _check_world(self, rank_noise: RankNoise | None) -> None:
        if self.world_size > 1 and self.options.needs_noise and rank_noise is None:
            raise InputError(
                f"rank_noise must be given on {self.world_size} ranks for a policy that looks at noise, got None; "
                "make a batchwright.measure.RankNoise and attach it to the DDP model"
            )
