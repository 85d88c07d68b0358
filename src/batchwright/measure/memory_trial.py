"""The largest micro-batch by trial, for steps whose memory cannot be predicted: double until memory runs out, then bisect."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import DoesNotFitError
from batchwright.core.preserve import preserved
from batchwright.measure.memory_steps import out_of_memory

# The search ends when what fits and what does not are this near to each other.
TOLERANCE = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSearch:
    """What a trial search found.

    Attributes:
        max_micro_batch_size: Largest size tried that fitted.
        num_trials: Steps tried, those that failed included.
        num_failed: Steps that ran out of memory.
    """

    max_micro_batch_size: int
    num_trials: int
    num_failed: int


def trial_search(
    step: Callable[[int], object],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    max_micro_batch_size: int,
    start: int = 32,
    tolerance: float = TOLERANCE,
    generators: Sequence[torch.Generator] = (),
) -> TrialSearch:
    """Find the largest micro-batch that runs, by steps of the user's own, and leave the run as it was.

    Parameters, buffers, ``.grad``, modes, generators and the optimizer's state and settings are put back after the search, also when
    it raises. A copy of the parameters is held on the device meanwhile, so what is found is too small by that much.

    Args:
        step: ``step(size)`` does a whole step on ``size`` examples: forward, backward and update.
        model: Model that it trains.
        optimizer: Optimizer that it uses.
        max_micro_batch_size: Largest size to try.
        start: First size to try.
        tolerance: The answer is at most this part below the true one.
        generators: Further generators that it draws from, beside the global ones.

    Raises:
        DoesNotFitError: If not even one example fits.
        InputError: If an argument breaks a rule.

    Example:
        >>> def step(size):
        ...     if size > 777:
        ...         raise MemoryError
        >>> model = nn.Linear(1, 1)
        >>> trial_search(step, model, torch.optim.SGD(model.parameters()), max_micro_batch_size=4096)
        TrialSearch(max_micro_batch_size=768, num_trials=11, num_failed=5)
    """
    check_int("max_micro_batch_size", max_micro_batch_size, at_least=1)
    check_int("start", start, at_least=1)
    check_number("tolerance", tolerance, above=0.0, below=1.0)

    def runs(size: int) -> bool:
        optimizer.zero_grad(set_to_none=True)
        try:
            step(size)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    with preserved(model, generators=generators), _preserved_optimizer(optimizer):
        found = search(runs, at_most=max_micro_batch_size, start=start, tolerance=tolerance)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return found


def search(runs: Callable[[int], bool], *, at_most: int, start: int, tolerance: float = TOLERANCE) -> TrialSearch:
    """Double (or halve) from ``start`` to a size that runs and one that does not, then bisect.

    Raises:
        DoesNotFitError: If one example does not run.
    """
    fits, fails, num_trials, num_failed = 0, at_most + 1, 0, 0
    size = min(start, at_most)
    while fails - fits > max(1, tolerance * fits):
        num_trials += 1
        if runs(size):
            fits = size
        else:
            fails, num_failed = size, num_failed + 1
        if fails == 1:
            raise DoesNotFitError("a step must fit on at least one example, got none that did; make the model smaller")
        if fits == 0:
            size = max(1, fails // 2)
        elif num_failed == 0:
            size = min(2 * fits, at_most)
        else:
            size = (fits + fails) // 2
    return TrialSearch(max_micro_batch_size=fits, num_trials=num_trials, num_failed=num_failed)


@contextmanager
def _preserved_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    # Not by load_state_dict, which casts the state to the parameters' type.
    state = {parameter: copy.deepcopy(values) for parameter, values in optimizer.state.items()}
    settings = [
        {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
