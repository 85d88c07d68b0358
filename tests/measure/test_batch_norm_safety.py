"""What the statistics of small micro-batches cost: closed forms for Gaussian inputs, and what the measurement leaves alone."""

import copy
import math

import pytest
import torch
from scipy.special import digamma, polygamma
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure import batch_norm_safety
from batchwright.nn import BatchRenorm1d, GhostBatchNorm1d

SIZES = (2, 4, 8, 32)


def gaussian_batches(num=60, length=1024, channels=3):
    generator = torch.Generator().manual_seed(0)
    # Each column has its own mean and deviation.
    shift, scale = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 3.0, 0.2])
    return [shift + scale * torch.randn(length, channels, generator=generator) for _ in range(num)]


def distance_to_truth(model, batch):
    """Squared distance of the layer's output from the truly normalised input; its mean has a closed form."""
    shift, scale = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 3.0, 0.2])
    return (model(batch) - (batch - shift) / scale).square().mean(dim=1)


def log_variance_bias(size):
    """E log v_b of unit Gaussians, v_b biased."""
    return digamma((size - 1) / 2) + math.log(2) - math.log(size)


def mean_deviation(size):
    """E sqrt(v_b) of unit Gaussians."""
    return math.sqrt(2 / size) * math.exp(math.lgamma(size / 2) - math.lgamma((size - 1) / 2))


def test_errors_of_statistics_and_excess_loss_are_the_gaussian_closed_forms():
    model = nn.Sequential(nn.BatchNorm1d(3, eps=1e-12))
    batches = gaussian_batches()
    found = batch_norm_safety(model, distance_to_truth, batches, micro_batch_sizes=SIZES)
    assert (found.num_layers, found.num_batches, found.reference_size) == (1, 60, 1024)
    assert found.num_examples == 60 * 1024 * 5
    for place, size in enumerate(SIZES):
        num_errors = 60 * (1024 // size) * 3
        # The reference is itself a sample: parts of it err by 1/b - 1/N of its expected variance, (N - 1)/N.
        expected_mean = (1 / size - 1 / 1024) * 1024 / 1023
        # v_b / v is independent of v (Basu), so the cumulants of its logarithm are differences of those of chi squared.
        spread = polygamma(1, (size - 1) / 2) - polygamma(1, 1023 / 2)
        expected_scale = spread + (log_variance_bias(size) - log_variance_bias(1024)) ** 2
        # Four standard errors: a squared normal has variance 2 of its mean squared, a squared log chi squared less than 10.
        assert found.mean_error[place] == pytest.approx(expected_mean, rel=4 * (2 / num_errors) ** 0.5)
        assert found.log_variance_error[place] == pytest.approx(expected_scale, rel=4 * (10 / num_errors) ** 0.5)
        # Of (y - z)^2 with y normalised by its own b examples: 1 + 1 - 2 E[s_b].
        expected_loss = 2 - 2 * mean_deviation(size)
        assert found.mean_error[place] == pytest.approx(expected_mean, rel=0.03)
        assert found.log_variance_error[place] == pytest.approx(expected_scale, rel=0.03)
        excess, reference = found.excess[place], 2 - 2 * mean_deviation(1024)
        assert abs(excess.value - (expected_loss - reference)) < 4 * (excess.high - excess.low) / 4


def test_the_mean_error_of_images_counts_what_their_pixels_share():
    generator = torch.Generator().manual_seed(0)
    # Each example has a level of its own, of variance 1, under pixels of variance 3.
    batches = [
        torch.randn(512, 2, 1, 1, generator=generator) + 3**0.5 * torch.randn(512, 2, 4, 4, generator=generator)
        for _ in range(40)
    ]
    model = nn.Sequential(nn.BatchNorm2d(2))
    found = batch_norm_safety(
        model, lambda model, batch: model(batch).square().mean(dim=(1, 2, 3)), batches, micro_batch_sizes=(8,)
    )
    assert found.mean_error[0] == pytest.approx((1 + 3 / 16) / 4 * (1 / 8 - 1 / 512), rel=0.08)  # four standard errors


def test_safe_and_unsafe_sizes_follow_the_intervals():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3, eps=1e-12)

        def forward(self, x):
            return self.norm(x)

    def loss(model, batch):
        return 1.0 + distance_to_truth(model, batch)

    found = batch_norm_safety(Shifted(), loss, gaussian_batches(num=20), micro_batch_sizes=SIZES, tolerance=0.1)
    # Excess at 2, 4, 8, 32: .87, .40, .19, .05 of a loss of 1.
    assert found.unsafe_size == 8
    assert found.safe_size == 32
    assert found.against(10.0).safe_size == 2
    assert found.against(10.0).unsafe_size is None
    strict = batch_norm_safety(Shifted(), loss, gaussian_batches(num=20), micro_batch_sizes=SIZES, tolerance=0.01)
    assert strict.safe_size is None
    assert strict.unsafe_size == 32


def test_a_model_that_has_not_learned_is_not_called_safe():
    """Labels of coin flips: no statistics, however wrong, can cost an untrained model anything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5 * 256, 8, generator=generator)
    labels = torch.randint(10, (5 * 256,), generator=generator)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measured():
        batches = [(inputs[start : start + 256], labels[start : start + 256]) for start in range(0, 5 * 256, 256)]
        return batch_norm_safety(model, loss, batches, micro_batch_sizes=(2, 8, 32), tolerance=0.2)

    found = measured()
    assert found.insensitive
    assert found.safe_size is None
    assert found.against(10 * found.loss).safe_size is None
    labels = inputs[:, :2].argmax(dim=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model, (inputs, labels)).mean().backward()
        optimizer.step()
    trained = measured()
    assert not trained.insensitive
    assert trained.unsafe_size is not None
    assert trained.unsafe_size >= 2


def test_the_model_is_left_as_it_was_and_hooks_are_gone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.get_rng_state()

    def loss(model, batch):
        return model(batch).squeeze(1).square()

    batches = [torch.ones(8, 3) * torch.arange(8.0)[:, None] for _ in range(3)]
    now = torch.get_rng_state()
    first = batch_norm_safety(model, loss, batches, micro_batch_sizes=(2,))
    assert torch.equal(torch.get_rng_state(), now)
    assert torch.equal(state, now)
    assert first == batch_norm_safety(model, loss, batches, micro_batch_sizes=(2,))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    assert not model[1]._forward_hooks


def test_the_loss_of_a_size_is_that_of_training_mode_micro_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    batches = [torch.randn(12, 1, 4, 4) for _ in range(3)]

    def loss(model, batch):
        return model(batch).squeeze(1).square()

    found = batch_norm_safety(model, loss, batches, micro_batch_sizes=(3,))
    with torch.no_grad():
        plain = torch.stack([loss(model, part).mean() for batch in batches for part in batch.split(3)]).mean()
    assert found.loss + found.excess[0].value == pytest.approx(float(plain), rel=1e-5)


def test_layers_that_correct_batch_norm_are_not_taken_for_it():
    model = nn.Sequential(nn.BatchNorm1d(3), GhostBatchNorm1d(3), BatchRenorm1d(3))
    found = batch_norm_safety(
        model,
        lambda model, batch: model(batch).square().mean(dim=1),
        gaussian_batches(num=3, length=64),
        micro_batch_sizes=(4,),
    )
    assert found.num_layers == 2


def test_what_cannot_be_measured_is_refused():
    model, batches = nn.Sequential(nn.BatchNorm1d(3)), gaussian_batches(num=2, length=8)
    with pytest.raises(InputError, match="must have batch normalization layers, got none"):
        batch_norm_safety(nn.Linear(3, 1), distance_to_truth, batches)
    with pytest.raises(InputError, match="at least 3 batches, got 2"):
        batch_norm_safety(model, distance_to_truth, batches, micro_batch_sizes=(2,))
    with pytest.raises(InputError, match="smaller than every batch, got 8 and a batch of 8"):
        batch_norm_safety(model, distance_to_truth, batches, micro_batch_sizes=(8,))
    with pytest.raises(InputError, match="at least 2 values a channel"):
        batch_norm_safety(model, distance_to_truth, batches, micro_batch_sizes=(1,))
