"""Norms of micro-batches whose gradients are kept apart: the same sum to the last bit, and the noise of the parts."""

import pytest
import torch
from torch import nn

from batchwright.core.objectives import example_losses
from batchwright.measure.separate_norms import SeparateNorms

SIZES = [7, 7, 6]


class Partly(nn.Module):
    """Its second layer takes part only in batches that begin with a positive number; one layer is larger than a block sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(300, 400), nn.Linear(400, 1), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        return self.second(hidden).squeeze(1) if x[0, 0] > 0 else hidden.sum(dim=1)


def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square()


def parts_of(batch: torch.Tensor) -> list[torch.Tensor]:
    parts = list(batch.split(SIZES))
    for part, sign in zip(parts, (-1.0, 1.0, 1.0), strict=True):
        part[0, 0] = sign * part[0, 0].abs()
    return parts


def accumulated(model: nn.Module, parts: list[torch.Tensor], norms: SeparateNorms | None) -> list[torch.Tensor | None]:
    model.zero_grad()
    for part in parts:
        value = example_losses(model, loss, part).sum() / sum(SIZES)
        if norms is not None:
            norms.before_backward()
        value.backward()
        if norms is not None:
            norms.after_micro_batch(len(part))
    return [parameter.grad for parameter in model.parameters()]


def test_the_gradient_is_that_of_plain_accumulation_to_the_last_bit():
    torch.manual_seed(0)
    model, parts = Partly(), parts_of(torch.randn(20, 300))
    plain = accumulated(model, parts, None)
    found = accumulated(model, parts, SeparateNorms(list(model.parameters())))
    for one, other in zip(plain, found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert found[-1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_noise_is_that_of_the_parts(dtype):
    torch.manual_seed(0)
    model, parts = Partly().to(dtype), parts_of(torch.randn(20, 300, dtype=dtype))
    norms = SeparateNorms(list(model.parameters()))
    accumulated(model, parts, norms)
    found = norms.step_noise()
    rows = []
    for part in parts:
        model.zero_grad()
        (example_losses(model, loss, part).sum() / sum(SIZES)).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        rows.append(torch.cat([grad.flatten() for grad in grads]).double())
    sizes = torch.tensor(SIZES).double()
    means, whole = torch.stack(rows) * 20 / sizes[:, None], torch.stack(rows).sum(dim=0)
    trace = float((sizes * (means - whole).square().sum(dim=1)).sum() / 2)
    tolerance = 0.02 if dtype is torch.bfloat16 else 1e-5  # bfloat16 rounds the sum in .grad itself
    assert found.trace == pytest.approx(trace, rel=tolerance)
    assert found.grad_sq_norm == pytest.approx(float(whole.square().sum()) - trace / 20, rel=tolerance)


def test_one_micro_batch_with_examples_says_nothing():
    model = nn.Linear(3, 1)
    norms = SeparateNorms(list(model.parameters()))
    for size in (4, 0):
        norms.before_backward()
        (model(torch.randn(max(size, 1), 3)).sum() * size).backward()
        norms.after_micro_batch(size)
    assert norms.step_noise() is None
