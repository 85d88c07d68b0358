"""The last gradient is measured as the backward pass left it, whatever is done to it afterwards."""

import pytest
import torch
from torch import nn

from batchwright.integrations.tapped_norms import TappedNorms
from batchwright.measure.running_noise import MicroBatchNorms


class Branches(nn.Module):
    """Its second branch takes no part where the first input is negative."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.first(inputs)
        return found + self.second(inputs) if inputs[0, 0] > 0 else found


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, 1, -1), (-1, -1, -1), (-1, -1, 1)])
def test_clipping_in_place_changes_nothing(signs):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(4, 3, generator=generator, dtype=torch.float64).abs() * sign for sign in signs]
    found = []
    for kind in (MicroBatchNorms, TappedNorms):
        model = Branches()
        norms = kind(list(model.parameters()))
        for number, part in enumerate(parts):
            if kind is TappedNorms and number == len(parts) - 1:
                norms.tap()
            (model(part).square().mean() / 3).backward()
            if kind is TappedNorms and number == len(parts) - 1:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            norms.after_micro_batch(4)
        found.append(norms.step_noise())
    assert found[0].trace == pytest.approx(found[1].trace, rel=1e-12)
    assert found[0].grad_sq_norm == pytest.approx(found[1].grad_sq_norm, rel=1e-12)


def test_the_hooks_are_gone_afterwards():
    model = Branches()
    norms = TappedNorms(list(model.parameters()))
    norms.tap()
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    norms.after_micro_batch(2)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
