"""The plain loop: any module, autograd and `torch.optim.SGD`, one network at a time.

It is what the official code does, it is the oracle of the ensemble, and it trains the networks that are no stack of linear layers.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from batchwright.studies.eoss.problem import squared_error
from batchwright.studies.eoss.settings import Setting


def make_optimizer(model: nn.Module, setting: Setting) -> torch.optim.SGD:
    """Torch's SGD at a setting."""
    return torch.optim.SGD(
        model.parameters(),
        lr=setting.lr,
        momentum=setting.momentum,
        nesterov=setting.nesterov and setting.momentum > 0,
    )


def set_optimizer(optimizer: torch.optim.SGD, setting: Setting) -> None:
    """Change the setting and keep the momentum buffer."""
    for group in optimizer.param_groups:
        group.update(lr=setting.lr, momentum=setting.momentum, nesterov=setting.nesterov and setting.momentum > 0)


def train_plainly(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Float[Tensor, "N ..."],
    targets: Float[Tensor, "N out"],
    batches: Iterator[Int[Tensor, " B"] | None],
) -> None:
    """One step a batch, in place; None stands for the whole data set."""
    for batch in batches:
        chosen = (inputs, targets) if batch is None else (inputs[batch], targets[batch])
        optimizer.zero_grad(set_to_none=True)
        squared_error(model, chosen).mean().backward()
        optimizer.step()
