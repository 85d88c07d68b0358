"""Stop in the middle of an epoch, between two changes of the batch size, and go on: the run is the one that never stopped.

Run: python examples/resume_mid_epoch.py
"""

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw


def make_run() -> tuple[nn.Module, bw.BatchEngine]:
    """Model and engine of a run whose batch grows, with dropout, AdamW and a cosine schedule by examples."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(1000, 16), torch.randint(4, (1000,)))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    clock = bw.planning.ExampleClock(cosine, examples_per_step=20)
    policy = bw.adapt.Schedule(schedule="0:20 600:48 1500:96")
    return model, bw.BatchEngine(model, optimizer, data, policy=policy, micro_batch_size=20, clock=clock)


def train(model: nn.Module, engine: bw.BatchEngine, until: int, seen: list[Tensor]) -> None:
    """Train until the optimizer has made so many steps; what was seen is kept."""
    while engine.num_steps < until:
        for update in engine:
            for x, y in update:
                seen.append(x)
                update.backward(F.cross_entropy(model(x), y, reduction="none"))
            if engine.num_steps == until:
                break


def main() -> None:
    """One run to the end; another is saved in mid-epoch, forgotten, and loaded into new objects."""
    seen: list[Tensor] = []
    model, engine = make_run()
    train(model, engine, 60, seen)
    seen_too: list[Tensor] = []
    first, engine_1 = make_run()
    train(first, engine_1, 34, seen_too)
    file = io.BytesIO()
    state: dict[str, Any] = {"model": first.state_dict(), "optimizer": engine_1.optimizer.state_dict()}
    torch.save({**state, "engine": engine_1.state_dict()}, file)
    print(f"stopped after {engine_1.num_examples} of 1000 examples an epoch, batch size {engine_1.batch_size}")
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second, engine_2 = make_run()
    second.load_state_dict(state["model"])
    engine_2.optimizer.load_state_dict(state["optimizer"])
    engine_2.load_state_dict(state["engine"])
    train(second, engine_2, 60, seen_too)
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), second.parameters(), strict=True))
    lr = engine.optimizer.param_groups[0]["lr"], engine_2.optimizer.param_groups[0]["lr"]
    print(f"batch size {engine_2.batch_size}, {engine_2.num_examples} examples, lr the same: {lr[0] == lr[1]}")
    print(f"examples the same: {torch.equal(torch.cat(seen), torch.cat(seen_too))}; parameters bit by bit: {same}")


if __name__ == "__main__":
    main()
