"""The optimizers of the comparison with the settings at which their search for a learning rate begins."""

from collections.abc import Mapping

from batchwright.core.errors import InputError
from batchwright.tasks.optimizers import KINDS
from batchwright.tasks.task import OptimizerSpec, Task

# Only where the search begins; it goes on from there by factors of 4 and then of 2. Muon's is AdamW's, whose step length it matches.
FIRST_LR: Mapping[str, float] = {"sgd": 0.1, "adam": 2e-3, "adamw": 2e-3, "muon": 2e-3, "scion": 1e-3}
# Where the task does not say: runs of some hundred steps are over before a decay of 0.999 has forgotten the first gradients.
BETA2 = 0.99


def optimizer_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas, in its order.

    Raises:
        InputError: If a name is unknown or stands twice, or there is none.

    Example:
        >>> optimizer_names("muon, sgd")
        ('muon', 'sgd')
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    wrong = [name for name in names if name not in KINDS]
    if not names or wrong:
        raise InputError(f"--optimizer must be names out of {', '.join(KINDS)} with commas, got {text!r}")
    if len(set(names)) < len(names):
        raise InputError(f"--optimizer must name each optimizer once, got {text!r}")
    return names


def spec_of(name: str, task: Task) -> OptimizerSpec:
    """The task's own settings for its own optimizer; for another one the defaults above, with the task's decays where both have them.

    Momentum is 0.9 (Nesterov in Muon alone). Weight decay is the task's where both optimizers take it off the parameters, else 0.
    """
    own = task.optimizer
    if name == own.name:
        return own
    shared = own.weight_decay if KINDS[name].decoupled and KINDS[own.name].decoupled else 0.0
    beta2 = own.beta2 if KINDS[own.name].update == "normalised" else BETA2
    return OptimizerSpec(name=name, lr=FIRST_LR.get(name, 1e-3), momentum=0.9, beta2=beta2, weight_decay=shared)
