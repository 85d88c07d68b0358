"""Refusal of layers that mix the examples of a batch, for which a gradient of one example is not defined."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchwright.core.errors import InputError


def refuse_batch_statistics(model: nn.Module) -> None:
    """Check that no BatchNorm layer of a model would use the statistics of the batch.

    Raises:
        InputError: Otherwise; the message names the first such layer and the ways out.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise mixed_examples_error(f"{name or 'the model'}, a {type(module).__name__} with statistics of the batch")


def mixed_examples_error(found: str) -> InputError:
    """The error for a model in which the gradient of one example depends on the others; ``found`` says by what."""
    return InputError(
        f"examples must not depend on each other for per-example gradients, got {found}; put norm layers in eval mode with "
        "running statistics, take whole ghost batches as examples, or use method='micro-batch'"
    )
