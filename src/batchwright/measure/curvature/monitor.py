"""The stability gauge beside a training run: readings within a stated budget, and a warning before a change that would spike.

Quantities and levels are those of `batch_sharpness`, `stability` and `what_if` (Andreyev et al. 2026, arXiv:2604.14108). Deviation: the
official code measures every 256 steps whatever that costs; here the steps between two readings grow until the cost fits the budget.
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError, StabilityWarning
from batchwright.core.objectives import Loss
from batchwright.core.serialization import from_plain, to_plain
from batchwright.measure.curvature.account import MeasuringAccount
from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.probe import MIN_BATCHES, DrawBatch, Measured, Probe
from batchwright.measure.curvature.reading import StabilityReading, gradient_verdict, step_verdict
from batchwright.measure.curvature.sinks import Sink
from batchwright.measure.curvature.what_if import WhatIf, what_if

MAX_HISTORY = 1000
# Looks at the budget in ``every`` steps, at most.
LOOKS = 10


class StabilityMonitor:
    """Watches any training loop: ``monitor.after_step(batch)`` after each ``optimizer.step()``.

    Every ``every`` steps, or as soon after that as the budget allows, it measures batch sharpness, and in every ``slow_every``-th
    reading also the share of it that is noise and the largest eigenvalue, warm-started. SGD, with or without momentum, is
    compared with the levels of its learning rate and momentum; every other optimizer by the sharpness along its own step
    (`generalized_sharpness`), whose limits that function states.

    Parameters, buffers, ``.grad``, modes, random generators and the optimizer stay as they are, so a run with a monitor is bit by
    bit the run without. When readings are made depends on the clock, unless ``budget`` is None. What a reading at a step says
    does not: its batches follow from ``seed`` and the step alone (the largest eigenvalue, whose search goes on from the last one,
    up to its tolerance).

    Under DDP make it on rank 0 alone and call it there: it measures the module inside the wrapper, calls no collective, and the
    other ranks wait for it in their next all-reduce, so its share is one of everybody's time. Parameters must be whole on that
    rank (not FSDP).

    Args:
        model: The model that is trained.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        optimizer: The optimizer that trains it, read for lr and momentum at each reading.
        draw_batch: ``draw_batch(generator, batch_size)`` gives a fresh batch, drawn without replacement with that generator, on
            the model's device. Where left out, the last batches given to `after_step` are kept and measured; they have just been
            trained on, so batch sharpness comes out lower than on fresh ones, and a resumed run waits until it has seen them
            again.
        every: Fewest steps between two readings.
        budget: Seconds of measuring for a second of training; None for readings every ``every`` steps at any price. A measurement
            starts only if its expected cost fits, and stops early where it turns out dearer.
        slow_every: Every so many readings, or as soon after that as the budget allows, the noise's share and the largest eigenvalue
            are measured too. While it does not, the quick readings go on, with half of the budget.
        max_batches: Most batches of one reading; fewer where the error is below a tenth before.
        sharpness_batches: Batches of the fixed sample on which the largest eigenvalue is found; few examples overstate it.
        num_train: Examples of the training set, to know a full batch by.
        sinks: Called with each reading: `RecordSink`, `TensorBoardSink` or any function.
        seed: Of the measured batches.
        timer: Seconds.

    Raises:
        InputError: If an option is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        draw_batch: DrawBatch | None = None,
        every: int = 50,
        budget: float | None = 0.05,
        slow_every: int = 4,
        max_batches: int = 8,
        sharpness_batches: int = 8,
        num_train: int | None = None,
        sinks: Sequence[Sink] = (),
        seed: int = 0,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._every = check_int("every", every, at_least=1)
        self._slow_every = check_int("slow_every", slow_every, at_least=1)
        check_int("max_batches", max_batches, at_least=MIN_BATCHES)
        check_int("sharpness_batches", sharpness_batches, at_least=1)
        self._optimizer, self._num_train = optimizer, num_train
        self._sinks, self._timer = tuple(sinks), timer
        self._keeps = draw_batch is None
        self._kept: deque[Batch] = deque(maxlen=max_batches)
        self._probe = Probe(
            model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model,
            loss,
            optimizer,
            draw_batch=draw_batch or self._kept_batch,
            budget=budget,
            max_batches=max_batches,
            sharpness_batches=sharpness_batches,
            seed=check_int("seed", seed, at_least=0),
            timer=timer,
        )
        self._history: deque[StabilityReading] = deque(maxlen=MAX_HISTORY)
        self._step = self._num_examples = 0
        # The first slow reading is the second of all: before it the noise's share is not known.
        self._since_slow = max(self._slow_every - 2, 0)
        self._next = every
        # Steps that are not on the account yet, and the step at which to look again: most calls add to a few numbers and compare, for
        # on a model of a fraction of a millisecond a call that does more is a good part of a step.
        self._unbooked_s, self._unbooked_steps, self._own_s, self._look = 0.0, 0, 0.0, every
        self._batch_size = 0
        self._mark: float | None = None

    @property
    def history(self) -> tuple[StabilityReading, ...]:
        """The readings so far; of a long run the last thousand."""
        return tuple(self._history)

    @property
    def last(self) -> StabilityReading | None:
        """The latest reading."""
        return self._history[-1] if self._history else None

    @property
    def share(self) -> float:
        """Seconds of measuring over seconds of training so far; what the calls that measure nothing take is measuring too."""
        return self._booked().share

    def after_step(
        self, batch: Batch = None, *, batch_size: int | None = None, training_s: float | None = None
    ) -> StabilityReading | None:
        """Count one optimizer step, and measure if it is time and the budget allows.

        Args:
            batch: The batch of the step; may be left out where ``draw_batch`` was given and ``batch_size`` is.
            batch_size: Examples averaged in the step, where ``batch`` is only a part of them (accumulation, ranks).
            training_s: Seconds that the step took, where the loop knows; else all time since the last call counts as training.

        Returns:
            The reading, if there was one.

        Raises:
            InputError: If neither ``batch`` nor ``batch_size`` tells the size.
        """
        now = self._timer()
        size = self._size_of(batch, batch_size)
        if self._keeps:
            self._kept.append(batch)
        self._step += 1
        self._num_examples += size
        seconds = now - self._mark if training_s is None and self._mark is not None else training_s
        if seconds is not None:
            self._unbooked_s += max(seconds, 0.0)
            self._unbooked_steps += 1
        if size != self._batch_size:
            self._batch_size, self._look = size, self._next
        slow = self._affordable(size) if self._step >= self._look else None
        if slow is None:
            self._mark = self._timer()
            self._own_s += self._mark - now
            return None
        reading = self._reading(size, self._probe.measure(self._step, size, slow=slow))
        self._since_slow = 0 if slow else self._since_slow + 1
        self._next = self._look = self._step + self._every
        self._history.append(reading)
        for sink in self._sinks:
            sink(reading)
        self._mark = self._timer()
        return reading

    def check(
        self, *, lr: float | None = None, momentum: float | None = None, batch_size: int | None = None
    ) -> WhatIf | None:
        """Ask before a change of settings; a spike that is likely warns with `StabilityWarning`.

        Args:
            lr: The new learning rate, as the optimizer would hold it.
            momentum: The new momentum.
            batch_size: The new batch size, in examples.

        Returns:
            The prediction from the last reading; None before the first one, for optimizers other than SGD, and where batch sharpness
            is not a positive number.

        Raises:
            InputError: If nothing would change, or a value is out of range.
        """
        wanted: dict[str, Any] = {"lr": lr, "momentum": momentum, "batch_size": batch_size}
        change = {name: value for name, value in wanted.items() if value is not None}
        if not change:
            raise InputError("check must be given lr, momentum or batch_size, got none; name what would change")
        found = self._probe.last
        current = self._probe.settings(round(found.batch_size)) if found is not None and found.value > 0 else None
        if found is None or current is None:
            return None
        if "lr" in change:
            # As the optimizer holds it, so before its dampening.
            change["lr"] *= current.lr / float(self._optimizer.param_groups[0]["lr"])
        predicted = what_if(
            current,
            change,
            batch_sharpness=found,
            sharpness=self._probe.sharpness,
            mean_curvature=self._probe.mean_curvature,
            num_examples=self._num_train,
        )
        if predicted.spike:
            told = ", ".join(f"{name} {value:g}" for name, value in change.items())
            warnings.warn(
                f"{told} is likely to make the loss spike: {predicted.reason}", StabilityWarning, stacklevel=2
            )
        return predicted

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on alike: tensors and plain values."""
        return {
            "step": self._step,
            "num_examples": self._num_examples,
            "since_slow": self._since_slow,
            "next": self._next,
            "unbooked": [self._unbooked_s, self._unbooked_steps, self._own_s],
            "look": self._look,
            "batch_size": self._batch_size,
            "history": to_plain(list(self._history)),
            "probe": self._probe.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the budget stays that of this monitor."""
        self._step, self._num_examples = int(state["step"]), int(state["num_examples"])
        self._since_slow, self._next = int(state["since_slow"]), int(state["next"])
        seconds, steps, own = state["unbooked"]
        self._unbooked_s, self._unbooked_steps, self._own_s = float(seconds), int(steps), float(own)
        self._look, self._batch_size = int(state["look"]), int(state["batch_size"])
        self._history.clear()
        self._history.extend(from_plain(tuple[StabilityReading, ...], state["history"], "history"))
        self._probe.load_state_dict(state["probe"])
        self._kept.clear()
        self._mark = None

    def _size_of(self, batch: Batch, batch_size: int | None) -> int:
        """Examples of a step."""
        if batch is None and batch_size is None:
            raise InputError("after_step must be given the batch or its batch_size, got neither; pass the step's batch")
        if batch is None and self._keeps:
            raise InputError(
                "after_step must be given the batch where there is no draw_batch, got None; pass one of them"
            )
        if batch_size is not None:
            return check_int("batch_size", batch_size, at_least=1)
        # The usual pair of tensors, whose loss would have failed if they disagreed; looking through a nest takes as long as the rest.
        if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
            return batch[0].shape[0]
        return batch_length(batch)

    def _booked(self) -> MeasuringAccount:
        """The account with the steps since it was last written."""
        account = self._probe.account.trained(self._unbooked_s, self._unbooked_steps)
        return account.spent(self._own_s)

    def _affordable(self, batch_size: int) -> bool | None:
        """Book the steps since the last look, and say what fits the budget: a slow reading, a quick one (False), or none yet."""
        account = self._probe.account = self._booked()
        self._unbooked_s, self._unbooked_steps, self._own_s = 0.0, 0, 0.0
        if self._keeps and len(self._kept) < MIN_BATCHES:
            return None
        slow = self._since_slow >= self._slow_every - 1
        if account.budget is None:
            return slow
        # Nothing can be expected to fit before a step was timed.
        if account.num_steps == 0:
            return None
        # A slow reading costs ten quick ones and must not keep them away: they go on with their part while the rest is saved for it.
        lacks_s = [
            self._probe.expected_s(batch_size, slow=False) - (self._probe.quick_left_s if slow else account.left_s)
        ]
        if slow:
            lacks_s.append(self._probe.expected_s(batch_size, slow=True) - account.left_s)
        if lacks_s[-1] <= 0:
            return slow
        if lacks_s[0] <= 0:
            return False
        # Not before it can fit, and not at each step when it nearly does, for looking costs as much as a step brings; but again after
        # as many steps as were done, for slow first steps make the guess of the cost too high.
        steps = min(lacks_s) / (account.budget * account.step_s) if account.step_s > 0 else 0.0
        self._look = self._step + math.ceil(min(max(steps, self._every / LOOKS), account.num_steps))
        return None

    def _reading(self, batch_size: int, measured: Measured) -> StabilityReading:
        settings, along = measured.settings, measured.along
        if isinstance(along, BatchSharpness):
            assert settings is not None  # batch sharpness is measured for SGD alone
            verdict = gradient_verdict(settings, along, self._probe.mean_curvature, self._probe.sharpness)
            error, num_batches = along.standard_error, along.num_batches
        else:
            verdict = step_verdict(along)
            error, num_batches = along.ratio.standard_error, along.ratio.num_batches
        return StabilityReading(
            step=self._step,
            num_examples=self._num_examples,
            batch_size=batch_size,
            lr=settings.lr if settings else float(self._optimizer.param_groups[0]["lr"]),
            momentum=settings.momentum if settings else math.nan,
            form="gradient" if settings else "step",
            batch_sharpness=along.value,
            standard_error=error,
            num_batches=num_batches,
            mean_curvature=measured.mean_curvature,
            sharpness=measured.sharpness,
            sharpness_converged=measured.sharpness_converged,
            low=verdict.low,
            high=verdict.high,
            threshold=verdict.threshold,
            headroom=verdict.headroom,
            regime=verdict.regime,
            share=self.share,
        )

    def _kept_batch(self, generator: torch.Generator, _: int) -> Batch:
        """The kept batches in turn, the oldest first."""
        self._kept.rotate(-1)
        return self._kept[-1]
