"""The core of all integrations, which knows no library: what to accumulate next, from what the micro-batches of a step measured.

A framework calls it at four places of its own loop: a weight before each backward pass, `after_backward` behind it, `finish_gradient`
once the gradient is whole, and `after_step`. In between it is a state of plain values that a checkpoint holds.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from batchwright.adapt import Decision, Measured, check_optimizer
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.integrations.example_schedule import ExampleSchedule
from batchwright.integrations.in_force import SettingsInForce
from batchwright.integrations.micro_batches import whole_batch
from batchwright.integrations.options import Options
from batchwright.integrations.step_report import StepReport
from batchwright.measure.noise_ranks import RankNoise
from batchwright.measure.running_noise import MicroBatchNorms, RunningNoiseScale, StepNoise


class Accumulation:
    """Measures, decides and keeps the gradient of each step the mean over all of its examples.

    The framework is taken to divide the mean loss of each micro-batch by ``num_micro_batches``; what is then missing to the mean over
    all examples, where a micro-batch is short or an epoch ends in the middle of a step, is made up for here.

    Args:
        options: What the user asks for.
        optimizer: The optimizer itself, not a framework's wrapper.
        micro_batch_size: Examples in one forward pass of one rank.
        num_micro_batches: That the first step accumulates on each rank; what the framework's lr schedule was planned for.
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
        self._norms: MicroBatchNorms | None = None
        self._noise: StepNoise | None = None
        self._clear()

    def start(self, *, lr: float | None = None) -> StepReport:
        """Ask the policy before the first step; a schedule chooses that size too."""
        return self._ask(self.batch_size, loss=None, epoch=0)

    def follow_schedulers(self, schedulers: list[Any], *, steps_each: int = 1) -> None:
        """Keep these lr schedulers, which the framework steps after each optimizer step, at the pace of the examples."""
        if self.options.schedule == "examples" and schedulers:
            self.schedule = ExampleSchedule(schedulers, steps_each=steps_each)

    @property
    def num_accumulated(self) -> int:
        """Micro-batches in the gradient so far."""
        return len(self._sizes)

    @property
    def norms(self) -> MicroBatchNorms | None:
        """What collects the norms of this step; None where it measures none."""
        return self._norms

    @property
    def stepped(self) -> bool:
        """Whether the optimizer has made the step of this gradient."""
        return self._stepped

    def begin(self) -> None:
        """Start a new gradient; what was accumulated and not stepped with is forgotten."""
        self._clear()
        if self.options.needs_noise and self._rank_noise is None and self.step % self.options.noise_every == 0:
            self._norms = self._make_norms(self._parameters)

    def weight(self, num_examples: int) -> float:
        """What the mean loss of a micro-batch is multiplied with, beside the framework's own division; 1 for a whole one."""
        return num_examples / self.micro_batch_size

    def after_backward(self, num_examples: int, loss: Tensor | None = None) -> None:
        """Take in a micro-batch whose gradient has just been added.

        Args:
            num_examples: In it, at least 1.
            loss: Its mean loss, for a policy that looks at the loss.
        """
        check_int("num_examples", num_examples, at_least=1)
        self._sizes.append(num_examples)
        if self._norms is not None:
            self._norms.after_micro_batch(num_examples)
        if loss is not None and self.options.needs_loss:
            self._losses.append(loss.detach() * num_examples)

    def finish_gradient(self, *, grad_scale: float = 1.0, rescale: bool = True) -> float:
        """Close the statistics, and make the accumulated gradient the mean over the examples that are really in it.

        Args:
            grad_scale: What ``.grad`` is multiplied with beyond the loss's own gradient: the scale of a gradient scaler.
            rescale: False where the framework divides by what a step really holds; the gradient is left as it is then, and a step
                with a short micro-batch, whose weight is the framework's affair, says nothing about the noise.

        Returns:
            What the gradient was multiplied with: 1 unless the step ended early or a micro-batch was short.
        """
        num_examples = sum(self._sizes)
        # Divided by the planned number of micro-batches, a gradient of fewer or shorter ones comes out too small.
        factor = self.num_micro_batches * self.micro_batch_size / num_examples if rescale else 1.0
        noise = self._step_noise(num_examples)
        if not rescale and num_examples != len(self._sizes) * self.micro_batch_size:
            noise = None
        if noise is not None:
            scale = (factor / grad_scale) ** 2
            noise = StepNoise(trace=noise.trace * scale, grad_sq_norm=noise.grad_sq_norm * scale)
            # A gradient that overflowed says nothing; a gradient scaler leaves its step out.
            self._noise = noise if math.isfinite(noise.trace) and math.isfinite(noise.grad_sq_norm) else None
        if factor != 1.0:
            grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_mul_(grads, factor)
        return factor

    def after_step(self, *, epoch: int | None = None, end_of_epoch: bool = False) -> StepReport | None:
        """Count the step, ask the policy, and set the size and the settings of the next; call it when the scheduler was stepped.

        Args:
            epoch: Epochs that are finished.
            end_of_epoch: Whether this step is the last of its epoch.

        Returns:
            What was done and decided; None where the optimizer left the step out, as a gradient scaler makes it do on an overflow.
        """
        num_examples = sum(self._sizes) * self.world_size
        self.num_examples += num_examples
        self.schedule.after(len(self._sizes) * self._each / self._start_size, end_of_epoch=end_of_epoch)
        if not self._stepped:
            self._clear()
            return None
        self.step += 1
        if self._noise is not None:
            self.noise = self.noise.update(self._noise)
        report = self._ask(num_examples, loss=self._mean_loss(), epoch=epoch)
        self._clear()
        return report

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, in plain values; taken between two steps."""
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
        self._clear()

    def forget(self) -> None:
        """Drop what was accumulated for a step that was not made."""
        self._clear()

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

    def _mean_loss(self) -> float | None:
        if not self._losses:
            return None
        mean = torch.stack(self._losses).sum() / sum(self._sizes)
        if self.world_size > 1:  # all ranks must decide alike
            torch.distributed.all_reduce(mean)
            mean = mean / self.world_size
        return float(mean)

    def _step_noise(self, num_examples: int) -> StepNoise | None:
        if self._rank_noise is not None:
            return self._rank_noise.step_noise(num_examples)
        return self._norms.step_noise() if self._norms is not None else None

    def _optimizer_stepped(self) -> None:
        self._stepped = True
        self.schedule.before()

    def _clear(self) -> None:
        self._sizes: list[int] = []
        self._losses: list[Tensor] = []
        self._norms, self._noise = None, None
        self._stepped = False

    def _check_world(self, rank_noise: RankNoise | None) -> None:
        if self.world_size > 1 and self.options.needs_noise and rank_noise is None:
            raise InputError(
                f"rank_noise must be given on {self.world_size} ranks for a policy that looks at noise, got None; "
                "make a batchwright.measure.RankNoise and attach it to the DDP model"
            )
