"""A plan for a budget of tokens: the settings of a Scion run with intervals, reasons, cost and the regime that the run is in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchwright.core.errors import RecordError
from batchwright.core.records import read_json, write_json
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.measure.conditional_gradient import ConditionalGradientConstants
from batchwright.planning.plan import PLAN_NAME, Cost, Plan
from batchwright.planning.token_base import TriedSetting
from batchwright.planning.token_budget import TokenBudget
from batchwright.planning.token_regime import TokenRegime
from batchwright.tasks.task import OptimizerSpec

TOKEN_PLAN_SCHEMA = 1
KIND = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the run with settings of its own.

    Attributes:
        tokens: Total after which it ends.
        batch_size: Examples in a step.
        lr: Step size.
        num_steps: Steps of this part.
    """

    tokens: int
    batch_size: int
    lr: float
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPlan:
    """A decision for a budget of tokens with its reasons.

    Attributes:
        task: Name of the task.
        tokens: Of the whole run.
        sequence_length: Tokens in an example; 1 where the task has no sequences.
        optimizer: Scion with its step size, momentum and radii.
        batch_size: Examples in a step, of the first stage where there are several.
        micro_batch_size: Examples in one forward pass.
        lr: Step size at ``batch_size``.
        num_steps: Optimizer steps of the whole run.
        max_examples: Examples of the whole run.
        stages: One; several where more tokens come later (the restarted schedule).
        multiple_of: What batch sizes of later stages are rounded down to a multiple of.
        max_batch_size: No stage has more.
        base: The settings that the rule starts from.
        base_source: Where they come from: ``given`` or ``measured``.
        lr_source: Where the step size comes from: the ``base``, by the rule, or a ``prior`` of how far tuned runs cross the ball, where
            the runs of a measured base end too early for the rule.
        constants: Measured at a given base, or at the default batch size, in the norm of the ball of the step.
        token_regime: Of the run as planned, at its total.
        tried: The short runs behind a measured base.
        intervals: ``batch_size``, ``lr``, ``num_steps``, ``base_batch_size``, ``base_lr``, ``smoothness``, ``mu``, ``rho``, ``sigma``,
            ``noise_threshold`` and ``steps_threshold``.
        reasons: One sentence for each decision, by its name.
        cost: What the measurements cost, in steps of Scion at the task's default batch size.
        warnings: What a reader should know, one sentence each.
        seed: Of the measurements.
        environment: Where.
        kind: ``tokens``: how a reader of ``plan.json`` knows it from a `Plan`.
        schema: Version of this layout.
    """

    task: str
    tokens: int
    sequence_length: int
    optimizer: OptimizerSpec
    batch_size: int
    micro_batch_size: int
    lr: float
    num_steps: int
    max_examples: int
    stages: tuple[Stage, ...]
    multiple_of: int
    max_batch_size: int
    base: TokenBudget
    base_source: str
    constants: ConditionalGradientConstants
    token_regime: TokenRegime
    tried: tuple[TriedSetting, ...]
    intervals: Mapping[str, Interval]
    reasons: Mapping[str, str]
    cost: Cost
    warnings: tuple[str, ...]
    seed: int
    environment: Mapping[str, object] = field(default_factory=dict)
    lr_source: str = "base"
    kind: str = KIND
    schema: int = TOKEN_PLAN_SCHEMA

    def save(self, folder: Path) -> Path:
        """Write ``plan.json`` into ``folder``, atomically; returns its path."""
        path = Path(folder) / PLAN_NAME
        write_json(path, self)
        return path

    @classmethod
    def load(cls, path: Path) -> "TokenPlan":
        """Read a plan from ``plan.json`` or the folder that holds it.

        Raises:
            RecordError: If it is missing, damaged, of a newer schema, or no plan for a budget of tokens.
        """
        path, value = _read(path)
        schema = value.get("schema")
        if value.get("kind") != KIND or not isinstance(schema, int) or schema > TOKEN_PLAN_SCHEMA:
            raise RecordError(
                f"{path} must be a plan for a budget of tokens, of schema {TOKEN_PLAN_SCHEMA} or older; update batchwright or "
                "plan anew "
                "with --tokens"
            )
        plan: TokenPlan = from_plain(cls, value, path.name)
        return plan


def load_plan(path: Path) -> Plan | TokenPlan:
    """Read a plan of either kind from ``plan.json`` or the folder that holds it.

    Raises:
        RecordError: If it is missing, damaged, or of a newer schema.
    """
    where, value = _read(path)
    return TokenPlan.load(where) if value.get("kind") == KIND else Plan.load(where)


def _read(path: Path) -> tuple[Path, Mapping[str, object]]:
    path = Path(path)
    path = path / PLAN_NAME if path.is_dir() else path
    value = read_json(path)
    return path, value if isinstance(value, dict) else {}
