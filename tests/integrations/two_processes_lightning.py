"""One of two processes of a Lightning job, run by ``test_lightning.py``; it fails where a claim does not hold."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchwright.adapt import NoiseScale
from batchwright.integrations import BatchSizeCallback

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(192, 6, generator=generator, dtype=torch.float64)
targets = inputs.sum(1, keepdim=True) + torch.randn(192, 1, generator=generator, dtype=torch.float64)


class Module(pl.LightningModule):
    """Compares each gradient with that of everybody's rows as one batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.rows, self.batch_sizes = [], []

    def training_step(self, batch, batch_idx):
        (rows,) = batch
        self.rows.append(rows)
        return (self.net(inputs[rows]) - targets[rows]).square().mean()

    def on_before_optimizer_step(self, optimizer):
        everybody = self.all_gather(torch.cat(self.rows)).flatten()
        self.rows = []
        self.batch_sizes.append(len(everybody))
        mean = (self.net(inputs[everybody]) - targets[everybody]).square().mean()
        wanted = torch.autograd.grad(mean, list(self.net.parameters()))
        for parameter, expected in zip(self.net.parameters(), wanted, strict=True):
            assert float((parameter.grad - expected).abs().max()) < 1e-13

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


callback = BatchSizeCallback(NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64))
module = Module()
trainer = pl.Trainer(
    max_epochs=4,
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    callbacks=[callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(TensorDataset(torch.arange(192)), batch_size=4))
found = callback.last.noise_scale
print(f"largest batch {max(module.batch_sizes)}, steps {module.batch_sizes}, noise scale {found}")  # noqa: T201 - the test reads it
