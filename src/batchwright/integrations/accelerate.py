"""Accelerate: the two lines of a loop with ``accelerator.accumulate`` that change for a batch size which changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from batchwright.adapt import Controller
from batchwright.core.batches import batch_length
from batchwright.core.errors import InputError
from batchwright.integrations.accumulation import Accumulation
from batchwright.integrations.extras import require
from batchwright.integrations.loaders import loader_batch_size, num_train_examples
from batchwright.integrations.options import Options
from batchwright.integrations.sinks import StepSink
from batchwright.integrations.step_report import StepReport
from batchwright.measure.noise_ranks import RankNoise

_wrappers = require("accelerate", "transformers")
# Whole gradients on every rank, and accumulation that is Accelerate's own.
_PLAIN = (
    "NO",
    "MULTI_CPU",
    "MULTI_GPU",
    "MULTI_NPU",
    "MULTI_MLU",
    "MULTI_MUSA",
    "MULTI_SDAA",
    "MULTI_XPU",
    "MULTI_HPU",
)


class AccelerateBatchSize:
    """Follows a policy in a loop of one's own.

    The batch size is that of the loader times ``accelerator.gradient_accumulation_steps`` times the processes; the second changes, at
    the beginning of a step. The gradient of each step is the mean over its examples, also where the loader ends inside it or the last
    batch is short (Accelerate alone makes the gradient of such a step too small). A scheduler that was prepared follows the examples.

    Example::

        sizes = AccelerateBatchSize(accelerator, model, optimizer, loader, "noise-scale", schedulers=[scheduler])
        for batch in loader:
            with sizes.accumulate(batch):        # in place of accelerator.accumulate(model)
                loss = loss_function(model, batch)
                sizes.backward(loss)             # in place of accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    For checkpoints: ``accelerator.register_for_checkpointing(sizes)``.

    Args:
        accelerator: An ``accelerate.Accelerator``.
        model: What ``accelerator.prepare`` gave; several in a list.
        optimizer: What it gave.
        loader: What it gave; asked for its sizes only.
        policy: A controller of `batchwright.adapt`, or its name.
        schedulers: What it gave, each stepped in every pass through the loop.
        micro_batch_size: Examples in one batch of one process; the loader's where left out.
        count_examples: Gives the number of examples in a batch; the first axis of its tensors where left out.
        sinks: Called with each `StepReport`.
        **options: Those of `Options`.

    Raises:
        InputError: With DeepSpeed, FSDP and others that keep gradients or accumulation to themselves, or if the policy does not hold
            for the optimizer.
    """

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Any,
        loader: Any,
        policy: Controller | str = "noise-scale",
        *,
        schedulers: Sequence[Any] = (),
        micro_batch_size: int | None = None,
        count_examples: Callable[[Any], int] = batch_length,
        sinks: Sequence[StepSink] = (),
        **options: Any,
    ) -> None:
        kind = str(accelerator.distributed_type.value)
        if kind not in _PLAIN:
            raise InputError(
                f"every process must have whole gradients, on one device or with DDP, got {kind}; there Accelerate does not accumulate "
                "by itself"
            )
        self.options = Options(policy=policy, **options)
        self._accelerator, self._count_examples, self._sinks = accelerator, count_examples, tuple(sinks)
        self._models = [model] if isinstance(model, nn.Module) else list(model)
        world_size = accelerator.num_processes
        self._accumulation = Accumulation(
            self.options,
            getattr(optimizer, "optimizer", optimizer),
            micro_batch_size=micro_batch_size or _batch_size(loader, world_size),
            num_micro_batches=accelerator.gradient_accumulation_steps,
            model=self._models[0],
            world_size=world_size,
            rank_noise=_rank_noise(self._models, self.options) if world_size > 1 else None,
            micro_batches_per_epoch=len(loader) if hasattr(loader, "__len__") else None,
            num_train=num_train_examples(loader),
        )
        wrapped = [
            scheduler for scheduler in schedulers if isinstance(scheduler, _wrappers.scheduler.AcceleratedScheduler)
        ]
        for_each = [1 if each.split_batches or not each.step_with_optimizer else world_size for each in wrapped]
        if len(wrapped) < len(schedulers) or len(set(for_each)) > 1:
            raise InputError(
                "schedulers must be what accelerator.prepare gave, so that they are stepped once an optimizer step, got "
                f"{', '.join(type(scheduler).__name__ for scheduler in schedulers)}"
            )
        self._accumulation.follow_schedulers(
            [scheduler.scheduler for scheduler in wrapped], steps_each=for_each[0] if for_each else 1
        )
        self._num_examples = self._epoch = 0
        self.last: StepReport = self._accumulation.start()

    @property
    def batch_size(self) -> int:
        """Examples in the next optimizer step, on all processes together."""
        return self._accumulation.batch_size

    @contextmanager
    def accumulate(self, batch: Any) -> Iterator[None]:
        """One pass through the loop body, in place of ``accelerator.accumulate(model)``."""
        accumulation, accelerator = self._accumulation, self._accelerator
        self._num_examples = self._count_examples(batch)
        if accumulation.num_accumulated == 0:
            accumulation.begin()
            # It steps where its own count of passes is a multiple of the number: both start anew here.
            accelerator.step = 0
            accelerator.gradient_accumulation_steps = accumulation.num_micro_batches
        with accelerator.accumulate(*self._models):
            yield
        if not accelerator.sync_gradients:
            return
        end = bool(accelerator.gradient_state.end_of_dataloader)
        self._epoch += end
        report = accumulation.after_step(epoch=self._epoch, end_of_epoch=end, batch=batch)
        if report is not None:
            self.last = report
            for sink in self._sinks:
                sink(report)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradient of a micro-batch, in place of ``accelerator.backward(loss)``; ``loss`` is the mean over its examples."""
        accumulation = self._accumulation
        weight = accumulation.weight(self._num_examples)
        self._accelerator.backward(loss if weight == 1.0 else loss * weight, **kwargs)
        accumulation.after_backward(self._num_examples, loss)
        if self._accelerator.sync_gradients:
            scaler = self._accelerator.scaler
            accumulation.finish_gradient(grad_scale=float(scaler.get_scale()) if scaler is not None else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Taken between two steps."""
        return {**self._accumulation.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._epoch = state["epoch"]
        self._accumulation.load_state_dict(state)

    def close(self) -> None:
        """Leave the optimizer as it was."""
        self._accumulation.close()


def _batch_size(loader: Any, world_size: int) -> int:
    # A prepared loader tells the size over all processes, whichever way it splits it.
    total = getattr(loader, "total_batch_size", None)
    return total // world_size if isinstance(total, int) else loader_batch_size(loader)


def _rank_noise(models: Sequence[nn.Module], options: Options) -> RankNoise | None:
    if not options.needs_noise:
        return None
    ddp = [model for model in models if isinstance(model, nn.parallel.DistributedDataParallel)]
    if len(ddp) != 1 or len(models) > 1:
        raise InputError(
            f"a policy that looks at noise on several processes must have a single model, in DDP, got "
            f"{', '.join(type(model).__name__ for model in models)}"
        )
    noise = RankNoise()
    noise.attach(ddp[0])
    return noise
