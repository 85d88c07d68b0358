"""A model sharded over ranks by FSDP2, and its states as whole tensors: a checkpoint knows nothing of ranks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.core.errors import InputError
from batchwright.training.group import Group
from batchwright.training.ranks import FsdpRanks, Ranks, WholeRanks


def place(model: nn.Module, group: Group, parallel: str) -> Ranks:
    """Spread a model over the processes of a job, as the first one made it.

    Args:
        model: On this rank's device.
        group: The processes.
        parallel: ``ddp`` or ``fsdp``.

    Raises:
        InputError: If this torch has no ``fully_shard``.
    """
    if group.world_size == 1:
        return Ranks(model)
    ranks: Ranks
    ranks = several = WholeRanks(model)
    several.same_model()
    if parallel == "fsdp":
        ranks = shard(model, group.world_size)
    else:
        with group.together():
            several.prepare()
    ranks.host = group
    return ranks


def shard(model: nn.Module, world_size: int) -> FsdpRanks:
    """Shard a model in place by ``fully_shard``: each block of a `ModuleList` or `Sequential` as one unit, and the rest as one.

    A block that shares a parameter with the rest goes with the rest.

    Raises:
        InputError: If this torch has no ``fully_shard``.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise InputError(
            "--distributed fsdp must have torch 2.6 or newer, got one without fully_shard; take ddp"
        ) from error
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size,))
    uses = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for block in _blocks(model):
        inside = Counter(id(parameter) for module in block.modules() for parameter in module._parameters.values())
        if any(parameter.requires_grad for parameter in block.parameters()) and all(
            uses[key] == count for key, count in inside.items()
        ):
            fully_shard(block, mesh=mesh)
    return FsdpRanks(model, fully_shard(model, mesh=mesh))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks of containers whose forward pass calls each of them."""
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def whole(value: Any) -> Any:
    """The same with every sharded tensor made whole; all ranks call this at the same place."""
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model that may be sharded."""
    now = model.state_dict()
    model.load_state_dict({name: _like(value, now.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole state into an optimizer whose parameters may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        number: {
            name: _like(value, parameters[number])
            if getattr(value, "shape", None) == parameters[number].shape
            else value
            for name, value in found.items()
        }
        for number, found in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _like(value: Tensor, target: Any) -> Tensor:
    """This rank's part of a tensor, laid out as ``target`` is."""
    if not hasattr(target, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    found: Tensor = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return found
