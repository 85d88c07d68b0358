"""transformers: a callback that changes ``args.gradient_accumulation_steps`` of a running `Trainer` between two steps."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from batchwright.adapt import REGISTRY, Controller
from batchwright.core.errors import InputError
from batchwright.integrations.accumulation import Accumulation
from batchwright.integrations.extras import require
from batchwright.integrations.loaders import num_train_examples
from batchwright.integrations.options import Options
from batchwright.integrations.sinks import StepSink
from batchwright.integrations.step_report import StepReport
from batchwright.integrations.tapped_norms import TappedNorms
from batchwright.integrations.whole_steps import StepsFrom

_callbacks = require("transformers.trainer_callback", "transformers")
_FIXED = "Trainer plans the updates of an epoch when it starts, and would drop data with more of them"


class BatchSizeTrainerCallback(_callbacks.TrainerCallback, _callbacks.ExportableState):
    """Follows a policy: one of ``Trainer(callbacks=[...])``, with ``TrainingArguments(gradient_accumulation_steps=2, ...)``.

    The batch size is ``per_device_train_batch_size`` times the accumulation times the ranks. It grows from the one that the run starts
    with and never falls below it. The gradient is Trainer's own mean over the batch: over its tokens, where the model takes
    ``num_items_in_batch``, else over its micro-batches, of which a short last one counts like a whole one
    (``dataloader_drop_last=True`` avoids it).

    ``max_steps`` and the lr schedule mean the same amount of data at any size (``schedule="examples"``); the intervals of logging,
    evaluation and saving count optimizer steps. Trainer finds the place to resume at by the number of steps, as if all had the size of
    the start. So the ``global_step`` inside a checkpoint is the number of steps of that size, and a resumed run counts on from it: its
    place is exact at the end of an epoch, and inside one up to the last whole step of that size.

    The lr that Trainer logs is the schedule's; the one in force is in ``batchwright/lr`` of ``state.log_history`` and of the sinks.

    Args:
        policy: A controller of `batchwright.adapt`, or its name.
        sinks: Called with each `StepReport`.
        **options: Those of `Options`.

    Raises:
        InputError: When training starts, for DeepSpeed, FSDP, ``auto_find_batch_size``, and for a policy that looks at noise on several
            ranks or does not hold for the optimizer.
    """

    def __init__(
        self, policy: Controller | str = "noise-scale", *, sinks: Sequence[StepSink] = (), **options: Any
    ) -> None:
        if "policy_options" in options:
            options["policy_options"] = tuple(options["policy_options"])
        self.options = Options(policy=policy, **options)
        if self.options.needs_loss:
            raise InputError(
                "policy must not need the loss of each step, which Trainer shows to no callback, got "
                f"{type(self.options.controller).__name__}"
            )
        self._sinks = tuple(sinks)
        self._accumulation: Accumulation | None = None
        # The state of a checkpoint, until training starts.
        self.resumed: dict[str, Any] | None = None
        self.last: StepReport | None = None
        self._started_with = 1
        self._position = 0  # micro-batches of this epoch that are in a gradient
        self._offset = 0
        self._per_epoch: int | None = None
        self._last_size = self._size = 0
        self._scaler: Any = None
        self._state: Any = None  # Trainer's own, while it trains
        self._real_step: int | None = None  # its step, while a checkpoint is written

    @property
    def batch_size(self) -> int:
        """Examples in the next optimizer step, on all ranks together."""
        return self._running().batch_size

    # What Trainer calls, in its order

    def on_train_begin(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """Optimizer, scheduler and loader are in place by now, a checkpoint included."""
        _check(args, self.options)
        if isinstance(args.gradient_accumulation_steps, StepsFrom):
            raise InputError(
                f"gradient_accumulation_steps must be that of the start, got {args.gradient_accumulation_steps}, which a run that was "
                "cut short has left; make the TrainingArguments anew"
            )
        loader, optimizer, scheduler = shown["train_dataloader"], shown["optimizer"], shown["lr_scheduler"]
        self._started_with = int(args.gradient_accumulation_steps)
        self._per_epoch = len(loader) if hasattr(loader, "__len__") else None
        self._size = state.train_batch_size or args.train_batch_size
        num_train = num_train_examples(loader)
        self._last_size = _last_size(num_train, self._size, self._per_epoch, args)
        accumulation = Accumulation(
            self.options,
            getattr(optimizer, "optimizer", optimizer),
            micro_batch_size=self._size,
            num_micro_batches=self._started_with,
            model=shown["model"],
            world_size=args.world_size,
            micro_batches_per_epoch=self._per_epoch,
            num_train=num_train,
            at_least=self._started_with,
            at_least_because=_FIXED,
            norms=TappedNorms,
        )
        if hasattr(scheduler, "last_epoch") and hasattr(scheduler, "step") and not hasattr(scheduler, "patience"):
            accumulation.follow_schedulers([scheduler])
        self._scaler = getattr(optimizer, "scaler", None)
        self._accumulation, self._position = accumulation, 0
        self._resume(args, state)
        self._state, self._offset = state, state.global_step - accumulation.schedule.num_steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """Trainer works out what is left for the last step of the epoch from the count that it finds now."""
        if self._per_epoch is not None and self._position >= self._per_epoch:
            self._position = 0
        self._set_count(args)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **shown: Any) -> None:
        """The first micro-batch of a step is about to run."""
        accumulation = self._running()
        if accumulation.num_accumulated and model is not None:
            model.zero_grad()  # what an epoch without a length left over belongs to no step
        accumulation.begin()
        self._tap_if_last()

    def on_substep_end(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """A micro-batch is in the gradient, and another one follows."""
        self._count_micro_batch()
        self._tap_if_last()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """The last micro-batch is in the gradient, which has been clipped and unscaled by now."""
        self._count_micro_batch()
        scale = float(self._scaler.get_scale()) if self._scaler is not None else 1.0
        self._running().finish_gradient(grad_scale=scale, rescale=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """The optimizer and the scheduler have been stepped."""
        accumulation = self._running()
        end = self._position == self._per_epoch
        report = accumulation.after_step(epoch=math.floor(state.epoch + 1e-9), end_of_epoch=end)
        if self.options.schedule == "examples" and self._num_base_steps >= state.max_steps:
            _stop(args, control)
        self._set_count(args)
        if report is not None:
            self.last = report
            for sink in self._sinks:
                sink(report)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **shown: Any) -> None:
        """Add the numbers of the last step to the history and to what later callbacks show."""
        if self.last is None or logs is None:
            return
        values = {f"batchwright/{name}": value for name, value in self.last.scalars().items()}
        logs.update(values)
        if state.log_history:
            state.log_history[-1].update(values)

    def on_train_end(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """Leave arguments and optimizer as they were."""
        if self._accumulation is not None:
            self._accumulation.close()
        self._state = None
        args.gradient_accumulation_steps = self._started_with

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json`` of a checkpoint; it asks for it right before it writes."""
        # A stability gauge begins anew: its tensors are not for this file.
        kept = None if self._accumulation is None else {**self._accumulation.state_dict(), "stability": None}
        if self._state is not None:
            self._real_step, self._state.global_step = self._state.global_step, self._num_base_steps
        return {"args": _plain_options(self.options), "attributes": {"resumed": kept}}

    def on_save(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """The checkpoint is written; Trainer counts on."""
        if self._real_step is not None:
            state.global_step, self._real_step = self._real_step, None

    # Helpers

    @property
    def _num_base_steps(self) -> int:
        """Steps of the size at the start that the data so far stand for."""
        return self._offset + self._running().schedule.num_steps

    def _running(self) -> Accumulation:
        if self._accumulation is None:
            raise InputError("the callback must be in a training run for this, got none; call trainer.train first")
        return self._accumulation

    def _resume(self, args: Any, state: Any) -> None:
        accumulation = self._running()
        kept = self.resumed
        if kept is None:
            found = (state.stateful_callbacks or {}).get(type(self).__name__) or {}
            kept = found.get("attributes", {}).get("resumed") if isinstance(found, dict) else None
        self.resumed = None
        if state.global_step == 0 or kept is None:
            self.last = accumulation.start()
        else:
            accumulation.load_state_dict(kept)
            accumulation.schedule.start_of_step()
        if state.global_step > 0 and self._per_epoch is not None and not args.ignore_data_skip:
            # As Trainer works it out.
            updates = max(math.ceil(self._per_epoch / self._started_with), 1)
            self._position = state.global_step % updates * self._started_with

    def _set_count(self, args: Any) -> None:
        args.gradient_accumulation_steps = StepsFrom(self._running().num_micro_batches, first=self._position)

    def _count_micro_batch(self) -> None:
        self._position += 1
        short = self._position == self._per_epoch
        self._running().after_backward(self._last_size if short else self._size)

    def _tap_if_last(self) -> None:
        accumulation = self._running()
        last = accumulation.num_accumulated + 1 == accumulation.num_micro_batches
        if last or self._position + 1 == self._per_epoch:
            norms = accumulation.gradient.norms
            if isinstance(norms, TappedNorms):
                norms.tap()


def _check(args: Any, options: Options) -> None:
    for name, why in (
        ("deepspeed", "DeepSpeed fixes the accumulation in its own configuration"),
        ("fsdp", "FSDP shards the gradients that are measured"),
        ("auto_find_batch_size", "it starts training anew with another micro-batch, at another batch size"),
    ):
        if getattr(args, name, None):
            raise InputError(f"{name} must not be set with this callback, got {getattr(args, name)!r}; {why}")
    if args.world_size > 1 and options.needs_noise:
        raise InputError(
            f"policy must not look at noise on {args.world_size} ranks, got {type(options.controller).__name__}; Trainer does not show "
            "callbacks the model that reduces gradients: take a schedule, or the Lightning or Accelerate integration"
        )


def _last_size(num_train: int | None, size: int, per_epoch: int | None, args: Any) -> int:
    """Examples in the last micro-batch of an epoch."""
    if num_train is None or per_epoch is None or args.world_size > 1 or args.dataloader_drop_last:
        return size
    rest = num_train - (per_epoch - 1) * size
    return rest if 0 < rest <= size else size


def _stop(args: Any, control: Any) -> None:
    """End the run as Trainer does after its last step."""
    control.should_training_stop = True
    if args.eval_strategy == "steps":
        control.should_evaluate = True
    if args.save_strategy == "steps":
        control.should_save = True


def _plain_options(options: Options) -> dict[str, Any]:
    """Arguments that make such a callback again, in plain values; without a policy of the registry, none do."""
    names = {kind: name for name, kind in REGISTRY.items()}
    controller: Any = options.controller
    special = ("policy", "policy_options", "stability")
    found = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in special}
    if type(controller) not in names:
        return found
    texts = {name: "none" if value is None else str(value) for name, value in asdict(controller).items()}
    return {
        "policy": names[type(controller)],
        "policy_options": [f"{name}={text}" for name, text in texts.items()],
        **found,
    }
