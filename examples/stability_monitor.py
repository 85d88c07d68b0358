"""The stability gauge in a loop of your own: three lines, and a warning before a change of settings that makes the loss spike.

Run: python examples/stability_monitor.py
With ``pip install tensorboard`` the readings are curves under runs/tensorboard too; without it they are printed alone.
"""

import copy
import warnings

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import batchwright as bw

BATCH_SIZE, NUM_STEPS = 32, 1200


class PrintingWriter:
    """Stands in for TensorBoard's ``SummaryWriter``: a `TensorBoardSink` needs no more than ``add_scalar``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Print the two curves that tell most."""
        if tag.endswith(("/batch_sharpness", "/threshold")):
            print(f"  step {global_step:5}  {tag:26} {scalar_value:8.2f}")


def make_writer() -> bw.measure.ScalarWriter:
    """TensorBoard's own writer where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return PrintingWriter()
    return SummaryWriter("runs/tensorboard")


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Trainer:
    """A plain training loop."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        digits = load_digits()
        self.inputs = torch.from_numpy(digits.data).float() / 8 - 1
        self.targets = torch.from_numpy(digits.target)
        self.model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.generator = torch.Generator().manual_seed(1)

    def draw(self, generator: torch.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
        """A batch without replacement; the monitor draws its own with it, and a generator of its own."""
        indices = torch.randperm(len(self.inputs), generator=generator)[:batch_size]
        return self.inputs[indices], self.targets[indices]

    def train(self, num_steps: int, monitor: bw.measure.StabilityMonitor | None = None) -> list[float]:
        """Train, and give the loss of each step."""
        losses = []
        for _ in range(num_steps):
            batch = self.draw(self.generator, BATCH_SIZE)
            self.optimizer.zero_grad()
            mean = loss(self.model, batch).mean()
            mean.backward()
            self.optimizer.step()
            losses.append(mean.item())
            if monitor is not None:
                monitor.after_step(batch)
        return losses


def largest_window(losses: list[float]) -> float:
    """Largest mean loss of ten steps in a row."""
    return max(sum(losses[i : i + 10]) / 10 for i in range(len(losses) - 9))


def main() -> None:
    """Train, ask about two changes, and see what each of them really does."""
    trainer = Trainer()
    sink = bw.measure.TensorBoardSink(make_writer())
    # The default budget, 5 % of the training time, fits a reading into some hundred steps; these take half a millisecond, so here
    # readings may cost what they like.
    monitor = bw.measure.StabilityMonitor(
        trainer.model, loss, trainer.optimizer, draw_batch=trainer.draw, every=200, budget=None, sinks=[sink]
    )
    trainer.train(NUM_STEPS, monitor)
    last = monitor.last
    assert last is not None
    print(f"{len(monitor.history)} readings; at step {last.step}: headroom {last.headroom:.2f}, {last.regime}")
    usual = largest_window(copy.deepcopy(trainer).train(100))

    for lr in (0.06, 1.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            predicted = monitor.check(lr=lr)
        assert predicted is not None
        warned = f"warned: {caught[0].message}" if caught else f"no warning: {predicted.reason}"
        changed = copy.deepcopy(trainer)  # so that both changes begin at the same point
        changed.optimizer.param_groups[0]["lr"] = lr
        for state in changed.optimizer.state.values():
            state["momentum_buffer"].zero_()  # a stale buffer moves the parameters by itself
        peak = largest_window(changed.train(100))
        print(f"lr {lr:g}: {warned}")
        print(
            f"lr {lr:g}: {'the loss spiked' if peak > 3 * usual else 'no spike'}: of the next 100 steps the worst ten in a row have "
            f"a mean loss of {peak:.3f}, and {usual:.3f} without the change"
        )


if __name__ == "__main__":
    main()
