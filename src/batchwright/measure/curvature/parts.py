"""The examples of a curvature product, cut into parts that fit in memory, each computed as the same function every time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from batchwright.core.batches import Batch, batch_length, split_batch
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState


@dataclass(kw_only=True, slots=True)
class Part:
    """Examples of one forward pass.

    Attributes:
        batch: The examples.
        num_examples: How many.
        random_state: Global generators before its first forward pass, so that dropout draws the same masks every time.
    """

    batch: Batch
    num_examples: int
    random_state: RandomState | None = None


def as_batches(batches: Batch | Iterable[Batch]) -> list[Batch]:
    """Several batches as a list, also where one batch was given.

    A tensor, a mapping and a tuple are one batch; a list holds batches, and any other iterable gives them. A list of tensors of
    one length could be either.

    Raises:
        InputError: If there is no batch, or it cannot be told whether there is one or several.
    """
    if isinstance(batches, Tensor | Mapping | tuple):
        return [batches]
    if not isinstance(batches, Iterable):
        raise InputError(f"batches must be a batch or an iterable of batches, got {type(batches).__name__}")
    found = list(batches)
    if not found:
        raise InputError("batches must hold at least one batch, got none")
    if isinstance(batches, Sequence) and len(found) > 1 and all(isinstance(each, Tensor) for each in found):
        lengths = {len(each) if each.ndim else 0 for each in found}
        if len(lengths) == 1:
            raise InputError(
                f"batches must be one batch or several, got a list of {len(found)} tensors of one length, which may be either; "
                "write [batch] for one batch, or iter(batches) for batches that are single tensors"
            )
    return found


def check_several(batches: Iterable[Batch]) -> Iterable[Batch]:
    """Return ``batches`` if it may be several.

    Raises:
        InputError: If it is one batch, or nothing that gives batches.
    """
    one = isinstance(batches, Tensor | Mapping) or (
        isinstance(batches, tuple) and bool(batches) and all(isinstance(each, Tensor) for each in batches)
    )
    if one or not isinstance(batches, Iterable):
        kind = f"one batch, a {type(batches).__name__}" if one else type(batches).__name__
        raise InputError(f"batches must be an iterable of batches, got {kind}; write [batch] for a single one")
    return batches


def make_parts(model: nn.Module, batches: Batch | Iterable[Batch], micro_batch_size: int | None) -> list[Part]:
    """The parts of all batches in order; empty batches are left out.

    Raises:
        InputError: If there is no example, or a batch would be cut whose BatchNorm layers use its own statistics.
    """
    if micro_batch_size is not None:
        check_int("micro_batch_size", micro_batch_size, at_least=1)
    parts = []
    for batch in as_batches(batches):
        length = batch_length(batch)
        if length == 0:
            continue
        size = length if micro_batch_size is None else min(micro_batch_size, length)
        if size < length:
            _refuse_to_cut(model, length, size)
        parts += [Part(batch=piece, num_examples=batch_length(piece)) for piece in split_batch(batch, size)]
    if not parts:
        raise InputError("batches must hold at least one example, got none")
    return parts


def _refuse_to_cut(model: nn.Module, length: int, size: int) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise InputError(
                f"micro_batch_size must be at least the batch size where BatchNorm uses the statistics of its batch, got {size} for "
                f"a batch of {length} and layer {name!r}; leave micro_batch_size out, or call model.eval()"
            )


@contextmanager
def same_function(model: nn.Module, part: Part) -> Iterator[None]:
    """A context for the forward pass of a part, in which it draws its own random numbers and can be differentiated twice.

    Fused attention and cuDNN's recurrent layers have no second derivative, so attention is computed by plain matrix products
    and recurrent layers without cuDNN.
    """
    if part.random_state is None:
        part.random_state = RandomState.capture()
    else:
        part.random_state.restore()
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
