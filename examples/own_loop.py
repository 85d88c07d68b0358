"""Your own loop on the engine: the batch grows with the gradient noise, and a kill at any time loses nothing but the steps since.

Try it with ``python examples/own_loop.py``; stop it with Ctrl-C and start it again. It takes seconds.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw

NUM_EPOCHS = 12


def main(folder: Path = Path("runs/own_loop")) -> float:
    """Train on the bundled digits; the accuracy on digits that were held out."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    train, held_out = TensorDataset(inputs[:1500], targets[:1500]), (inputs[1500:], targets[1500:])
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    # These lines take the place of a DataLoader, zero_grad, the division of the loss, clipping and step.
    policy = bw.adapt.NoiseScale(max_batch_size=256)
    engine = bw.BatchEngine(
        model, optimizer, train, policy=policy, batch_size=32, micro_batch_size=16, max_grad_norm=5.0
    )

    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        engine.load_state_dict(state["engine"])
        print(f"goes on after step {engine.num_steps}, in the middle of epoch {engine.epoch}")

    accuracy = 0.0
    while engine.epoch < NUM_EPOCHS:
        for update in engine:
            for x, y in update:
                update.backward(F.cross_entropy(model(x), y, reduction="none"))
            if engine.decision.changed:
                print(f"step {engine.num_steps}: {engine.decision.reason}")
            if engine.num_steps % 20 == 0:
                folder.mkdir(parents=True, exist_ok=True)
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "engine": engine.state_dict(),
                }
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
        with torch.no_grad():
            accuracy = float((model(held_out[0]).argmax(1) == held_out[1]).float().mean())
        print(f"epoch {engine.epoch}: batch size {engine.batch_size}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
