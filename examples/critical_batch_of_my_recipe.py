"""Map the critical batch size of your own recipe by branching from a checkpoint, and train with the ramp that it gives.

Run: python examples/critical_batch_of_my_recipe.py
"""

import tempfile
from pathlib import Path

import batchwright as bw
from batchwright.tasks.loading import load_task

SIZES = [16, 64, 256]


def main() -> None:
    """Branches early in the digits task; from there on the batch is what did no harm, at the cautious end of its interval."""
    task = load_task("digits-mlp")
    pilot = bw.measure.pilot(task, num_steps=30)
    start = 30 * task.batch_size
    found = bw.measure.branch(task, pilot.snapshot, SIZES, num_examples=2048)
    critical, harmless = found.critical_batch_size, found.largest_harmless
    print(f"after {start} examples, at a cost of {found.total_examples}:")
    print(f"critical batch size {critical.value:.0f} [{critical.low:.0f}, {critical.high:.0f}]")
    print(f"no harm up to {harmless.value:.0f} [{harmless.low:.0f}, {harmless.high:.0f}]")
    ramp = 2 ** (int(min(harmless.low, SIZES[-1])).bit_length() - 1)
    for schedule in (f"0:16 {start}:{ramp}", "0:16"):
        with tempfile.TemporaryDirectory() as place:
            policy = bw.adapt.Schedule(schedule=schedule)
            run = bw.train(task, policy=policy, batch_size=16, out=Path(place) / "run")
        assert run.to_target is not None
        print(f"{schedule}: target after {run.to_target.steps:.0f} steps and {run.to_target.examples:.0f} examples")


if __name__ == "__main__":
    main()
