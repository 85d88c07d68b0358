"""The interface of batch-size controllers: values in, values out; ``state, decision = controller.update(state, measured)``."""

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a controller may look at after an optimizer step.

    Clock and size are always known; everything else is None where it was not measured. Gradients are those of the mean loss over
    the batch, ``g``; ``G`` is the gradient over all examples.

    Attributes:
        step: Optimizer steps done; 0 before the first, when a controller may already choose its size.
        num_examples: Training examples used.
        batch_size: Examples in the last step.
        num_tokens: Tokens used.
        sequence_length: Tokens in an example of the last step.
        epoch: Passes over the training set that are finished.
        num_train: Examples in the training set.
        lr: Learning rate of the last step.
        loss: Mean training loss of the last step.
        noise_scale: Running noise scale in examples with its interval.
        trace: Unbiased estimate of the trace of the per-example gradient covariance; of one step or a running average.
        grad_sq_norm: Unbiased estimate of ``||G||^2``, so it can be negative.
        inner_product_variance: Variance over examples of the inner product of their gradient with ``g``.
        cosine: Cosine of the gradients of two halves of the last batch.
        diversity: Gradient diversity ``sum ||g_i||^2 / ||sum g_i||^2`` over the last epoch; only in the first update after it ends.
        batch_sharpness: ``E[g'Hg / g'g]`` at the present batch size.
        batch_sharpness_error: Its standard error.
        mean_curvature: ``E[g'H'g] / E[g'g]`` with the Hessian ``H'`` of the whole loss: the part of the sharpness that is not noise.
        lambda_max: Largest eigenvalue of the Hessian of the whole loss.
        stability_low: Threshold of batch sharpness where gradient noise rules, at the present lr and momentum.
        stability_high: Threshold where the full gradient rules.
    """

    step: int
    num_examples: int
    batch_size: int
    num_tokens: int | None = None
    sequence_length: int | None = None
    epoch: int | None = None
    num_train: int | None = None
    lr: float | None = None
    loss: float | None = None
    noise_scale: Interval | None = None
    trace: float | None = None
    grad_sq_norm: float | None = None
    inner_product_variance: float | None = None
    cosine: float | None = None
    diversity: float | None = None
    batch_sharpness: float | None = None
    batch_sharpness_error: float | None = None
    mean_curvature: float | None = None
    lambda_max: float | None = None
    stability_low: float | None = None
    stability_high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a controller wants of the next step.

    Attributes:
        batch_size: Examples in the next step.
        changed: Whether the batch size, or the sequence length, differs from that of the last step.
        reason: One sentence.
        lr_factor: Learning rate of the next step over the one that the run would have at its first batch size: its own schedule at
            that instant. 1 at the start, not a factor on the last step's. None leaves the learning rate to the rule of the optimizer
            (`planning.batch_change`).
        sequence_length: Tokens in an example of the next step; None leaves it as it is.
    """

    batch_size: int
    changed: bool
    reason: str
    lr_factor: float | None = None
    sequence_length: int | None = None


@runtime_checkable
class Controller(Protocol):
    """A frozen dataclass of options that JSON can hold; what it remembers is in a state that JSON can hold too.

    A controller that holds for some optimizers alone has a method ``refusal`` beside these; see `batchwright.adapt.check_optimizer`.
    One whose name on the command line may be followed by a value says so in ``main_option``, a class variable: the option that
    ``name:value`` means, and an example of the value, which the docs table and the tests of all controllers use.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of the fields of `Measured` that it looks at beyond clock and size; a training loop gathers no others."""
        ...

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """State before the first step of a run that starts at ``batch_size``."""
        ...

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The next state, and what is wanted of the next step; ``state`` itself is left as it was.

        A field it needs that is None means "not measured yet": it keeps what is. Before the first step it may be called with step 0.
        """
        ...


# What the stability gauge shows.
GAUGE = frozenset(
    {"batch_sharpness", "batch_sharpness_error", "mean_curvature", "lambda_max", "stability_low", "stability_high"}
)
ALWAYS_KNOWN = frozenset({"step", "num_examples", "batch_size"})
MEASUREMENTS = frozenset(field.name for field in fields(Measured)) - ALWAYS_KNOWN
CLOCKS = {"steps": "step", "examples": "num_examples", "tokens": "num_tokens", "epochs": "epoch"}


def clock(measured: Measured, unit: str) -> int | None:
    """What has passed since the start of the run, in ``unit``: one of `CLOCKS`; None where it is not measured."""
    value: int | None = getattr(measured, CLOCKS[unit])
    return value


def clock_needs(unit: str) -> frozenset[str]:
    """The measurement that a controller on this clock needs."""
    return frozenset({CLOCKS[unit]}) - ALWAYS_KNOWN


def is_known(measured: Measured, names: frozenset[str]) -> bool:
    """Whether each of these was measured."""
    return all(getattr(measured, name) is not None for name in names)


def keep(measured: Measured, reason: str, *, lr_factor: float | None = None) -> Decision:
    """The decision for the batch size that is."""
    return Decision(batch_size=measured.batch_size, changed=False, reason=reason, lr_factor=lr_factor)


def check_first_size(batch_size: int, max_batch_size: int) -> int:
    """Check that a run does not begin above the largest size of a schedule that only grows; the size.

    Raises:
        InputError: If it does.
    """
    if batch_size > max_batch_size:
        raise InputError(f"max_batch_size must be at least the first batch size, got {max_batch_size} and {batch_size}")
    return batch_size


def check_optimizer(controller: Controller, optimizer: str, *, momentum: float = 0.0) -> None:
    """Refuse a controller that does not hold for an optimizer, with the reason.

    Args:
        controller: Any; one without a ``refusal`` holds for all.
        optimizer: ``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``.
        momentum: Momentum of SGD.

    Raises:
        InputError: If it is refused.
    """
    refusal = getattr(controller, "refusal", None)
    reason = refusal(optimizer, momentum=momentum) if refusal is not None else None
    if reason:
        raise InputError(reason)
