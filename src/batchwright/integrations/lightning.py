"""Lightning: a callback that changes ``trainer.accumulate_grad_batches`` between two steps, with everything that must move with it.

Works with ``lightning`` and, where that is not installed, with ``pytorch_lightning``.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from batchwright.adapt import Controller
from batchwright.core.batches import batch_length
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.integrations.accumulation import Accumulation
from batchwright.integrations.extras import require
from batchwright.integrations.loaders import loader_batch_size, num_train_examples
from batchwright.integrations.options import Options
from batchwright.integrations.sinks import StepSink
from batchwright.integrations.step_report import StepReport
from batchwright.integrations.whole_steps import StepsFrom
from batchwright.measure.noise_ranks import RankNoise

_LIBRARY = (
    "pytorch_lightning" if find_spec("lightning") is None and find_spec("pytorch_lightning") else "lightning.pytorch"
)
_pl = require(_LIBRARY, "lightning")


class BatchSizeCallback(_pl.Callback):
    """Follows a policy: ``Trainer(accumulate_grad_batches=2, callbacks=[BatchSizeCallback(NoiseScale(max_batch_size=512))])``.

    The batch size is that of the data loader times ``accumulate_grad_batches`` times the ranks; only the second changes, at the
    beginning of a step, anywhere in an epoch. The gradient of each step is the mean over its examples, also where an epoch ends inside
    it or the last micro-batch is short (Lightning alone makes the gradient of such a step too small). The last step of an epoch takes
    what is left, as in Lightning.

    ``trainer.global_step``, ``max_steps`` and ``estimated_stepping_batches`` go on counting optimizer steps, of which there are
    fewer as the batch grows: end a run by epochs. Schedulers of ``interval="step"`` and frequency 1 follow the examples
    (``schedule="examples"``); the others are left alone. The lr in the optimizer between two steps, which
    ``LearningRateMonitor`` shows, is the schedule's; the one in force is logged as ``batchwright/lr``.

    Statistics cost one copy of the gradient, and a step's norms on the host in each measured step (``noise_every``).

    Args:
        policy: A controller of `batchwright.adapt`, or its name.
        micro_batch_size: Examples in one micro-batch of one rank; the data loader's batch size where left out.
        count_examples: Gives the number of examples in a batch; the first axis of its tensors where left out.
        sinks: Called with each `StepReport`.
        log: Whether to log through the module, as ``batchwright/batch_size`` and the like.
        **options: Those of `Options`.

    Raises:
        InputError: At the start of ``fit``, for manual optimization, several optimizers, a strategy that shards gradients or
            accumulates by itself, another callback that sets the accumulation, or a policy that does not hold for the optimizer.
    """

    def __init__(
        self,
        policy: Controller | str = "noise-scale",
        *,
        micro_batch_size: int | None = None,
        count_examples: Callable[[Any], int] = batch_length,
        sinks: Sequence[StepSink] = (),
        log: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = Options(policy=policy, **options)
        if micro_batch_size is not None:
            check_int("micro_batch_size", micro_batch_size, at_least=1)
        self._micro_batch_size, self._count_examples = micro_batch_size, count_examples
        self._sinks, self._log = tuple(sinks), log
        self._accumulation: Accumulation | None = None
        self._resumed: dict[str, Any] | None = None
        self._started_with = 1
        self._num_examples = 0
        self._loss: Tensor | None = None
        self.last: StepReport | None = None

    @property
    def batch_size(self) -> int:
        """Examples in the next optimizer step, on all ranks together."""
        return self._running().batch_size

    # What Lightning calls, in its order

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work before any work is done."""
        if stage == "fit":
            _check(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Everything is in place by now, a checkpoint included."""
        self._started_with = int(trainer.accumulate_grad_batches)
        batches = trainer.num_training_batches
        loader = trainer.train_dataloader
        accumulation = Accumulation(
            self.options,
            trainer.optimizers[0],
            micro_batch_size=self._micro_batch_size or loader_batch_size(loader),
            num_micro_batches=self._started_with,
            model=pl_module,
            world_size=trainer.world_size,
            rank_noise=_rank_noise(trainer, self.options),
            micro_batches_per_epoch=batches if isinstance(batches, int) else None,
            num_train=num_train_examples(loader),
        )
        accumulation.follow_schedulers(
            [
                config.scheduler
                for config in trainer.lr_scheduler_configs
                if config.interval == "step" and config.frequency == 1 and not config.reduce_on_plateau
            ]
        )
        self._accumulation = accumulation
        if self._resumed is None:
            self.last = accumulation.start()
        else:
            accumulation.load_state_dict(self._resumed)
            self._resumed = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first micro-batch of a step says how many there will be."""
        accumulation = self._running()
        self._num_examples = self._count_examples(batch)
        if accumulation.num_accumulated == 0:
            accumulation.begin()
            trainer.accumulate_grad_batches = StepsFrom(accumulation.num_micro_batches, first=batch_idx)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Give a short micro-batch the weight of its examples."""
        accumulation = self._running()
        weight = accumulation.weight(self._num_examples)
        if weight != 1.0:
            loss.register_hook(lambda gradient: gradient * weight)
        if self.options.needs_loss:
            # Lightning has divided it by the count, a gradient scaler has multiplied it.
            self._loss = loss.detach() * accumulation.num_micro_batches / _grad_scale(trainer)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Take the micro-batch in; the gradient is still unclipped, and whole after the last one."""
        accumulation = self._running()
        accumulation.after_backward(self._num_examples, self._loss)
        if not trainer.fit_loop._should_accumulate():
            accumulation.finish_gradient(grad_scale=_grad_scale(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the last micro-batch of a step the optimizer and the schedulers have been stepped."""
        accumulation = self._running()
        if trainer.fit_loop._should_accumulate():
            return
        if accumulation.num_accumulated == 0:  # every training_step of it returned None
            accumulation.forget()
            return
        end = bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())
        report = accumulation.after_step(epoch=trainer.current_epoch + end, end_of_epoch=end, batch=batch)
        if report is None:
            return
        self.last = report
        if self._log:
            values = {f"batchwright/{name}": value for name, value in report.scalars().items()}
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        for sink in self._sinks:
            sink(report)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave trainer and optimizer as they were."""
        self._stop(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave trainer and optimizer as they were."""
        self._stop(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into its checkpoint; resumed from it, a run goes on at its batch size, lr and noise scale."""
        return {} if self._accumulation is None else self._accumulation.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts, when there is an optimizer."""
        self._resumed = dict(state_dict) or None

    def _running(self) -> Accumulation:
        if self._accumulation is None:
            raise InputError("the callback must be in a training run for this, got none; call trainer.fit first")
        return self._accumulation

    def _stop(self, trainer: Any) -> None:
        if self._accumulation is not None:
            self._accumulation.close()
            trainer.accumulate_grad_batches = self._started_with


def _check(trainer: Any, pl_module: Any) -> None:
    if not pl_module.automatic_optimization:
        raise InputError(
            "the module must use automatic optimization, got automatic_optimization=False; with manual optimization the module "
            "accumulates by itself: take batchwright.integrations.Accumulation there"
        )
    strategies = require(f"{_LIBRARY}.strategies", "lightning")
    plain = isinstance(trainer.strategy, strategies.SingleDeviceStrategy | strategies.DDPStrategy)
    if not plain or trainer.strategy.handles_gradient_accumulation:
        raise InputError(
            f"the strategy must leave whole gradients to every rank, a single device or DDP, got {type(trainer.strategy).__name__}"
        )
    rivals = ("GradientAccumulationScheduler", "StochasticWeightAveraging")
    for callback in trainer.callbacks:
        if type(callback).__name__ in rivals:
            raise InputError(
                f"no other callback may set accumulate_grad_batches, got {type(callback).__name__}; take one of them out"
            )
    if len(trainer.strategy.optimizers) > 1:
        raise InputError(f"there must be a single optimizer, got {len(trainer.strategy.optimizers)}")


def _rank_noise(trainer: Any, options: Options) -> RankNoise | None:
    if trainer.world_size == 1 or not options.needs_noise:
        return None
    noise = RankNoise()
    noise.attach(trainer.model)
    return noise


def _grad_scale(trainer: Any) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if isinstance(scaler, torch.amp.GradScaler) else 1.0
