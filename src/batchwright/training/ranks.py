"""One process or several: when gradients are reduced over ranks, and the few numbers that ranks must agree on.

The gradient of every wrapper here is the mean over ranks of each rank's own, so a rank's losses are scaled by the number of ranks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.core.vectors import gradients, trainable


class Ranks:
    """A single process: nothing to reduce.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        sharded: Whether each rank holds only a part of every gradient.
    """

    rank = 0
    world_size = 1
    sharded = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = trainable(model)
        self.device = self.parameters[0].device

    def local_gradients(self) -> list[Tensor]:
        """This rank's part of the gradient of each parameter; zeros where a parameter took no part."""
        return gradients(self.parameters)

    def before_micro_batch(self, *, last: bool, measured: bool) -> None:
        """Prepare the model for a micro-batch: gradients are reduced after the last one alone."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, the same on all of them."""
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
    """What `DistributedDataParallel` and FSDP share."""

    def __init__(self, model: nn.Module, group: Any) -> None:
        import torch.distributed as dist

        super().__init__(model)
        self._dist, self.group = dist, group
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)

    def sum(self, values: Tensor) -> Tensor:
        values = values.detach().clone()
        self._dist.all_reduce(values, group=self.group)
        return values

    def agree(self, values: list[float]) -> list[float]:
        table = torch.tensor(values, dtype=torch.float64, device=self.device)
        source = 0 if self.group is None else self._dist.get_global_rank(self.group, 0)
        self._dist.broadcast(table, src=source, group=self.group)
        return [float(value) for value in table]

    def all_have(self, yes: bool) -> bool:
        flag = torch.tensor([0 if yes else 1], device=self.device)
        return int(self.sum(flag)) == 0


class DdpRanks(_Several):
    """`torch.nn.parallel.DistributedDataParallel`: gradients are accumulated by each rank and reduced with the last micro-batch."""

    def __init__(self, model: nn.Module, wrapper: Any) -> None:
        super().__init__(model, wrapper.process_group)
        self._wrapper = wrapper

    def attach(self, noise: Any) -> None:
        """Give DDP the communication hook of a `measure.RankNoise`."""
        noise.attach(self._wrapper)

    def before_micro_batch(self, *, last: bool, measured: bool) -> None:
        """As of `Ranks`."""
        # What DDP.no_sync() sets; the forward pass must see it already.
        self._wrapper.require_backward_grad_sync = last


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
