"""Keep another controller on the stable side of the edge of stochastic stability.

Source: the mean-square stability boundary of heavy ball with random curvature, ``eta (lambda / (2 (1 + beta)) + noise / (2 (1 -
beta))) < 1``, whose two limits are the plateaus of batch sharpness that Andreyev et al. (2026), arXiv:2604.14108, report: the
curvature of the full loss is measured against the upper threshold, what batch sharpness has on top of it against the lower one.

Deviation: batch sharpness is a diagnostic there, not a proved criterion for momentum. With Nesterov momentum the two thresholds are
their own, and adding the two parts as for heavy ball is an approximation.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from batchwright.adapt.controller import GAUGE, Controller, Decision, Measured, is_known
from batchwright.adapt.plain import PLAIN
from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError

LR_RULES: Mapping[str, float] = {"keep": 0.0, "square-root": 0.5, "linear": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityAware:
    """Let through what makes training more stable; of what makes it less stable, only as much as stays under the threshold.

    The load is ``mean / high + (sharpness - mean) / low``, 1 at the edge: the batch's sharpness plus two standard errors, its
    mean curvature against the upper threshold and the rest, noise, against the lower one. A change of the learning rate
    multiplies the whole of it, a change of the batch size divides the noise. Where the mean curvature is not measured, it is
    taken to be whatever between zero and ``lambda_max`` makes the load largest. ``lambda_max / high`` is never left out of sight.
    A change that could raise the load waits until the sharpness is measured.

    Where the wrapped controller leaves the learning rate to the optimizer's rule, ``lr_rule`` states it here, so that its effect is
    known before the change; decisions then always carry an ``lr_factor``.

    Attributes:
        inner: Name of the wrapped controller, or the controller itself.
        options: Options of the wrapped controller; not beside a controller itself.
        limit: Largest load that a change may lead to.
        lr_rule: ``keep``, ``square-root`` or ``linear``: how the learning rate follows the batch size.
    """

    main_option: ClassVar[tuple[str, str]] = ("inner", "noise-scale")

    inner: str | Controller = "noise-scale"
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: float = 1.0
    lr_rule: str = "keep"

    def __post_init__(self) -> None:
        check_number("limit", self.limit, above=0.0)
        check_choice("lr_rule", self.lr_rule, LR_RULES)
        inner: Any = self.inner
        if not isinstance(inner, str):
            # Kept by name and options, so that a run's settings can be written down and read again.
            names = {kind: name for name, kind in PLAIN.items()}
            if type(inner) not in names or self.options:
                raise InputError(
                    f"inner must be one of {', '.join(sorted(PLAIN))} by name, with its options beside it, or such a controller alone, "
                    f"got {type(inner).__name__}"
                )
            object.__setattr__(self, "options", asdict(inner))
            object.__setattr__(self, "inner", names[type(inner)])
        self.controller()

    def controller(self) -> Controller:
        """The wrapped controller.

        Raises:
            InputError: If its name or an option is not one.
        """
        assert isinstance(self.inner, str)
        check_choice("inner", self.inner, PLAIN)
        try:
            controller: Controller = PLAIN[self.inner](**self.options)
        except TypeError as error:
            raise InputError(f"options must be those of {self.inner}, got {dict(self.options)!r}: {error}") from error
        return controller

    @property
    def needs(self) -> frozenset[str]:
        """What the wrapped controller needs, and the gauge."""
        return self.controller().needs | GAUGE

    def refusal(self, optimizer: str, *, momentum: float = 0.0) -> str | None:
        """The thresholds are those of SGD; beyond that what the wrapped controller refuses."""
        if optimizer != "sgd":
            return (
                f"policy stability-aware must go with SGD, got {optimizer}; the thresholds of batch sharpness are "
                f"those of steps along the "
                "gradient: take the wrapped policy alone"
            )
        inner = getattr(self.controller(), "refusal", None)
        found: str | None = inner(optimizer, momentum=momentum) if inner is not None else None
        return found

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """The state of the wrapped controller, and the lr factor in force."""
        return {"inner": self.controller().init(batch_size=batch_size), "lr_factor": 1.0}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """What the wrapped controller wants, as far as it is stable."""
        inner, wanted = self.controller().update(state["inner"], measured)
        factor, now = state["lr_factor"], measured.batch_size
        asked = wanted.lr_factor
        if asked is None:
            asked = factor * (wanted.batch_size / now) ** LR_RULES[self.lr_rule]
        size, allowed, why = self._allowed(measured, wanted.batch_size, asked / factor)
        lr_factor = factor * allowed
        decision = replace(
            wanted,
            batch_size=size,
            changed=size != now or wanted.sequence_length not in (None, measured.sequence_length),
            lr_factor=asked if allowed == asked / factor else lr_factor,
            reason=f"{wanted.reason}; {why}" if why else wanted.reason,
        )
        assert decision.lr_factor is not None
        return {"inner": inner, "lr_factor": decision.lr_factor}, decision

    def _allowed(self, measured: Measured, wanted: int, lr_ratio: float) -> tuple[int, float, str]:
        """Batch size and lr ratio that are let through, and why they are not what was asked for."""
        now = measured.batch_size
        if wanted >= now and lr_ratio <= 1:
            return wanted, lr_ratio, ""
        if not is_known(measured, frozenset({"batch_sharpness", "stability_low", "stability_high"})):
            held = "waits until the stability is measured"
            return max(wanted, now), min(lr_ratio, 1.0), f"a change that could be unstable {held}"
        limit = max(
            self.limit, load(measured)
        )  # beyond the limit already, what does not raise the load still may be done
        after = load(measured, batch_ratio=wanted / now, lr_ratio=lr_ratio)
        if after <= limit:
            return wanted, lr_ratio, ""
        # Beyond the limit: the batch does not shrink, and the lr rises only as far as the limit.
        size = max(wanted, now)
        room = self.limit / load(measured, batch_ratio=size / now)
        allowed = min(lr_ratio, max(room, 1.0))
        return (
            size,
            allowed,
            (
                f"that would lead to {after:.3g} of the stability threshold, over the limit of {self.limit:g}: "
                f"batch size {size}, lr times {allowed:.4g}"
            ),
        )


def load(measured: Measured, *, batch_ratio: float = 1.0, lr_ratio: float = 1.0) -> float:
    """Share of the stability threshold that training stands at, or would after a change of batch size and learning rate.

    Example:
        >>> reading = dict(step=1, num_examples=32, batch_size=32, stability_low=20.0, stability_high=40.0)
        >>> round(load(Measured(batch_sharpness=14.0, mean_curvature=4.0, **reading)), 2)
        0.6
        >>> round(load(Measured(batch_sharpness=14.0, mean_curvature=4.0, **reading), batch_ratio=0.5), 2)
        1.1
    """
    assert measured.batch_sharpness is not None
    assert measured.stability_low is not None
    assert measured.stability_high is not None
    sharpness = measured.batch_sharpness + 2 * (measured.batch_sharpness_error or 0.0)
    largest = sharpness if measured.lambda_max is None else max(measured.lambda_max, 0.0)
    # The load is linear in the mean curvature, so its largest value lies at an end of what that may be.
    ends = (0.0, largest) if measured.mean_curvature is None else (measured.mean_curvature,)
    low, high = measured.stability_low * batch_ratio, measured.stability_high
    means = [min(max(end, 0.0), sharpness) for end in ends]
    loads = [mean / high + (sharpness - mean) / low for mean in means]
    if measured.lambda_max is not None:
        loads.append(measured.lambda_max / high)
    return lr_ratio * max(loads)
