"""Memory for two examples a pass: what batch norm loses by that, and what ghosts corrected by the layers before (Kalman) keep.

Run: python examples/micro_batches_of_two.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw

EPOCHS = 3


def digits() -> tuple[TensorDataset, tuple[Tensor, Tensor]]:
    """The bundled digits, 1,500 to train on."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 8 - 1, dtype=torch.float32), torch.tensor(labels)
    return TensorDataset(x[:1500], y[:1500]), (x[1500:], y[1500:])


def make_model() -> nn.Module:
    """A perceptron: one value a channel and example, so that two examples say little of a channel's mean."""
    layers: list[nn.Module] = []
    for width in (64, 128, 128):
        layers += [nn.Linear(width, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train_model(norm: str | None, micro_batch_size: int) -> tuple[nn.Module, float]:
    """The model after some epochs of batches of 32, in passes of ``micro_batch_size``, and its accuracy."""
    train, (inputs, labels) = digits()
    torch.manual_seed(0)
    model = make_model()
    if norm == "kalman":
        bw.nn.convert(model, "kalman", example_inputs=(train[:2][0],))
    elif norm is not None:
        bw.nn.convert(model, norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    engine = bw.BatchEngine(model, optimizer, train, batch_size=32, micro_batch_size=micro_batch_size)
    while engine.epoch < EPOCHS:
        for update in engine:
            for batch in update:
                update.backward(loss(model, batch))
    model.eval()
    with torch.no_grad():
        return model, float((model(inputs).argmax(1) == labels).float().mean())


def main() -> None:
    """What a measurement of a trained model foretells, then a table of accuracies."""
    model, accuracy = train_model(None, 32)
    print(f"batch norm, passes of 32: accuracy {accuracy:.3f}")
    train, _ = digits()
    batches = [train[start : start + 256] for start in range(0, 1280, 256)]
    found = bw.measure.batch_norm_safety(model, loss, batches, micro_batch_sizes=(2, 4, 8, 16, 32))
    for size, excess in zip(found.micro_batch_sizes, found.excess, strict=True):
        told = f"{excess.value:+.3f} ({excess.low:+.3f} to {excess.high:+.3f})"
        print(f"  statistics of {size} examples would change its loss of {found.loss:.3f} by {told}")
    for norm in (None, "kalman", "group"):
        print(f"{norm or 'batch'} norm, passes of 2: accuracy {train_model(norm, 2)[1]:.3f}")


if __name__ == "__main__":
    main()
