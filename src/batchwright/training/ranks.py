"""One process or several: when gradients are reduced over ranks, and the few numbers that ranks must agree on.

The gradient of every kind here is the mean over ranks of each rank's own, so a rank's losses are scaled by the number of ranks.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.core.vectors import gradients, trainable
from batchwright.measure.noise_ranks import RankNoise, mean_over_ranks
from batchwright.training.group import Group, Processes
from batchwright.training.reduce import GradientBuckets, copy_from_first


class Ranks:
    """A single process: nothing to reduce.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        sharded: Whether each rank holds only a part of every gradient.
        whole: Whether each of several ranks makes a gradient of the whole model by itself.
    """

    rank = 0
    world_size = 1
    sharded = False
    whole = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = trainable(model)
        self.device = self.parameters[0].device

    @cached_property
    def host(self) -> Group:
        """The processes themselves, to settle with; all ranks ask for it at the same place."""
        return Group()

    def local_gradients(self) -> list[Tensor]:
        """This rank's part of the gradient of each parameter; zeros where a parameter took no part."""
        return gradients(self.parameters)

    def before_micro_batch(self, *, last: bool, measured: bool) -> None:
        """Prepare the model for a micro-batch: gradients are reduced after the last one alone."""

    def hold_back(self) -> None:
        """Until `reduce` each rank keeps its gradient to itself; nothing in a forward or backward pass waits for another rank."""

    def reduce(self, *, missing: bool = False) -> None:
        """Make the gradients that were held back into their mean over ranks, in ``.grad``.

        Args:
            missing: Whether a parameter may have no gradient on some rank; known alike on all.
        """

    def let_go(self) -> None:
        """End of `hold_back`, also without a `reduce`."""

    def same_buffers(self) -> None:
        """Give all ranks the buffers of the first, as DDP does."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, the same on all of them."""
        return values

    def rows(self, values: Tensor) -> Tensor:
        """The values of all ranks in order of rank; shape ``(B,)`` with another ``B`` on each."""
        return values

    def agree(self, values: list[float]) -> list[float]:
        """The first rank's numbers, on all of them."""
        return values

    def all_have(self, yes: bool) -> bool:
        """Whether it holds on every rank."""
        return yes

    def check_same(self, name: str, value: int) -> None:
        """Check on all ranks at once that an argument is the first rank's, so that none goes on alone and waits for ever.

        Raises:
            InputError: On every rank, if it differs on one.
        """
        first = int(self.agree([float(value)])[0])
        if not self.all_have(value == first):
            raise InputError(
                f"{name} must be the same on all ranks, got {value} on rank {self.rank} and {first} on rank 0; give each the same"
            )


class _Several(Ranks):
    """What all kinds of several processes share."""

    def __init__(self, model: nn.Module, group: Any) -> None:
        import torch.distributed as dist

        super().__init__(model)
        self._dist, self.group = dist, group
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)

    @cached_property
    def host(self) -> Group:
        """As of `Ranks`."""
        return Processes(self.group)

    def same_buffers(self) -> None:
        """As of `Ranks`."""
        buffers = list(self.model.buffers())
        if buffers:
            copy_from_first(buffers, self._broadcast)

    def sum(self, values: Tensor) -> Tensor:
        """As of `Ranks`."""
        values = values.detach().clone()
        self._dist.all_reduce(values, group=self.group)
        return values

    def rows(self, values: Tensor) -> Tensor:
        """As of `Ranks`."""
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device=values.device)
        lengths[self.rank] = len(values)
        counts = self.sum(lengths).tolist()
        table = torch.zeros(self.world_size, max(counts), dtype=torch.float64, device=values.device)
        table[self.rank, : len(values)] = values
        return torch.cat([row[:count] for row, count in zip(self.sum(table), counts, strict=True)])

    def agree(self, values: list[float]) -> list[float]:
        """As of `Ranks`."""
        table = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._broadcast(table)
        return [float(value) for value in table]

    def all_have(self, yes: bool) -> bool:
        """As of `Ranks`."""
        flag = torch.tensor([0 if yes else 1], device=self.device)
        return int(self.sum(flag)) == 0

    def _broadcast(self, tensor: Tensor) -> None:
        source = 0 if self.group is None else self._dist.get_global_rank(self.group, 0)
        self._dist.broadcast(tensor, src=source, group=self.group)


class WholeRanks(_Several):
    """Data parallel without a wrapper: a whole model on each rank, whose gradients are reduced when every rank has got through.

    Args:
        model: Without a wrapper; the same on all ranks.
        group: Process group; the default one where None.
    """

    whole = True

    def __init__(self, model: nn.Module, group: Any = None) -> None:
        super().__init__(model, group)
        self._noise: RankNoise | None = None

    @cached_property
    def _buckets(self) -> GradientBuckets:
        return GradientBuckets(self.parameters)

    def prepare(self) -> None:
        """Take the memory for `reduce` now."""
        assert self._buckets

    def same_model(self) -> None:
        """Give all ranks the parameters and buffers of the first."""
        copy_from_first([*self.model.parameters(), *self.model.buffers()], self._broadcast)

    def attach(self, noise: RankNoise) -> None:
        """Let a `measure.RankNoise` see each reduction."""
        self._noise = noise

    def reduce(self, *, missing: bool = False) -> None:
        """As of `Ranks`."""
        used = None
        if missing:
            mine = torch.tensor([parameter.grad is not None for parameter in self.parameters], device=self.device)
            used = [count > 0 for count in self.sum(mine.int()).tolist()]
        noise = self._noise
        self._buckets.reduce(noise.reduce if noise is not None else self._mean, used)
        self.let_go()

    def _mean(self, bucket: Any) -> Any:
        return mean_over_ranks(self.group, bucket)


class DdpRanks(WholeRanks):
    """`torch.nn.parallel.DistributedDataParallel`: gradients are accumulated by each rank and reduced with the last micro-batch."""

    def __init__(self, model: nn.Module, wrapper: Any) -> None:
        super().__init__(model, wrapper.process_group)
        self._wrapper = wrapper
        self._holds_back = False

    def attach(self, noise: RankNoise) -> None:
        """Give DDP the communication hook of a `measure.RankNoise`."""
        noise.attach(self._wrapper)
        super().attach(noise)

    def before_micro_batch(self, *, last: bool, measured: bool) -> None:
        """As of `Ranks`."""
        # What DDP.no_sync() sets; the forward pass must see it already.
        self._wrapper.require_backward_grad_sync = last and not self._holds_back

    def hold_back(self) -> None:
        """As of `Ranks`."""
        if self._wrapper.broadcast_buffers:
            self.same_buffers()
        # DDP would broadcast them in the forward pass, where a rank without memory for it may not come.
        self._wrapper.require_forward_param_sync = False
        self._holds_back = True

    def let_go(self) -> None:
        """As of `Ranks`."""
        if self._holds_back:
            self._wrapper.require_forward_param_sync = True
            self._holds_back = False


class FsdpRanks(_Several):
    """``torch.distributed.fsdp.fully_shard``: unsharded gradients are kept till the last micro-batch, and then reduced and sharded.

    On measured steps they are reduced and sharded after each micro-batch, because its gradient is what is measured.
    """

    sharded = True

    def __init__(self, model: nn.Module, wrapper: Any) -> None:
        super().__init__(model, None)
        self._wrapper = wrapper

    def local_gradients(self) -> list[Tensor]:
        """As of `Ranks`."""
        found: list[Any] = gradients(self.parameters)
        return [tensor.to_local() for tensor in found]

    def before_micro_batch(self, *, last: bool, measured: bool) -> None:
        """As of `Ranks`."""
        self._wrapper.set_requires_gradient_sync(last or measured)
        self._wrapper.set_is_last_backward(last)


def ranks_of(model: nn.Module) -> Ranks:
    """By the wrapper of the model, also under `torch.compile`; a model without one is trained by each process on its own."""
    inner: Any = getattr(model, "_orig_mod", model)
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return Ranks(model)
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(inner, DistributedDataParallel):
        return DdpRanks(model, inner)
    try:
        from torch.distributed.fsdp import FSDPModule
    except ImportError:  # torch before 2.6, or built without it
        return Ranks(model)
    return FsdpRanks(model, inner) if isinstance(inner, FSDPModule) else Ranks(model)
