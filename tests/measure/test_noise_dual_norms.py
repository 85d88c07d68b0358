"""Noise scales in dual norms meet closed forms on Gaussian gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.measure.dual_norms import dual_noise_scale

ROW_SD = torch.tensor([0.5, 1.0, 1.5, 2.0])
U, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
V, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))
SINGULAR = torch.tensor([4.0, 3.0, 2.0, 1.0])
GRADIENT = U @ torch.diag(SINGULAR) @ V[:4]
# With rows of independent entries E[N N^T] = 6 diag(ROW_SD^2), so its root has this trace.
NUCLEAR_NOISE, NUCLEAR_GRADIENT = float(6**0.5 * ROW_SD.sum()), 10.0
L1_NOISE, L1_GRADIENT = float(6 * ROW_SD.sum()), 1.5 * 24


class Matrix(nn.Module):
    """Per-example loss whose gradient is the example itself."""

    def __init__(self, shape: tuple[int, ...] = (4, 6)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return batch.flatten(1) @ model.weight.flatten()


def draw(sizes: list[int], seed: int, gradient: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [gradient + ROW_SD[:, None] * torch.randn(size, 4, 6, generator=generator) for size in sizes]


@pytest.mark.parametrize(
    ("norm", "gradient", "noise_norm", "grad_norm"),
    [
        ("nuclear", GRADIENT, NUCLEAR_NOISE, NUCLEAR_GRADIENT),
        ("l1", 1.5 * GRADIENT.sign(), L1_NOISE, L1_GRADIENT),
    ],
)
def test_noise_and_gradient_norms_meet_closed_forms(norm, gradient, noise_norm, grad_norm):
    batches = [[24, 32, 41] * 10] * 200
    found = [dual_noise_scale(Matrix(), loss, draw(sizes, i, gradient), norm) for i, sizes in enumerate(batches)]
    for name, expected in (("noise_norm", noise_norm), ("grad_norm", grad_norm)):
        values = torch.tensor([getattr(each, name) for each in found], dtype=torch.float64)
        assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5
    truth = (noise_norm / grad_norm) ** 2
    covered = sum(each.low <= truth <= each.high for each in found) / len(found)
    assert covered >= 0.92  # the upper end also holds the worst bias, so it may cover more than its level
    assert all(each.resolved for each in found)


def test_l1_noise_is_unbiased_from_few_parts():
    """Of ten micro-batches a plain root would be 2.7 % too small."""
    found = [dual_noise_scale(Matrix(), loss, draw([8] * 5, i, 1.5 * GRADIENT.sign()), "l1") for i in range(400)]
    values = torch.tensor([each.noise_norm for each in found], dtype=torch.float64)
    assert abs(values.mean() / L1_NOISE - 1) < 0.01


def test_convolutions_count_as_matrices_and_tall_ones_lie_down():
    batches = draw([8] * 10, 0, GRADIENT)
    plain = dual_noise_scale(Matrix(), loss, batches, "nuclear")
    convolution = dual_noise_scale(Matrix((4, 2, 3, 1)), loss, batches, "nuclear")
    tall = dual_noise_scale(Matrix((6, 4)), loss, [batch.transpose(1, 2) for batch in batches], "nuclear")
    for other in (convolution, tall):
        assert other.noise_norm == pytest.approx(plain.noise_norm)
        assert other.grad_norm == pytest.approx(plain.grad_norm)


def test_a_gradient_lost_in_its_noise_is_not_resolved():
    found = dual_noise_scale(Matrix(), loss, draw([8] * 20, 0, 0.01 * GRADIENT), "nuclear")
    assert found.high == math.inf
    assert not found.resolved


def test_only_vectors_have_no_nuclear_norm():
    with pytest.raises(InputError, match="two or more axes for norm='nuclear'"):
        dual_noise_scale(Matrix((24,)), loss, draw([8] * 4, 0, GRADIENT), "nuclear")
    with pytest.raises(InputError, match="norm must be one of l1, nuclear"):
        dual_noise_scale(Matrix(), loss, draw([8] * 4, 0, GRADIENT), "l2")
