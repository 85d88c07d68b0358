"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.studies.mmd_gan.cost import run_cost
from batchwright.studies.mmd_gan.identities import run_identities
from batchwright.studies.mmd_gan.scorer import run_scorer
from batchwright.studies.mmd_gan.training import run_gan
from batchwright.studies.mmd_gan.two_sample import run_level, run_power
from batchwright.studies.study import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Runs of one arm at one batch size, which differ by their seed.

    Attributes:
        arm: Name of the arm.
        batch_size: Points in a step.
        num_steps: Generator steps.
        num_seeds: Seeds.
        every: Steps between two scores.
        part_steps: Steps in a part; 0 for all in one.
        data: Name of the images.
        offset: Number of the first seed.
    """

    arm: str
    batch_size: int
    num_steps: int
    num_seeds: int
    every: int = 100
    part_steps: int = 0
    data: str = "digits"
    offset: int = 0

    @property
    def num_parts(self) -> int:
        """Parts of a run."""
        return -(-self.num_steps // self.part_steps) if self.part_steps else 1

    def name(self, seed: int) -> str:
        """First words of a run's cells."""
        return f"{self.data}/{self.arm}/batch-{self.batch_size}/{self.num_steps}-steps/seed-{seed}"


SHORT, LONG, GMMN_STEPS = 300, 1500, 6000
RUNS: dict[str, tuple[Run, ...]] = {
    "tiny": (
        Run(arm="mmd-gan", batch_size=64, num_steps=2, num_seeds=1, every=1),
        Run(arm="gmmn", batch_size=64, num_steps=20, num_seeds=1, every=10),
    ),
    "smoke": (
        Run(arm="mmd-gan", batch_size=64, num_steps=SHORT, num_seeds=1, every=50),
        Run(arm="gmmn", batch_size=64, num_steps=1000, num_seeds=2, every=250),
    ),
    "laptop": (
        Run(arm="mmd-gan", batch_size=64, num_steps=LONG, num_seeds=3),
        Run(arm="gmmn", batch_size=64, num_steps=GMMN_STEPS, num_seeds=3, every=500),
        Run(arm="no-hinge", batch_size=64, num_steps=SHORT, num_seeds=3),
        # The band of target 4 is as wide as the interval of three seeds, and seeds without the hinge end far apart, so there are more.
        Run(arm="gmmn", batch_size=64, num_steps=GMMN_STEPS, num_seeds=7, every=500, offset=3),
        Run(arm="no-hinge", batch_size=64, num_steps=SHORT, num_seeds=7, offset=3),
        Run(arm="mmd-gan", batch_size=64, num_steps=SHORT, num_seeds=7, offset=3),
        Run(arm="clip-0.01", batch_size=64, num_steps=SHORT, num_seeds=3),
        Run(arm="no-autoencoder", batch_size=64, num_steps=SHORT, num_seeds=3),
        Run(arm="gmmn", batch_size=512, num_steps=LONG, num_seeds=3, every=250),
        Run(arm="mmd-gan", batch_size=16, num_steps=LONG, num_seeds=3),
        Run(arm="gmmn", batch_size=1000, num_steps=LONG, num_seeds=3, every=250),
        Run(arm="penalty", batch_size=64, num_steps=LONG, num_seeds=3, every=300),
        Run(arm="mmd-gan", batch_size=256, num_steps=LONG, num_seeds=3, every=300),
    ),
    "middle": tuple(
        Run(arm=arm, batch_size=batch_size, num_steps=num_steps, num_seeds=1, every=250, part_steps=250, data=data)
        for data, arm, batch_size, num_steps in (
            ("mnist", "mmd-gan-larger", 64, 3000),
            ("mnist", "gmmn-larger", 1000, 1000),
            ("fashion", "mmd-gan-larger", 64, 1500),
            ("clothing", "mmd-gan-larger", 64, 1500),
        )
    ),
    "paper": (
        Run(
            arm="mmd-gan-published",
            batch_size=64,
            num_steps=150_000,
            num_seeds=3,
            every=5000,
            part_steps=10_000,
            data="cifar",
        ),
        Run(
            arm="gmmn-published",
            batch_size=1000,
            num_steps=40_000,
            num_seeds=3,
            every=5000,
            part_steps=10_000,
            data="cifar",
        ),
    ),
}
EPOCHS = {"digits": 200, "mnist": 2, "fashion": 3, "clothing": 20, "cifar": 20}
# Of the level, of the power, and rounds of the cost. 1,000 repeats have an interval wider than "5 % ± 1"; 4,000 settle it.
REPEATS = {"tiny": (20, 10, 1), "smoke": (200, 50, 3), "laptop": (4000, 500, 11)}


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset: first what costs seconds, then the classifiers, then the runs in the order above."""
    found = []
    if preset in REPEATS:
        found.append(Cell(name="identities", run=run_identities, arguments={"seed": seed}, weight=1e6))
    for data in dict.fromkeys(run.data for run in RUNS[preset]):
        arguments = {"data": data, "num_epochs": EPOCHS[data], "seed": seed}
        found.append(Cell(name=f"scorer/{data}", run=run_scorer, arguments=arguments, weight=1e5 - len(found)))
    for run in RUNS[preset]:
        for index in range(run.offset, run.offset + run.num_seeds):
            found += _parts(run, seed + index, weight=1e4 - len(found))
    if preset in REPEATS:
        level, power, rounds = REPEATS[preset]
        found += [
            Cell(name="tests/level", run=run_level, arguments={"seed": seed, "num_repeats": level}, weight=1e5 + 3),
            Cell(name="tests/power", run=run_power, arguments={"seed": seed, "num_repeats": power}, weight=1e5 + 2),
            Cell(name="cost", run=run_cost, arguments={"seed": seed, "num_rounds": rounds}, weight=1e5 + 1),
        ]
    return found


def _parts(run: Run, seed: int, weight: float) -> list[Cell]:
    name = run.name(seed)
    arguments = {
        "data": run.data,
        "arm": run.arm,
        "batch_size": run.batch_size,
        "num_steps": run.num_steps,
        "every": run.every,
        "seed": seed,
    }
    scorer = f"scorer/{run.data}"
    if not run.part_steps:
        return [Cell(name=name, run=run_gan, arguments=arguments, after=(scorer,), weight=weight)]
    return [
        Cell(
            name=f"{name}/part-{part:02d}",
            run=run_gan,
            arguments={**arguments, "part": part, "part_steps": run.part_steps},
            after=(f"{name}/part-{part - 1:02d}", scorer) if part else (scorer,),
            weight=weight,
        )
        for part in range(run.num_parts)
    ]
