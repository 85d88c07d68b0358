"""Noise scale of each parameter or group of parameters, all from one pass, and what Adam divides gradients by.

Sources: McCandlish et al. (2018), arXiv:1812.06162, for each part of the gradient alone; Kingma & Ba (2015), algorithm 1, for the
second moment. The trace and squared norm of the parts add up to those of the whole.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.core.batches import Batch
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.measure.noise import NoiseScale, estimate, pooled_sums

Groups = Mapping[str, Sequence[nn.Parameter]]


def noise_scale_by_group(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    method: str = "micro-batch",
    *,
    groups: Groups | Optimizer | None = None,
    num_micro_batches: int = 2,
    divide_by: Mapping[str, Tensor] | None = None,
    level: float = 0.95,
) -> dict[str, NoiseScale]:
    """Estimate the noise scale of parts of the gradient, by name; arguments and errors as `noise_scale` beside these.

    Args:
        model: Model in the mode in which it is to be measured.
        loss: One loss an example.
        batches: Independent batches.
        method: ``micro-batch`` or ``per-example``.
        groups: Parameters by the name of their group, or an optimizer for its parameter groups: named as they are named there, or
            ``group 0``, ``group 1``. Each parameter by its own name when left out.
        num_micro_batches: Parts of each batch, only for ``micro-batch``.
        divide_by: By what gradients are divided first, only for ``micro-batch``.
        level: Nominal coverage of each interval alone.

    Raises:
        InputError: If a group holds no trainable parameter of the model.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batches = [torch.randn(8, 2) for _ in range(20)]
        >>> list(noise_scale_by_group(model, lambda m, x: m(x).squeeze(1).square(), batches))
        ['weight', 'bias']
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    rows = {name: [row] for row, (name, _) in enumerate(named)}
    if groups is not None:
        place = {id(parameter): row for row, (_, parameter) in enumerate(named)}
        wanted = _groups_of(groups) if isinstance(groups, Optimizer) else groups
        rows = {name: [place[id(p)] for p in group if id(p) in place] for name, group in wanted.items()}
        empty = [name for name, found in rows.items() if not found]
        if empty:
            raise InputError(
                f"groups must each hold a trainable parameter of the model, got none in {empty[0]!r}; leave it out"
            )
    sums = pooled_sums(model, loss, batches, method, num_micro_batches, divide_by, level)
    return {name: estimate(sums, found, level) for name, found in rows.items()}


def _groups_of(optimizer: Optimizer) -> dict[str, list[nn.Parameter]]:
    return {
        str(group.get("name", f"group {number}")): list(group["params"])
        for number, group in enumerate(optimizer.param_groups)
    }


def adam_divisors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What Adam divides the gradient of each parameter by: the root of its debiased second moment, plus ``eps``.

    Args:
        model: The model that gives the names.
        optimizer: Any of torch's that keep ``exp_avg_sq``, after at least one step; with AMSGrad the largest moment is taken.

    Raises:
        InputError: If no parameter has a second moment yet.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> model(torch.ones(1, 1)).sum().backward()
        >>> optimizer.step()
        >>> round(adam_divisors(model, optimizer)["weight"].item(), 4)
        1.0
    """
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            moment = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
            if moment is None or id(parameter) not in names:
                continue
            correction = 1 - group["betas"][1] ** float(state["step"])
            found[names[id(parameter)]] = (moment / correction).sqrt() + group["eps"]
    if not found:
        raise InputError(
            f"optimizer must keep a second moment for the model's parameters, got {type(optimizer).__name__} without one; "
            "make a step with Adam or AdamW first"
        )
    return found
