"""Train the bundled digits once, then ask other controllers what they would have done: no second run is needed.

Run: python examples/what_would_it_have_done.py
"""

import tempfile
from pathlib import Path

import batchwright as bw
from batchwright.tasks.loading import load_task


def main() -> None:
    """One run whose noise is measured at each step, and the decisions of three controllers on it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        policy = bw.adapt.NoiseScale(fraction=1.0, max_batch_size=256)
        bw.train(
            load_task("digits-cnn"),
            out=folder,
            policy=policy,
            batch_size=16,
            noise_every=1,
            max_examples=10_000,
            stop_at_target=False,
        )
        for controller in (policy, bw.adapt.NormTest(theta=0.5), bw.adapt.Schedule(schedule="0:16 2k:32 5k:64")):
            print(controller)
            print(bw.adapt.replay(folder, controller).table(), end="\n\n")


if __name__ == "__main__":
    main()
