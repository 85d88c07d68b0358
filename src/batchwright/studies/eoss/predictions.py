"""What the gauge foretells of each intervention, from the measurements of the checkpoint alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.measure.curvature import StepSettings, what_if
from batchwright.studies.eoss.interventions import BASE
from batchwright.studies.eoss.settings import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """One intervention in one seed.

    Attributes:
        name: Of the intervention.
        kind: ``destabilising``, ``stabilising`` or ``drawn``.
        seed: Of the run.
        load: Predicted batch sharpness at the new setting over the threshold there; above 1 is past the edge.
        predicted: Whether a spike was foretold as the likelier outcome.
        outcome: ``safe``, ``catapult`` or ``not resolved``.
        ratio: Largest loss over the unchanged run's.
        spiked: Whether that is a spike.
    """

    name: str
    kind: str
    seed: int
    load: float
    predicted: bool
    outcome: str
    ratio: float
    spiked: bool


def foretell(
    checkpoint: Mapping[str, Any], name: str, kind: str, setting: Setting, seed: int, ratio: float, divide: float
) -> Foretold:
    """Set the gauge's prediction beside what came.

    The gauge is given batch sharpness at the base setting's batch size, its interaction-aware part, the largest Hessian
    eigenvalue and the number of examples: nothing at any other batch size, and nothing of the continuations.

    Args:
        checkpoint: Result of the checkpoint's cell.
        name: Of the intervention.
        kind: Of the intervention.
        setting: After it.
        seed: Of the run.
        ratio: Largest loss over the unchanged run's.
        divide: Ratio above which it is a spike.
    """
    told = what_if(
        StepSettings(lr=BASE.lr, batch_size=BASE.batch_size, momentum=BASE.momentum),
        {"lr": setting.lr, "batch_size": setting.batch_size, "momentum": setting.momentum},
        batch_sharpness=float(checkpoint["batch_sharpness"]["value"]),
        mean_curvature=float(checkpoint["mean_curvature"]),
        sharpness=float(checkpoint["sharpness"]),
        num_examples=int(checkpoint["arguments"]["num_train"]),
    )
    return Foretold(
        name=name,
        kind=kind,
        seed=seed,
        load=told.load_after,
        predicted=told.spike,
        outcome=told.outcome,
        ratio=ratio,
        spiked=ratio > divide,
    )
