"""The rules by which settings follow the batch size, each with its source; `batch_change` applies them, the docs table lists them.

In all formulas ``k`` is the new batch size over the old one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from batchwright.core.errors import InputError
from batchwright.planning.laws import keep_half_life, scale_lr
from batchwright.planning.optimizer_settings import OptimizerSettings
from batchwright.tasks.optimizers import KINDS, names_of

OPTIMIZERS = names_of()
GRADIENT, NORMALISED, BALL = (names_of(update=update) for update in ("gradient", "normalised", "ball"))
BETA2 = tuple(name for name, kind in KINDS.items() if kind.has_beta2)
DECOUPLED = tuple(name for name, kind in KINDS.items() if kind.decoupled)
# Of a ball the decay is the step size itself.
COUPLED = tuple(name for name in OPTIMIZERS if name not in (*DECOUPLED, *BALL))


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of the batch size.

    Attributes:
        base_batch_size: Before, in examples.
        batch_size: After.
        noise_scale: Where the learning rate stops following the batch, in examples; ``inf`` where it is not known.
        tokens_ratio: New over old budget of tokens.
    """

    base_batch_size: float
    batch_size: float
    noise_scale: float = math.inf
    tokens_ratio: float = 1.0

    @property
    def ratio(self) -> float:
        """``k``."""
        return self.batch_size / self.base_batch_size


Apply = Callable[[OptimizerSettings, Change], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How one setting follows the batch size.

    Attributes:
        setting: Field of `OptimizerSettings`.
        name: By which it is asked for.
        formula: For people.
        source: Paper, and the equation or section.
        optimizers: Those it holds for.
        default_for: Those that it is used for unless another is asked for.
        refusals: Why it does not hold for an optimizer.
        apply: New value from the settings before and the change.
    """

    setting: str
    name: str
    formula: str
    source: str
    optimizers: tuple[str, ...]
    default_for: tuple[str, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    apply: Apply


def _keep(setting: str) -> Apply:
    return lambda before, change: float(getattr(before, setting))


def _half_life(setting: str) -> Apply:
    return lambda before, change: keep_half_life(
        getattr(before, setting), base_batch_size=change.base_batch_size, batch_size=change.batch_size
    )


def _gain(before: OptimizerSettings, change: Change) -> float:
    if math.isinf(change.noise_scale):
        raise InputError("rule gain needs a noise scale, got none; give noise_scale, or take rule='linear'")
    return before.lr * scale_lr(
        "sgd",
        1.0,
        base_batch_size=change.base_batch_size,
        batch_size=change.batch_size,
        critical_batch_size=change.noise_scale,
    )


def _root(before: OptimizerSettings, change: Change) -> float:
    return before.lr * scale_lr(
        "adam",
        1.0,
        base_batch_size=change.base_batch_size,
        batch_size=change.batch_size,
        critical_batch_size=change.noise_scale,
    )


def _momentum_of_budget(before: OptimizerSettings, change: Change) -> float:
    assert before.momentum is not None
    return float(1 - min(1.0, (1 - before.momentum) * change.ratio * change.tokens_ratio ** (-2 / 3)))


_NOT_LINEAR = (
    "an update that is normalised by the gradient's own size grows with the root of the batch while noise "
    "rules, so a linear lr overshoots"
)
_NOT_GAIN = "the gain is derived for steps of lr times the gradient, and this optimizer's update is normalised"
_NOT_BUDGET = "its bound is for the constrained step (1 - lr) x + lr * radius * d of stochastic conditional gradient"

RULES: tuple[Rule, ...] = (
    Rule(
        setting="lr",
        name="gain",
        formula="lr (1 + S/B0) / (1 + S/B), S the noise scale: linear below it, constant above",
        source="McCandlish et al. (2018), arXiv:1812.06162, eq. (2.7); AdaScale, Johnson et al. (2020), arXiv:2007.05105",
        optimizers=GRADIENT,
        default_for=GRADIENT,
        refusals=dict.fromkeys((*NORMALISED, *BALL), f"{_NOT_GAIN}: take square-root"),
        apply=_gain,
    ),
    Rule(
        setting="lr",
        name="linear",
        formula="lr k",
        source="Goyal et al. (2017), arXiv:1706.02677, section 2.1",
        optimizers=GRADIENT,
        refusals={
            **dict.fromkeys(NORMALISED, f"{_NOT_LINEAR}: take square-root"),
            **dict.fromkeys(
                BALL, f"{_NOT_LINEAR}: take token-budget, which says for which number of tokens it is linear"
            ),
        },
        apply=lambda before, change: before.lr * change.ratio,
    ),
    Rule(
        setting="lr",
        name="square-root",
        formula="lr sqrt(k), up to the critical batch size where that is known",
        source=(
            "Adam: Malladi et al. (2022), arXiv:2205.10287; SGD: Hoffer et al. (2017), arXiv:1705.08741, section 4.1; "
            "Muon: the same argument for normalised updates, no source measured it"
        ),
        optimizers=(*GRADIENT, *NORMALISED),
        default_for=NORMALISED,
        refusals=dict.fromkeys(BALL, "the paper's step size follows the number of steps left, c/K: take token-budget"),
        apply=_root,
    ),
    Rule(
        setting="lr",
        name="token-budget",
        formula="lr k / r, r the new over the old budget of tokens: a constant over the number of steps",
        source="Islamov et al. (2026), arXiv:2603.21191, the BST rule",
        optimizers=BALL,
        default_for=BALL,
        refusals=dict.fromkeys((*GRADIENT, *NORMALISED), f"{_NOT_BUDGET}: take the optimizer's own rule"),
        apply=lambda before, change: before.lr * change.ratio / change.tokens_ratio,
    ),
    Rule(
        setting="lr",
        name="keep",
        formula="lr",
        source="Smith et al. (2018), arXiv:1711.00489: growth of the batch in place of lr decay",
        optimizers=OPTIMIZERS,
        apply=_keep("lr"),
    ),
    Rule(
        setting="momentum",
        name="keep",
        formula="momentum (beta1)",
        source="what the lr rules assume: Goyal et al. (2017), section 3; Marek et al. (2025), arXiv:2507.07101, for beta1",
        optimizers=OPTIMIZERS,
        default_for=(*GRADIENT, *NORMALISED),
        apply=_keep("momentum"),
    ),
    Rule(
        setting="momentum",
        name="half-life",
        formula="momentum^k; SGD's lr then also times (1 - momentum^k) / (1 - momentum), so that lr / (1 - momentum) "
        "follows the lr rule",
        source="Malladi et al. (2022), arXiv:2205.10287, to first order (1 - beta1 times k); lr: steady step of heavy ball",
        optimizers=OPTIMIZERS,
        apply=_half_life("momentum"),
    ),
    Rule(
        setting="momentum",
        name="token-budget",
        formula="1 - min(1, (1 - momentum) k r^(-2/3)): unchanged where the batch follows the budget",
        source="Islamov et al. (2026), arXiv:2603.21191, the flat regime",
        optimizers=BALL,
        default_for=BALL,
        refusals=dict.fromkeys((*GRADIENT, *NORMALISED), f"{_NOT_BUDGET}: take keep"),
        apply=_momentum_of_budget,
    ),
    Rule(
        setting="beta2",
        name="half-life",
        formula="beta2^k",
        source="Marek et al. (2025), arXiv:2507.07101; Malladi et al. (2022) to first order",
        optimizers=BETA2,
        default_for=BETA2,
        apply=_half_life("beta2"),
    ),
    Rule(
        setting="beta2",
        name="keep",
        formula="beta2",
        source="practice",
        optimizers=BETA2,
        apply=_keep("beta2"),
    ),
    Rule(
        setting="weight_decay",
        name="keep",
        formula="weight_decay",
        source="coupled decay is a part of the loss: Goyal et al. (2017), section 3; Scion's decay is its step size",
        optimizers=OPTIMIZERS,
        default_for=(*COUPLED, *BALL),
        apply=_keep("weight_decay"),
    ),
    Rule(
        setting="weight_decay",
        name="time-scale",
        formula="weight_decay k lr/lr': the examples that lr * weight_decay averages over stay",
        source="Wang & Aitchison (2024), arXiv:2405.13698; Bergsma et al. (2025), Power Lines, arXiv:2505.13738",
        optimizers=DECOUPLED,
        default_for=DECOUPLED,
        refusals=dict.fromkeys(
            COUPLED, "its weight decay is a part of the gradient, and the lr moves both alike: take keep"
        )
        | dict.fromkeys(BALL, "its weight decay is its step size: take keep"),
        apply=lambda before, change: before.weight_decay or 0.0,  # needs the new lr, so `batch_change` finishes it
    ),
    Rule(
        setting="ema_decay",
        name="half-life",
        formula="ema_decay^k",
        source="Busbridge et al. (2023), arXiv:2307.13813, the EMA scaling rule",
        optimizers=OPTIMIZERS,
        default_for=OPTIMIZERS,
        apply=_half_life("ema_decay"),
    ),
    Rule(
        setting="warmup_steps",
        name="examples",
        formula="warmup_steps / k, rounded up: the examples of warm-up stay",
        source="Goyal et al. (2017), arXiv:1706.02677, section 2.2: warm-up in epochs",
        optimizers=OPTIMIZERS,
        default_for=OPTIMIZERS,
        # A hair of room, so that 100 steps at k = 1 do not become 101.
        apply=lambda before, change: float(math.ceil((before.warmup_steps or 0) / change.ratio - 1e-9)),
    ),
)


def find_rule(setting: str, optimizer: str, name: str | None = None) -> Rule | None:
    """The rule of that name for a setting of an optimizer, or its default; None where the optimizer has no such setting.

    Raises:
        InputError: If there is no such rule, or it does not hold for the optimizer; the message says why.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    rules = [rule for rule in RULES if rule.setting == setting]
    if name is None:
        return next((rule for rule in rules if optimizer in rule.default_for), None)
    found = next((rule for rule in rules if rule.name == name), None)
    if found is None:
        raise InputError(f"rule of {setting} must be one of {', '.join(rule.name for rule in rules)}, got {name!r}")
    if optimizer not in found.optimizers:
        reason = found.refusals.get(optimizer, f"{optimizer} has no {setting}")
        raise InputError(
            f"rule {name} of {setting} must go with {' or '.join(found.optimizers)}, got {optimizer}; {reason}"
        )
    return found
