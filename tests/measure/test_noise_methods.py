"""Per-example and norm-layer noise scales, and those of groups, meet closed forms and plain versions; their intervals cover."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.core.errors import InputError
from batchwright.measure.noise import noise_scale
from batchwright.measure.noise_groups import adam_divisors, noise_scale_by_group

MEAN = torch.tensor([0.3, -0.4, 0.2, 0.1, 0.5, 0.3, -0.2, 0.4])
SD = torch.linspace(0.5, 1.5, 8)
# Each example has a size of its own, so that the norm layer's share of its square follows the whole.
SIZE_SECOND_MOMENT = (0.5**2 + 1.5**2) / 2


class WithNorm(nn.Module):
    """Per-example gradient of the norm layer's weight is the first three numbers of an example, of the head the other five."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3, bias=False)
        self.head = nn.Linear(5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :3] * self.norm.weight).sum(dim=1) + self.head(x[:, 3:]).squeeze(1)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def draw(sizes: list[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        scale = 0.5 + torch.randint(2, (size, 1), generator=generator)
        found.append(MEAN + scale * SD * torch.randn(size, 8, generator=generator))
    return found


TRACE, GRAD_SQ_NORM = float(SIZE_SECOND_MOMENT * SD.square().sum()), float(MEAN.square().sum())


def close_in_errors(values: list[float], expected: float) -> bool:
    found = torch.tensor(values, dtype=torch.float64)
    return bool(abs(found.mean() - expected) < 4 * found.std() / len(found) ** 0.5)


def test_per_example_is_unbiased_for_unequal_sizes():
    found = [noise_scale(WithNorm(), loss, draw([5, 1, 9, 12], seed), "per-example") for seed in range(80)]
    assert close_in_errors([each.trace for each in found], TRACE)
    assert close_in_errors([each.grad_sq_norm for each in found], GRAD_SQ_NORM)


def test_per_example_trace_is_the_variance_over_all_examples():
    batches = draw([5, 1, 9, 12], 0)
    found = noise_scale(WithNorm(), loss, batches, "per-example")
    every = torch.cat(batches)
    assert found.trace == pytest.approx(float(every.var(dim=0, correction=1).sum()), rel=1e-5)
    assert found.grad_sq_norm == pytest.approx(float(every.mean(0).square().sum()) - found.trace / 27, rel=1e-5)


def test_norm_layers_calibrate_to_the_whole_of_the_model():
    """The calibration is a ratio of means, so its bias falls with the number of examples; here it is below the errors."""
    found = [noise_scale(WithNorm(), loss, draw([64] * 12, seed), "norm-layers") for seed in range(60)]
    assert close_in_errors([each.trace for each in found], TRACE)
    assert close_in_errors([each.grad_sq_norm for each in found], GRAD_SQ_NORM)


def share_covered(method: str, num_batches: int, repeats: int) -> float:
    found = [noise_scale(WithNorm(), loss, draw([32] * num_batches, 500 + seed), method) for seed in range(repeats)]
    return sum(each.low <= TRACE / GRAD_SQ_NORM <= each.high for each in found) / repeats


@pytest.mark.parametrize("method", ["per-example", "norm-layers"])
def test_interval_does_not_undercover(method):
    """The short form of the next test: three standard errors of 60 repeats below 95 %."""
    assert share_covered(method, 12, 60) >= 0.866


@pytest.mark.slow
@pytest.mark.parametrize("method", ["per-example", "norm-layers"])
def test_interval_covers_at_its_nominal_level(method):
    assert 0.92 <= share_covered(method, 40, 300) <= 0.98


def test_dropout_and_recurrent_layers_are_measured_example_by_example():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.head(self.rnn(x)[0][:, -1]), 0.1).squeeze(1)

    torch.manual_seed(0)
    batches = [torch.randn(6, 5, 3) for _ in range(4)]
    found = noise_scale(Recurrent(), loss, batches, "per-example")
    assert found.trace > 0
    assert found.num_examples == 24


def test_groups_add_up_to_the_whole_and_are_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1))
    batches = [torch.randn(12, 4) for _ in range(10)]

    def squared(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x).squeeze(1) - x[:, 0]).square()

    for method in ("micro-batch", "per-example"):
        whole = noise_scale(model, squared, batches, method)
        by_name = noise_scale_by_group(model, squared, batches, method)
        assert list(by_name) == [name for name, _ in model.named_parameters()]
        assert sum(each.trace for each in by_name.values()) == pytest.approx(whole.trace)
        assert sum(each.grad_sq_norm for each in by_name.values()) == pytest.approx(whole.grad_sq_norm)
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "name": "first"}, {"params": model[1:].parameters()}], lr=0.1
    )
    by_group = noise_scale_by_group(model, squared, batches, groups=optimizer)
    assert list(by_group) == ["first", "group 1"]
    by_name = noise_scale_by_group(model, squared, batches)
    assert by_group["first"].trace == pytest.approx(by_name["0.weight"].trace + by_name["0.bias"].trace)
    with pytest.raises(InputError, match="groups must each hold a trainable parameter of the model, got none in 'x'"):
        noise_scale_by_group(model, squared, batches, groups={"x": [nn.Parameter(torch.ones(1))]})


def test_a_group_is_unbiased():
    found = [noise_scale_by_group(WithNorm(), loss, draw([6, 9, 4], seed))["norm.weight"] for seed in range(200)]
    assert close_in_errors([each.trace for each in found], float(SIZE_SECOND_MOMENT * SD[:3].square().sum()))
    assert close_in_errors([each.grad_sq_norm for each in found], float(MEAN[:3].square().sum()))


def test_preconditioned_noise_scale_is_unbiased():
    divide_by = {"norm.weight": torch.tensor([0.5, 1.0, 2.0]), "head.weight": torch.linspace(0.2, 1.0, 5)[None]}
    divisor = torch.cat([each.flatten() for each in divide_by.values()])
    found = [noise_scale(WithNorm(), loss, draw([6, 9, 4], seed), divide_by=divide_by) for seed in range(300)]
    assert close_in_errors([each.trace for each in found], float(SIZE_SECOND_MOMENT * (SD / divisor).square().sum()))
    assert close_in_errors([each.grad_sq_norm for each in found], float((MEAN / divisor).square().sum()))


def test_adam_divisors_turn_a_gradient_into_adams_step():
    torch.manual_seed(0)
    model = WithNorm()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.0, 0.9))
    for batch in draw([8] * 3, 0):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    divisors = adam_divisors(model, optimizer)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(before[name] - parameter.detach(), parameter.grad / divisors[name])
    with pytest.raises(InputError, match="must keep a second moment for the model's parameters, got SGD"):
        adam_divisors(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_what_does_not_fit_is_refused_with_a_way_out():
    plain = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))
    with pytest.raises(InputError, match=r"normalization layers with trainable parameters .* use method='per-example'"):
        noise_scale(plain, loss, draw([8] * 10, 0), "norm-layers")
    with pytest.raises(InputError, match="at least 9 batches for method='norm-layers', got 8"):
        noise_scale(WithNorm(), loss, draw([8] * 8, 0), "norm-layers")
    with pytest.raises(InputError, match="divide_by must be left out with method='per-example'"):
        noise_scale(WithNorm(), loss, draw([8] * 8, 0), "per-example", divide_by={"head.weight": torch.ones(1, 5)})
    with pytest.raises(InputError, match=r"shapes of the model's parameters, got .* use adam_divisors"):
        noise_scale(WithNorm(), loss, draw([8] * 8, 0), divide_by={"head.weight": torch.ones(5)})
    batch_norm = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(InputError, match="method='micro-batch'"):
        noise_scale(batch_norm, loss, draw([8] * 8, 0), "per-example")


def test_measurement_leaves_no_trace():
    model = WithNorm()
    model.head.weight.grad = grad = torch.ones(1, 5)
    for method in ("per-example", "norm-layers"):
        noise_scale(model, loss, draw([8] * 12, 0), method)
    assert model.head.weight.grad is grad
    assert torch.equal(grad, torch.ones(1, 5))
    assert model.norm.weight.grad is None
