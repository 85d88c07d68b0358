"""Differences on held pieces agree with second derivatives, and are given up where they would not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.measure.curvature.batch_sharpness import batch_sharpness
from batchwright.measure.curvature.frozen_pieces import FrozenPieces, PiecesError

PIECEWISE = {
    "relu": F.relu,
    "relu in place": lambda x: (x * 1.0).relu_(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu6": lambda x: F.relu6(4 * x),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp_min": lambda x: (1 - x).clamp_min(0),
    "abs": torch.abs,
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "where": lambda x: torch.where(x > 0.2, 3 * x, -x),
    "max": lambda x: x.max(dim=1).values,
    "min": lambda x: x.min(dim=2, keepdim=True).values,
    "max_pool1d": lambda x: F.max_pool1d(x[:, :, :, 0], 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "sign": lambda x: x * x.sign(),
    "argmax": lambda x: x.flatten(1).gather(1, x.flatten(1).argmax(1, keepdim=True)),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_a_held_piece_is_the_linear_function_of_the_first_run(name):
    """These are linear on each piece: held, they are their own linearisation, however far away."""
    function = PIECEWISE[name]
    torch.manual_seed(0)
    x, step = torch.randn(2, 3, 8, 8, dtype=torch.float64), 5 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x.requires_grad_()
    value, slope = torch.autograd.functional.jvp(function, x, step)
    pieces = FrozenPieces()
    with pieces.recorded():
        recorded = function(x)
    with pieces.held():
        held = function(x + step)
    torch.testing.assert_close(recorded, value)
    torch.testing.assert_close(held, value + slope)
    assert (function(x + step) - held).abs().max() > 0.1  # without holding it is another piece


def test_runs_that_differ_are_refused():
    pieces = FrozenPieces()
    with pieces.recorded():
        F.relu(torch.ones(2))
    with (
        pytest.raises(PiecesError, match=r"calls aten.abs.default where the first called aten.relu.default"),
        pieces.held(),
    ):
        torch.ones(2).abs()
    with pytest.raises(PiecesError, match="ended before the first"), pieces.held():
        pass
    with pytest.raises(PiecesError, match="not known"), pieces.recorded():
        torch.maximum(torch.ones(2), torch.zeros(2))


def make_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 12)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))


def make_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 10)
    )


class Attention(nn.Module):
    """One pre-norm block by the fused kernel on rows of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(48, 24), nn.LayerNorm(24), nn.LayerNorm(24)
        self.qkv, self.mlp = nn.Linear(24, 72), nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).flatten(2))
        q, k, v = (part.unflatten(2, (4, 6)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=2))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


MODELS = {"mlp": make_mlp, "cnn": make_cnn, "attention": Attention}


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - F.one_hot(batch[1], 10)).square().sum(1)


def trained(name: str, loss) -> tuple[nn.Module, list]:
    torch.manual_seed(0)
    x, y = torch.randn(1280, 3, 16, 16), torch.randint(0, 10, (1280,))
    x += 0.5 * torch.randn(10, 3, 16, 16)[y]
    model = MODELS[name]()
    batches = list(zip(x.split(32), y.split(32), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            optimizer.step()
    optimizer.zero_grad()
    return model, batches


@pytest.mark.parametrize("loss", [classify, squares])
@pytest.mark.parametrize("name", MODELS)
def test_differences_in_float32_agree_with_second_derivatives_in_float64(name, loss):
    """On 40 batches the same mean to half a per cent, or a quarter of the standard error if that is more."""
    model, batches = trained(name, loss)
    model.eval()  # dropout would draw other masks in the two runs that are compared here
    found = batch_sharpness(model, loss, batches, relative_error=1e-9)
    assert found.method == "difference", found.method_reason
    exact = batch_sharpness(
        model.double(), loss, [(x.double(), y) for x, y in batches], relative_error=1e-9, method="exact"
    )
    assert abs(found.value - exact.value) < max(0.005 * exact.value, 0.25 * exact.standard_error)
    # What differences add to the scatter is counted in it; here it is little.
    assert 0.9 < found.standard_error / exact.standard_error < 1.5


def test_dropout_and_batch_norm_in_training_are_measured_with_one_mask_each():
    model, batches = trained("cnn", classify)
    model.train()
    found, exact = (
        batch_sharpness(model, classify, batches, relative_error=1e-9, method=method)
        for method in ("difference", "exact")
    )
    assert found.method == "difference", found.method_reason
    # The masks are the same batch by batch up to the check on the first one, so the means differ by scatter at most.
    assert abs(found.value - exact.value) < 4 * (found.standard_error + exact.standard_error)
    before = [each.clone() for each in [*model.parameters(), *model.buffers()]]
    batch_sharpness(model, classify, batches[:12])
    for old, new in zip(before, [*model.parameters(), *model.buffers()], strict=True):
        assert torch.equal(old, new)


def test_where_pieces_are_not_known_second_derivatives_are_used():
    class Max(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(768, 20)

        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(*self.linear(x.flatten(1)).chunk(2, dim=1))

    torch.manual_seed(0)
    model, batches = Max(), [(torch.randn(8, 3, 16, 16), torch.randint(0, 10, (8,))) for _ in range(12)]
    found, exact = (batch_sharpness(model, classify, batches, method=method) for method in ("difference", "exact"))
    assert (found.method, found.value) == ("exact", exact.value)
    assert "aten.maximum" in found.method_reason


def test_negative_curvature_is_measured_too():
    model = nn.Linear(4, 1, bias=False)
    batches = list(torch.randn(80, 4, generator=torch.Generator().manual_seed(0)).split(8))

    def concave(model: nn.Module, batch: Tensor) -> Tensor:
        return -(model(batch).squeeze(1) - 1).square()

    found, exact = (batch_sharpness(model, concave, batches, method=method) for method in ("difference", "exact"))
    assert found.value < 0
    assert found.method == "difference", found.method_reason
    assert found.value == pytest.approx(exact.value, rel=0.005)


def test_a_loss_without_curvature_is_left_to_second_derivatives():
    model = nn.Linear(4, 1)
    batches = list(torch.randn(80, 4, generator=torch.Generator().manual_seed(0)).split(8))
    found = batch_sharpness(model, lambda m, batch: m(batch).squeeze(1), batches)
    assert (found.value, found.method) == (0.0, "exact")
    assert "no scale for a step" in found.method_reason
