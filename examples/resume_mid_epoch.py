"""Stop in the middle of an epoch, between two changes of the batch size, and go on: the run is the one that never stopped.

Run: python examples/resume_mid_epoch.py
"""

import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw


def train(until: int, start: io.BytesIO | None = None) -> tuple[nn.Module, bw.BatchEngine, list[Tensor]]:
    """Train to a number of steps, from a checkpoint or from the beginning; the batch grows, the lr follows a cosine."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(1000, 16), torch.randint(4, (1000,)))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    clock = bw.planning.ExampleClock(cosine, examples_per_step=20)
    policy = bw.adapt.Schedule(schedule="0:20 600:48 1500:96")
    engine = bw.BatchEngine(model, optimizer, data, policy=policy, micro_batch_size=20, clock=clock)
    if start is not None:
        state = torch.load(start, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        engine.load_state_dict(state["engine"])
    seen = []
    while engine.num_steps < until:
        for update in engine:
            for x, y in update:
                seen.append(x)
                update.backward(F.cross_entropy(model(x), y, reduction="none"))
            if engine.num_steps == until:
                break
    return model, engine, seen


def main() -> None:
    """One run to the end; another is saved in mid-epoch, and loaded into new objects."""
    whole, engine, seen = train(60)
    model, stopped, seen_1 = train(34)
    print(f"stopped after {stopped.num_examples} of 1000 examples an epoch, batch size {stopped.batch_size}")
    optimizer = stopped.optimizer.state_dict()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer, "engine": stopped.state_dict()}, file)
    file.seek(0)
    resumed, engine_2, seen_2 = train(60, start=file)
    lrs = [run.optimizer.param_groups[0]["lr"] for run in (engine, engine_2)]
    print(f"batch size {engine_2.batch_size}, {engine_2.num_examples} examples, lr the same: {lrs[0] == lrs[1]}")
    same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    examples = torch.equal(torch.cat(seen), torch.cat(seen_1 + seen_2))
    print(f"examples the same: {examples}; parameters bit by bit: {same}")


if __name__ == "__main__":
    main()
