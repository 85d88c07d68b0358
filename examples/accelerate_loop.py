"""A loop with Accelerate whose batch size follows the gradient noise: two lines of it change.

Run: pip install 'batchwright[transformers]', then python examples/accelerate_loop.py, or accelerate launch for several processes.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchwright as bw


def main() -> None:
    """Train on the digits, 16 examples at a time, from a batch of 32 up, with a schedule for 32."""
    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits))
    loader = DataLoader(data, batch_size=16, shuffle=True)
    epochs = 12
    num_steps = epochs * -(-len(loader) // 2)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    policy = bw.adapt.NoiseScale(max_batch_size=512)
    sizes = bw.integrations.AccelerateBatchSize(accelerator, model, optimizer, loader, policy, schedulers=[scheduler])
    for epoch in range(epochs):
        for batch in loader:
            with sizes.accumulate(batch):  # in place of accelerator.accumulate(model)
                images, digits = batch
                loss = nn.functional.cross_entropy(model(images), digits)
                sizes.backward(loss)  # in place of accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        last = sizes.last
        noise = "not yet" if last.noise_scale is None else f"{last.noise_scale.value:.0f}"
        accelerator.print(
            f"epoch {epoch:2d}  batch {sizes.batch_size:4d}  noise scale {noise:>7}  lr {last.lr:.3f}  loss {loss.item():.3f}"
        )
    accelerator.print(f"{last.num_examples} examples in {last.step} steps, where a batch of 32 takes {num_steps}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
