"""The changes that are made at the checkpoint: eight after the paper, and some drawn at random before anything is run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from batchwright.studies.eoss.settings import Setting
from batchwright.studies.streams import stream

BASE = Setting(lr=0.1, momentum=0.5, batch_size=4)
BATCH_SIZES = (1, 2, 8, 16, 32, 64)
LARGEST_FACTOR = 3.0
LARGEST_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention:
    """A change of one or two hyperparameters.

    Attributes:
        name: As in a figure.
        setting: What training goes on with.
        kind: ``destabilising`` or ``stabilising`` for the paper's, ``drawn`` for the others.
    """

    name: str
    setting: Setting
    kind: str


# The published matrix changes lr, momentum and batch size both ways; 0.075 is its step of lr from 0.004 to 0.003.
PUBLISHED = (
    Intervention(name="lr 0.15", setting=replace(BASE, lr=0.15), kind="destabilising"),
    Intervention(name="lr 0.2", setting=replace(BASE, lr=0.2), kind="destabilising"),
    Intervention(name="batch 2", setting=replace(BASE, batch_size=2), kind="destabilising"),
    Intervention(name="momentum 0.8", setting=replace(BASE, momentum=0.8), kind="destabilising"),
    Intervention(name="lr 0.06", setting=replace(BASE, lr=0.06), kind="stabilising"),
    Intervention(name="lr 0.075", setting=replace(BASE, lr=0.075), kind="stabilising"),
    Intervention(name="momentum 0.2", setting=replace(BASE, momentum=0.2), kind="stabilising"),
    Intervention(name="batch 16", setting=replace(BASE, batch_size=16), kind="stabilising"),
)


def drawn_interventions(seed: int, number: int) -> list[Intervention]:
    """Random changes of lr (by a factor within 3, log-uniform), momentum (uniform to 0.9), batch size, or two of them at once.

    Each differs from the base and from the published ones. The draw knows nothing of any prediction.
    """
    generator = stream(seed, "eoss", "interventions")
    taken = {BASE, *(each.setting for each in PUBLISHED)}
    found: list[Intervention] = []
    while len(found) < number:
        fields = _fields(generator)
        changes: dict[str, float | int] = {}
        if "lr" in fields:
            exponent = 2 * float(torch.rand((), generator=generator)) - 1
            changes["lr"] = float(f"{BASE.lr * LARGEST_FACTOR**exponent:.2g}")
        if "momentum" in fields:
            changes["momentum"] = round(LARGEST_MOMENTUM * float(torch.rand((), generator=generator)), 2)
        if "batch_size" in fields:
            changes["batch_size"] = BATCH_SIZES[int(torch.randint(len(BATCH_SIZES), (), generator=generator))]
        setting = replace(BASE, **changes)  # type: ignore[arg-type]
        if setting in taken:
            continue
        taken.add(setting)
        found.append(Intervention(name=_name(setting), setting=setting, kind="drawn"))
    return found


def _fields(generator: torch.Generator) -> Sequence[str]:
    choices = (
        ("lr",),
        ("momentum",),
        ("batch_size",),
        ("lr", "momentum"),
        ("lr", "batch_size"),
        ("momentum", "batch_size"),
    )
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _name(setting: Setting) -> str:
    parts = []
    if not math.isclose(setting.lr, BASE.lr):
        parts.append(f"lr {setting.lr:g}")
    if not math.isclose(setting.momentum, BASE.momentum):
        parts.append(f"momentum {setting.momentum:g}")
    if setting.batch_size != BASE.batch_size:
        parts.append(f"batch {setting.batch_size}")
    return ", ".join(parts)
