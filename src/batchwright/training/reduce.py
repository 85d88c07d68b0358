"""Gradients of several ranks made into their mean, in buckets that are there before they are needed.

As `DistributedDataParallel` does it, but after the backward passes in place of within them: so all ranks can first hear whether each
of them got through.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# As of DistributedDataParallel: large enough for the network, small enough that several are under way at once.
BUCKET_BYTES = 25 * 2**20


class GradientBuckets:
    """Buffers of the size of a model's gradient; made once, so that a reduction needs no memory that may not be there.

    Args:
        parameters: Whose gradients are reduced; the same on all ranks.
        bucket_bytes: Most bytes of a bucket of more than one gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._parameters = list(parameters)
        self._views: list[Tensor] = [torch.empty(0)] * len(self._parameters)
        self._buckets: list[_Bucket] = []
        for kind in sorted({(each.device, each.dtype) for each in self._parameters}, key=str):
            members: list[int] = []
            size = 0
            for number, parameter in enumerate(self._parameters):
                if (parameter.device, parameter.dtype) != kind:
                    continue
                num_bytes = parameter.numel() * parameter.element_size()
                if members and size + num_bytes > bucket_bytes:
                    self._add(members)
                    members, size = [], 0
                members.append(number)
                size += num_bytes
            self._add(members)

    def _add(self, members: list[int]) -> None:
        first = self._parameters[members[0]]
        length = sum(self._parameters[number].numel() for number in members)
        tensor = torch.zeros(length, dtype=first.dtype, device=first.device)
        parts = tensor.split([self._parameters[number].numel() for number in members])
        for number, part in zip(members, parts, strict=True):
            self._views[number] = part.view(self._parameters[number].shape)
        self._buckets.append(_Bucket(tensor))

    def reduce(self, mean: Callable[[Any], Any], used: Sequence[bool] | None = None) -> None:
        """Put the mean over ranks into ``.grad``.

        Args:
            mean: Called with each bucket, whose ``buffer()`` it is to replace by the mean over ranks; gives a future, as a
                communication hook of DDP does.
            used: Whether a parameter has a gradient on any rank; one that has none keeps none. All have where left out.
        """
        present = [number for number, parameter in enumerate(self._parameters) if parameter.grad is not None]
        absent = [view for view, parameter in zip(self._views, self._parameters, strict=True) if parameter.grad is None]
        with torch.no_grad():
            if absent:
                torch._foreach_zero_(absent)
            if present:
                torch._foreach_copy_([self._views[number] for number in present], self._gradients(present))
            for future in [mean(bucket) for bucket in self._buckets]:
                future.wait()
            for number, parameter in enumerate(self._parameters):
                if parameter.grad is None and (used is None or used[number]):
                    parameter.grad = torch.zeros_like(parameter)
                    present.append(number)
            torch._foreach_copy_(self._gradients(present), [self._views[number] for number in present])

    def _gradients(self, numbers: Sequence[int]) -> list[Tensor]:
        found = [self._parameters[number].grad for number in numbers]
        return [grad for grad in found if grad is not None]


class _Bucket:
    """What a communication hook of DDP is given."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def buffer(self) -> Tensor:
        return self._tensor


def copy_from_first(tensors: Sequence[Tensor], broadcast: Callable[[Tensor], None]) -> None:
    """Give tensors the first rank's values, of any kinds, by one message a device.

    Args:
        tensors: The same on all ranks but for their values.
        broadcast: Replaces a tensor of bytes by the first rank's.
    """
    with torch.no_grad():
        for device in sorted({tensor.device for tensor in tensors}, key=str):
            here = [tensor for tensor in tensors if tensor.device == device and tensor.numel()]
            parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in here]
            message = torch.cat(parts)
            broadcast(message)
            for tensor, part in zip(here, message.split([len(part) for part in parts]), strict=True):
                # A part may begin at any byte; a copy of it is aligned.
                tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))
