"""What a cell leaves for the cells that go on from it: tensors in the study's state folder, whole or not there."""

from collections.abc import Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from batchwright.core.errors import RecordError
from batchwright.studies.study import Place


def save_state(place: Place, stem: str, tensors: Mapping[str, Tensor]) -> None:
    """Write ``stem.safetensors``; a kill leaves the file that was there before."""
    scratch = place.folder / f"{stem}.part"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch)
    scratch.replace(place.folder / f"{stem}.safetensors")


def load_state(place: Place, stem: str, *, device: str | None = None) -> dict[str, Tensor]:
    """The tensors of ``stem.safetensors``, on the device of the study where no other is given.

    Raises:
        RecordError: If it is not there.
    """
    path = place.folder / f"{stem}.safetensors"
    if not path.exists():
        raise RecordError(f"{path.name} must lie in the study's state folder, got none; run the study anew")
    tensors: dict[str, Tensor] = load_file(path, device=device or str(place.device))
    return tensors


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters and buffers of a model, and the momentum of its parameters where they have one."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, parameter in enumerate(model.parameters()):
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{index}"] = buffer
    return tensors


def restore_training(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put what `training_state` gave back into a model and its optimizer."""
    model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    )
    for index, parameter in enumerate(model.parameters()):
        if f"momentum.{index}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{index}"]
