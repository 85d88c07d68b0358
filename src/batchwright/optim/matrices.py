"""A parameter as the matrix that a norm of matrices is taken of, and a sharded one whole.

The rule is that of `measure.dual_noise_scale`: the first axis by all the others. For a linear layer that is outputs by inputs, for a
convolution outputs by inputs and places of the kernel; for a transposed convolution inputs by outputs and places.
"""

from typing import Any

import torch
from torch import Tensor

from batchwright.core.errors import InputError


def as_matrix(tensor: Tensor) -> Tensor:
    """``(m, n)``: the first axis by the rest; a view where the tensor allows one."""
    return tensor if tensor.ndim == 2 else tensor.flatten(1)


def matrix_shape(tensor: Tensor) -> tuple[int, int]:
    """``(m, n)`` of `as_matrix`, of the whole tensor where it is sharded."""
    rows = tensor.shape[0]
    return rows, tensor.numel() // rows if rows else 0


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as FSDP2 and tensor parallelism make them."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor: a DTensor is gathered, on all its ranks, who must all call."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def sharded_like(full: Tensor, like: Any) -> Tensor:
    """The part of ``full`` that each rank of ``like`` holds, as a DTensor; nothing is sent, since every rank has the whole."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    copies = DTensor.from_local(full, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return copies.redistribute(like.device_mesh, like.placements)


def check_matrix(parameter: Tensor, *, optimizer: str, way_out: str) -> None:
    """Refuse what is not a matrix of real floats.

    Raises:
        InputError: With ``way_out`` at its end.
    """
    if parameter.ndim < 2 or not parameter.is_floating_point():
        raise InputError(
            f"a parameter of {optimizer} must be a matrix or a kernel of real floats, got shape {tuple(parameter.shape)} of "
            f"{parameter.dtype}; {way_out}"
        )


def check_gradient(gradient: Tensor, *, optimizer: str) -> None:
    """Refuse sparse gradients.

    Raises:
        InputError: If it is sparse.
    """
    if gradient.layout != torch.strided:
        raise InputError(
            f"gradients of {optimizer} must be dense, got {gradient.layout}; put the embedding into a group of another optimizer"
        )
