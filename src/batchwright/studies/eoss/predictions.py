"""What the gauge foretells of each intervention, from the measurements of the checkpoint alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.measure.curvature import stability
from batchwright.studies.eoss.settings import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """One intervention in one seed.

    Attributes:
        name: Of the intervention.
        kind: ``destabilising``, ``stabilising`` or ``drawn``.
        seed: Of the run.
        load: Predicted batch sharpness at the new setting over the threshold there; above 1 is past the edge.
        predicted: Whether a spike was foretold.
        ratio: Largest loss over the unchanged run's.
        spiked: Whether that is a spike.
    """

    name: str
    kind: str
    seed: int
    load: float
    predicted: bool
    ratio: float
    spiked: bool


def foretell(
    checkpoint: Mapping[str, Any], name: str, kind: str, setting: Setting, seed: int, ratio: float, divide: float
) -> Foretold:
    """Set the gauge's prediction beside what came.

    Args:
        checkpoint: Result of the checkpoint's cell: nothing of the continuations is looked at.
        name: Of the intervention.
        kind: Of the intervention.
        setting: After it.
        seed: Of the run.
        ratio: Largest loss over the unchanged run's.
        divide: Ratio above which it is a spike.
    """
    load = predicted_load(checkpoint, setting)
    return Foretold(
        name=name, kind=kind, seed=seed, load=load, predicted=load > 1.0, ratio=ratio, spiked=ratio > divide
    )


def predicted_load(checkpoint: Mapping[str, Any], setting: Setting) -> float:
    """Batch sharpness at the batch size of ``setting``, as measured at the checkpoint, over the threshold of ``setting``."""
    found = checkpoint["batch_sharpness_by_size"][str(setting.batch_size)]
    gauge = stability(
        lr=setting.lr,
        momentum=setting.momentum,
        nesterov=setting.nesterov,
        batch_sharpness=float(found["value"]),
        sharpness=float(checkpoint["sharpness"]),
    )
    return 1.0 - gauge.headroom
