"""Batch size, sequence length and step size for another token budget or model, from those tuned at a smaller one.

Source: Islamov et al. (2026), arXiv:2603.21191: the BST rule, ``BS ∝ (T mu rho / L)^(2/3)`` with the step size ``∝ 1/K = BS /
T``, and the square-root rule of its appendix. The momentum and the radii stay. The bound behind it is `scg_bound` beside this.
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError

GROWTHS = ("batch", "batch-and-sequence")
ROUNDINGS = ("power-of-two", "multiple")
RULES = ("bst", "square-root")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBudget:
    """Settings of a run for a budget of tokens.

    Attributes:
        batch_size: Sequences in a step.
        sequence_length: Tokens in a sequence.
        lr: Step size (the paper's beta), with decoupled weight decay.
        tokens: Tokens of the whole run.
    """

    batch_size: int
    sequence_length: int
    lr: float
    tokens: float

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, at_least=1)
        check_int("sequence_length", self.sequence_length, at_least=1)
        check_number("lr", self.lr, above=0.0)
        check_number("tokens", self.tokens, above=0.0)

    @property
    def num_steps(self) -> float:
        """Steps of the run, ``K = T / (B S)``; not rounded."""
        return self.tokens / (self.batch_size * self.sequence_length)


def token_budget(
    *,
    base: TokenBudget,
    tokens: float,
    rule: str = "bst",
    grow: str = "batch",
    rounding: str = "multiple",
    multiple_of: int = 1,
    mu_ratio: float = 1.0,
    rho_ratio: float = 1.0,
    smoothness_ratio: float = 1.0,
    rho_exponent: float = 0.0,
    rho_shift: float = 0.0,
    max_batch_size: int | None = None,
) -> TokenBudget:
    """Carry tuned settings to another budget: from ``T`` to ``r T``, ``B S`` times ``r^(2/3)`` and the step size times ``r^(-1/3)``.

    The step size follows the sizes that are taken, rounding and bound included: ``lr * (B1 S1 / (B0 S0)) * (T0 / T1)``, so that
    it stays the same multiple of one over the number of steps.

    Args:
        base: Settings tuned for their own budget, on a smaller model too.
        tokens: The new budget; for a run that goes on, its total and not what remains.
        rule: ``bst``, or ``square-root``: both exponents a half, slightly worse in the paper.
        grow: ``batch``, or ``batch-and-sequence``: the sequence takes the power of two nearest below the root of the growth.
        rounding: Of the growth of ``B S``: to a ``power-of-two``, or the batch size down to a ``multiple`` of ``multiple_of``.
        multiple_of: As above.
        mu_ratio: New over old constant ``mu`` of the Kurdyka-Lojasiewicz condition; 1 for the same model.
        rho_ratio: New over old norm ratio ``rho`` at the old batch size; 1 for the same model.
        smoothness_ratio: New over old smoothness ``L``; 1 for the same model.
        rho_exponent: ``rho`` also grows with the batch as ``(B - rho_shift)^rho_exponent``; 0.1 in the paper's fit, 0 leaves it out.
        rho_shift: As above; 9.4 in the paper's fit.
        max_batch_size: Never more sequences.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> base = TokenBudget(batch_size=256, sequence_length=1024, lr=3.6e-4, tokens=1.3e9)
        >>> new = token_budget(base=base, tokens=10.8e9, rounding="power-of-two")
        >>> new.batch_size, round(new.lr / base.lr, 2)
        (1024, 0.48)
    """
    check_number("tokens", tokens, above=0.0)
    check_choice("rule", rule, RULES)
    check_choice("grow", grow, GROWTHS)
    check_choice("rounding", rounding, ROUNDINGS)
    check_int("multiple_of", multiple_of, at_least=1)
    for name, ratio in (("mu_ratio", mu_ratio), ("rho_ratio", rho_ratio), ("smoothness_ratio", smoothness_ratio)):
        check_number(name, ratio, above=0.0)
    check_number("rho_exponent", rho_exponent, at_least=0.0, below=1.0)
    check_number("rho_shift", rho_shift, at_least=0.0)
    if rho_exponent > 0 and rho_shift >= base.batch_size:
        raise InputError(
            f"rho_shift must be below the base batch size, got {rho_shift:g} and {base.batch_size}; set rho_exponent to 0"
        )
    ratio = tokens / base.tokens
    if rule == "square-root":
        growth = math.sqrt(ratio)
    else:
        growth = _self_consistent(
            ratio * mu_ratio * rho_ratio / smoothness_ratio, base.batch_size, rho_exponent, rho_shift
        )
    if rounding == "power-of-two":
        growth = 2.0 ** round(math.log2(growth))
    stretch = 1
    if grow == "batch-and-sequence" and growth > 1:
        stretch = 2 ** int(math.log2(growth) / 2 + 1e-9)
    size = base.batch_size * growth / stretch
    # A hair of room for rounding, as 256 * 4 / 1 may come out as 1023.9999.
    batch_size = max(multiple_of, int(size * (1 + 1e-12)) // multiple_of * multiple_of)
    if max_batch_size is not None:
        batch_size = min(batch_size, check_int("max_batch_size", max_batch_size, at_least=1))
    lr = base.lr * (batch_size * stretch / base.batch_size) / ratio
    return TokenBudget(batch_size=batch_size, sequence_length=base.sequence_length * stretch, lr=lr, tokens=tokens)


def _self_consistent(ratio: float, batch_size: int, rho_exponent: float, rho_shift: float) -> float:
    """Growth ``x`` with ``x = (ratio * rho(x B) / rho(B))^(2/3)``; the exponent is below one, so the iteration contracts."""
    growth = float(ratio ** (2 / 3))
    if rho_exponent == 0:
        return growth
    for _ in range(200):
        above = max(growth * batch_size - rho_shift, 1.0)
        growth = float((ratio * (above / (batch_size - rho_shift)) ** rho_exponent) ** (2 / 3))
    return growth
