"""Lightning with a batch size that follows the gradient noise: one callback, nothing else changes.

Run: pip install 'batchwright[lightning]', then python examples/lightning_callback.py
"""

import warnings

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchwright as bw


class Digits(pl.LightningModule):
    """Any module of yours; its schedule is written for the batch size that the run starts with."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.num_steps = num_steps

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The mean loss of a micro-batch, as ever."""
        images, digits = batch
        return nn.functional.cross_entropy(self.net(images), digits)

    def configure_optimizers(self) -> dict:
        """SGD with a cosine schedule by steps."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def show(report: bw.integrations.StepReport) -> None:
    """Print each change of the batch size with its reason."""
    if report.changed:
        print(f"step {report.step:4d}  batch {report.batch_size:4d} -> {report.next_batch_size:4d}  {report.reason}")


def main() -> None:
    """Train on the digits, 16 examples at a time, from a batch of 32 up."""
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits))
    loader = DataLoader(data, batch_size=16, shuffle=True)
    epochs, accumulate = 12, 2
    sizes = bw.integrations.BatchSizeCallback(bw.adapt.NoiseScale(max_batch_size=512), sinks=[show])
    trainer = pl.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        callbacks=[sizes],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits(num_steps=epochs * -(-len(loader) // accumulate))
    trainer.fit(module, loader)
    last = sizes.last
    assert last is not None
    plain = epochs * -(-len(loader) // accumulate)
    with torch.no_grad():
        right = (module.net(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    print(f"{last.num_examples} examples in {last.step} steps, where a batch of 32 takes {plain}; {right:.1%} right")


if __name__ == "__main__":
    main()
