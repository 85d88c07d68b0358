"""A list of batch sizes in a plain PyTorch loop, with an lr schedule that does not notice: only `batchwright.planning` is used.

Run: python examples/batch_size_schedule.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import batchwright as bw

SCHEDULE = bw.adapt.Schedule(schedule="0:32 3k:64 6k:128")  # examples used : batch size
NUM_EXAMPLES, BASE = 12_000, 32


def main() -> None:
    """Train AdamW with a cosine schedule that was written for steps of 32 examples."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EXAMPLES // BASE)
    clock = bw.planning.ExampleClock(cosine, examples_per_step=BASE)

    batch_size, num_steps, sizes = BASE, 0, [BASE]
    state = SCHEDULE.init(batch_size=batch_size)
    while clock.num_examples < NUM_EXAMPLES:
        chosen = torch.randint(len(inputs), (min(batch_size, NUM_EXAMPLES - clock.num_examples),))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        clock.advance(len(chosen))  # in place of scheduler.step()
        num_steps += 1
        now = bw.adapt.Measured(step=num_steps, num_examples=clock.num_examples, batch_size=batch_size)
        state, decision = SCHEDULE.update(state, now)
        if decision.changed:
            bw.planning.apply_to(optimizer, base_batch_size=batch_size, batch_size=decision.batch_size, clock=clock)
            batch_size = decision.batch_size
            sizes.append(batch_size)
            group = optimizer.param_groups[0]
            print(f"step {num_steps}: {decision.reason}; lr {group['lr']:.2e}, beta2 {group['betas'][1]:.4f}")
    print(f"batch sizes {sizes}, {num_steps} steps instead of {NUM_EXAMPLES // BASE}")
    print(f"schedule at its end: {cosine.last_epoch} of {NUM_EXAMPLES // BASE} steps, lr {cosine.get_last_lr()[0]:.1e}")


if __name__ == "__main__":
    main()
