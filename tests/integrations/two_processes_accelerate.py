"""One of two processes of a job whose batch size changes; run by ``test_accelerate.py``. It fails where a claim does not hold."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchwright.adapt import NoiseScale
from batchwright.integrations import AccelerateBatchSize

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(192, 6, generator=generator, dtype=torch.float64)
targets = inputs.sum(1, keepdim=True) + torch.randn(192, 1, generator=generator, dtype=torch.float64)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
torch.manual_seed(3)
net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
plain_optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
model, optimizer, loader, scheduler = accelerator.prepare(
    net,
    plain_optimizer,
    DataLoader(TensorDataset(torch.arange(192)), batch_size=4),
    torch.optim.lr_scheduler.LambdaLR(plain_optimizer, lambda step: 1.0),
)
sizes = AccelerateBatchSize(
    accelerator,
    model,
    optimizer,
    loader,
    NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64),
    schedulers=[scheduler],
)
rows_of_step, batch_sizes = [], []
for _ in range(4):
    for batch in loader:
        (rows,) = batch
        rows_of_step.append(rows)
        with sizes.accumulate(batch):
            sizes.backward((model(inputs[rows]) - targets[rows]).square().mean())
            if accelerator.sync_gradients:
                everybody = accelerator.gather(torch.cat(rows_of_step))
                batch_sizes.append(len(everybody))
                mean = (net(inputs[everybody]) - targets[everybody]).square().mean()
                for parameter, expected in zip(
                    net.parameters(), torch.autograd.grad(mean, list(net.parameters())), strict=True
                ):
                    assert float((parameter.grad - expected).abs().max()) < 1e-13
                rows_of_step = []
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
assert scheduler.scheduler.last_epoch == 2 * 4 * 24, scheduler.scheduler.last_epoch
print(f"largest batch {max(batch_sizes)}, steps {batch_sizes}, noise scale {sizes.last.noise_scale}")  # noqa: T201 - the test reads it
accelerator.end_training()
