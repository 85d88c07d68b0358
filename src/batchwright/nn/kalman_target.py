"""Conversion of a model to Kalman normalization: its norms are swapped, and each gets its prior from the norms before it.

Where the state goes is read from a symbolic trace (or one recorded run), once; the model's own forward runs on as it is, with whatever
hooks, compilers and wrappers are on it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.nn.conversion import Conversion
from batchwright.nn.kalman_norm import KALMAN_NORMS, PRIORS, RUNNING
from batchwright.nn.model_calls import traced_calls
from batchwright.nn.propagation import Propagation, check_steps
from batchwright.nn.recorded_calls import recorded_calls
from batchwright.nn.state_plan import Step, norm_sources, plan_steps
from batchwright.nn.swap import BatchNorm, batch_norm_options, carry, sites, swap

PROPAGATE = ("analytic", "sampled")
MAX_NAMES = 3


def to_kalman(
    model: nn.Module,
    *,
    gain: float = 0.9,
    ghost_size: int | None = None,
    gate: float | None = 100.0,
    prior: str = "consistent",
    running: str = "all",
    propagate: str = "analytic",
    example_inputs: Any = None,
    generator: torch.Generator | None = None,
) -> Conversion:
    """Kalman normalization: statistics of ghosts, corrected by what the layers before let expect; evaluation as BatchNorm.

    A norm gets no prior, and is ghost batch norm, where nothing is known of what enters it: after the first convolution, after a layer
    that is not followed, or where it is called in two places. The report says which norms a prior comes from.

    Args:
        model: Changed in place; its forward is not rewritten.
        gain: As of `KalmanNorm2d`, as are the next four.
        ghost_size: Examples in a ghost; None: the whole batch is one.
        gate: Where the prior is left out.
        prior: ``consistent`` or, as in the official code, ``raw``.
        running: ``all`` or, as in the official code, ``first``.
        propagate: ``analytic``: moments in closed form; ``sampled``: as in the official code, one random field a convolution.
        example_inputs: A tensor or the tuple of the model's arguments; then one run on it is followed instead of a symbolic trace, for
            models whose branches depend on data. Nothing of the model changes in that run.
        generator: Of the samples; torch's own where left out.

    Raises:
        InputError: If an option breaks a rule; `CannotFollowError`, if the model cannot be traced. Nothing has changed then.
    """
    check_number("gain", gain, at_least=0.0, at_most=1.0)
    if ghost_size is not None:
        check_int("ghost_size", ghost_size, at_least=1)
    if gate is not None:
        check_number("gate", gate, above=0.0)
    check_choice("prior", prior, PRIORS)
    check_choice("running", running, RUNNING)
    check_choice("propagate", propagate, PROPAGATE)
    options = {"gain": gain, "ghost_size": ghost_size, "gate": gate, "prior": prior, "running": running}
    steps = followed_steps(model, example_inputs)

    def factory(old: BatchNorm, kind: int) -> tuple[nn.Module, str]:
        if kind >= len(KALMAN_NORMS):
            return old, "Kalman normalization has no form for volumes"
        new = KALMAN_NORMS[kind](old.num_features, **batch_norm_options(old), **options, device="meta")  # type: ignore[arg-type]
        carry(old, new)
        return new, ""

    done = swap(model, "kalman", factory)
    model = done.model
    propagation = Propagation(model, steps, raw=prior == "raw", sampled=propagate == "sampled", generator=generator)
    propagation.attach()
    changed = tuple(replace(change, why=_why(change.names, steps)) for change in done.changed)
    return replace(done, changed=changed)


def followed_steps(model: nn.Module, example_inputs: Any = None) -> list[Step]:
    """The steps of a state through ``model``, with a reason wherever it cannot go on.

    Raises:
        CannotFollowError: If the model cannot be traced and no example is given.
    """
    norms = [site.layer for site in sites(model)]
    if any(norm is model for norm in norms):
        return []
    if example_inputs is None:
        calls = traced_calls(model, norms)
    else:
        arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        calls = recorded_calls(model, norms, arguments)
    return check_steps(model, plan_steps(model, calls))


def _why(names: Sequence[str], steps: Sequence[Step]) -> str:
    places = [place for place, step in enumerate(steps) if step.rule == "norm" and step.module in names]
    if not places:
        return "starts anew, as ghost batch norm: the forward pass does not call it"
    if len(places) > 1:
        return f"starts anew, as ghost batch norm: it is called {len(places)} times in a pass"
    step = steps[places[0]]
    if step.why_not:
        return f"starts anew, as ghost batch norm: {step.why_not}"
    found = norm_sources(steps, places[0])
    more = f" and {len(found) - MAX_NAMES} before" if len(found) > MAX_NAMES else ""
    return f"prior from {', '.join(repr(name) for name in found[-MAX_NAMES:])}{more}"
