"""Learning rate and batch size for the bundled digits in three rounds of four trials at once, with a bound on what is recommended.

Run: python examples/tune_in_rounds.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import batchwright as bw

EXAMPLES = 6000  # each trial trains on so many, whatever its batch size is


def train_and_evaluate(values: dict[str, float], seed: int) -> float:
    """One trial: the loss on digits that were held out. At the top of the module, because worker processes import it."""
    pixels, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=values["lr"], momentum=0.9)
    batch_size = int(values["batch_size"])
    for _ in range(EXAMPLES // batch_size):
        chosen = torch.randint(1500, (batch_size,))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs[1500:]), targets[1500:]))


if __name__ == "__main__":  # worker processes import this file, and must not search too
    found = bw.tune(train_and_evaluate, "lr=log:1e-3:1,batch_size=log2:8:256", rounds=3, parallel=4, seed=0)
    print("\n".join(found.lines))
