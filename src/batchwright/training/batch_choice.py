"""Between two updates of a user's own loop: what was measured goes to the controller, and its decision to the optimizer."""

import math
from typing import Any

from torch.optim import Optimizer

from batchwright.adapt import Controller, Decision, Fixed, Measured, check_optimizer
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.measure.running_noise import RunningNoiseScale
from batchwright.planning.optimizer_settings import optimizer_name, read_group
from batchwright.training.follow import Follower
from batchwright.training.step_noise import StepStatistics

# What the engine can show a controller beyond clock and size.
MEASURED = frozenset(
    {"num_tokens", "epoch", "num_train", "lr", "loss", "noise_scale", "trace", "grad_sq_norm", "cosine"}
)


class BatchChoice:
    """Holds the batch size of a run and changes it, with the optimizer's settings, as the controller decides.

    Args:
        policy: The controller.
        optimizer: With the settings that are right at ``batch_size``.
        follower: Puts the optimizer's settings where the batch size wants them.
        batch_size: Of the first step, unless the controller chooses another before it.
        num_train: Examples in the training set; None where that is not known. No batch is larger.
        name: Whose rules the optimizer follows; by its class where left out.

    Attributes:
        batch_size: Of the next step, in examples on all ranks.
        noise: Running noise scale.
        decision: The controller's last one.

    Raises:
        InputError: If the controller does not hold for the optimizer, or needs what the engine does not measure.
    """

    def __init__(
        self,
        policy: Controller,
        optimizer: Optimizer,
        follower: Follower,
        *,
        batch_size: int,
        num_train: int | None,
        name: str | None = None,
    ) -> None:
        self._policy, self._optimizer, self._follower, self._num_train = policy, optimizer, follower, num_train
        unmeasured = sorted(policy.needs - MEASURED)
        if unmeasured:
            raise InputError(
                f"policy must need no more than the engine measures ({', '.join(sorted(MEASURED))}), got {type(policy).__name__}, "
                f"which needs {', '.join(unmeasured)} too; take another, or call its update from a loop that measures them"
            )
        if not isinstance(policy, Fixed):  # any optimizer will do where nothing changes
            momentum = read_group(optimizer.param_groups[0]).momentum
            check_optimizer(policy, name or optimizer_name(optimizer), momentum=momentum or 0.0)
        if num_train is not None and batch_size > num_train:
            raise InputError(
                f"batch_size must be at most the number of training examples, got {batch_size} for {num_train}; "
                f"use {num_train} or fewer"
            )
        self.batch_size = batch_size
        self.noise = RunningNoiseScale()
        self._interval = self.noise.interval()  # dear enough to be reckoned on measured steps alone
        self.needs = policy.needs
        self._state = policy.init(batch_size=self.batch_size)
        self.decision = Decision(batch_size=self.batch_size, changed=False, reason="the first batch size")

    def after_step(
        self,
        *,
        step: int,
        num_examples: int,
        epoch: int,
        statistics: StepStatistics,
        loss: float | None = None,
        num_tokens: int | None = None,
    ) -> bool:
        """Take in a step, or with step 0 the beginning, and choose the next batch size; whether it changed."""
        if statistics.noise is not None:
            self.noise = self.noise.update(statistics.noise)
            self._interval = self.noise.interval()
        interval = self._interval
        measured = Measured(
            step=step,
            num_examples=num_examples,
            batch_size=self.batch_size,
            num_tokens=num_tokens,
            epoch=epoch,
            num_train=self._num_train,
            lr=float(self._optimizer.param_groups[0]["lr"]),
            loss=loss,
            noise_scale=interval,
            trace=self.noise.trace if interval is not None else None,
            grad_sq_norm=self.noise.grad_sq_norm if interval is not None else None,
            cosine=statistics.cosine,
        )
        self._state, self.decision = self._policy.update(self._state, measured)
        return self._follow(self.decision, interval)

    def _follow(self, decision: Decision, interval: Interval | None) -> bool:
        batch_size = decision.batch_size if self._num_train is None else min(decision.batch_size, self._num_train)
        changed = batch_size != self.batch_size
        if decision.lr_factor is not None:
            self._follower.set_lr_factor(decision.lr_factor)
        elif changed:
            noise_scale = interval.value if interval is not None and interval.value > 0 else math.inf
            self._follower.change_batch_size(batch_size, noise_scale=noise_scale)
        self.batch_size = batch_size
        return changed

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "policy": type(self._policy).__name__,
            "batch_size": self.batch_size,
            "controller": self._state,
            "noise": self.noise.to_state(),
            "follower": self._follower.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            InputError: If it is that of another kind of controller.
        """
        if state["policy"] != type(self._policy).__name__:
            raise InputError(
                f"state must be that of policy {type(self._policy).__name__}, got {state['policy']}; make the engine as it was"
            )
        self.batch_size, self._state = state["batch_size"], state["controller"]
        self.noise = RunningNoiseScale.from_state(state["noise"])
        self._interval = self.noise.interval()
        self._follower.load_state_dict(state["follower"])
